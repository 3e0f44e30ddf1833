// SPDX-License-Identifier: Apache-2.0
// One thing at a time; what happens when they meet is interleaving_test.cc's.
#include "lib/cache/node_cache.h"

#include <gtest/gtest.h>

#include "tests/cache/plain_memory.h"

namespace cardea::cache {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kChunk = 1024;
constexpr std::uint32_t kChunks = 4;
constexpr std::uint32_t kDemand = 0, kPrefetch = 2;

Key key_of(ExpertIndex expert, Version version = 1) {
  return {{7, 3}, expert, version};
}

class NodeCacheTest : public testing::Test {
 protected:
  void make(std::uint64_t blocks, std::uint64_t prefetch_blocks = 1000) {
    memory_ = std::make_unique<PlainMemory>(blocks * kBlock, kChunk);
    ranks_.clear();
    for (std::uint32_t local = 0; local < 3; ++local) {
      NodeCacheOptions options;
      options.local = local;
      options.locals = 3;
      options.prefetch_bytes = prefetch_blocks * kBlock;
      options.process_ended = [this](std::uint32_t other) { return ended_[other]; };
      ranks_.push_back(std::make_unique<NodeCache>(memory_->directory(), lock_, options));
    }
  }
  NodeCache& rank(std::uint32_t local) { return *ranks_[local]; }
  std::optional<EntryIndex> get(std::uint32_t local, const Key& key, bool unread = false) {
    const std::uint64_t since = since_.value_or(rank(local).tick());
    return rank(local).acquire(key, kBlock, kChunks, unread ? kPrefetch : kDemand, unread, since, why_);
  }
  void fill(std::uint32_t local, EntryIndex entry) {
    for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk) {
      ASSERT_TRUE(rank(local).try_claim(entry, chunk, now_));
      rank(local).finish_chunk(entry, chunk, true);
    }
  }
  /// Acquires, fills and releases.
  void keep(std::uint32_t local, const Key& key, bool unread = false) {
    const auto entry = get(local, key, unread);
    ASSERT_TRUE(entry);
    fill(local, *entry);
    rank(local).release(*entry, false);
  }
  bool there(const Key& key) { return memory_->directory().find(key) != kNoEntry; }

  NoLock lock_;
  std::unique_ptr<PlainMemory> memory_;
  std::vector<std::unique_ptr<NodeCache>> ranks_;
  bool ended_[3] = {};
  Clock::time_point now_{std::chrono::seconds(100)};
  std::optional<std::uint64_t> since_;
  Refusal why_{};
};

TEST_F(NodeCacheTest, WhatOneRankFillsAnotherFindsWhole) {
  make(4);
  const auto first = get(0, key_of(1));
  ASSERT_TRUE(first);
  fill(0, *first);
  const auto second = get(1, key_of(1));
  EXPECT_EQ(second, first);
  for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    EXPECT_TRUE(rank(1).done(*second, chunk));
    EXPECT_FALSE(rank(1).try_claim(*second, chunk, now_));
  }
  EXPECT_EQ(rank(0).payload(*first), rank(1).payload(*second));
  EXPECT_EQ(rank(0).counters().misses, 1u);
  EXPECT_EQ(rank(1).counters().hits, 1u);
}

TEST_F(NodeCacheTest, AChunkHasOneClaimantAndAFailedOneIsFreeAgain) {
  make(4);
  const EntryIndex entry = *get(0, key_of(1));
  EXPECT_EQ(get(1, key_of(1)), entry);
  EXPECT_TRUE(rank(0).try_claim(entry, 0, now_));
  EXPECT_FALSE(rank(1).try_claim(entry, 0, now_));
  EXPECT_FALSE(rank(0).try_claim(entry, 0, now_)) << "not even by whoever has it";
  EXPECT_TRUE(rank(1).try_claim(entry, 1, now_));
  rank(0).finish_chunk(entry, 0, false);
  EXPECT_FALSE(rank(1).done(entry, 0));
  EXPECT_TRUE(rank(1).try_claim(entry, 0, now_));
  rank(1).finish_chunk(entry, 0, true);
  EXPECT_TRUE(rank(0).done(entry, 0));
}

TEST_F(NodeCacheTest, AnOverdueClaimIsTakenOverAndItsFormerOwnerChangesNothing) {
  make(4);
  const EntryIndex entry = *get(0, key_of(1));
  EXPECT_EQ(get(1, key_of(1)), entry);
  ASSERT_TRUE(rank(0).try_claim(entry, 0, now_));
  const auto when = rank(1).overdue_at(entry, now_);
  ASSERT_TRUE(when);
  EXPECT_FALSE(rank(0).overdue_at(entry, now_)) << "one's own claims are no concern";
  EXPECT_FALSE(rank(1).claimable(entry, 0, *when - std::chrono::microseconds(2)));
  ASSERT_TRUE(rank(1).try_claim(entry, 0, *when));
  EXPECT_EQ(rank(1).counters().overdue, 1u);
  rank(0).finish_chunk(entry, 0, false);  // woke up
  EXPECT_FALSE(rank(0).try_claim(entry, 0, *when)) << "a claim that is another's was given back";
  rank(1).finish_chunk(entry, 0, true);
  EXPECT_TRUE(rank(0).done(entry, 0));
  // Chunks that take long take long for others, too.
  rank(1).give_time(std::chrono::seconds(20));
  ASSERT_TRUE(rank(0).try_claim(entry, 1, now_));
  EXPECT_FALSE(rank(1).claimable(entry, 1, now_ + std::chrono::seconds(19)));
  EXPECT_TRUE(rank(1).claimable(entry, 1, now_ + std::chrono::seconds(21)));
}

