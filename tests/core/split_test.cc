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

Dealt deal(std::size_t chunks, std::uint64_t ranks, const std::vector<std::uint32_t>& uplinks, std::size_t turn = 0) {
  Dealt dealt{std::vector<int>(chunks, 0), std::vector<std::size_t>(64, 0)};
  for (std::uint32_t local = 0; local < 64; ++local) {
    if ((ranks >> local & 1) == 0) continue;
    const Share share = share_of(ranks, local, uplinks, turn);
    for (std::size_t i = 0; i < chunks; ++i) {
      if (!share.has(i)) continue;
      ++dealt.of_rank[local];
      ++dealt.of_chunk[i];
    }
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
      for (const std::size_t turn : {0, 3, 1000}) {
        for (const int times : deal(chunks, ranks, uplinks, turn).of_chunk)
          ASSERT_EQ(times, 1) << ranks << ", " << chunks << ", " << turn;
      }
    }
  }
}

TEST(Split, AloneARankCopiesAll) {
  EXPECT_EQ(deal(9, 1u << 3, {}).of_rank[3], 9u);
}

TEST(Split, WhoDoesNotTakePartGetsNothing) {
  for (std::size_t chunk = 0; chunk < 9; ++chunk) {
    EXPECT_FALSE(share_of(0b110, 0, {}, 0).has(chunk));
    EXPECT_FALSE(share_of(0, 0, {}, 0).has(chunk));
  }
}

TEST(Split, WhoHasAChunkMoreOfOneExpertHasNotOfTheNext) {
  // Nine chunks for eight ranks: over eight experts each has had the ninth once.
  std::vector<std::size_t> had(8, 0);
  for (std::size_t expert = 0; expert < 8; ++expert) {
    const Dealt dealt = deal(9, 0xFF, {}, expert);
    for (std::size_t local = 0; local < 8; ++local) had[local] += dealt.of_rank[local];
  }
  for (const std::size_t chunks : had) EXPECT_EQ(chunks, 9u);
}

TEST(Split, NeighbouringChunksGoToDifferentUplinks) {
  // So that an expert which comes chunk by chunk keeps both links busy.
  const std::vector<std::uint32_t> uplinks = {1, 1, 2, 2};
  for (std::size_t chunk = 0; chunk + 1 < 16; ++chunk) {
    const auto uplink_of = [&](std::size_t which) {
      for (std::uint32_t local = 0; local < 4; ++local) {
        if (share_of(0xF, local, uplinks, 5).has(which)) return uplinks[local];
      }
      return 0u;
    };
    EXPECT_NE(uplink_of(chunk), uplink_of(chunk + 1)) << chunk;
  }
}

}  // namespace
}  // namespace cardea::core
