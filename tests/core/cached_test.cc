// SPDX-License-Identifier: Apache-2.0
// Two cores of one node over one node cache: who moves which chunk, and who waits for whom.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "lib/core/core.h"
#include "tests/cache/plain_memory.h"

namespace cardea::core {
namespace {

constexpr std::uint64_t kChunk = 500;
constexpr std::uint64_t kBlock = 4096;
constexpr Rank kSource = 2;  // of the other node; ranks 0 and 1 share one

/// Ranks 0 and 1, each driven by hand; what they tell each other arrives when the test says so.
class CachedTest : public testing::Test {
 protected:
  struct Node {
    Node(const cache::Directory& directory, cache::Lock& lock, cache::NodeCacheOptions cache_options, CoreOptions options)
        : cache(directory, lock, std::move(cache_options)),
          core(std::move(options), {{.chunks = 4, .nic = 0}, {.chunks = 2}}, &cache) {}
    cache::NodeCache cache;
    Core core;
    LayerNumber layer = 0;
    SlabNumber slab = 0;
    std::deque<StartChunk> flying;
    std::vector<StartChunk> log;
    std::vector<TellNode> told;
  };

  void make(std::uint64_t blocks = 100, std::uint64_t prefetch_blocks = 100) {
    memory_ = std::make_unique<cache::PlainMemory>(blocks * kBlock, kChunk);
    for (Rank rank = 0; rank < 2; ++rank) {
      cache::NodeCacheOptions options;
      options.local = rank;
      options.locals = 2;
      options.prefetch_bytes = prefetch_blocks * kBlock;
      CoreOptions core;
      core.chunk_bytes = kChunk;
      core.node_ranks = {0, 1};
      nodes_[rank] = std::make_unique<Node>(memory_->directory(), lock_, options, core);
      Node& node = *nodes_[rank];
      const SegmentLayout layout = SegmentLayout::make({{"w", kChunks * kChunk, 8}}).value();
      node.layer = node.core.add_layer({7, Membership(rank, {0, 1, kSource}, {0, 0, 1}), layout, {1, 7}});
      std::vector<ExpertSources> experts(16, {kSource, {{kSource, CARDEA_PATH_NETWORK, 0}}});
      node.core.set_sources(node.layer, std::move(experts));
      node.slab = node.core.add_slab(2);
      EXPECT_TRUE(node.core.receive(node.layer, kSource, {rank, Notice::Kind::kPublished, 0, 1}, now_).ok());
      look(rank);
    }
  }
  Node& at(Rank rank) { return *nodes_[rank]; }

  FetchNumber fetch(Rank rank, std::vector<ExpertIndex> experts, bool prefetch = false) {
    FetchSpec spec;
    spec.layer = at(rank).layer;
    spec.version = 1;
    spec.experts = std::move(experts);
    spec.segments = 1;
    spec.slab = at(rank).slab;
    spec.wants_views = !prefetch;
    spec.urgency = prefetch ? Class::kPrefetch : Class::kDemand;
    const Result<FetchNumber> made = at(rank).core.fetch(spec, now_);
    EXPECT_TRUE(made.ok()) << made.status().message();
    look(rank);
    return *made;
  }
  void look(Rank rank) {
    for (const Action& action : at(rank).core.take_actions()) {
      if (const auto* start = std::get_if<StartChunk>(&action)) {
        at(rank).flying.push_back(*start);
        at(rank).log.push_back(*start);
      } else if (const auto* tell = std::get_if<TellNode>(&action)) {
        at(rank).told.push_back(*tell);
      }
    }
  }
  void complete_one(Rank rank) {
    const StartChunk chunk = at(rank).flying.front();
    at(rank).flying.pop_front();
    at(rank).core.chunk_done(chunk.chunk, {}, now_);
    look(rank);
  }
  /// Lets what a rank has told the other arrive.
  void deliver(Rank from) {
    const Rank to = 1 - from;
    for (const TellNode& tell : std::exchange(at(from).told, {})) {
      EXPECT_EQ(tell.to, std::uint64_t{1} << to);
      if (tell.entry != cache::kNoEntry) at(to).core.entry_changed(tell.entry, now_);
      if (tell.nic != kNoNic) at(to).core.nic_free(tell.nic, now_);
      look(to);
    }
  }
  std::size_t started(Rank rank, ExpertIndex expert) {
    return static_cast<std::size_t>(std::count_if(at(rank).log.begin(), at(rank).log.end(),
                                                  [&](const StartChunk& start) { return start.expert == expert; }));
  }
  bool ready(Rank rank, FetchNumber fetch) {
    const FetchCounts counts = at(rank).core.counts(fetch);
    return counts.ready + counts.delivered == counts.experts && counts.failed == 0;
  }

  static constexpr std::size_t kChunks = 8;  // of an expert

