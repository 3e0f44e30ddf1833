// SPDX-License-Identifier: Apache-2.0
#include "lib/core/segment_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace cardea::core {
namespace {

using testing::HasSubstr;

SegmentLayout layout_of(std::vector<Segment> segments) {
  Result<SegmentLayout> layout = SegmentLayout::make(std::move(segments));
  EXPECT_TRUE(layout.ok()) << layout.status().message();
  return layout.ok() ? *layout : SegmentLayout();
}
Bytes encoded(const SegmentLayout& layout) {
  WireWriter out;
  layout.encode(out);
  return out.take();
}
cardea_status_t decoded(const Bytes& bytes) {
  WireReader in(bytes);
  return SegmentLayout::decode(in).status().code();
}
std::string refusal(std::vector<Segment> segments) {
  const Result<SegmentLayout> layout = SegmentLayout::make(std::move(segments));
  EXPECT_EQ(layout.status().code(), CARDEA_ERR_INVALID_ARGUMENT);
  return layout.status().message();
}

TEST(SegmentLayout, SegmentsFollowEachOtherAtTheirAlignment) {
  const SegmentLayout layout = layout_of({{"a", 10, 16}, {"b", 1, 1}, {"c", 100, 64}, {"d", 8, 0}});
  EXPECT_EQ(layout.offset(0), 0u);
  EXPECT_EQ(layout.offset(1), 10u);
  EXPECT_EQ(layout.offset(2), 64u);
  EXPECT_EQ(layout.offset(3), 256u) << "no alignment means 256";
  EXPECT_EQ(layout.packed_bytes(), 264u);
  EXPECT_EQ(layout.payload_bytes(layout.all()), 119u);
  EXPECT_EQ(layout.payload_bytes(0b0101), 110u);
  EXPECT_EQ(layout.all(), 0b1111u);
}

TEST(SegmentLayout, RefusalNamesTheSegmentAndWhatIsWrong) {
  EXPECT_THAT(refusal({}), HasSubstr("0 segments"));
  EXPECT_THAT(refusal(std::vector<Segment>(CARDEA_MAX_SEGMENTS + 1, {"a", 1, 1})), HasSubstr("17 segments"));
  EXPECT_THAT(refusal({{"a", 1, 1}, {"b", 0, 1}}), HasSubstr("segment 1 (\"b\"): it has 0 bytes"));
  EXPECT_THAT(refusal({{std::string(32, 'x'), 1, 1}}), HasSubstr("name"));
  EXPECT_THAT(refusal({{"a", 1, 3}}), HasSubstr("alignment 3"));
  EXPECT_THAT(refusal({{"a", 1, 8192}}), HasSubstr("alignment 8192"));
  EXPECT_THAT(refusal({{"a", (std::uint64_t{1} << 48) + 1, 1}}), HasSubstr("2^48"));
  EXPECT_THAT(refusal({{"a", UINT64_MAX, 1}}), HasSubstr("2^48"));
  EXPECT_THAT(refusal({{"a", std::uint64_t{1} << 47, 1}, {"b", std::uint64_t{1} << 47, 4096}, {"c", 1, 1}}),
              HasSubstr("2^48"));
  EXPECT_THAT(refusal({{"a", 1, 1, CARDEA_DTYPE_NONE}}), HasSubstr("weight type"));
  EXPECT_THAT(refusal({{"a", 1, 1, 99}}), HasSubstr("weight type"));
  EXPECT_THAT(refusal({{"a", 1, 1, CARDEA_DTYPE_BYTES, 99}}), HasSubstr("gradient type"));
}

/// Whether the chunks of a mask, laid over the packed expert, cover every byte of its segments exactly once and no byte of
/// any other, and say rightly which segments they touch.
void expect_exact_cover(const SegmentLayout& layout, SegmentMask mask, std::uint64_t chunk_bytes) {
  std::vector<std::uint64_t> covered(layout.count(), 0);
  std::uint64_t end = 0;
  for (const ChunkRange& chunk : layout.chunks(mask, chunk_bytes)) {
    EXPECT_GE(chunk.offset, end) << "in order, without overlap";
    EXPECT_GT(chunk.bytes, 0u);
    EXPECT_LE(chunk.bytes, chunk_bytes);
    end = chunk.offset + chunk.bytes;
    SegmentMask touched = 0;
    layout.for_each_piece(chunk.offset, chunk.bytes, [&](std::size_t segment, std::uint64_t offset, std::uint64_t bytes) {
      touched |= SegmentMask{1} << segment;
      EXPECT_EQ(offset, covered[segment]) << "pieces come in order";
      covered[segment] += bytes;
    });
    EXPECT_EQ(chunk.segments, touched);
    EXPECT_NE(touched, 0u) << "a chunk of padding alone";
  }
  for (std::size_t s = 0; s < layout.count(); ++s)
    EXPECT_EQ(covered[s], mask >> s & 1 ? layout.segments()[s].bytes : 0) << "segment " << s;
}

TEST(SegmentLayout, ChunksOfEveryMaskCoverItExactly) {
  const std::vector<SegmentLayout> layouts = {
      layout_of({{"a", 1000, 8}, {"b", 3, 4}, {"c", 3, 4}, {"d", 3, 4}, {"e", 2000, 256}}),
      layout_of({{"a", 1, 1}, {"b", 1, 1}, {"c", 1, 1}}), layout_of({{"a", 1, 1}, {"b", 1, 4096}, {"c", 5000, 4096}}),
      layout_of({{"a", 64, 64}})};
  for (const SegmentLayout& layout : layouts) {
    for (SegmentMask mask = 0; mask <= layout.all(); ++mask) {
      for (const std::uint64_t chunk_bytes : {1ULL, 7ULL, 64ULL, 1000ULL, 1ULL << 20})
        expect_exact_cover(layout, mask, chunk_bytes);
    }
  }
}

TEST(SegmentLayout, TinyNeighboursShareAChunk) {
  const SegmentLayout layout = layout_of({{"a", 10, 8}, {"b", 10, 8}, {"c", 10, 8}});
  ASSERT_EQ(layout.chunks(0b111, 1000).size(), 1u);
  EXPECT_EQ(layout.chunks(0b111, 1000)[0].segments, 0b111u);
  EXPECT_EQ(layout.chunks(0b101, 1000).size(), 2u) << "what lies between is not moved";
}

TEST(SegmentLayout, SixteenSegmentsAreAllOfThem) {
  std::vector<Segment> segments;
  for (int i = 0; i < CARDEA_MAX_SEGMENTS; ++i) segments.push_back({std::to_string(i), 5, 1});
  const SegmentLayout layout = layout_of(segments);
  EXPECT_EQ(layout.all(), 0xFFFFu);
  expect_exact_cover(layout, layout.all(), 7);
}

TEST(SegmentLayout, PiecesOfARangeAreCutAtItsEnds) {
  const SegmentLayout layout = layout_of({{"a", 10, 16}, {"b", 10, 16}});
  std::vector<std::tuple<std::size_t, std::uint64_t, std::uint64_t>> pieces;
  layout.for_each_piece(8, 12, [&](std::size_t s, std::uint64_t at, std::uint64_t n) { pieces.emplace_back(s, at, n); });
  EXPECT_EQ(pieces, (decltype(pieces){{0, 8, 2}, {1, 0, 4}}));
  pieces.clear();
  layout.for_each_piece(10, 6, [&](std::size_t s, std::uint64_t at, std::uint64_t n) { pieces.emplace_back(s, at, n); });
  EXPECT_TRUE(pieces.empty()) << "padding";
}

TEST(SegmentLayout, ComesBackAsItWasSent) {
  const SegmentLayout layout = layout_of(
      {{"w13", 1 << 20, 4096, CARDEA_DTYPE_BYTES, CARDEA_DTYPE_NONE}, {"", 3, 1, CARDEA_DTYPE_INT8, CARDEA_DTYPE_BYTES}});
  const Bytes bytes = encoded(layout);
  WireReader in(bytes);
  const Result<SegmentLayout> back = SegmentLayout::decode(in);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(in.left(), 0u);
  EXPECT_EQ(back->difference(layout), "");
  EXPECT_EQ(back->packed_bytes(), layout.packed_bytes());
}

TEST(SegmentLayout, TruncatedAnywhereIsRefused) {
  const Bytes whole = encoded(layout_of({{"w13", 1000, 64}, {"w2", 10, 8}}));
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_EQ(decoded(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length))), CARDEA_ERR_PROTOCOL)
        << length;
}

