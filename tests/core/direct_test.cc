// SPDX-License-Identifier: Apache-2.0
// What comes over the network straight into slots: no landing, no gate, one segment for each chunk.
#include "tests/core/core_driver.h"

namespace cardea::core {
namespace {

constexpr LaneNumber kNetwork = 0, kUploads = 2;

class DirectTest : public testing::Test {
 protected:
  void make(bool source_direct, bool slab_direct) {
    std::vector<ExpertSources> experts(4, Driver::by_network(1));
    for (ExpertSources& expert : experts) expert.options[0].direct = source_direct;
    layer = at.add_layer({0, 1}, experts);
    at.published_by(layer, 1, 1);
    slab = at.core.add_slab(2, kUploads, {2, 2}, slab_direct);
  }
  std::size_t direct() const {
    return static_cast<std::size_t>(
        std::count_if(at.log.begin(), at.log.end(), [](const StartChunk& start) { return start.direct; }));
  }

  Driver at{{{.chunks = 8}, {.chunks = 2}, {.chunks = 1000, .chunk_bytes = 1 << 20}}};
  LayerNumber layer = 0;
  SlabNumber slab = 0;
};

TEST_F(DirectTest, ChunksGoIntoTheSlotOneSegmentEachAndTheExpertIsReadyWhenTheyHaveCome) {
  make(true, true);
  const FetchNumber number = at.fetch(into_slots(layer, slab, {0}, true));
  ASSERT_GE(at.log.size(), 2u);
  SegmentMask seen = 0;
  for (const StartChunk& start : at.log) {
    EXPECT_TRUE(start.direct);
    EXPECT_FALSE(start.lands);
    EXPECT_FALSE(start.gated);
    EXPECT_EQ(start.lane, kNetwork);
    EXPECT_EQ(start.range.segments & (start.range.segments - 1), 0u) << "more than one segment";
    seen |= start.range.segments;
  }
  EXPECT_EQ(seen, two_segments().all());
  EXPECT_EQ(at.core.counts(number).ready, 0u) << "nothing has come";
  at.complete_all();
  EXPECT_EQ(at.core.counts(number).ready, 1u);
  EXPECT_EQ(at.take(number).size(), 1u);
}

TEST_F(DirectTest, OnlyWhereBothSourceAndSlabSaySo) {
  for (const bool source : {false, true}) {
    SCOPED_TRACE(source);
    make(source, !source);
    const std::size_t before = at.log.size();
    at.fetch(into_slots(layer, slab, {1}, true));
    ASSERT_GT(at.log.size(), before);
    EXPECT_TRUE(at.log[before].lands) << "it stays in host memory until the GPU copies it";
    EXPECT_EQ(direct(), 0u);
  }
}

TEST_F(DirectTest, AFailedChunkFailsTheExpertAndItsSlotComesBackWhenTheOthersAreDone) {
  make(true, true);
  const FetchNumber number = at.fetch(into_slots(layer, slab, {0}, false));
  ASSERT_GE(at.flying.size(), 2u);
  at.complete(at.log[0].chunk, Status(CARDEA_ERR_PEER_LOST, "gone"));
  EXPECT_EQ(at.core.counts(number).failed, 1u);
  EXPECT_EQ(at.core.available_slots(slab), 1u) << "another chunk may still be written";
  at.complete_all();
  EXPECT_EQ(at.core.available_slots(slab), 2u);
}

}  // namespace
}  // namespace cardea::core
