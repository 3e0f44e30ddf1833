// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/node_table.h"

#include <gtest/gtest.h>

#include <utility>

namespace cardea::shm {
namespace {

// All ranks of one proposal have proved each other, but for the given (who says, of whom).
Proofs proofs(std::vector<std::uint32_t> proposal, std::vector<std::pair<Rank, Rank>> missing = {}) {
  Proofs made;
  made.proposal = std::move(proposal);
  const std::size_t ranks = made.proposal.size();
  made.proved.assign(ranks, std::vector<bool>(ranks));
  for (Rank a = 0; a < ranks; ++a) {
    for (Rank b = 0; b < ranks; ++b) made.proved[a][b] = a != b && made.proposal[a] == made.proposal[b];
  }
  for (const auto& [a, b] : missing) made.proved[a][b] = false;
  return made;
}

using Nodes = std::vector<Node>;

TEST(NodeTable, NodesAreNumberedByTheirLowestRank) {
  EXPECT_EQ(make_node_table(proofs({7, 3, 7, 3})), (Nodes{0, 1, 0, 1}));
  EXPECT_EQ(make_node_table(proofs({0})), (Nodes{0}));
}

TEST(NodeTable, ARankThatNobodyProvedEndsAlone) {
  EXPECT_EQ(make_node_table(proofs({0, 0, 0, 0}, {{0, 1}, {2, 1}, {3, 1}})), (Nodes{0, 1, 0, 0}));
  EXPECT_EQ(make_node_table(proofs({0, 0, 0, 0}, {{0, 2}, {1, 2}, {2, 3}})), (Nodes{0, 0, 1, 0}));
}

TEST(NodeTable, OneSideSayingSoIsNoProof) {
  EXPECT_EQ(make_node_table(proofs({0, 0}, {{1, 0}})), (Nodes{0, 1}));
}

TEST(NodeTable, OneMissingPairCostsOneRankItsPlaceTheHigher) {
  EXPECT_EQ(make_node_table(proofs({0, 0, 0, 0}, {{1, 3}})), (Nodes{0, 0, 0, 1}));
}

TEST(NodeTable, TwoContainersThatLookLikeOneHostAreTwoNodes) {
  const std::vector<std::pair<Rank, Rank>> across = {{0, 1}, {0, 3}, {2, 1}, {2, 3}};
  EXPECT_EQ(make_node_table(proofs({0, 0, 0, 0}, across)), (Nodes{0, 1, 0, 1}));
}

}  // namespace
}  // namespace cardea::shm
