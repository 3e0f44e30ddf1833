// SPDX-License-Identifier: Apache-2.0
// Fetches in the order of a stream: experts are ready when their copies are queued, slots go on to the next expert without
// waiting for them, and finishes wait for all of it.
#include "tests/core/core_driver.h"

namespace cardea::core {
namespace {

constexpr LaneNumber kCopies = 2;

class StreamTest : public testing::Test {
 protected:
  StreamTest() {
    layer = at.add_layer({0, 1}, std::vector<ExpertSources>(8, {1, {{1, CARDEA_PATH_NODE_GPU, kCopies}}}));
    at.published_by(layer, 1, 1);
  }
  FetchNumber fetch(std::vector<ExpertIndex> experts, bool on_stream = true) {
    return at.fetch(into_slots(layer, slab, std::move(experts), on_stream));
  }
  /// The oldest chunk that was started and not queued yet.
  ChunkNumber queue_next() {
    const ChunkNumber chunk = at.log.at(queued_++).chunk;
    at.core.chunk_queued(chunk, at.now);
    // From here on the GPU keeps the order of the slot, so the driver of this test must not look for it.
    waiting_.push_back(chunk);
    at.flying.at(chunk).slot = 0xFFFF;
    at.look();
    return chunk;
  }
  void done(ChunkNumber chunk, const Status& status = {}) { at.complete(chunk, status); }

  Driver at{{{.chunks = 4}, {.chunks = 2}, {.chunks = 1000, .chunk_bytes = 1 << 20}}};
  LayerNumber layer = 0;
  SlabNumber slab = at.core.add_slab(2, kCopies);

