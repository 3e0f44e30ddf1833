// SPDX-License-Identifier: Apache-2.0
#include "lib/core/segment_layout.h"

#include <algorithm>
#include <bit>

namespace cardea::core {
namespace {

constexpr std::size_t kMaxNameLength = 31;
constexpr std::uint64_t kDefaultAlignment = 256;
constexpr std::uint64_t kMaxAlignment = 4096;
constexpr std::uint64_t kMaxExpertBytes = std::uint64_t{1} << 48;

bool known_type(std::uint32_t type) {
  return type <= CARDEA_DTYPE_INT8;
}

Status check(const Segment& segment, std::size_t index) {
  const auto wrong = [&](std::string_view what) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "segment {} (\"{}\"): {}", index, segment.name, what);
  };
  if (segment.name.size() > kMaxNameLength) return wrong("its name is longer than 31 characters");
  if (segment.bytes == 0) return wrong("it has 0 bytes");
  if (segment.bytes > kMaxExpertBytes) return wrong("it is larger than 2^48 bytes");
  if (!std::has_single_bit(segment.alignment) || segment.alignment > kMaxAlignment) {
    return wrong(fmt::format("alignment {} is not a power of two up to {}", segment.alignment, kMaxAlignment));
  }
  if (!known_type(segment.weight_type) || segment.weight_type == CARDEA_DTYPE_NONE)
    return wrong("its weight type is unknown");
  if (!known_type(segment.gradient_type)) return wrong("its gradient type is unknown");
  return {};
}

}  // namespace

Result<SegmentLayout> SegmentLayout::make(std::vector<Segment> segments) {
  if (segments.empty() || segments.size() > CARDEA_MAX_SEGMENTS) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} segments; a layer has 1 to {}", segments.size(),
                         CARDEA_MAX_SEGMENTS);
  }
  SegmentLayout layout;
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].alignment == 0) segments[i].alignment = kDefaultAlignment;
    if (const Status status = check(segments[i], i); !status.ok()) return status;
    const std::uint64_t start = (end + segments[i].alignment - 1) / segments[i].alignment * segments[i].alignment;
    layout.offsets_.push_back(start);
    end = start + segments[i].bytes;
  }
  if (end > kMaxExpertBytes) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "an expert of {} bytes; at most 2^48", end);
  layout.packed_bytes_ = end;
  layout.segments_ = std::move(segments);
  return layout;
}

std::uint64_t SegmentLayout::payload_bytes(const ChunkRange& range) const {
  std::uint64_t payload = 0;
  for_each_piece(range.offset, range.bytes, [&](std::size_t, std::uint64_t, std::uint64_t bytes) { payload += bytes; });
  return payload;
}

std::uint64_t SegmentLayout::payload_bytes(SegmentMask mask) const {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count(); ++i) {
    if (mask >> i & 1) sum += segments_[i].bytes;
  }
  return sum;
}

std::vector<ChunkRange> SegmentLayout::chunks(SegmentMask mask, std::uint64_t chunk_bytes) const {
  std::vector<ChunkRange> ranges;
  for (std::size_t first = 0; first < count();) {
    if (!(mask >> first & 1)) {
      ++first;
      continue;
    }
    std::size_t last = first;
    while (last + 1 < count() && (mask >> (last + 1) & 1)) ++last;
    const std::uint64_t end = offsets_[last] + segments_[last].bytes;
    for (std::uint64_t at = offsets_[first]; at < end; at += chunk_bytes) {
      ChunkRange range{at, std::min(chunk_bytes, end - at), 0};
      for_each_piece(range.offset, range.bytes, [&](std::size_t i, auto, auto) { range.segments |= SegmentMask{1} << i; });
      if (range.segments != 0) ranges.push_back(range);
    }
    first = last + 1;
  }
  return ranges;
}

std::string SegmentLayout::difference(const SegmentLayout& other) const {
  if (count() != other.count()) return fmt::format("{} segments against {}", count(), other.count());
  for (std::size_t i = 0; i < count(); ++i) {
    const Segment& a = segments_[i];
    const Segment& b = other.segments_[i];
    const auto differs = [&](std::string_view field, auto left, auto right) {
      return fmt::format("segment {} ({}): {} {} against {}", i, a.name, field, left, right);
    };
    if (a.name != b.name) return differs("name", a.name, b.name);
    if (a.bytes != b.bytes) return differs("bytes", a.bytes, b.bytes);
    if (a.alignment != b.alignment) return differs("alignment", a.alignment, b.alignment);
    if (a.weight_type != b.weight_type) return differs("weight type", a.weight_type, b.weight_type);
    if (a.gradient_type != b.gradient_type) {
      return differs("gradient type", a.gradient_type, b.gradient_type);
    }
  }
  return {};
}

void SegmentLayout::encode(WireWriter& out) const {
  out.number(static_cast<std::uint8_t>(count()));
  for (const Segment& segment : segments_) {
    out.text(segment.name).number(segment.bytes).number(static_cast<std::uint16_t>(segment.alignment));
    out.number(static_cast<std::uint8_t>(segment.weight_type)).number(static_cast<std::uint8_t>(segment.gradient_type));
  }
}

Result<SegmentLayout> SegmentLayout::decode(WireReader& in) {
  const auto count = in.number_in<std::uint8_t>(1, CARDEA_MAX_SEGMENTS);
  std::vector<Segment> segments;
  for (unsigned i = 0; i < count && !in.failed(); ++i) {
    Segment segment;
    segment.name = in.text(kMaxNameLength);
    segment.bytes = in.number<std::uint64_t>();
    segment.alignment = in.number_in<std::uint16_t>(1, kMaxAlignment);
    segment.weight_type = in.number<std::uint8_t>();
    segment.gradient_type = in.number<std::uint8_t>();
    segments.push_back(std::move(segment));
  }
  if (in.failed()) return Status(CARDEA_ERR_PROTOCOL, "malformed segments");
  return make(std::move(segments));
}

}  // namespace cardea::core
