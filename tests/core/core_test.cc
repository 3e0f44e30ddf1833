// SPDX-License-Identifier: Apache-2.0
// The core driven by hand, a property at a time.
#include "lib/core/core.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "tests/core/core_driver.h"

namespace cardea::core {
namespace {

/// Ranks 0 (this one) and 1 on node 0, 2 and 3 on node 1. Experts 0 to 5 come over the network from rank 2, of 3 chunks
/// each; 6 is at home, 7 copied and 8 mapped from rank 1; 9 has two sources over the network, ranks 2 and 3.
struct CoreTest : testing::Test {
  Driver at;
  LayerNumber layer = 0;
  SlabNumber slab = 0;

  void SetUp() override { make({{.chunks = 4}, {.chunks = 2}}, 2); }
  void make_again(std::vector<LaneLimits> lanes, std::uint32_t slots) {
    std::destroy_at(&at);
    std::construct_at(&at, lanes);
    make(lanes, slots);
  }
  void make(const std::vector<LaneLimits>&, std::uint32_t slots) {
    std::vector<ExpertSources> experts(6, Driver::by_network(2));
    experts.push_back({0, {{0, CARDEA_PATH_HOME, 0}}});
    experts.push_back(Driver::by_copy(1));
    experts.push_back({1, {{1, CARDEA_PATH_NODE_MAPPED, 1}}});
    experts.push_back({2, {{2, CARDEA_PATH_NETWORK, 0}, {3, CARDEA_PATH_NETWORK, 0}}});
    layer = at.add_layer({0, 0, 1, 1}, std::move(experts));
    slab = at.core.add_slab(slots);
  }
  void publish_all(Version version) {
    ASSERT_TRUE(at.core.publish(layer, version, at.now).ok());
    for (const Rank rank : {1u, 2u, 3u}) at.published_by(layer, rank, version);
  }
  FetchSpec spec(std::vector<ExpertIndex> experts, SegmentMask segments = 3) const {
    FetchSpec spec;
    spec.layer = layer;
    spec.version = 1;
    spec.experts = std::move(experts);
    spec.segments = segments;
    spec.slab = slab;
    return spec;
  }
  FetchSpec prefetch(std::vector<ExpertIndex> experts) const {
    FetchSpec wish = spec(std::move(experts));
    wish.wants_views = false;
    wish.urgency = Class::kPrefetch;
    return wish;
  }
  FetchSpec gang(std::vector<ExpertIndex> experts) const {
    FetchSpec wish = spec(std::move(experts));
    wish.gang = true;
    return wish;
  }
  /// Fetches, completes and takes one expert, which is then held.
  ViewNumber hold(ExpertIndex expert) {
    const FetchNumber fetch = at.fetch(spec({expert}));
    at.complete_all();
    const auto got = at.take(fetch);
    EXPECT_EQ(got.size(), 1u);
    return got.empty() ? 0 : got[0].view;
  }
  std::uint32_t free_slots() const { return at.core.available_slots(slab); }
};

/// Ranks 1, 2 and 3, each on a node of its own, with an expert each of 3 chunks; the order from rank 0 is 1, 2, 3.
struct StaggerTest : testing::Test {
  Driver at{{{.chunks = 1}, {.chunks = 1}}};
  LayerNumber layer = at.add_layer({0, 1, 2, 3}, {Driver::by_network(3), Driver::by_network(1), Driver::by_network(2)});
  FetchSpec all(SlabNumber slab) const {
    FetchSpec spec;
    spec.layer = layer;
    spec.version = 1;
    spec.experts = {0, 1, 2};
    spec.segments = 3;
    spec.slab = slab;
    return spec;
  }
  std::vector<Rank> sources() const {
    std::vector<Rank> sources;
    for (const StartChunk& start : at.log) sources.push_back(start.source);
    return sources;
  }
};

TEST_F(StaggerTest, WhatWasParkedGoesInTheStaggeredOrderWhoeverPublishesFirst) {
  at.fetch(all(at.core.add_slab(3)));
  for (const Rank rank : {3u, 2u, 1u}) at.published_by(layer, rank, 1);
  at.complete_all();
  EXPECT_THAT(sources(), testing::ElementsAre(3, 1, 1, 1, 2, 2, 2, 3, 3)) << "but for the chunk that was on its way already";
}

TEST_F(StaggerTest, WhatWasParkedGetsSlotsInTheStaggeredOrder) {
  const FetchNumber fetch = at.fetch(all(at.core.add_slab(1)));
  for (const Rank rank : {3u, 2u, 1u}) at.published_by(layer, rank, 1);
  for (int i = 0; i < 3; ++i) {
    at.complete_all();
    for (const Delivery& delivery : at.take(fetch)) at.release(delivery.view);
  }
  EXPECT_THAT(sources(), testing::ElementsAre(3, 3, 3, 1, 1, 1, 2, 2, 2)) << "but for the one that had the slot already";
}

TEST_F(CoreTest, HomeAndMappedExpertsAreReadyAtOnceAndTakeNoSlot) {
  publish_all(1);
  const FetchNumber fetch = at.fetch(spec({6, 8}));
  const auto got = at.take(fetch);
  ASSERT_EQ(got.size(), 2u);
  for (const Delivery& delivery : got) EXPECT_EQ(delivery.slot, std::nullopt);
  EXPECT_EQ(free_slots(), 2u);
  EXPECT_TRUE(at.log.empty());
  EXPECT_TRUE(at.done.contains(fetch));
}

TEST_F(CoreTest, AMappedExpertWantedInASlotIsCopied) {
  publish_all(1);
  FetchSpec wish = spec({8});
  wish.into_slots = true;
  const FetchNumber fetch = at.fetch(wish);
  at.complete_all();
  const auto got = at.take(fetch);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].path, CARDEA_PATH_NODE_COPY);
  EXPECT_TRUE(got[0].slot);
}

