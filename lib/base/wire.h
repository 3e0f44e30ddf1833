// SPDX-License-Identifier: Apache-2.0
// Writing and reading messages: little-endian fixed-width integers, and strings and blobs with a 32-bit length before
// them. The reader treats its input as hostile: it never reads past the end, checks every length against what is left and
// against a cap before anything is allocated, and once it has failed, stays failed and yields zeros. So a decoder reads
// all fields and asks finish() once. Value types; not thread-safe.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea {

class WireWriter {
 public:
  template <std::unsigned_integral T>
  WireWriter& number(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<std::byte>(value >> (8 * i)));
    return *this;
  }
  WireWriter& blob(ByteView bytes) {
    number(static_cast<std::uint32_t>(bytes.size()));
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  WireWriter& text(std::string_view text) { return blob(std::as_bytes(std::span(text))); }
  Bytes take() { return std::move(out_); }
  const Bytes& bytes() const { return out_; }

 private:
  Bytes out_;
};

class WireReader {
 public:
  explicit WireReader(ByteView in) : in_(in) {}

  template <std::unsigned_integral T>
  T number() {
    const ByteView raw = take(sizeof(T));
    T value = 0;
    for (std::size_t i = 0; i < raw.size(); ++i)
      value |= static_cast<T>(static_cast<T>(std::to_integer<unsigned>(raw[i])) << (8 * i));
    return value;
  }
  /// A number that must lie in [least, most].
  template <std::unsigned_integral T>
  T number_in(T least, T most) {
    const T value = number<T>();
    if (value < least || value > most) return fail(), T{};
    return value;
  }
  /// The next blob, as a view into the input; at most `cap` bytes.
  ByteView blob(std::size_t cap) {
    const auto length = number<std::uint32_t>();
    if (length > cap) return fail(), ByteView();
    return take(length);
  }
  std::string text(std::size_t cap) {
    const ByteView raw = blob(cap);
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }

  std::size_t left() const { return in_.size(); }
  bool failed() const { return failed_; }
  void fail() {
    failed_ = true;
    in_ = {};
  }
  /// OK if everything was well-formed and nothing is left over; else PROTOCOL, naming `what`.
  Status finish(std::string_view what) const {
    if (failed_) return Status::error(CARDEA_ERR_PROTOCOL, "malformed {}", what);
    if (!in_.empty()) return Status::error(CARDEA_ERR_PROTOCOL, "{} bytes left over after {}", in_.size(), what);
    return {};
  }

 private:
  ByteView take(std::size_t count) {
    if (failed_ || count > in_.size()) return fail(), ByteView();
    const ByteView taken = in_.first(count);
    in_ = in_.subspan(count);
    return taken;
  }

  ByteView in_;
  bool failed_ = false;
};

}  // namespace cardea
