// SPDX-License-Identifier: Apache-2.0
// How parts are dealt. That ranks then copy and pull them, and never from a slot that holds something else, is
// simulator/split_test.cc's.
#include "lib/core/split.h"

#include <gtest/gtest.h>

#include <vector>

namespace cardea::core {
namespace {

/// How often each chunk is dealt, and how many each rank gets.
struct Dealt {
  std::vector<int> of_chunk;
  std::vector<std::size_t> of_rank;
};

Dealt deal(std::size_t chunks, std::uint64_t ranks, const std::vector<std::uint32_t>& uplinks) {
  Dealt dealt{std::vector<int>(chunks, 0), std::vector<std::size_t>(64, 0)};
  for (std::uint32_t local = 0; local < 64; ++local) {
    if ((ranks >> local & 1) == 0) continue;
    const auto [first, last] = share_of(chunks, ranks, local, uplinks);
    dealt.of_rank[local] = last - first;
    for (std::size_t i = first; i < last; ++i) ++dealt.of_chunk[i];
  }
  return dealt;
}

TEST(Split, DealsEvenlyWhereEachRankHasALinkOfItsOwn) {
  const Dealt dealt = deal(80, 0xFF, {});
  for (std::uint32_t local = 0; local < 8; ++local) EXPECT_EQ(dealt.of_rank[local], 10u) << "rank " << local;
}

TEST(Split, DealsToUplinksFirst) {
  // Ranks 0 and 1 share an uplink, 2 has one alone: each uplink carries half.
  const Dealt dealt = deal(80, 0b111, {5, 5, 9});
  EXPECT_EQ(dealt.of_rank[0], 20u);
  EXPECT_EQ(dealt.of_rank[1], 20u);
  EXPECT_EQ(dealt.of_rank[2], 40u);
}

TEST(Split, NeighboursNeedNotHaveNeighbouringNumbers) {
  const Dealt dealt = deal(60, 0b1111, {7, 3, 3, 7});
  for (std::uint32_t local = 0; local < 4; ++local) EXPECT_EQ(dealt.of_rank[local], 15u) << "rank " << local;
}

TEST(Split, EveryChunkGoesToOneRankWhoeverTakesPart) {
  const std::vector<std::uint32_t> uplinks = {4, 4, 2, 2, 2, 8, 1, 4};
  for (std::uint64_t ranks = 1; ranks < 256; ++ranks) {
    for (const std::size_t chunks : {1, 2, 7, 9, 64}) {
      for (const int times : deal(chunks, ranks, uplinks).of_chunk) ASSERT_EQ(times, 1) << ranks << ", " << chunks;
    }
  }
}

TEST(Split, AloneARankCopiesAll) {
  EXPECT_EQ(share_of(9, 1u << 3, 3, {}), (std::pair<std::size_t, std::size_t>(0, 9)));
}

TEST(Split, WhoDoesNotTakePartGetsNothing) {
  EXPECT_EQ(share_of(9, 0b110, 0, {}), (std::pair<std::size_t, std::size_t>(0, 0)));
  EXPECT_EQ(share_of(9, 0, 0, {}), (std::pair<std::size_t, std::size_t>(0, 0)));
}

}  // namespace
}  // namespace cardea::core