TEST_F(CoreTest, AParkedWantHoldsNoCredit) {
  const FetchNumber early = at.fetch(spec({0, 1}));
  EXPECT_EQ(at.core.counts(early).parked, 2u);
  EXPECT_EQ(free_slots(), 2u);
  EXPECT_TRUE(at.log.empty());
  publish_all(1);
  EXPECT_EQ(at.core.counts(early).moving, 2u);
  EXPECT_EQ(free_slots(), 0u);
  at.complete_all();
  EXPECT_EQ(at.take(early).size(), 2u);
}

TEST_F(CoreTest, StarvedWantsAreServedInTheOrderInWhichTheyCame) {
  publish_all(1);
  const ViewNumber first = hold(0);
  const ViewNumber second = hold(1);
  const FetchNumber a = at.fetch(spec({2}));
  const FetchNumber b = at.fetch(spec({3}));
  EXPECT_EQ(at.core.counts(a).starved + at.core.counts(b).starved, 2u);
  at.release(second);
  EXPECT_EQ(at.core.counts(a).moving, 1u);
  EXPECT_EQ(at.core.counts(b).starved, 1u);
  at.release(first);
  EXPECT_EQ(at.core.counts(b).moving, 1u);
}

TEST_F(CoreTest, TwoFetchesOfOneExpertShareOneTransfer) {
  publish_all(1);
  const FetchNumber a = at.fetch(spec({0}));
  const FetchNumber b = at.fetch(spec({0}));
  at.complete_all();
  EXPECT_EQ(at.log.size(), 3u) << "an expert of 1500 bytes, in chunks of 500, once";
  const auto got_a = at.take(a), got_b = at.take(b);
  ASSERT_EQ(got_a.size(), 1u);
  ASSERT_EQ(got_b.size(), 1u);
  EXPECT_EQ(got_a[0].slot, got_b[0].slot);
  EXPECT_NE(got_a[0].view, got_b[0].view);
  at.release(got_a[0].view);
  EXPECT_EQ(free_slots(), 1u) << "the other still reads it";
  at.release(got_b[0].view);
  EXPECT_EQ(free_slots(), 2u);
}

