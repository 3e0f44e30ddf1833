// SPDX-License-Identifier: Apache-2.0
// Chunks of one transfer over several NICs: which lanes they take, and that one that is out takes none.
#include "tests/core/core_driver.h"

namespace cardea::core {
namespace {

constexpr std::uint64_t kBytes = 10 * Driver::kChunk;

class CoreRails : public ::testing::Test {
 protected:
  /// Lane 0 copies; 1 and 2 are rails to ranks 1 and 2, each with room for two chunks.
  CoreRails() : driver_({{.chunks = 2}, {.chunks = 2}, {.chunks = 2}}) {
    const auto by_rails = [](Rank rank) { return ExpertSources{rank, {{rank, CARDEA_PATH_NETWORK, 1, 2}}}; };
    layer_ = driver_.add_layer({0, 1, 2}, {by_rails(1), by_rails(2)}, SegmentLayout::make({{"w", kBytes, 8}}).value());
    slab_ = driver_.core.add_slab(2);
    for (const Rank rank : {1u, 2u}) driver_.published_by(layer_, rank, 1);
  }
  FetchNumber fetch(ExpertIndex expert) {
    FetchSpec spec;
    spec.layer = layer_;
    spec.version = 1;
    spec.experts = {expert};
    spec.segments = 1;
    spec.slab = slab_;
    return driver_.fetch(spec);
  }
  std::map<LaneNumber, std::size_t> started() const {
    std::map<LaneNumber, std::size_t> by_lane;
    for (const StartChunk& start : driver_.log) ++by_lane[start.lane];
    return by_lane;
  }

  Driver driver_;
  LayerNumber layer_ = 0;
  SlabNumber slab_ = 0;
};

TEST_F(CoreRails, ChunksOfOneExpertComeByAllOfThem) {
  fetch(0);
  EXPECT_EQ(driver_.on_lane(1), 2u);
  EXPECT_EQ(driver_.on_lane(2), 2u) << "both at once";
  driver_.complete_all();
  EXPECT_EQ(driver_.log.size(), 10u);
  EXPECT_EQ(started().at(1) + started().at(2), 10u);
}

TEST_F(CoreRails, AFasterOneTakesMore) {
  fetch(0);
  for (int i = 0; i < 6; ++i) {
    const auto quick =
        std::find_if(driver_.flying.begin(), driver_.flying.end(), [](const auto& entry) { return entry.second.lane == 2; });
    ASSERT_NE(quick, driver_.flying.end());
    driver_.complete(quick->first);
  }
  EXPECT_EQ(started().at(1), 2u);
  EXPECT_EQ(started().at(2), 8u);
  driver_.complete_all();
}

TEST_F(CoreRails, OneThatIsOutForARankIsTakenByOthersOnly) {
  driver_.core.set_rails(1, 1, 1);
  fetch(0);
  EXPECT_EQ(driver_.on_lane(1), 2u);
  EXPECT_EQ(driver_.on_lane(2), 0u) << "rank 1 is not reached by it any more";
  fetch(1);
  EXPECT_EQ(driver_.on_lane(2), 2u) << "rank 2 is, whatever waits for rank 1";
  driver_.complete_all();
  EXPECT_EQ(driver_.log.size(), 20u);
  for (const StartChunk& start : driver_.log) {
    if (start.source == 1) {
      EXPECT_EQ(start.lane, 1u);
    }
  }
}

TEST_F(CoreRails, WhatIsOnItsWayWhenOneGoesOutStillComes) {
  const FetchNumber number = fetch(0);
  driver_.core.set_rails(1, 1, 1);
  driver_.complete_all();
  EXPECT_TRUE(driver_.done.contains(number));
  EXPECT_TRUE(driver_.take(number).at(0).status.ok());
}

}  // namespace
}  // namespace cardea::core
