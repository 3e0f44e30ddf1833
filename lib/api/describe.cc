// SPDX-License-Identifier: Apache-2.0
#include "lib/api/describe.h"

#include <cstring>

#include "lib/api/structs.h"

namespace cardea::api {
namespace {

constexpr std::size_t kLongestName = 32;

Result<engine::Placement> read_placement(const cardea_placement_t& given, const core::Segment& segment, std::uint32_t rows,
                                         const std::string& name, Stacked stacked) {
  const auto wrong = [&](std::string_view what) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} (\"{}\"): {}", name, segment.name, what);
  };
  if ((given.base == nullptr) == (given.pointers == nullptr)) return wrong("exactly one of base and pointers must be set");
  engine::Placement place;
  if (given.base != nullptr) {
    if (given.stride < segment.bytes)
      return wrong(fmt::format("stride {} is less than the segment's {} bytes", given.stride, segment.bytes));
    std::uint64_t span = 0;
    if (__builtin_mul_overflow(given.stride, std::uint64_t{rows}, &span) ||
        reinterpret_cast<std::uintptr_t>(given.base) > UINTPTR_MAX - span) {
      return wrong(fmt::format("{} rows of stride {} reach beyond the address space", rows, given.stride));
    }
    place.base = static_cast<std::byte*>(given.base);
    place.stride = given.stride;
    return place;
  }
  if (stacked == Stacked::kOnly) return wrong("a slab takes base and stride");
  for (std::uint32_t i = 0; i < rows; ++i) {
    if (given.pointers[i] == nullptr) return wrong(fmt::format("pointers[{}] is null", i));
    place.pointers.push_back(static_cast<std::byte*>(given.pointers[i]));
  }
  return place;
}

}  // namespace

Result<core::SegmentLayout> read_segments(const cardea_segment_t* segments, std::uint32_t count) {
  if (count == 0 || count > CARDEA_MAX_SEGMENTS) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "num_segments is {}; it takes 1 to {}", count, CARDEA_MAX_SEGMENTS);
  }
  std::vector<core::Segment> read;
  for (std::uint32_t i = 0; i < count; ++i) {
    Result<cardea_segment_t> segment =
        read_struct(segments == nullptr ? nullptr : at(segments, i), fmt::format("segments[{}]", i));
    if (!segment.ok()) return segment.status();
    core::Segment& out = read.emplace_back();
    if (segment->name != nullptr) out.name.assign(segment->name, strnlen(segment->name, kLongestName));
    out.bytes = segment->bytes;
    out.alignment = segment->alignment;
    out.weight_type = number_of(segment->weight_type);
    out.gradient_type = number_of(segment->gradient_type);
  }
  return core::SegmentLayout::make(std::move(read));
}

Result<std::vector<engine::Placement>> read_placements(const cardea_placement_t* placements,
                                                       const core::SegmentLayout& layout, std::uint32_t rows,
                                                       Stacked stacked) {
  std::vector<engine::Placement> places;
  for (std::size_t i = 0; i < layout.count(); ++i) {
    const std::string name = fmt::format("placements[{}]", i);
    Result<cardea_placement_t> given = read_struct(placements == nullptr ? nullptr : at(placements, i), name);
    if (!given.ok()) return given.status();
    Result<engine::Placement> place = read_placement(*given, layout.segments()[i], rows, name, stacked);
    if (!place.ok()) return place.status();
    places.push_back(std::move(*place));
  }
  return places;
}

}  // namespace cardea::api
