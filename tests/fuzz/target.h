// SPDX-License-Identifier: Apache-2.0
// A fuzz target: one reader of bytes that come from a peer, a socket, a file, the environment or shared memory, and seeds
// for it, made by the code that writes such bytes. One program of libFuzzer runs them all (fuzz_main.cc), and a test replays
// seeds and mutations of them wherever there is no clang (corpus_test.cc).
//
// A target may do anything with its input but fail: what the sanitizers find, and what breaks a promise of the reader
// (require), ends the process. Targets keep no state from one input to the next that an input could change, and return
// whether the reader took the input for good, so that the test can tell that the seeds reach what lies behind the checks.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/types.h"

namespace cardea::fuzz {

struct Seed {
  std::string name;
  Bytes bytes;
};

struct Target {
  const char* name;
  const char* reads;  // for people
  bool (*run)(ByteView input);
  std::vector<Seed> (*seeds)();  // each is taken for good by run()
  std::size_t most = 4096;       // bytes of an input
  bool own_process = false;      // to be run in one: it uses a library that does not free all that it has allocated
};

/// All of them, in the order of the library's directories.
std::span<const Target> targets();

/// Ends the process unless the promise is kept, so that the input is kept.
void require(bool kept, const char* promise);

inline std::string_view as_text(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes as_bytes(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}
/// For targets that read several kinds of input: the first byte says which.
inline Bytes of_kind(std::uint8_t kind, ByteView bytes) {
  Bytes out(1 + bytes.size(), std::byte{kind});
  std::copy(bytes.begin(), bytes.end(), out.begin() + 1);
  return out;
}

/// Takes an input apart into numbers and blobs; zeros and nothing when it is used up.
class Draw {
 public:
  explicit Draw(ByteView input) : left_(input) {}

  bool empty() const { return left_.empty(); }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    const ByteView raw = take(bytes);
    for (std::size_t i = 0; i < raw.size(); ++i) value |= std::to_integer<std::uint64_t>(raw[i]) << (8 * i);
    return value;
  }
  std::uint8_t byte() { return static_cast<std::uint8_t>(number(1)); }
  /// In [0, bound).
  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : number(bound > 256 ? 8 : 1) % bound; }
  /// A 16-bit length and so many bytes, or what is left.
  ByteView blob() { return take(number(2)); }
  ByteView rest() { return take(left_.size()); }

 private:
  ByteView take(std::size_t bytes) {
    const ByteView taken = left_.first(std::min(bytes, left_.size()));
    left_ = left_.subspan(taken.size());
    return taken;
  }

  ByteView left_;
};

/// Writes what Draw reads.
class Script {
 public:
  Script& number(std::uint64_t value, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) out_.push_back(static_cast<std::byte>(value >> (8 * i)));
    return *this;
  }
  Script& byte(std::uint8_t value) { return number(value, 1); }
  Script& blob(ByteView bytes) {
    number(bytes.size(), 2);
    return rest(bytes);
  }
  Script& rest(ByteView bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  const Bytes& bytes() const { return out_; }

 private:
  Bytes out_;
};

}  // namespace cardea::fuzz
