// SPDX-License-Identifier: Apache-2.0
#include "lib/core/slots.h"

#include <gtest/gtest.h>

#include <set>

namespace cardea::core {
namespace {

TEST(Slots, EverySlotIsHandedOutOnce) {
  Slots slots(3);
  std::set<SlotIndex> taken;
  while (const auto slot = slots.take_empty()) EXPECT_TRUE(taken.insert(*slot).second);
  EXPECT_EQ(taken, (std::set<SlotIndex>{0, 1, 2}));
  EXPECT_EQ(slots.available(), 0u);
  EXPECT_EQ(slots.count(), 3u);
}

TEST(Slots, SpareSlotsAreAvailableButNotEmpty) {
  Slots slots(2);
  const SlotIndex slot = *slots.take_empty();
  slots.make_spare(slot);
  EXPECT_EQ(slots.available(), 2u);
  EXPECT_EQ(slots.empty(), 1u);
  slots.reuse(slot);
  EXPECT_EQ(slots.available(), 1u);
  slots.give_back(slot);
  EXPECT_EQ(slots.empty(), 2u);
}

TEST(Slots, TheSpareThatWasUsedLongestAgoGoesFirst) {
  Slots slots(3);
  for (int i = 0; i < 3; ++i) (void)slots.take_empty();
  for (const SlotIndex slot : {1u, 0u, 2u}) slots.make_spare(slot);
  EXPECT_EQ(slots.spares().front(), 1u);
  slots.reuse(1);
  slots.make_spare(1);  // used again: now the youngest
  EXPECT_EQ(slots.spares().front(), 0u);
  slots.reuse(0);
  slots.reuse(2);
  slots.reuse(1);
  EXPECT_TRUE(slots.spares().empty());
}

TEST(Slots, TheSlotLastGivenBackIsTakenFirst) {
  Slots slots(4);
  for (int i = 0; i < 4; ++i) (void)slots.take_empty();
  slots.give_back(0);
  slots.give_back(3);
  EXPECT_EQ(slots.take_empty(), 3u);
}

}  // namespace
}  // namespace cardea::core