TEST_F(NodeCacheTest, TheLeastRecentlyUsedGivesRoomAndAPinnedOneNever) {
  make(3);
  for (const ExpertIndex e : {1, 2, 3}) keep(0, key_of(e));
  const EntryIndex pinned = *get(1, key_of(1));  // also used last now
  keep(0, key_of(4));
  EXPECT_TRUE(there(key_of(1)));
  EXPECT_FALSE(there(key_of(2)));
  EXPECT_TRUE(there(key_of(3)));
  const EntryIndex third = *get(2, key_of(3)), fourth = *get(0, key_of(4));
  EXPECT_FALSE(get(0, key_of(5))) << "everything is pinned";
  EXPECT_EQ(why_, Refusal::kNoRoom);
  EXPECT_EQ(rank(0).counters().no_room, 1u);
  rank(2).release(third, false);
  EXPECT_TRUE(get(0, key_of(5)));
  EXPECT_FALSE(there(key_of(3)));
  EXPECT_TRUE(there(key_of(1)) && there(key_of(4)));
  rank(1).release(pinned, false);
  rank(0).release(fourth, false);
}

TEST_F(NodeCacheTest, ADemandTakesUnreadPrefetchesFirstAndAPrefetchWhatWasRead) {
  make(3);
  keep(0, key_of(1));
  keep(0, key_of(2), true);
  keep(0, key_of(3));
  keep(0, key_of(4));
  EXPECT_FALSE(there(key_of(2))) << "unread, though not the oldest";
  EXPECT_EQ(rank(0).counters().prefetch_bytes_wasted, kBlock);
  keep(0, key_of(5), true);
  EXPECT_FALSE(there(key_of(1))) << "read, and the oldest";
  keep(0, key_of(6), true);
  keep(0, key_of(7), true);
  EXPECT_TRUE(there(key_of(5)) && there(key_of(6)) && there(key_of(7))) << "nothing that is still to be read has gone";
  since_ = rank(0).tick();
  keep(0, key_of(8), true);
  EXPECT_FALSE(there(key_of(5))) << "an older prefetch makes room for a newer one";
  keep(0, key_of(9), true);
  keep(0, key_of(10), true);
  EXPECT_FALSE(get(0, key_of(11), true)) << "but one request does not push out its own";
  EXPECT_TRUE(there(key_of(8)) && there(key_of(9)) && there(key_of(10)));
}

TEST_F(NodeCacheTest, PrefetchesKeepToTheirBudget) {
  make(10, 2);
  since_ = 0;
  keep(0, key_of(1), true);
  keep(1, key_of(2), true);
  EXPECT_FALSE(get(0, key_of(3), true)) << "of the node, not of the rank";
  EXPECT_EQ(why_, Refusal::kPrefetchBudget);
  EXPECT_TRUE(get(0, key_of(2))) << "a demand reads one";
  keep(0, key_of(3), true);
  since_ = rank(0).tick();
  keep(0, key_of(4), true);
  EXPECT_FALSE(there(key_of(1))) << "the oldest unread one makes room";
  EXPECT_TRUE(there(key_of(3)));
}

TEST_F(NodeCacheTest, RetiredVersionsGoUnlessPinnedAndThenWithTheirLastReader) {
  make(10);
  keep(0, key_of(1, 1));
  keep(0, key_of(1, 2));
  keep(0, {{8, 3}, 1, 1});
  const EntryIndex read = *get(1, key_of(2, 1));
  rank(0).retire({7, 3}, 1);
  EXPECT_FALSE(there(key_of(1, 1)));
  EXPECT_TRUE(there(key_of(1, 2)));
  EXPECT_TRUE(there({{8, 3}, 1, 1})) << "another group's";
  EXPECT_TRUE(there(key_of(2, 1)));
  EXPECT_EQ(get(2, key_of(2, 1)), read);
  rank(1).release(read, true);
  EXPECT_TRUE(there(key_of(2, 1))) << "somebody else reads it";
  rank(2).release(read, true);
  EXPECT_FALSE(there(key_of(2, 1)));
  EXPECT_EQ(rank(0).used_bytes(), 2 * kBlock);
}

