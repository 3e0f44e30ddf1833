// SPDX-License-Identifier: Apache-2.0
// The frames of a node link: 8 bytes of header, then the body. docs/wire-format.md, "Node links", has them byte by byte.
// Pure functions and value types.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/transport/transport.h"

namespace cardea::shm {

enum class FrameType : std::uint8_t {
  kMessage = 1,   // the engine's
  kRegion = 2,    // memory offered; carries its descriptor
  kWithdraw = 3,  // a region that will not be accepted any more
  kAsk = 4,       // a chunk that the asker cannot read by itself
  kData = 5,      // a piece of such a chunk
  kEnd = 6,       // how it ended
};

inline constexpr std::size_t kHeaderBytes = 8;
inline constexpr std::size_t kMaxData = 256 * 1024;  // payload of one kData frame
inline constexpr std::size_t kMaxEndText = 512;

using FrameHeader = std::array<std::byte, kHeaderBytes>;

struct FrameInfo {
  FrameType type = FrameType::kMessage;
  std::uint32_t length = 0;  // of the body
};

FrameHeader encode_header(FrameType type, std::size_t length);
/// PROTOCOL for an unknown type, a length that this type cannot have, or reserved bytes that are not zero.
Result<FrameInfo> decode_header(ByteView header);

struct RegionFrame {
  std::uint32_t region = 0;
  std::uint64_t bytes = 0;
};
Bytes encode(const RegionFrame& frame);
Result<RegionFrame> decode_region(ByteView body);

Bytes encode_withdraw(std::uint32_t region);
Result<std::uint32_t> decode_withdraw(ByteView body);

struct AskFrame {
  std::uint64_t request = 0;  // chosen by the asker, not in use with it
  transport::ExpertAddress expert;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};
Bytes encode(const AskFrame& frame);
Result<AskFrame> decode_ask(ByteView body);

/// A kData body is the request's 8 bytes, then the payload.
inline constexpr std::size_t kDataPrefix = 8;

struct EndFrame {
  std::uint64_t request = 0;
  Status status;
};
Bytes encode(const EndFrame& frame);
Result<EndFrame> decode_end(ByteView body);

/// What an offer gives and accept takes.
struct RegionDescriptor {
  bool mappable = false;      // its memfd went ahead on the link
  std::uint64_t address = 0;  // in the owner's process, else
};
Bytes encode(const RegionDescriptor& descriptor);
Result<RegionDescriptor> decode_descriptor(ByteView bytes);

}  // namespace cardea::shm
