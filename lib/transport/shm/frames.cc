// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/frames.h"

#include <algorithm>

#include "lib/base/wire.h"

namespace cardea::shm {
namespace {

struct Bounds {
  std::size_t least, most;
};

Bounds bounds_of(FrameType type) {
  switch (type) {
    case FrameType::kMessage:
      return {0, transport::Transport::kMaxMessage};
    case FrameType::kRegion:
      return {12, 12};
    case FrameType::kWithdraw:
      return {4, 4};
    case FrameType::kAsk:
      return {48, 48};
    case FrameType::kData:
      return {kDataPrefix + 1, kDataPrefix + kMaxData};
    case FrameType::kEnd:
      return {16, 16 + kMaxEndText};
  }
  return {1, 0};  // nothing
}

}  // namespace

FrameHeader encode_header(FrameType type, std::size_t length) {
  const Bytes bytes = WireWriter()
                          .number(static_cast<std::uint32_t>(length))
                          .number(static_cast<std::uint8_t>(type))
                          .number(std::uint8_t{0})
                          .number(std::uint16_t{0})
                          .take();
  FrameHeader header{};
  std::copy(bytes.begin(), bytes.end(), header.begin());
  return header;
}

Result<FrameInfo> decode_header(ByteView header) {
  WireReader in(header);
  FrameInfo info;
  info.length = in.number<std::uint32_t>();
  const auto type = in.number<std::uint8_t>();
  const std::uint32_t reserved = in.number<std::uint8_t>() | in.number<std::uint16_t>();
  if (Status status = in.finish("frame header"); !status.ok()) return status;
  info.type = static_cast<FrameType>(type);
  const Bounds bounds = bounds_of(info.type);
  if (bounds.least > bounds.most || reserved != 0)
    return Status::error(CARDEA_ERR_PROTOCOL, "frame of unknown type {}", type);
  if (info.length < bounds.least || info.length > bounds.most) {
    return Status::error(CARDEA_ERR_PROTOCOL, "frame of type {} with {} bytes; it takes {} to {}", type, info.length,
                         bounds.least, bounds.most);
  }
  return info;
}

Bytes encode(const RegionFrame& frame) {
  return WireWriter().number(frame.region).number(frame.bytes).take();
}

Result<RegionFrame> decode_region(ByteView body) {
  WireReader in(body);
  RegionFrame frame;
  frame.region = in.number<std::uint32_t>();
  frame.bytes = in.number_in<std::uint64_t>(1, UINT64_MAX);
  if (Status status = in.finish("region"); !status.ok()) return status;
  return frame;
}

Bytes encode_withdraw(std::uint32_t region) {
  return WireWriter().number(region).take();
}

Result<std::uint32_t> decode_withdraw(ByteView body) {
  WireReader in(body);
  const auto region = in.number<std::uint32_t>();
  if (Status status = in.finish("withdrawal"); !status.ok()) return status;
  return region;
}

Bytes encode(const AskFrame& frame) {
  const transport::ExpertAddress& expert = frame.expert;
  return WireWriter()
      .number(frame.request)
      .number(expert.layer.group)
      .number(expert.layer.layer)
      .number(expert.expert)
      .number(expert.version)
      .number(frame.offset)
      .number(frame.bytes)
      .take();
}

Result<AskFrame> decode_ask(ByteView body) {
  WireReader in(body);
  AskFrame frame;
  frame.request = in.number<std::uint64_t>();
  frame.expert.layer.group = in.number<std::uint64_t>();
  frame.expert.layer.layer = in.number<std::uint32_t>();
  frame.expert.expert = in.number<std::uint32_t>();
  frame.expert.version = in.number<std::uint64_t>();
  frame.offset = in.number<std::uint64_t>();
  frame.bytes = in.number<std::uint64_t>();
  if (Status status = in.finish("question for a chunk"); !status.ok()) return status;
  return frame;
}

Bytes encode(const EndFrame& frame) {
  return WireWriter()
      .number(frame.request)
      .number(static_cast<std::uint32_t>(frame.status.code()))
      .text(std::string_view(frame.status.message()).substr(0, kMaxEndText))
      .take();
}

Result<EndFrame> decode_end(ByteView body) {
  WireReader in(body);
  EndFrame frame;
  frame.request = in.number<std::uint64_t>();
  const auto code = static_cast<std::int32_t>(in.number<std::uint32_t>());
  std::string text = in.text(kMaxEndText);
  if (code > CARDEA_OK || code < CARDEA_ERR_INTERNAL) in.fail();
  if (Status status = in.finish("end of a chunk"); !status.ok()) return status;
  if (code != CARDEA_OK) frame.status = Status(static_cast<cardea_status_t>(code), std::move(text));
  return frame;
}

Bytes encode(const RegionDescriptor& descriptor) {
  return WireWriter().number(static_cast<std::uint8_t>(descriptor.mappable)).number(descriptor.address).take();
}

Result<RegionDescriptor> decode_descriptor(ByteView bytes) {
  WireReader in(bytes);
  RegionDescriptor descriptor;
  descriptor.mappable = in.number_in<std::uint8_t>(0, 1) == 1;
  descriptor.address = in.number<std::uint64_t>();
  if (Status status = in.finish("region descriptor"); !status.ok()) return status;
  return descriptor;
}

}  // namespace cardea::shm
