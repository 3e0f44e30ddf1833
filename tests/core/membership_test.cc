// SPDX-License-Identifier: Apache-2.0
#include "lib/core/membership.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace cardea::core {
namespace {

std::vector<Rank> ranks_of(const std::vector<Node>& node_of) {
  std::vector<Rank> ranks;
  for (Rank rank = 0; rank < node_of.size(); ++rank) ranks.push_back(rank);
  return ranks;
}

/// All members in the order in which `self` prefers them.
std::vector<Rank> order_of(const Membership& members) {
  std::vector<Rank> order = members.ranks();
  std::sort(order.begin(), order.end(), [&](Rank a, Rank b) { return members.stagger(a) < members.stagger(b); });
  return order;
}

const std::vector<std::vector<Node>> kGroups = {
    {0}, {0, 0}, {0, 1}, {0, 0, 1, 1}, {5, 5, 5, 2, 2, 2, 9, 9, 9}, {0, 1, 0, 1, 0, 1}, {0, 0, 0, 1}, {3, 1, 1, 2, 2, 2}};

TEST(Membership, EveryRanksOrderIsAPermutationThatEndsItsNodeWithItself) {
  for (const auto& node_of : kGroups) {
    for (Rank self = 0; self < node_of.size(); ++self) {
      const Membership members(self, ranks_of(node_of), node_of);
      std::set<std::pair<std::uint32_t, std::uint32_t>> places;
      for (const Rank rank : members.ranks()) places.insert(members.stagger(rank));
      EXPECT_EQ(places.size(), node_of.size()) << "two sources at one place";
      const std::vector<Rank> order = order_of(members);
      const std::size_t own = members.ranks_of(members.own_node()).size();
      EXPECT_EQ(order[own - 1], self);
      for (std::size_t i = 0; i < own; ++i) EXPECT_EQ(members.node(order[i]), members.own_node());
    }
  }
}

TEST(Membership, InARegularGroupNoTwoRanksBeginWithTheSameSource) {
  for (const auto& node_of : kGroups) {
    const Membership any(0, ranks_of(node_of), node_of);
    const std::size_t per_node = any.ranks_of(any.own_node()).size();
    const bool regular = std::all_of(any.nodes().begin(), any.nodes().end(),
                                     [&](const auto& node) { return node.second.size() == per_node; });
    if (!regular) continue;
    // At every step of going round, not at the first only.
    for (std::size_t step = 0; step < node_of.size(); ++step) {
      std::set<Rank> asked;
      for (Rank self = 0; self < node_of.size(); ++self)
        asked.insert(order_of(Membership(self, ranks_of(node_of), node_of))[step]);
      EXPECT_EQ(asked.size(), node_of.size()) << "step " << step;
    }
  }
}

TEST(Membership, TheLowestRankOfANodeLeadsIt) {
  const std::vector<Node> node_of{4, 1, 4, 1, 1};
  const Membership members(3, {4, 3, 2, 0}, node_of);  // in the group's order; rank 1 is no member
  EXPECT_FALSE(members.contains(1));
  EXPECT_TRUE(members.has_node(1));
  EXPECT_FALSE(members.has_node(2));
  EXPECT_EQ(members.ranks(), (std::vector<Rank>{4, 3, 2, 0}));
  EXPECT_EQ(members.ranks_of(1), (std::vector<Rank>{3, 4}));
}

}  // namespace
}  // namespace cardea::core
