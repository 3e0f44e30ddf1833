// SPDX-License-Identifier: Apache-2.0
#include "lib/core/index_list.h"

#include <gtest/gtest.h>

#include <list>
#include <random>

namespace cardea::core {
namespace {

std::vector<int> contents(const IndexList<int>& list) {
  std::vector<int> values;
  for (auto at = list.first(); at != list.kEnd; at = list.next(at)) values.push_back(list[at]);
  return values;
}

TEST(IndexList, KeepsTheOrderInWhichElementsCame) {
  IndexList<int> list;
  EXPECT_TRUE(list.empty());
  list.push_back(1);
  const auto two = list.push_back(2);
  list.push_back(3);
  EXPECT_EQ(list.front(), 1);
  list.remove(two);
  list.push_back(4);
  EXPECT_EQ(contents(list), (std::vector{1, 3, 4}));
}

TEST(IndexList, OneMayComeBeforeAnother) {
  IndexList<int> list;
  const auto three = list.push_back(3);
  const auto two = list.insert_before(three, 2);
  list.insert_before(two, 1);
  list.insert_before(list.kEnd, 4);
  EXPECT_EQ(contents(list), (std::vector{1, 2, 3, 4}));
  EXPECT_EQ(list[list.last()], 4);
  EXPECT_EQ(list[list.previous(three)], 2);
}

TEST(IndexList, AnswersAsAListDoes) {
  std::mt19937 random(3);
  IndexList<int> list;
  std::list<int> model;
  std::vector<std::pair<IndexList<int>::Place, std::list<int>::iterator>> places;
  for (int i = 0; i < 10'000; ++i) {
    if (places.empty() || random() % 3 != 0) {
      places.emplace_back(list.push_back(i), model.insert(model.end(), i));
    } else {
      const std::size_t which = random() % places.size();
      EXPECT_EQ(list[places[which].first], *places[which].second);
      list.remove(places[which].first);
      model.erase(places[which].second);
      places[which] = places.back();
      places.pop_back();
    }
    ASSERT_EQ(list.empty(), model.empty());
    if (!model.empty()) {
      ASSERT_EQ(list.front(), model.front());
    }
  }
  EXPECT_EQ(contents(list), std::vector<int>(model.begin(), model.end()));
}

}  // namespace
}  // namespace cardea::core