TEST_F(NodeCacheTest, WhatADeadRankHeldIsFreeAndWhatASilentOneHoldsIsNot) {
  make(1);
  const EntryIndex entry = *get(0, key_of(1));
  ASSERT_TRUE(rank(0).try_claim(entry, 0, now_));
  rank(0).start_on(0, kDemand, 100);
  rank(1).rank_lost(0);
  EXPECT_FALSE(get(1, key_of(2))) << "silent, but its process is there: the entry is in quarantine";
  EXPECT_TRUE(rank(1).others_more_urgent(0, kPrefetch));
  ended_[0] = true;
  EXPECT_EQ(get(1, key_of(1)), entry);
  EXPECT_FALSE(rank(1).try_claim(entry, 0, now_));
  rank(1).rank_lost(0);
  rank(1).rank_lost(0);
  EXPECT_TRUE(rank(1).try_claim(entry, 0, now_)) << "its claim is free";
  EXPECT_FALSE(rank(1).others_more_urgent(0, kPrefetch)) << "nothing of it is on the way";
  rank(1).finish_chunk(entry, 0, true);
  rank(1).release(entry, false);
  EXPECT_TRUE(get(2, key_of(2)));
}

TEST_F(NodeCacheTest, RoomThatOnlyTheDeadHoldIsFoundWithoutBeingToldOfTheDeath) {
  make(1);
  ASSERT_TRUE(get(0, key_of(1)));
  EXPECT_FALSE(get(1, key_of(2)));
  ended_[0] = true;
  EXPECT_TRUE(get(1, key_of(2)));
}

TEST_F(NodeCacheTest, ARankThatLeavesLeavesNothingPinned) {
  make(1);
  ASSERT_TRUE(get(0, key_of(1)));
  rank(0).leave();
  EXPECT_TRUE(get(1, key_of(2)));
}

TEST_F(NodeCacheTest, WaitersAreTheOthersThatWait) {
  make(4);
  const EntryIndex entry = *get(0, key_of(1));
  get(1, key_of(1));
  get(2, key_of(1));
  rank(0).wait_for(entry, true);
  rank(1).wait_for(entry, true);
  EXPECT_EQ(rank(0).waiters(entry), 0b010u);
  EXPECT_EQ(rank(2).waiters(entry), 0b011u);
  rank(1).release(entry, false);
  EXPECT_EQ(rank(2).waiters(entry), 0b001u) << "who lets go waits no longer";
}

TEST_F(NodeCacheTest, BytesOnANicAreCountedForTheNodeByClass) {
  make(4);
  EXPECT_FALSE(rank(0).others_more_urgent(3, kPrefetch));
  rank(1).start_on(3, kDemand, 10);
  rank(1).start_on(3, kDemand, 20);
  EXPECT_TRUE(rank(0).others_more_urgent(3, kPrefetch));
  EXPECT_FALSE(rank(0).others_more_urgent(3, kDemand)) << "as urgent is not more urgent";
  EXPECT_FALSE(rank(0).others_more_urgent(2, kPrefetch)) << "another NIC";
  EXPECT_FALSE(rank(1).others_more_urgent(3, kPrefetch)) << "one's own are the lane's business";
  rank(0).hold_back(3);
  EXPECT_EQ(rank(1).finish_on(3, kDemand, 10), 0u) << "some of it is still on the way";
  EXPECT_EQ(rank(1).finish_on(3, kDemand, 20), 0b001u);
  EXPECT_EQ(rank(1).chunks_started(3), 2u);
  rank(1).start_on(3, kDemand, 5);
  EXPECT_EQ(rank(1).finish_on(3, kDemand, 5), 0u) << "told once";
}

TEST_F(NodeCacheTest, WhatCannotBeHeldIsRefused) {
  make(4);
  EXPECT_FALSE(rank(0).acquire(key_of(1), 0, 1, 0, false, 0, why_));
  EXPECT_FALSE(rank(0).acquire(key_of(1), 4 * kBlock + 1, 1, 0, false, 0, why_));
  EXPECT_FALSE(rank(0).acquire(key_of(1), kBlock, 0, 0, false, 0, why_));
  EXPECT_FALSE(rank(0).acquire(key_of(1), kBlock, kMaxChunks + 1, 0, false, 0, why_));
  ASSERT_TRUE(get(0, key_of(1)));
  EXPECT_FALSE(rank(1).acquire(key_of(1), 2 * kBlock, 2 * kChunks, 0, false, 0, why_)) << "ranks that disagree";
}

class NeverHad final : public Lock {
 public:
  Taken lock() override { return never ? Taken::kNot : Taken::kClean; }
  void unlock() override {}
  bool never = false;
};

TEST_F(NodeCacheTest, WithoutTheLockARankGoesWithoutTheCacheAndStillLetsGo) {
  const PlainMemory memory(4 * kBlock, kChunk);
  NeverHad lock;
  NodeCache rank(memory.directory(), lock, {});
  const EntryIndex entry = *rank.acquire(key_of(1), kBlock, kChunks, 0, false, 0, why_);
  lock.never = true;
  EXPECT_FALSE(rank.acquire(key_of(2), kBlock, kChunks, 0, false, 0, why_));
  EXPECT_EQ(why_, Refusal::kLockNotHad);
  EXPECT_EQ(rank.counters().no_lock, 1u);
  rank.retire({7, 3}, 9);
  rank.release(entry, true);
  EXPECT_EQ(memory.directory().entry(entry).pins.load(), 0u);
}

}  // namespace
}  // namespace cardea::cache