TEST(SegmentLayout, HostileNumbersAreRefused) {
  const auto one = [](std::uint8_t count, std::uint32_t name, std::uint64_t bytes, std::uint16_t alignment,
                      std::uint8_t type) {
    return WireWriter()
        .number(count)
        .number(name)
        .number(bytes)
        .number(alignment)
        .number(type)
        .number(std::uint8_t{0})
        .take();
  };
  EXPECT_EQ(decoded(one(1, 0, 8, 8, 1)), CARDEA_OK);
  EXPECT_EQ(decoded(one(0, 0, 8, 8, 1)), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(decoded(one(17, 0, 8, 8, 1)), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(decoded(one(255, 0, 8, 8, 1)), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(decoded(one(1, 32, 8, 8, 1)), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(decoded(one(1, UINT32_MAX, 8, 8, 1)), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(decoded(one(1, 0, 0, 8, 1)), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(decoded(one(1, 0, UINT64_MAX, 8, 1)), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(decoded(one(1, 0, 8, 0, 1)), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(decoded(one(1, 0, 8, 3, 1)), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(decoded(one(1, 0, 8, UINT16_MAX, 1)), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(decoded(one(1, 0, 8, 8, 255)), CARDEA_ERR_INVALID_ARGUMENT);
}

TEST(SegmentLayout, DifferenceNamesTheFirstFieldThatDiffers) {
  const std::vector<Segment> base{{"w13", 8, 8}, {"w2", 8, 8}};
  const auto difference = [&](auto change) {
    std::vector<Segment> other = base;
    change(other[1]);
    return layout_of(base).difference(layout_of(other));
  };
  EXPECT_EQ(difference([](Segment&) {}), "");
  EXPECT_EQ(difference([](Segment& s) { s.bytes = 16; }), "segment 1 (w2): bytes 8 against 16");
  EXPECT_EQ(difference([](Segment& s) { s.alignment = 4; }), "segment 1 (w2): alignment 8 against 4");
  EXPECT_EQ(difference([](Segment& s) { s.name = "w3"; }), "segment 1 (w2): name w2 against w3");
  EXPECT_THAT(difference([](Segment& s) { s.weight_type = CARDEA_DTYPE_INT8; }), HasSubstr("weight type"));
  EXPECT_THAT(difference([](Segment& s) { s.gradient_type = CARDEA_DTYPE_BYTES; }), HasSubstr("gradient type"));
  EXPECT_EQ(layout_of(base).difference(layout_of({{"w13", 8, 8}})), "2 segments against 1");
}

}  // namespace
}  // namespace cardea::core