  cache::NoLock lock_;
  std::unique_ptr<cache::PlainMemory> memory_;
  std::unique_ptr<Node> nodes_[2];
  Clock::time_point now_{std::chrono::seconds(5)};
};

TEST_F(CachedTest, WhoWaitsForAnothersClaimKnowsWhoseItIsAndSinceWhen) {
  make();
  const Clock::time_point claimed = now_;
  fetch(0, {3});
  EXPECT_EQ(at(0).flying.size(), 4u);
  now_ += std::chrono::milliseconds(200);
  const FetchNumber second = fetch(1, {3});
  ASSERT_EQ(at(1).core.outstanding().size(), 1u);
  EXPECT_EQ(at(1).core.outstanding()[0].state, Outstanding::State::kMoving);
  EXPECT_EQ(at(1).core.outstanding()[0].peer, kSource);
  EXPECT_EQ(at(1).core.outstanding()[0].oldest, now_);
  while (!at(1).flying.empty()) complete_one(1);
  const std::vector<Outstanding> waits = at(1).core.outstanding();
  ASSERT_EQ(waits.size(), 1u);
  EXPECT_EQ(waits[0].fetch, second);
  EXPECT_EQ(waits[0].expert, 3u);
  EXPECT_EQ(waits[0].state, Outstanding::State::kShared);
  EXPECT_EQ(waits[0].peer, 0u) << "who holds the claims";
  EXPECT_EQ(waits[0].source, kSource);
  EXPECT_EQ(waits[0].chunks_done, 4u);
  EXPECT_EQ(waits[0].chunks_in_flight, 0u);
  EXPECT_EQ(waits[0].oldest, claimed);
  // Overdue, the claims are taken over, and the source is who it waits for.
  now_ += std::chrono::seconds(2);
  at(1).core.time_passed(now_);
  look(1);
  EXPECT_EQ(at(1).flying.size(), 4u);
  EXPECT_EQ(at(1).core.outstanding()[0].state, Outstanding::State::kMoving);
  EXPECT_EQ(at(1).core.outstanding()[0].peer, kSource);
}

TEST_F(CachedTest, TwoThatWantOneExpertFillItTogetherAndEachChunkMovesOnce) {
  make();
  const FetchNumber first = fetch(0, {3}), second = fetch(1, {3});
  while (!at(0).flying.empty() || !at(1).flying.empty()) {
    for (const Rank rank : {0u, 1u}) {
      if (!at(rank).flying.empty()) complete_one(rank);
      deliver(rank);
    }
  }
  EXPECT_TRUE(ready(0, first) && ready(1, second));
  EXPECT_EQ(started(0, 3) + started(1, 3), kChunks);
  EXPECT_GT(started(0, 3), 0u);
  EXPECT_GT(started(1, 3), 0u);
  const auto a = at(0).core.take(first, 9), b = at(1).core.take(second, 9);
  ASSERT_TRUE(a.size() == 1 && b.size() == 1);
  EXPECT_EQ(a[0].entry, b[0].entry);
  EXPECT_FALSE(a[0].slot) << "it needs no credit";
  EXPECT_EQ(at(0).core.available_slots(at(0).slab), 2u);
}

TEST_F(CachedTest, AnExpertThatIsThereIsReadyAtOnce) {
  make();
  fetch(0, {3});
  while (!at(0).flying.empty()) complete_one(0);
  const FetchNumber second = fetch(1, {3});
  EXPECT_TRUE(ready(1, second));
  EXPECT_EQ(at(1).core.take(second, 1)[0].path, CARDEA_PATH_CACHE);
  EXPECT_TRUE(at(1).log.empty());
}

TEST_F(CachedTest, ADemandTakesOverWhatAnotherRankPrefetches) {
  make();
  fetch(0, {3}, true);
  EXPECT_EQ(at(0).flying.size(), 1u) << "a prefetch keeps one chunk on its way";
  const FetchNumber demand = fetch(1, {3});
  // The prefetching rank is slow: it ends its one chunk when all others are there.
  while (!at(1).flying.empty()) complete_one(1);
  EXPECT_EQ(started(1, 3), kChunks - 1);
  EXPECT_FALSE(ready(1, demand));
  complete_one(0);
  deliver(0);
  EXPECT_TRUE(ready(1, demand));
  EXPECT_EQ(started(0, 3), 1u);
}

TEST_F(CachedTest, APrefetchHoldsBackWhileAnotherRankOfTheNodeHasADemandOnTheNic) {
  make();
  const FetchNumber demand = fetch(0, {1});
  ASSERT_EQ(at(0).flying.size(), 4u);
  fetch(1, {2}, true);
  EXPECT_TRUE(at(1).flying.empty());
  EXPECT_TRUE(at(1).core.next_deadline()) << "nor does it wait for ever, should nobody tell it";
  while (!at(0).flying.empty()) complete_one(0);
  EXPECT_TRUE(ready(0, demand));
  EXPECT_TRUE(at(1).flying.empty());
  deliver(0);
  EXPECT_EQ(at(1).flying.size(), 1u) << "told that the NIC is free";
}

TEST_F(CachedTest, APrefetchDoesNotHoldBackForADemandOnAnotherNic) {
  make();
  at(1).core.set_nic(0, 1);
  fetch(0, {1});
  ASSERT_EQ(at(0).flying.size(), 4u);
  fetch(1, {2}, true);
  EXPECT_EQ(at(1).flying.size(), 1u);
}

TEST_F(CachedTest, AgingLetsAPrefetchHaveOneChunkInTwentyOfTheNode) {
  make();
  fetch(0, {1, 2, 3, 4, 5, 6, 7, 8});
  fetch(1, {15}, true);
  std::size_t demands = at(0).flying.size();
  while (started(1, 15) == 0 && demands < 64) {
    complete_one(0);
    demands = at(0).log.size();
    now_ += std::chrono::milliseconds(6);
    at(1).core.time_passed(now_);
    look(1);
  }
  EXPECT_EQ(started(1, 15), 1u);
  EXPECT_GE(demands, 20u);
  EXPECT_LE(demands, 30u);
}

TEST_F(CachedTest, ADemandIsNotDelayedByMoreThanOneChunkOfAPrefetch) {
  make();
  fetch(0, {1, 2}, true);
  EXPECT_EQ(at(0).flying.size(), 1u);
  const FetchNumber demand = fetch(0, {5});
  std::size_t others = 0;
  while (!ready(0, demand)) {
    others += at(0).flying.front().expert != 5 ? 1 : 0;
    complete_one(0);
  }
  EXPECT_EQ(others, 1u) << "the one that was on its way";
}

TEST_F(CachedTest, PrefetchesBeyondTheirBudgetAreRefusedOneByOne) {
  make(100, 2);
  const FetchNumber prefetch = fetch(0, {1, 2, 3, 4}, true);
  const FetchCounts counts = at(0).core.counts(prefetch);
  EXPECT_EQ(counts.failed, 2u);
  EXPECT_EQ(at(0).core.first_failure(prefetch).code(), CARDEA_ERR_LIMIT);
  EXPECT_EQ(counts.moving, 2u);
}

TEST_F(CachedTest, CancelDrainsAndLeavesWhatItHadToTheOthers) {
  make();
  const FetchNumber first = fetch(0, {3}), second = fetch(1, {3});
  complete_one(0);
  at(0).core.cancel(first, Status(CARDEA_ERR_CANCELED, "the test said so"), now_);
  look(0);
  EXPECT_EQ(at(0).core.counts(first).failed, 1u);
  while (!at(0).flying.empty()) complete_one(0);
  deliver(0);
  while (!at(1).flying.empty()) complete_one(1);
  EXPECT_TRUE(ready(1, second));
  EXPECT_EQ(started(0, 3) + started(1, 3), kChunks);
  EXPECT_EQ(memory_->directory().entry(0).pins.load(), 0b10u);
}

TEST_F(CachedTest, AClaimOfASilentRankIsTakenOverInTime) {
  make();
  fetch(0, {3});
  const FetchNumber second = fetch(1, {3});
  ASSERT_EQ(at(0).flying.size(), 4u);  // and then it is stopped
  while (!at(1).flying.empty()) complete_one(1);
  EXPECT_FALSE(ready(1, second));
  ASSERT_TRUE(at(1).core.next_deadline());
  EXPECT_LE(*at(1).core.next_deadline(), now_ + std::chrono::milliseconds(1001));
  now_ = *at(1).core.next_deadline();
  at(1).core.time_passed(now_);
  look(1);
  while (!at(1).flying.empty()) complete_one(1);
  EXPECT_TRUE(ready(1, second));
  EXPECT_EQ(at(1).cache.counters().overdue, 4u);
}

TEST_F(CachedTest, WhatAllOfTheNodeHaveFinishedIsDropped) {
  make();
  const FetchNumber first = fetch(0, {3});
  while (!at(0).flying.empty()) complete_one(0);
  EXPECT_TRUE(at(0).core.release(at(0).core.take(first, 1)[0].view, now_).ok());
  EXPECT_TRUE(at(0).core.finish(at(0).layer, 1, now_).ok());
  EXPECT_GT(at(0).cache.used_bytes(), 0u) << "the other rank has not finished";
  EXPECT_TRUE(at(0).core.receive(at(0).layer, 1, {0, Notice::Kind::kRankFinished, 0, 1}, now_).ok());
  EXPECT_EQ(at(0).cache.used_bytes(), 0u);
}

}  // namespace
}  // namespace cardea::core
