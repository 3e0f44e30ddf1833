// SPDX-License-Identifier: Apache-2.0
#include "lib/core/number_map.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace cardea::core {
namespace {

struct Thing {
  int value = 0;
  std::vector<int> list;
  void recycle() {
    value = 0;
    list.clear();
  }
};

TEST(NumberMap, ObjectsStayWhereTheyAreWhateverComesAndGoes) {
  NumberMap<Thing> things;
  Thing& first = things.add(1);
  first.value = 11;
  for (std::uint64_t n = 2; n < 5000; ++n) things.add(n).value = static_cast<int>(n);
  for (std::uint64_t n = 2; n < 5000; n += 2) things.erase(n);
  EXPECT_EQ(&things.at(1), &first);
  EXPECT_EQ(first.value, 11);
  EXPECT_EQ(things.at(4999).value, 4999);
  EXPECT_EQ(things.find(4998), nullptr);
  EXPECT_EQ(things.size(), 2500u);
}

TEST(NumberMap, WhatIsUsedAgainIsAsGoodAsNew) {
  NumberMap<Thing> things;
  things.add(1).value = 5;
  things.at(1).list.assign(100, 1);
  things.erase(1);
  Thing& next = things.add(2);
  EXPECT_EQ(next.value, 0);
  EXPECT_TRUE(next.list.empty());
  EXPECT_EQ(things.find(1), nullptr) << "a number that is gone names nothing, though its object lives on";
}

TEST(NumberMap, WhatIsTakenOutStaysWhileOthersComeAndIsUsedAgainOnceKept) {
  NumberMap<Thing> things;
  things.add(1).value = 5;
  std::unique_ptr<Thing> taken = things.take(1);
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ(things.find(1), nullptr);
  EXPECT_EQ(things.size(), 0u);
  EXPECT_NE(&things.add(2), taken.get());
  EXPECT_EQ(taken->value, 5);
  things.keep(std::move(taken));
  EXPECT_EQ(things.add(3).value, 0);
  EXPECT_EQ(things.take(1), nullptr);
}

TEST(NumberMap, VisitsEachObjectOnceWithItsNumber) {
  NumberMap<Thing> things;
  for (std::uint64_t n = 10; n < 40; ++n) things.add(n).value = static_cast<int>(n);
  std::set<std::uint64_t> seen;
  things.for_each([&](std::uint64_t number, const Thing& thing) {
    EXPECT_EQ(thing.value, static_cast<int>(number));
    EXPECT_TRUE(seen.insert(number).second);
  });
  EXPECT_EQ(seen.size(), 30u);
}

TEST(NumberMap, AskingForWhatIsNotThereThrows) {
  NumberMap<Thing> things;
  things.erase(3);  // of no consequence
  EXPECT_THROW(things.at(3), std::out_of_range);
}

}  // namespace
}  // namespace cardea::core
