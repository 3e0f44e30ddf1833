// SPDX-License-Identifier: Apache-2.0
// Whom a dump blames, and that its text can be read back.
#include "lib/engine/dump.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/telemetry/dump_text.h"

namespace cardea::engine {
namespace {

using core::Outstanding;
using State = Outstanding::State;
using std::chrono::seconds;
using testing::IsEmpty;
using testing::SizeIs;

Dump dump_of(std::vector<Outstanding> outstanding) {
  Dump dump;
  dump.self = 2;
  dump.node = 1;
  dump.ranks = 4;
  dump.began = Clock::time_point(seconds(100));
  dump.now = Clock::time_point(seconds(160));
  dump.lanes = {"network-in", "node-copy"};
  dump.outstanding = std::move(outstanding);
  return dump;
}

Outstanding one(State state, Rank peer, int submitted, std::optional<int> oldest = std::nullopt) {
  Outstanding of;
  of.fetch = 6;
  of.layer = 1;
  of.layer_id = 12;
  of.expert = 3;
  of.version = 7;
  of.state = state;
  of.peer = peer;
  of.source = 0;
  of.path = CARDEA_PATH_NETWORK;
  of.submitted = Clock::time_point(seconds(submitted));
  if (oldest) of.oldest = Clock::time_point(seconds(*oldest));
  return of;
}

TEST(Suspects, EachStateBlamesWhomItWaitsForTheLongestFirst) {
  const auto blamed = suspects(
      dump_of({one(State::kMoving, 0, 110, 150), one(State::kShared, 3, 110, 155), one(State::kParked, 1, 130),
               one(State::kMoving, 0, 110, 140), one(State::kStarved, kNoRank, 101), one(State::kQueued, kNoRank, 101)}));
  ASSERT_THAT(blamed, SizeIs(3));
  EXPECT_EQ(blamed[0].rank, 1u);
  EXPECT_EQ(blamed[0].waited, seconds(30));
  EXPECT_EQ(blamed[0].why, "it has not published version 7 of layer 12");
  EXPECT_EQ(blamed[1].rank, 0u);
  EXPECT_EQ(blamed[1].experts, 2u);
  EXPECT_EQ(blamed[1].waited, seconds(20)) << "since its oldest chunk was asked for, not since the fetch";
  EXPECT_EQ(blamed[1].why, "chunks are on the way from it by network on lane network-in");
  EXPECT_EQ(blamed[2].rank, 3u);
  EXPECT_EQ(blamed[2].waited, seconds(5));
  EXPECT_EQ(blamed[2].why, "it has claimed chunks in the node cache");
}

TEST(Suspects, ThisRankIsToBlameForItsSlotsOnlyIfNobodyElseIs) {
  const auto blamed = suspects(dump_of({one(State::kStarved, kNoRank, 101), one(State::kQueued, kNoRank, 101)}));
  ASSERT_THAT(blamed, SizeIs(1));
  EXPECT_EQ(blamed[0].rank, 2u);
  EXPECT_EQ(blamed[0].experts, 1u);
  EXPECT_THAT(suspects(dump_of({one(State::kQueued, kNoRank, 101)})), IsEmpty());
}

TEST(DumpText, CanBeReadBack) {
  Dump dump = dump_of({one(State::kShared, 3, 110, 155), one(State::kStarved, kNoRank, 101)});
  dump.lent = {{0, 12, 9, Clock::time_point(seconds(159))}};
  dump.lost = {{1, Status(CARDEA_ERR_PEER_LOST, "rank 1 was lost: a test says so")}};
  const auto read = test::parse_dumps(to_text(dump, "for a test"));
  ASSERT_THAT(read, SizeIs(1));
  EXPECT_EQ(read[0].wrong, "");
  EXPECT_TRUE(read[0].ended);
  EXPECT_EQ(read[0].reason, "for a test");
  EXPECT_EQ(read[0].rank, 2u);
  EXPECT_EQ(read[0].ranks, 4u);
  EXPECT_EQ(read[0].node, 1u);
  ASSERT_THAT(read[0].faults, SizeIs(1));
  EXPECT_EQ(read[0].faults[0].rank, 3u);
  EXPECT_EQ(read[0].faults[0].seconds, 5);
  EXPECT_EQ(read[0].faults[0].why, "it has claimed chunks in the node cache");
  ASSERT_THAT(read[0].outstanding, SizeIs(2));
  EXPECT_EQ(read[0].outstanding[0].at("state"), "shared");
  EXPECT_EQ(read[0].outstanding[0].at("peer"), "3");
  EXPECT_EQ(read[0].outstanding[0].at("oldest-chunk"), "5.000");
  EXPECT_EQ(read[0].outstanding[1].at("state"), "starved");
  EXPECT_EQ(read[0].outstanding[1].at("peer"), "none");
  ASSERT_THAT(read[0].lent, SizeIs(1));
  EXPECT_EQ(read[0].lent[0].at("to"), "0");
  EXPECT_THAT(read[0].lost, SizeIs(1));
}

TEST(DumpText, TellsHowManyExpertsItLeavesOut) {
  const std::string text = to_text(dump_of(std::vector(1000, one(State::kParked, 1, 110))), "many", 10);
  const auto read = test::parse_dumps(text);
  ASSERT_THAT(read, SizeIs(1));
  EXPECT_THAT(read[0].outstanding, SizeIs(10));
  EXPECT_EQ(read[0].outstanding_in_all, 1000u);
  EXPECT_EQ(read[0].faults.at(0).experts, 1000u);
  EXPECT_NE(text.find("\n  and 990 more\n"), std::string::npos);
}

}  // namespace
}  // namespace cardea::engine