 private:
  std::size_t queued_ = 0;
  std::vector<ChunkNumber> waiting_;
};

TEST_F(StreamTest, AnExpertMovesWholeAndIsReadyWhenItIsQueued) {
  const FetchNumber number = fetch({0});
  ASSERT_EQ(at.log.size(), 1u) << "one chunk for both segments";
  EXPECT_EQ(at.core.counts(number).moving, 1u);
  const ChunkNumber chunk = queue_next();
  EXPECT_EQ(at.core.counts(number).ready, 1u);
  EXPECT_EQ(at.core.counts(number).under_way, 1u);
  EXPECT_EQ(at.take(number).size(), 1u);
  done(chunk);
  EXPECT_EQ(at.core.counts(number).under_way, 0u);
}

TEST_F(StreamTest, AHostThatWaitsForTheSameExpertWaitsUntilItIsDone) {
  const FetchNumber streamed = fetch({0});
  const FetchNumber waiting = fetch({0}, false);
  EXPECT_EQ(at.log.size(), 1u) << "they share the copy";
  const ChunkNumber chunk = queue_next();
  EXPECT_EQ(at.core.counts(streamed).ready, 1u);
  EXPECT_EQ(at.core.counts(waiting).ready, 0u);
  done(chunk);
  EXPECT_EQ(at.core.counts(waiting).ready, 1u);
}

TEST_F(StreamTest, ASlotGoesToTheNextExpertWhileItsCopyIsStillUnderWay) {
  const FetchNumber number = fetch({0, 1, 2});
  ASSERT_EQ(at.log.size(), 2u) << "two slots";
  const ChunkNumber first = queue_next();
  const ChunkNumber second = queue_next();
  const std::vector<Delivery> two = at.take(number);
  ASSERT_EQ(two.size(), 2u);
  at.release(two[0].view);
  ASSERT_EQ(at.log.size(), 3u) << "the third is queued behind the first";
  EXPECT_EQ(at.log[2].slot, *two[0].slot);
  const ChunkNumber third = queue_next();
  EXPECT_EQ(at.take(number).size(), 1u);
  EXPECT_EQ(at.core.counts(number).under_way, 3u);
  for (const ChunkNumber chunk : {first, second, third}) done(chunk);
  EXPECT_EQ(at.core.counts(number).under_way, 0u);
}

TEST_F(StreamTest, FinishIsToldWhenTheLastQueuedCopyIsDone) {
  const FetchNumber number = fetch({0});
  const ChunkNumber chunk = queue_next();
  for (const Delivery& delivery : at.take(number)) at.release(delivery.view);
  at.destroy(number);
  ASSERT_TRUE(at.core.finish(layer, 1, at.now).ok());
  at.look();
  EXPECT_TRUE(at.told.empty());
  EXPECT_EQ(at.core.draining(layer), 1u);
  EXPECT_EQ(at.core.remove_slab(slab).code(), CARDEA_IN_PROGRESS);
  done(chunk);
  EXPECT_FALSE(at.told.empty());
  EXPECT_TRUE(at.core.remove_slab(slab).ok());
}

TEST_F(StreamTest, WhatHoldsALayerKeepsItsFinishFromBeingTold) {
  at.core.hold(layer);
  ASSERT_TRUE(at.core.finish(layer, 1, at.now).ok());
  at.look();
  EXPECT_TRUE(at.told.empty());
  at.core.let_go(layer);
  at.look();
  EXPECT_FALSE(at.told.empty());
}

TEST_F(StreamTest, ACopyThatFailsAfterItWasQueuedFailsTheFetchAndIsNotFoundAgain) {
  const FetchNumber number = fetch({0});
  const ChunkNumber chunk = queue_next();
  const std::vector<Delivery> views = at.take(number);
  ASSERT_EQ(views.size(), 1u);
  ASSERT_TRUE(views[0].status.ok()) << "nobody knew";
  done(chunk, Status(CARDEA_ERR_DEVICE, "the test said so"));
  EXPECT_EQ(at.core.first_failure(number).code(), CARDEA_ERR_DEVICE);
  at.release(views[0].view);
  fetch({0});
  EXPECT_EQ(at.log.size(), 2u) << "it is copied anew";
  EXPECT_EQ(at.core.available_slots(slab), 1u);
}

TEST_F(StreamTest, AFailureOfASpareSlotsCopyEmptiesIt) {
  const FetchNumber number = fetch({0});
  const ChunkNumber chunk = queue_next();
  for (const Delivery& delivery : at.take(number)) at.release(delivery.view);
  done(chunk, Status(CARDEA_ERR_DEVICE, "the test said so"));
  EXPECT_EQ(at.core.available_slots(slab), 2u);
  fetch({0});
  EXPECT_EQ(at.log.size(), 2u);
}

TEST_F(StreamTest, CanceledWhileQueuedItDrainsAndTheSlotIsFreeAtOnce) {
  const FetchNumber number = fetch({0, 1});
  const ChunkNumber chunk = queue_next();
  at.destroy(number);
  EXPECT_EQ(at.core.available_slots(slab), 1u) << "the other's copy is not queued yet";
  const ChunkNumber other = queue_next();
  EXPECT_EQ(at.core.available_slots(slab), 2u);
  EXPECT_EQ(at.core.draining(layer), 2u);
  done(chunk);
  done(other);
  EXPECT_EQ(at.core.draining(layer), 0u);
}

TEST_F(StreamTest, ADeadRanksExpertsAreCopiedFromWhereTheyAreMapped) {
  const FetchNumber under_way = fetch({0});
  at.core.peer_lost(1, false, Status(CARDEA_ERR_PEER_LOST, "rank 1 died"), at.now);
  at.look();
  EXPECT_EQ(at.core.counts(under_way).failed, 0u);
  done(queue_next());
  const FetchNumber later = fetch({1});
  EXPECT_EQ(at.core.counts(later).failed, 0u);
  EXPECT_EQ(at.log.size(), 2u);
}

TEST_F(StreamTest, OneThatLeftHasWithdrawnItsExperts) {
  at.core.peer_lost(1, true, Status(CARDEA_ERR_PEER_LOST, "rank 1 has left"), at.now);
  at.look();
  EXPECT_EQ(at.core.counts(fetch({0})).failed, 1u);
}

}  // namespace
}  // namespace cardea::core
