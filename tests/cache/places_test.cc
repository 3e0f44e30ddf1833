// SPDX-License-Identifier: Apache-2.0
// Entries that lie in ranks' slots.
#include "tests/cache/three_ranks.h"

namespace cardea::cache {
namespace {

constexpr std::uint64_t kBlock = 4096, kChunk = 1024, kBlocks = 4;
constexpr std::uint32_t kChunks = 4;
constexpr LocalMask kAll = 0b111;

class Places : public ThreeRanks {
 protected:
  Places() : ThreeRanks(kBlocks * kBlock, kChunk) {}
  static Key key(ExpertIndex expert) { return {{7, 3}, expert, 1}; }
  std::optional<EntryIndex> acquire(std::uint32_t local, ExpertIndex expert, LocalMask pullable = 0) {
    return rank(local).acquire(key(expert), kBlock, kChunks, 0, false, rank(local).tick(), why_, pullable);
  }
  /// A rank has brought the expert into the cache and copied it into a slot, which it offers; nothing is pinned any more.
  Offer put(std::uint32_t local, ExpertIndex expert, std::uint32_t slot) {
    const EntryIndex entry = *acquire(local, expert);
    for (std::uint32_t i = 0; i < kChunks; ++i) {
      if (rank(local).try_claim(entry, i, now_)) rank(local).finish_chunk(entry, i, true);
    }
    const Offer offer = *rank(local).offer(entry, 3, slot);
    rank(local).release(entry, false);
    return offer;
  }
  /// Others need all room of the payload.
  void fill(std::uint32_t local) {
    std::vector<EntryIndex> held;
    for (ExpertIndex expert = 100; expert < 100 + kBlocks; ++expert) {
      const auto entry = acquire(local, expert);
      ASSERT_TRUE(entry) << "expert " << expert;
      held.push_back(*entry);
    }
    for (const EntryIndex entry : held) rank(local).release(entry, true);
  }

