// SPDX-License-Identifier: Apache-2.0
// Who has a chunk in a slot, and who may pull it.
#include "tests/cache/three_ranks.h"

namespace cardea::cache {
namespace {

constexpr std::uint64_t kChunk = 1024;
constexpr std::uint32_t kChunks = 4;

/// An entry that is whole, pinned by three ranks.
class SlotCopies : public ThreeRanks {
 protected:
  SlotCopies() : ThreeRanks(1 << 20, kChunk) {
    for (const auto& each : ranks_) {
      Refusal why{};
      entry_ = *each->acquire({{7, 3}, 1, 1}, kChunk * kChunks, kChunks, 0, false, each->tick(), why);
    }
    for (std::uint32_t i = 0; i < kChunks; ++i) {
      EXPECT_TRUE(rank(0).try_claim(entry_, i, now_));
      rank(0).finish_chunk(entry_, i, true);
    }
  }
  /// A rank has a chunk in a slot.
  SlotCopy put(std::uint32_t local, std::uint32_t chunk, std::uint32_t slab = 3, std::uint32_t slot = 5) {
    EXPECT_TRUE(rank(local).try_claim_copy(entry_, chunk, now_));
    EXPECT_TRUE(rank(local).finish_copy(entry_, chunk, true, slab, slot));
    return rank(local).slot_copy(entry_, chunk);
  }

  EntryIndex entry_ = kNoEntry;
};

TEST_F(SlotCopies, OneRankCopiesAChunk) {
  EXPECT_TRUE(rank(0).try_claim_copy(entry_, 2, now_));
  EXPECT_FALSE(rank(1).try_claim_copy(entry_, 2, now_));
  EXPECT_EQ(rank(1).slot_copy(entry_, 2).state, CopyState::kClaimed);
  EXPECT_TRUE(rank(1).try_claim_copy(entry_, 3, now_)) << "another chunk";
  EXPECT_TRUE(rank(1).done(entry_, 2)) << "it is still in host memory";
}

TEST_F(SlotCopies, SaysInWhichSlotItLies) {
  put(2, 1, 0xABCDEF, 0x123456);
  const SlotCopy copy = rank(0).slot_copy(entry_, 1);
  EXPECT_EQ(copy.state, CopyState::kInSlot);
  EXPECT_EQ(copy.local, 2u);
  EXPECT_EQ(copy.slab, 0xABCDEFu);
  EXPECT_EQ(copy.slot, 0x123456u);
}

TEST_F(SlotCopies, SaysWhoBroughtAChunkAndWhoHadItLast) {
  EXPECT_EQ(rank(2).brought_by(entry_, 1), 0u);
  put(1, 1);
  rank(1).withdraw_copies(entry_);
  EXPECT_EQ(rank(2).slot_copy(entry_, 1).state, CopyState::kNobody);
  EXPECT_EQ(rank(2).brought_by(entry_, 1), 1u);
}

TEST_F(SlotCopies, AFailedCopyCanBeClaimedAgain) {
  EXPECT_TRUE(rank(0).try_claim_copy(entry_, 0, now_));
  EXPECT_TRUE(rank(0).finish_copy(entry_, 0, false, 3, 5));
  EXPECT_TRUE(rank(1).try_claim_copy(entry_, 0, now_));
}

TEST_F(SlotCopies, AnOverdueCopyIsTakenOverAndItsRankHearsOfIt) {
  EXPECT_TRUE(rank(0).try_claim_copy(entry_, 0, now_));
  EXPECT_EQ(rank(0).copy_overdue_at(entry_), std::nullopt) << "its own";
  const auto overdue = rank(1).copy_overdue_at(entry_);
  ASSERT_TRUE(overdue.has_value());
  EXPECT_FALSE(rank(1).try_claim_copy(entry_, 0, *overdue - std::chrono::milliseconds(1)));
  EXPECT_TRUE(rank(1).try_claim_copy(entry_, 0, *overdue + std::chrono::milliseconds(1)));
  EXPECT_FALSE(rank(0).finish_copy(entry_, 0, true, 3, 5));
  EXPECT_EQ(rank(2).slot_copy(entry_, 0).local, 1u);
}

TEST_F(SlotCopies, WhatIsWithdrawnIsNotPulled) {
  const SlotCopy copy = put(0, 0);
  rank(0).withdraw_copies(entry_);
  EXPECT_FALSE(rank(1).start_pull(entry_, 0, copy));
  EXPECT_EQ(rank(0).pullers(entry_), 0u) << "the slot may be reused";
  EXPECT_EQ(rank(1).slot_copy(entry_, 0).state, CopyState::kNobody);
}

TEST_F(SlotCopies, AnOwnerSeesWhoPulledBeforeItWithdrew) {
  const SlotCopy first = put(0, 0);
  const SlotCopy second = put(0, 1);
  EXPECT_TRUE(rank(1).start_pull(entry_, 0, first));
  EXPECT_TRUE(rank(1).start_pull(entry_, 1, second));
  rank(0).withdraw_copies(entry_);
  EXPECT_EQ(rank(0).pullers(entry_), 0b010u);
  EXPECT_FALSE(rank(1).end_pull(entry_)) << "another is under way";
  EXPECT_EQ(rank(0).pullers(entry_), 0b010u);
  EXPECT_TRUE(rank(1).end_pull(entry_));
  EXPECT_EQ(rank(0).pullers(entry_), 0u);
}

TEST_F(SlotCopies, ASlotThatWasReusedMeanwhileIsNotTakenForTheOldOne) {
  const SlotCopy old = put(0, 0, 3, 5);
  rank(0).withdraw_copies(entry_);
  put(0, 0, 3, 6);
  EXPECT_FALSE(rank(1).start_pull(entry_, 0, old));
}

TEST_F(SlotCopies, WantsAreCountedByRank) {
  EXPECT_EQ(rank(0).want_in_slot(entry_, true), 0u);
  EXPECT_EQ(rank(2).want_in_slot(entry_, true), 0b001u);
  EXPECT_EQ(rank(1).wanted_in_slots(entry_), 0b101u);
  EXPECT_EQ(rank(0).want_in_slot(entry_, false), 0b100u);
  rank(2).release(entry_, false);
  EXPECT_EQ(rank(1).wanted_in_slots(entry_), 0u) << "a rank that lets go of the entry wants it no more";
}

TEST_F(SlotCopies, ADeadRanksCopiesClaimsAndPullsAreTakenBack) {
  put(2, 0);
  EXPECT_TRUE(rank(2).try_claim_copy(entry_, 1, now_));
  const SlotCopy mine = put(0, 2);
  EXPECT_TRUE(rank(2).start_pull(entry_, 2, mine));
  rank(2).want_in_slot(entry_, true);
  rank(0).rank_lost(2);
  EXPECT_EQ(rank(0).slot_copy(entry_, 0).state, CopyState::kInSlot) << "its process has not ended";
  ended_[2] = true;
  rank(0).rank_lost(2);
  EXPECT_EQ(rank(0).slot_copy(entry_, 0).state, CopyState::kNobody);
  EXPECT_TRUE(rank(0).try_claim_copy(entry_, 1, now_));
  EXPECT_EQ(rank(0).slot_copy(entry_, 2).state, CopyState::kInSlot) << "the living one's stays";
  EXPECT_EQ(rank(0).pullers(entry_) | rank(0).wanted_in_slots(entry_), 0u);
}

}  // namespace
}  // namespace cardea::cache
