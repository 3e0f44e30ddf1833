// SPDX-License-Identifier: Apache-2.0
// The messages between a member and the meeting point once both have proved themselves: each is a frame of a 32-bit
// little-endian length and that many bytes, which these functions write and read. docs/wire-format.md specifies them.
// Decoders treat their input as hostile: PROTOCOL for anything that the encoders would not have produced. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/bootstrap/exchange.h"

namespace cardea::bootstrap {

enum class FrameKind : std::uint8_t {
  kFormed = 16,  // root: everyone is here
  kGive = 17,    // member: its bytes of a round
  kAll = 18,     // root: everybody's bytes of a round
  kFailed = 19,  // root: the job has failed; its last frame
  kLeave = 20,   // member: goes in good order; its last frame
};

struct Give {
  std::uint32_t round = 0;
  std::uint32_t patience_ms = 0;  // how long this rank is still willing to wait for the others
  Bytes bytes;
};

struct All {
  std::uint32_t round = 0;
  std::vector<Bytes> bytes;  // by rank
};

inline constexpr std::size_t kLengthBytes = 4;
/// Largest frame that a member may send.
inline constexpr std::size_t kMaxGiveFrame = Exchange::kMaxBytes + 64;
/// Largest frame that the root may send, whatever the number of ranks.
inline constexpr std::size_t kMaxAllFrame = std::size_t{1} << 31;
inline constexpr std::size_t kMaxFailure = 2048;

/// The four bytes before a body, and how to read them.
Bytes frame(ByteView body);
std::uint32_t decode_length(ByteView four_bytes);

/// PROTOCOL for an empty body or an unknown kind.
Result<FrameKind> kind_of(ByteView body);

Bytes encode_formed();
Bytes encode_leave();
Bytes encode(const Give& give);
Result<Give> decode_give(ByteView body);
/// `world_size` blobs, each at most Exchange::kMaxBytes.
Bytes encode(const All& all);
Result<All> decode_all(ByteView body, std::uint32_t world_size);
/// Carries code, message and peer.
Bytes encode_failed(const Status& status);
/// The status that was sent; PROTOCOL if there is none in it.
Status decode_failed(ByteView body);

/// Milliseconds until `deadline`, at least 0, saturating.
std::uint32_t patience_until(Clock::time_point deadline);

}  // namespace cardea::bootstrap