  Refusal why_{};
};

TEST_F(Places, WhatASlotHoldsStaysWhenItsRoomIsNeeded) {
  put(0, 1, 5);
  fill(2);
  EXPECT_EQ(rank(2).counters().left_in_slots, 1u);
  EXPECT_EQ(rank(2).counters().evicted, 0u);
  EXPECT_EQ(rank(0).used_bytes(), 0u) << "it takes no room";
  EXPECT_FALSE(acquire(1, 1, kAll));
  EXPECT_EQ(why_, Refusal::kInSlots);
  const auto entry = rank(1).acquire_in_slots(key(1), kAll);
  ASSERT_TRUE(entry);
  const auto from = rank(1).start_pull(*entry, kAll, 1);
  ASSERT_TRUE(from);
  EXPECT_EQ(from->local, 0u);
  EXPECT_EQ(from->slab, 3u);
  EXPECT_EQ(from->slot, 5u);
  rank(1).end_pull(*entry);
  rank(1).release(*entry, false);
}

TEST_F(Places, WhileItsPayloadIsThereItIsUsed) {
  put(0, 1, 5);
  const auto entry = acquire(1, 1, kAll);
  ASSERT_TRUE(entry);
  EXPECT_TRUE(rank(1).done(*entry, 3));
}

TEST_F(Places, WhatIsWithdrawnIsGoneForTheOthers) {
  const Offer offer = put(0, 1, 5);
  fill(2);
  EXPECT_FALSE(rank(0).withdraw(offer).pulled);
  EXPECT_EQ(rank(0).counters().gone, 1u);
  EXPECT_FALSE(rank(1).acquire_in_slots(key(1), kAll));
  const auto anew = acquire(1, 1, kAll);
  ASSERT_TRUE(anew);
  EXPECT_FALSE(rank(1).done(*anew, 0)) << "it is to be fetched again";
}

TEST_F(Places, TheNextPlaceIsTaken) {
  const Offer first = put(0, 1, 5);
  put(2, 1, 6);
  fill(2);
  const auto entry = rank(1).acquire_in_slots(key(1), kAll);
  ASSERT_TRUE(entry);
  rank(0).withdraw(first);
  EXPECT_EQ(rank(0).counters().gone, 0u);
  const auto from = rank(1).start_pull(*entry, kAll, 1);
  ASSERT_TRUE(from);
  EXPECT_EQ(from->local, 2u);
}

TEST_F(Places, RanksPullFromDifferentOnes) {
  put(0, 1, 5);
  put(2, 1, 6);
  const auto entry = rank(1).acquire_in_slots(key(1), kAll);
  ASSERT_TRUE(entry);
  EXPECT_EQ(rank(1).start_pull(*entry, kAll, 0)->local, 2u);
  EXPECT_EQ(rank(1).start_pull(*entry, kAll, 2)->local, 0u);
  EXPECT_FALSE(rank(1).start_pull(*entry, 0b010, 0)) << "its own";
}

TEST_F(Places, AnOwnerWaitsForThoseWhoPull) {
  const Offer offer = put(0, 1, 5);
  fill(2);
  const EntryIndex entry = *rank(1).acquire_in_slots(key(1), kAll);
  EXPECT_TRUE(rank(1).start_pull(entry, kAll, 1));
  EXPECT_TRUE(rank(0).withdraw(offer).pulled);
  EXPECT_FALSE(rank(1).start_pull(entry, kAll, 1)) << "it is not on offer any more";
  EXPECT_EQ(rank(0).pullers(offer.entry), 0b010u);
  fill(2);
  EXPECT_EQ(rank(0).pullers(offer.entry), 0b010u) << "the entry is pinned, and none other meanwhile";
  EXPECT_TRUE(rank(1).end_pull(entry));
  EXPECT_EQ(rank(0).pullers(offer.entry), 0u);
  rank(1).release(entry, false);
  EXPECT_EQ(memory_.directory().entry(entry).state.load(), Entry::kEmpty) << "nobody has it, and nobody pins it";
}

TEST_F(Places, AWithdrawalTakesBackChunksOfTheSlotAndNobodyElses) {
  const EntryIndex entry = *acquire(0, 1);
  ASSERT_EQ(acquire(1, 1), entry);
  for (std::uint32_t i = 0; i < kChunks; ++i) {
    ASSERT_TRUE(rank(0).try_claim(entry, i, now_));
    rank(0).finish_chunk(entry, i, true);
    NodeCache& by = rank(i % 2);
    ASSERT_TRUE(by.try_claim_copy(entry, i, now_));
    ASSERT_TRUE(by.finish_copy(entry, i, true, 3, 5));
  }
  const Offer offer = *rank(0).offer(entry, 3, 5);
  rank(0).release(entry, false);
  EXPECT_EQ(rank(1).slot_copy(entry, 0).state, CopyState::kInSlot) << "it stays without a pin";
  rank(1).want_in_slot(entry, true);
  EXPECT_EQ(rank(0).withdraw(offer).wanting, 0b010u);
  EXPECT_EQ(rank(1).slot_copy(entry, 0).state, CopyState::kNobody);
  EXPECT_EQ(rank(1).slot_copy(entry, 1).state, CopyState::kInSlot);
}

TEST_F(Places, AnOldOfferTouchesNothingOfAnotherExpert) {
  const Offer offer = put(0, 1, 5);
  rank(1).retire({7, 3}, 1);
  ASSERT_EQ(memory_.directory().entry(offer.entry).state.load(), Entry::kEmpty);
  const Offer other = put(2, 2, 5);
  ASSERT_EQ(other.entry, offer.entry) << "for this test";
  EXPECT_FALSE(rank(0).withdraw(offer).pulled);
  EXPECT_TRUE(rank(1).lies_in_slots(key(2), kAll));
}

TEST_F(Places, WhoCannotPullGetsAPayloadAnew) {
  put(0, 1, 5);
  fill(2);
  const EntryIndex pulled = *rank(1).acquire_in_slots(key(1), kAll);
  const auto entry = acquire(2, 1);
  ASSERT_TRUE(entry);
  EXPECT_EQ(*entry, pulled) << "of one key there is one entry";
  EXPECT_EQ(rank(2).counters().housed_again, 1u);
  EXPECT_FALSE(rank(2).done(*entry, 0));
  EXPECT_TRUE(rank(1).start_pull(pulled, kAll, 1)) << "who can pull still does";
  EXPECT_FALSE(acquire(1, 1, kAll)) << "also who comes now, while the payload is not whole";
  EXPECT_EQ(why_, Refusal::kInSlots);
  EXPECT_TRUE(acquire(0, 1, kAll)) << "nobody pulls from itself";
}

TEST_F(Places, ThePayloadOfWhatIsInSlotsGoesBeforeThatOfWhatIsNot) {
  put(0, 1, 5);
  const EntryIndex older = *acquire(0, 2);
  rank(0).release(older, false);
  put(0, 3, 6);
  const EntryIndex fourth = *acquire(0, 4);
  rank(0).release(fourth, false);
  ASSERT_TRUE(acquire(2, 10));
  ASSERT_TRUE(acquire(2, 11));
  EXPECT_EQ(rank(2).counters().left_in_slots, 2u);
  EXPECT_NE(memory_.directory().find(key(2)), kNoEntry);
}

TEST_F(Places, NothingIsPinnedOrOfferedByTheDead) {
  put(0, 1, 5);
  put(0, 2, 6);
  put(1, 2, 7);
  fill(2);
  ended_[0] = true;
  rank(2).rank_lost(0);
  EXPECT_FALSE(rank(2).lies_in_slots(key(1), kAll));
  EXPECT_TRUE(rank(2).lies_in_slots(key(2), kAll));
  EXPECT_EQ(rank(2).counters().gone, 1u);
}

TEST_F(Places, ARepairKeepsThem) {
  put(0, 1, 5);
  fill(2);
  Directory directory = memory_.directory();
  directory.repair();
  EXPECT_TRUE(rank(1).lies_in_slots(key(1), kAll));
  EXPECT_EQ(directory.used_blocks(), 0u);
  EXPECT_TRUE(directory.consistent());
}

TEST_F(Places, OfOneKeyThereIsOneEntryAlsoWhenItIsGone) {
  const Offer offer = put(0, 1, 5);
  fill(2);
  const EntryIndex old = *rank(1).acquire_in_slots(key(1), kAll);
  rank(0).withdraw(offer);
  const auto anew = acquire(2, 1, kAll);
  ASSERT_TRUE(anew);
  EXPECT_EQ(*anew, old) << "one rank still has it pinned";
  EXPECT_FALSE(rank(2).done(*anew, 0));
  EXPECT_TRUE(rank(1).offer(old, 3, 8));
  EXPECT_FALSE(acquire(0, 1, kAll));
  EXPECT_EQ(why_, Refusal::kInSlots);
}

TEST_F(Places, EnoughRanksAreEnough) {
  const EntryIndex entry = *acquire(0, 1);
  for (std::uint32_t slot = 0; slot < kPlaces; ++slot) EXPECT_TRUE(rank(0).offer(entry, 3, slot));
  EXPECT_FALSE(rank(0).offer(entry, 3, kPlaces));
  EXPECT_FALSE(rank(1).offer(entry, kMaxCopySlot + 1, 0)) << "a slab that no word can name";
}

}  // namespace
}  // namespace cardea::cache
