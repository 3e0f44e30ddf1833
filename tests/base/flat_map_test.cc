// SPDX-License-Identifier: Apache-2.0
#include "lib/base/flat_map.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>

namespace cardea {
namespace {

// All keys begin at the same few places, so that entries are pushed far from theirs and round the table's end.
struct CrowdedHash {
  std::uint64_t operator()(std::uint64_t key) const { return key % 3 * 7 - 1; }
};

template <typename Hash>
void agrees_with_a_map(std::uint64_t seed, std::uint64_t keys) {
  std::mt19937_64 random(seed);
  FlatMap<std::uint64_t, std::uint64_t, Hash> table;
  std::map<std::uint64_t, std::uint64_t> model;
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t key = random() % keys;
    if (random() % 2 == 0) {
      table.set(key, model[key] = random());
    } else {
      ASSERT_EQ(table.erase(key), model.erase(key) == 1);
    }
    const std::uint64_t asked = random() % keys;
    const auto known = model.find(asked);
    const std::uint64_t* found = table.find(asked);
    ASSERT_EQ(found != nullptr, known != model.end());
    if (found != nullptr) {
      ASSERT_EQ(*found, known->second);
    }
    ASSERT_EQ(table.size(), model.size());
  }
  std::map<std::uint64_t, std::uint64_t> visited;
  table.for_each([&](std::uint64_t key, std::uint64_t value) { EXPECT_TRUE(visited.emplace(key, value).second); });
  EXPECT_EQ(visited, model);
}

TEST(FlatMap, AnswersAsAMapDoes) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) agrees_with_a_map<NumberHash>(seed, 300);
}

TEST(FlatMap, AnswersAsAMapDoesWhenAllKeysCollide) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) agrees_with_a_map<CrowdedHash>(seed, 40);
}

TEST(FlatMap, SubscriptFindsOrInserts) {
  FlatMap<std::uint64_t, int> table;
  for (std::uint64_t key = 0; key < 100; ++key) EXPECT_EQ(table[key * 7], 0) << "fresh";
  for (std::uint64_t key = 0; key < 100; ++key) ++table[key * 7];
  for (std::uint64_t key = 0; key < 100; ++key) EXPECT_EQ(table[key * 7], 1);
  EXPECT_EQ(table.size(), 100u);
}

TEST(FlatMap, AtThrowsForAKeyThatIsNotThere) {
  FlatMap<std::uint64_t, int> table;
  EXPECT_THROW(table.at(1), std::out_of_range);
  table.set(1, 5);
  EXPECT_EQ(table.at(1), 5);
  EXPECT_TRUE(table.contains(1));
  table.erase(1);
  EXPECT_THROW(table.at(1), std::out_of_range);
  EXPECT_FALSE(table.contains(1));
}

TEST(FlatMap, HoldsNothingBeforeTheFirstInsert) {
  FlatMap<std::uint64_t, int> table;
  EXPECT_EQ(table.find(0), nullptr);
  EXPECT_FALSE(table.erase(0));
  EXPECT_TRUE(table.empty());
}

TEST(FlatMap, ErasingDestroysTheValue) {
  FlatMap<std::uint64_t, std::shared_ptr<int>> table;
  const auto value = std::make_shared<int>(1);
  table.set(7, value);
  EXPECT_EQ(value.use_count(), 2);
  EXPECT_TRUE(table.erase(7));
  EXPECT_EQ(value.use_count(), 1);
}

}  // namespace
}  // namespace cardea