TEST_F(CoreTest, AnExpertInASpareSlotIsNotMovedAgain) {
  publish_all(1);
  at.release(hold(0));
  const std::size_t moved = at.log.size();
  EXPECT_NE(hold(0), 0u);
  EXPECT_EQ(at.log.size(), moved);
}

TEST_F(CoreTest, TheSpareUsedLongestAgoGivesWay) {
  publish_all(1);
  at.release(hold(0));
  at.release(hold(1));
  at.release(hold(0));  // used again
  at.release(hold(2));  // takes the slot of 1
  const std::size_t moved = at.log.size();
  at.release(hold(0));
  EXPECT_EQ(at.log.size(), moved);
  at.release(hold(1));
  EXPECT_GT(at.log.size(), moved);
}

TEST_F(CoreTest, FurtherSegmentsJoinTheTransferThatIsUnderWay) {
  publish_all(1);
  const FetchNumber one = at.fetch(spec({0}, 1));
  const FetchNumber both = at.fetch(spec({0}, 3));
  at.complete_all();
  std::uint64_t bytes = 0;
  for (const StartChunk& start : at.log) bytes += start.range.bytes;
  EXPECT_EQ(bytes, 1500u) << "every byte once";
  EXPECT_EQ(at.take(one)[0].slot, at.take(both)[0].slot);
  const FetchNumber second = at.fetch(spec({0}, 2));
  EXPECT_EQ(at.take(second).size(), 1u) << "is there already";
}

TEST_F(CoreTest, WhoWantsOneSegmentDoesNotWaitForTheOther) {
  publish_all(1);
  const FetchNumber one = at.fetch(spec({0}, 1));
  const FetchNumber both = at.fetch(spec({0}, 3));
  while (at.core.counts(one).ready == 0) at.complete(at.flying.begin()->first);
  EXPECT_EQ(at.core.counts(both).moving, 1u);
}

TEST_F(CoreTest, AGangIsReservedWholeAndInTheOrderOfSubmission) {
  make_again({{.chunks = 4}, {.chunks = 2}}, 3);
  publish_all(1);
  const ViewNumber held = hold(5);
  const FetchNumber whole = at.fetch(gang({0, 1, 2}));
  const FetchNumber behind = at.fetch(spec({3}));
  EXPECT_EQ(at.core.counts(whole).starved, 3u) << "two of three slots are not enough";
  EXPECT_EQ(at.core.counts(behind).starved, 1u) << "nobody overtakes";
  at.release(held);
  EXPECT_EQ(at.core.counts(whole).moving, 3u);
  at.complete_all();
  for (const Delivery& d : at.take(whole)) at.release(d.view);
  EXPECT_EQ(at.core.counts(behind).moving, 1u);
}

TEST_F(CoreTest, CancelingAGangLetsWhoWaitsBehindItGo) {
  make_again({{.chunks = 4}, {.chunks = 2}}, 3);
  publish_all(1);
  (void)hold(5);
  const FetchNumber whole = at.fetch(gang({0, 1, 2}));
  const FetchNumber behind = at.fetch(spec({3}));
  ASSERT_EQ(at.core.counts(behind).starved, 1u);
  at.cancel(whole);
  EXPECT_EQ(at.core.counts(behind).moving, 1u) << "two slots are free, and nothing else would wake it";
}

TEST_F(CoreTest, AGangLargerThanTheSlabIsRefusedWithTheNumberOfSlots) {
  publish_all(1);
  const auto refused = at.core.fetch(gang({0, 1, 2}), at.now);
  EXPECT_EQ(refused.status().code(), CARDEA_ERR_LIMIT);
  EXPECT_THAT(refused.status().message(), testing::HasSubstr("3 slots; the slab has 2"));
  EXPECT_TRUE(at.core.fetch(gang({0, 1, 6, 8}), at.now).ok()) << "those at home and mapped need none";
}

