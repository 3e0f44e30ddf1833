// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/frames.h"

#include <algorithm>

#include "lib/base/wire.h"

namespace cardea::bootstrap {
namespace {

WireWriter begin(FrameKind kind) {
  return WireWriter().number(static_cast<std::uint8_t>(kind));
}

WireReader open(ByteView body, FrameKind kind) {
  WireReader in(body);
  in.number_in(static_cast<std::uint8_t>(kind), static_cast<std::uint8_t>(kind));
  return in;
}

}  // namespace

Bytes frame(ByteView body) {
  return WireWriter().blob(body).take();
}

std::uint32_t decode_length(ByteView four_bytes) {
  return WireReader(four_bytes).number<std::uint32_t>();
}

Result<FrameKind> kind_of(ByteView body) {
  WireReader in(body);
  const auto kind =
      in.number_in(static_cast<std::uint8_t>(FrameKind::kFormed), static_cast<std::uint8_t>(FrameKind::kLeave));
  if (in.failed()) return Status::error(CARDEA_ERR_PROTOCOL, "malformed frame");
  return static_cast<FrameKind>(kind);
}

Bytes encode_formed() {
  return begin(FrameKind::kFormed).take();
}

Bytes encode_leave() {
  return begin(FrameKind::kLeave).take();
}

Bytes encode(const Give& give) {
  return begin(FrameKind::kGive).number(give.round).number(give.patience_ms).blob(give.bytes).take();
}

Result<Give> decode_give(ByteView body) {
  WireReader in = open(body, FrameKind::kGive);
  Give give;
  give.round = in.number<std::uint32_t>();
  give.patience_ms = in.number<std::uint32_t>();
  const ByteView bytes = in.blob(Exchange::kMaxBytes);
  if (Status status = in.finish("contribution"); !status.ok()) return status;
  give.bytes.assign(bytes.begin(), bytes.end());
  return give;
}

Bytes encode(const All& all) {
  WireWriter out = begin(FrameKind::kAll);
  out.number(all.round).number(static_cast<std::uint32_t>(all.bytes.size()));
  for (const Bytes& bytes : all.bytes) out.blob(bytes);
  return out.take();
}

Result<All> decode_all(ByteView body, std::uint32_t world_size) {
  WireReader in = open(body, FrameKind::kAll);
  All all;
  all.round = in.number<std::uint32_t>();
  in.number_in(world_size, world_size);
  for (std::uint32_t rank = 0; rank < world_size && !in.failed(); ++rank) {
    const ByteView bytes = in.blob(Exchange::kMaxBytes);
    all.bytes.emplace_back(bytes.begin(), bytes.end());
  }
  if (Status status = in.finish("round"); !status.ok()) return status;
  return all;
}

Bytes encode_failed(const Status& status) {
  const auto code = static_cast<std::uint32_t>(-static_cast<int>(status.code()));
  const std::string_view text = std::string_view(status.message()).substr(0, kMaxFailure);
  return begin(FrameKind::kFailed).number(code).number(status.detail().peer).text(text).take();
}

Status decode_failed(ByteView body) {
  WireReader in = open(body, FrameKind::kFailed);
  const auto code = in.number_in<std::uint32_t>(1, -static_cast<int>(CARDEA_ERR_INTERNAL));
  const auto peer = in.number<std::uint32_t>();
  std::string text = in.text(kMaxFailure);
  if (Status status = in.finish("failure"); !status.ok()) return status;
  for (char& c : text) {
    if (c < 0x20 || c == 0x7f) c = '?';
  }
  return Status(static_cast<cardea_status_t>(-static_cast<int>(code)), std::move(text)).with_peer(peer);
}

std::uint32_t patience_until(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 0, UINT32_MAX));
}

}  // namespace cardea::bootstrap
