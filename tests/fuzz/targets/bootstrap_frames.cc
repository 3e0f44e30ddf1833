// SPDX-License-Identifier: Apache-2.0
// Frames between members and the meeting point.
#include "lib/bootstrap/frames.h"

#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace bootstrap;  // NOLINT(google-build-using-namespace)

constexpr std::uint32_t kWorld = 3;
enum Kind : std::uint8_t { kKindOf, kGive, kAll, kFailed, kKinds };

bool run(ByteView input) {
  if (input.empty()) return false;
  const ByteView body = input.subspan(1);
  if (body.size() >= kLengthBytes) static_cast<void>(decode_length(body.first(kLengthBytes)));
  switch (std::to_integer<std::uint8_t>(input[0]) % kKinds) {
    case kKindOf:
      return kind_of(body).ok();
    case kGive: {
      const Result<Give> give = decode_give(body);
      if (!give.ok()) return false;
      require(encode(*give) == Bytes(body.begin(), body.end()), "a contribution has one form");
      return true;
    }
    case kAll: {
      const Result<All> all = decode_all(body, kWorld);
      if (!all.ok()) return false;
      require(all->bytes.size() == kWorld, "a round has a contribution of each rank");
      require(encode(*all) == Bytes(body.begin(), body.end()), "a round has one form");
      return true;
    }
    default: {
      const Status failed = decode_failed(body);
      require(!failed.ok(), "a failure is one");
      for (const char c : failed.message()) require(c >= 0x20 || c < 0, "no control characters reach a terminal");
      const bool read = failed.code() != CARDEA_ERR_PROTOCOL;
      if (read) require(decode_failed(encode_failed(failed)).code() == failed.code(), "a failure keeps its code");
      return read;
    }
  }
}

std::vector<Seed> seeds() {
  return {{"formed", of_kind(kKindOf, encode_formed())},
          {"leave", of_kind(kKindOf, encode_leave())},
          {"give", of_kind(kGive, encode(Give{1, 5000, Bytes(20, std::byte{1})}))},
          {"all", of_kind(kAll, encode(All{2, {Bytes(3), Bytes(), Bytes(1)}}))},
          {"failed", of_kind(kFailed, encode_failed(Status(CARDEA_ERR_TIMEOUT, "rank 2 is missing").with_peer(2)))}};
}

}  // namespace

Target bootstrap_frames() {
  return {"bootstrap_frames", "frames between members and the meeting point", run, seeds};
}

}  // namespace cardea::fuzz