TEST_F(CoreTest, FetchIsRefusedForWhatCannotBe) {
  publish_all(1);
  EXPECT_EQ(at.core.fetch(spec({10}), at.now).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(at.core.fetch(spec({0, 1, 0}), at.now).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
  FetchSpec no_slab = spec({0});
  no_slab.slab.reset();
  EXPECT_EQ(at.core.fetch(no_slab, at.now).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
  no_slab.experts = {6, 8};
  EXPECT_TRUE(at.core.fetch(no_slab, at.now).ok());
}

TEST_F(CoreTest, ARetiredVersionIsStale) {
  publish_all(1);
  at.published_by(layer, 2, 2);
  const FetchNumber fetch = at.fetch(spec({0}));
  EXPECT_EQ(at.take(fetch)[0].status.code(), CARDEA_ERR_STALE);
  ASSERT_TRUE(at.core.finish(layer, 1, at.now).ok());
  EXPECT_EQ(at.core.fetch(spec({0}), at.now).status().code(), CARDEA_ERR_STALE);
}

TEST_F(CoreTest, APrefetchThatIsWantedBecomesADemand) {
  make_again({{.chunks = 1}, {.chunks = 2}}, 3);
  publish_all(1);
  (void)at.fetch(prefetch({0, 1}));
  const FetchNumber wanted = at.fetch(spec({1}));
  at.complete_all();
  EXPECT_EQ(at.take(wanted).size(), 1u);
  // After the chunk of 0 that was out already, all of 1 comes first.
  ASSERT_EQ(at.log.size(), 6u);
  EXPECT_EQ(at.log[0].expert, 0u);
  for (std::size_t i = 1; i <= 3; ++i) EXPECT_EQ(at.log[i].expert, 1u);
  EXPECT_EQ(at.core.counters().prefetch_bytes_wasted, 0u);
}

TEST_F(CoreTest, ADemandTakesBackWhatAPrefetchIsFillingOnceItsChunksAreDrained) {
  publish_all(1);
  const FetchNumber wish = at.fetch(prefetch({0, 1}));
  EXPECT_EQ(free_slots(), 0u);
  const ChunkNumber flying = at.flying.begin()->first;
  const FetchNumber demand = at.fetch(spec({2, 3}));
  EXPECT_EQ(at.core.counts(wish).moving, 0u);
  for (const Delivery& d : at.take(wish)) EXPECT_EQ(d.status.code(), CARDEA_ERR_CANCELED);
  EXPECT_EQ(at.flying.count(flying), 1u) << "what is under way cannot be called back";
  EXPECT_GT(at.core.counts(demand).starved, 0u) << "and its slot is not written by two";
  at.complete_all();
  EXPECT_EQ(at.take(demand).size(), 2u);
  EXPECT_GT(at.core.counters().prefetch_bytes_wasted, 0u);
}

TEST_F(CoreTest, BytesPrefetchedAndNeverReadAreWasted) {
  publish_all(1);
  (void)at.fetch(prefetch({0}));
  at.complete_all();
  EXPECT_EQ(free_slots(), 2u) << "a spare";
  EXPECT_EQ(at.core.counters().prefetch_bytes_wasted, 0u);
  (void)at.fetch(gang({1, 2}));
  EXPECT_EQ(at.core.counters().prefetch_bytes_wasted, 1500u);
}

TEST_F(CoreTest, APrefetchReplacesWhatWasReadBeforeWhatIsStillToBeRead) {
  publish_all(1);
  (void)at.fetch(prefetch({0, 1}));
  at.complete_all();
  at.release(hold(1));
  (void)at.fetch(prefetch({2}));
  at.complete_all();
  EXPECT_EQ(at.core.counters().prefetch_bytes_wasted, 0u) << "1 has been read and went, though 0 is older";
  (void)at.fetch(prefetch({1}));
  EXPECT_EQ(at.core.counters().prefetch_bytes_wasted, 1500u)
      << "nothing else was left to replace: a prefetch never waits for a reader";
  at.complete_all();
  at.release(hold(2));
  at.release(hold(1));
}

TEST_F(CoreTest, APrefetchLargerThanTheSlabIsRefused) {
  publish_all(1);
  EXPECT_EQ(at.core.fetch(prefetch({0, 1, 2}), at.now).status().code(), CARDEA_ERR_LIMIT);
}

TEST_F(CoreTest, CancelGivesTheSlotBackOnlyWhenItIsDrained) {
  publish_all(1);
  const FetchNumber fetch = at.fetch(spec({0}));
  const std::size_t started = at.log.size();
  at.cancel(fetch);
  EXPECT_EQ(at.take(fetch)[0].status.code(), CARDEA_ERR_CANCELED);
  EXPECT_TRUE(at.done.contains(fetch));
  EXPECT_EQ(free_slots(), 1u);
  EXPECT_EQ(at.core.remove_slab(slab).code(), CARDEA_ERR_BUSY);
  EXPECT_EQ(at.core.remove_layer(layer).code(), CARDEA_ERR_BUSY);
  at.complete_all();
  EXPECT_EQ(at.log.size(), started) << "nothing more of it is started";
  EXPECT_EQ(free_slots(), 2u);
  EXPECT_TRUE(at.core.remove_layer(layer).ok());
  EXPECT_TRUE(at.core.remove_slab(slab).ok());
}

TEST_F(CoreTest, CancelingOneOfTwoDisturbsTheOtherNot) {
  publish_all(1);
  const FetchNumber a = at.fetch(spec({0})), b = at.fetch(spec({0}));
  at.cancel(a);
  at.complete_all();
  EXPECT_EQ(at.take(a)[0].status.code(), CARDEA_ERR_CANCELED);
  EXPECT_TRUE(at.take(b)[0].status.ok());
}

TEST_F(CoreTest, CancelStartsNothingOfWhatItCancels) {
  make_again({{.chunks = 1}, {.chunks = 2}}, 2);
  publish_all(1);
  const FetchNumber fetch = at.fetch(spec({0, 1, 2, 3, 4}));
  const std::size_t started = at.log.size();
  at.cancel(fetch);
  EXPECT_EQ(at.log.size(), started);
  const FetchNumber other = at.fetch(spec({0, 1, 2, 3, 4}));
  at.core.cancel_all(Status(CARDEA_ERR_CANCELED, "all"), at.now);
  at.look();
  EXPECT_EQ(at.core.counts(other).failed, 5u);
  at.complete_all();
  EXPECT_EQ(at.log.size(), started);
  EXPECT_EQ(free_slots(), 2u);
}

TEST_F(CoreTest, FinishIsToldOnlyWhenCanceledTransfersAreDrained) {
  publish_all(1);
  const FetchNumber fetch = at.fetch(spec({0}));
  EXPECT_EQ(at.core.finish(layer, 1, at.now).code(), CARDEA_ERR_BUSY);
  at.destroy(fetch);
  at.told.clear();
  ASSERT_TRUE(at.core.finish(layer, 1, at.now).ok());
  at.look();
  EXPECT_EQ(at.core.collect(layer, 1).code(), CARDEA_IN_PROGRESS);
  EXPECT_EQ(at.core.finish(layer, 1, at.now).code(), CARDEA_ERR_STALE);
  const auto finishes = [&] {
    return std::count_if(at.told.begin(), at.told.end(),
                         [](const Tell& t) { return t.notice.kind == Notice::Kind::kNodeFinished; });
  };
  ASSERT_TRUE(at.core.receive(layer, 1, {0, Notice::Kind::kRankFinished, 0, 1}, at.now).ok());
  at.look();
  EXPECT_EQ(finishes(), 0) << "somebody might still write from it";
  at.complete_all();
  EXPECT_EQ(finishes(), 2) << "to the other node's leader and to rank 1";
}

TEST_F(CoreTest, FinishWithAnOpenViewIsBusy) {
  publish_all(1);
  const ViewNumber view = hold(0);
  EXPECT_EQ(at.core.finish(layer, 1, at.now).code(), CARDEA_ERR_BUSY);
  at.release(view);
  EXPECT_TRUE(at.core.finish(layer, 1, at.now).ok());
}

TEST_F(CoreTest, ADeadlineFailsWhatIsStillOpen) {
  publish_all(1);
  FetchSpec wish = spec({0, 6});
  wish.deadline = at.now + Nanoseconds(100);
  const FetchNumber fetch = at.fetch(wish);
  EXPECT_EQ(at.core.next_deadline(), wish.deadline);
  at.core.time_passed(at.now + Nanoseconds(99));
  EXPECT_EQ(at.core.counts(fetch).failed, 0u);
  at.core.time_passed(at.now + Nanoseconds(100));
  at.look();
  EXPECT_EQ(at.core.counts(fetch).failed, 1u);
  EXPECT_EQ(at.core.first_failure(fetch).code(), CARDEA_ERR_TIMEOUT);
  EXPECT_EQ(at.core.next_deadline(), std::nullopt);
}

TEST_F(CoreTest, AFailedChunkFailsExactlyTheWantsConcerned) {
  publish_all(1);
  const FetchNumber a = at.fetch(spec({0, 1})), b = at.fetch(spec({0})), c = at.fetch(spec({1}));
  ASSERT_EQ(at.flying.begin()->second.expert, 0u);
  at.complete(at.flying.begin()->first, Status(CARDEA_ERR_STALE, "moved on"));
  at.complete_all();
  for (const Delivery& d : at.take(a)) EXPECT_EQ(d.status.ok(), d.expert == 1);
  const auto failed = at.take(b);
  EXPECT_EQ(failed[0].status.code(), CARDEA_ERR_STALE);
  EXPECT_EQ(failed[0].status.detail().expert, 0u);
  EXPECT_EQ(failed[0].status.detail().peer, 2u);
  EXPECT_TRUE(at.take(c)[0].status.ok());
}

TEST_F(CoreTest, AfterAFailureTheExpertCanBeFetchedAgain) {
  publish_all(1);
  const FetchNumber failed = at.fetch(spec({0}));
  at.complete(at.flying.begin()->first, Status(CARDEA_ERR_SYSTEM, "once"));
  const FetchNumber again = at.fetch(spec({0}));  // while chunks of the first are still under way
  at.complete_all();
  EXPECT_EQ(at.take(failed)[0].status.code(), CARDEA_ERR_SYSTEM);
  EXPECT_TRUE(at.take(again)[0].status.ok());
}

TEST_F(CoreTest, ALostPeerFailsWhatWouldComeFromIt) {
  publish_all(1);
  const FetchNumber moving = at.fetch(spec({0, 7}));
  FetchSpec later = spec({1});
  later.version = 2;
  const FetchNumber parked = at.fetch(later);
  at.core.peer_lost(2, false, Status(CARDEA_ERR_PEER_LOST, "killed"), at.now);
  at.look();
  EXPECT_EQ(at.core.first_failure(moving).code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(at.core.first_failure(moving).detail().peer, 2u);
  EXPECT_EQ(at.core.first_failure(parked).code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(at.core.counts(moving).failed, 1u) << "7 comes from another";
  at.complete_all();
  EXPECT_EQ(at.core.counts(moving).ready, 1u);
}

TEST_F(CoreTest, AParkedWantOfAMappedExpertWhoseSourceDiedIsLostNotStale) {
  FetchSpec later = spec({8});
  later.version = 2;
  publish_all(1);
  const FetchNumber parked = at.fetch(later);
  const FetchNumber there = at.fetch(spec({8}));
  at.core.peer_lost(1, false, Status(CARDEA_ERR_PEER_LOST, "killed"), at.now);
  at.look();
  EXPECT_EQ(at.core.first_failure(parked).code(), CARDEA_ERR_PEER_LOST);
  EXPECT_TRUE(at.take(there)[0].status.ok()) << "what is mapped stays readable";
}

TEST_F(CoreTest, AMappedExpertCanBeCopiedAfterItsSourceHasDiedIfItWasPublished) {
  publish_all(1);
  at.core.peer_lost(1, false, Status(CARDEA_ERR_PEER_LOST, "killed"), at.now);
  at.look();
  FetchSpec copy = spec({8});
  copy.into_slots = true;
  const FetchNumber found = at.fetch(copy);
  at.complete_all();
  EXPECT_TRUE(at.take(found)[0].status.ok());
  EXPECT_EQ(free_slots(), 1u);
  copy.version = 2;
  const FetchNumber lost = at.fetch(copy);
  EXPECT_EQ(at.core.first_failure(lost).code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(free_slots(), 1u) << "what cannot come takes no slot";
}

TEST_F(CoreTest, AStarvedWantGoesToAnotherSourceIfItsOwnDied) {
  publish_all(1);
  const ViewNumber first = hold(0);
  (void)hold(1);
  const FetchNumber waiting = at.fetch(spec({9}));
  ASSERT_EQ(at.core.counts(waiting).starved, 1u);
  at.core.peer_lost(2, false, Status(CARDEA_ERR_PEER_LOST, "killed"), at.now);
  at.look();
  at.release(first);
  ASSERT_FALSE(at.flying.empty());
  EXPECT_EQ(at.flying.begin()->second.source, 3u);
  at.complete_all();
  EXPECT_TRUE(at.take(waiting)[0].status.ok());
}

TEST_F(CoreTest, WouldDeadlockOnlyWhenNothingCanComeWithoutARelease) {
  publish_all(1);
  const FetchNumber both = at.fetch(spec({0, 1, 2}));
  EXPECT_FALSE(at.core.would_deadlock(both, {both}, at.now)) << "two are under way";
  at.complete_all();
  EXPECT_FALSE(at.core.would_deadlock(both, {both}, at.now)) << "two are ready";
  const auto got = at.take(both);
  EXPECT_TRUE(at.core.would_deadlock(both, {both}, at.now));
  at.release(got[0].view);
  EXPECT_FALSE(at.core.would_deadlock(both, {both}, at.now));
}

TEST_F(CoreTest, UndeliveredViewsOfAFetchNobodyWaitsForAreTakenBack) {
  publish_all(1);
  const FetchNumber idle = at.fetch(spec({0, 1}));
  at.complete_all();
  const FetchNumber wanted = at.fetch(spec({2}));
  EXPECT_EQ(at.core.counts(wanted).starved, 1u);
  EXPECT_FALSE(at.core.would_deadlock(wanted, {wanted}, at.now));
  at.look();
  EXPECT_EQ(at.core.counts(idle).starved, 1u);
  at.complete_all();
  const auto got = at.take(wanted);
  ASSERT_EQ(got.size(), 1u);
  at.release(got[0].view);
  at.complete_all();
  EXPECT_EQ(at.take(idle).size(), 2u) << "and come again";
}

TEST_F(CoreTest, ViewsThatSomebodyWaitsForAreLeftToHim) {
  publish_all(1);
  const FetchNumber other = at.fetch(spec({0, 1}));
  at.complete_all();
  const FetchNumber wanted = at.fetch(spec({2}));
  EXPECT_FALSE(at.core.would_deadlock(wanted, {wanted, other}, at.now)) << "he will read and release them";
  EXPECT_EQ(at.core.counts(other).ready, 2u);
}

TEST_F(CoreTest, DestroyedInAnyStateAFetchLeavesNothingBehind) {
  FetchSpec parked = spec({0});
  parked.version = 9;
  publish_all(1);
  at.destroy(at.fetch(parked));
  at.destroy(at.fetch(spec({0, 1, 2})));  // two moving, one starved
  at.complete_all();
  const FetchNumber ready = at.fetch(spec({0, 6, 8}));
  at.complete_all();
  at.destroy(ready);
  const FetchNumber delivered = at.fetch(spec({1}));
  at.complete_all();
  const auto got = at.take(delivered);
  at.destroy(delivered);
  EXPECT_EQ(free_slots(), 1u) << "a view outlives its fetch";
  at.release(got[0].view);
  EXPECT_EQ(at.core.release(got[0].view, at.now).status().code(), CARDEA_ERR_INVALID_HANDLE);
  EXPECT_EQ(free_slots(), 2u);
  EXPECT_TRUE(at.core.remove_layer(layer).ok());
  EXPECT_TRUE(at.core.remove_slab(slab).ok());
}

TEST_F(CoreTest, ASlabThatAParkedWantWillNeedIsBusy) {
  const FetchNumber parked = at.fetch(spec({0}));
  EXPECT_EQ(at.core.remove_slab(slab).code(), CARDEA_ERR_BUSY);
  at.cancel(parked);
  EXPECT_TRUE(at.core.remove_slab(slab).ok());
  at.destroy(parked);
}

TEST_F(CoreTest, WhatIsLentHoldsUpCollectAndRemoval) {
  publish_all(1);
  EXPECT_EQ(at.core.lend(layer, 2).code(), CARDEA_ERR_STALE);
  ASSERT_TRUE(at.core.lend(layer, 1).ok());
  ASSERT_TRUE(at.core.finish(layer, 1, at.now).ok());
  ASSERT_TRUE(at.core.receive(layer, 1, {0, Notice::Kind::kRankFinished, 0, 1}, at.now).ok());
  ASSERT_TRUE(at.core.receive(layer, 2, {0, Notice::Kind::kNodeFinished, 1, 1}, at.now).ok());
  EXPECT_EQ(at.core.collect(layer, 1).code(), CARDEA_IN_PROGRESS);
  EXPECT_EQ(at.core.remove_layer(layer).code(), CARDEA_ERR_BUSY);
  at.core.give_back(layer);
  EXPECT_TRUE(at.core.collect(layer, 1).ok());
  EXPECT_EQ(at.core.lend(layer, 1).code(), CARDEA_ERR_STALE);
}

TEST_F(CoreTest, NetworkComesBeforeCopyAndNodesGiveInTurnFromTheNext) {
  Driver here({{.chunks = 1}, {.chunks = 1}});
  const LayerNumber of = here.add_layer(
      {0, 0, 1, 1, 2, 2},
      {Driver::by_copy(1), Driver::by_network(5), Driver::by_network(4), Driver::by_network(3), Driver::by_network(2)});
  const SlabNumber into = here.core.add_slab(8);
  for (Rank rank = 1; rank < 6; ++rank) here.published_by(of, rank, 1);
  FetchSpec wish = spec({0, 1, 2, 3, 4});
  wish.layer = of;
  wish.slab = into;
  (void)here.fetch(wish);
  here.complete_all();
  std::vector<Rank> order;
  for (const StartChunk& start : here.log) {
    if (start.lane == 0 && (order.empty() || order.back() != start.source)) order.push_back(start.source);
  }
  EXPECT_EQ(order, (std::vector<Rank>{2, 4, 3, 5})) << "nodes in turn, and within each its ranks round";
  EXPECT_EQ(here.log[0].lane, 0u);
}

TEST_F(CoreTest, NodesThatHaveMoreToGiveGiveMoreAtATimeSoThatAllEndTogether) {
  Driver here({{.chunks = 1}, {.chunks = 1}});
  const auto one = [] { return Driver::by_network(1); };
  const auto two = [] { return Driver::by_network(2); };
  const LayerNumber of = here.add_layer({0, 1, 2}, {one(), one(), one(), one(), two(), two(), one(), one()});
  const SlabNumber into = here.core.add_slab(8);
  for (Rank rank = 1; rank < 3; ++rank) here.published_by(of, rank, 1);
  FetchSpec wish = spec({7, 5, 6, 0, 1, 2, 4, 3});
  wish.layer = of;
  wish.slab = into;
  (void)here.fetch(wish);
  here.complete_all();
  std::vector<ExpertIndex> order;
  for (const StartChunk& start : here.log) {
    if (order.empty() || order.back() != start.expert) order.push_back(start.expert);
  }
  EXPECT_EQ(order, (std::vector<ExpertIndex>{7, 5, 6, 0, 1, 4, 2, 3}))
      << "of node 1 six in the order in which they were asked for, of node 2 one beside each three of them";
}

}  // namespace
}  // namespace cardea::core
