// SPDX-License-Identifier: Apache-2.0
// What counts as standing still, and how often it is told.
#include "lib/engine/stall_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace cardea::engine {
namespace {

using core::Outstanding;
using State = Outstanding::State;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr Nanoseconds kPatience = seconds(30);
const Clock::time_point kNow{seconds(1000)};

Outstanding one(State state, Nanoseconds submitted_ago, Rank peer = 3, std::uint64_t fetch = 1) {
  Outstanding of;
  of.fetch = fetch;
  of.layer_id = 12;
  of.expert = 5;
  of.version = 7;
  of.state = state;
  of.peer = of.source = peer;
  of.path = CARDEA_PATH_NETWORK;
  of.submitted = kNow - submitted_ago;
  return of;
}

std::vector<Stall> find(const Outstanding& of, const LastMoved& moved = {}, Clock::time_point now = kNow) {
  return find_stalls({of}, moved, kPatience, now);
}

TEST(FindStalls, WhatIsOnItsWayStandsStillWhenNothingCameFromItsSourceSinceItWasAskedFor) {
  Outstanding of = one(State::kMoving, seconds(50));
  of.oldest = kNow - seconds(40);
  ASSERT_THAT(find(of), SizeIs(1));
  EXPECT_EQ(find(of)[0].still, seconds(40));
  EXPECT_THAT(find(of, {.from = {{3, kNow - seconds(29)}}}), IsEmpty()) << "its source sent something else";
  EXPECT_THAT(find(of, {.from = {{4, kNow}}, .anything = kNow}), SizeIs(1)) << "others' chunks are no excuse";
  of.oldest = kNow - seconds(29);
  EXPECT_THAT(find(of), IsEmpty()) << "its chunks were asked for just now";
}

TEST(FindStalls, AnUnpublishedVersionIsAStallOnlyOfWhoeverWantsToReadIt) {
  Outstanding of = one(State::kParked, kPatience);
  EXPECT_THAT(find(of), SizeIs(1));
  of.awaited = false;
  EXPECT_THAT(find(of), IsEmpty());
  EXPECT_THAT(find(one(State::kParked, kPatience - Nanoseconds(1))), IsEmpty());
}

TEST(FindStalls, WhatWaitsForSlotsOrLanesStandsStillOnlyIfNothingMovesAtAll) {
  for (const State state : {State::kStarved, State::kQueued}) {
    Outstanding of = one(state, seconds(100), kNoRank);
    EXPECT_THAT(find(of), SizeIs(1));
    EXPECT_THAT(find(of, {.anything = kNow - seconds(29)}), IsEmpty());
    of.awaited = false;
    EXPECT_THAT(find(of), IsEmpty());
  }
}

TEST(FindStalls, AClaimInTheNodeCacheIsBelievedNoFurtherThanTheFetch) {
  Outstanding of = one(State::kShared, seconds(31));
  of.oldest = Clock::time_point{};  // nonsense in shared memory
  ASSERT_THAT(find(of), SizeIs(1));
  EXPECT_EQ(find(of)[0].still, seconds(31));
  of.oldest = kNow + seconds(1000);
  EXPECT_THAT(find(of), IsEmpty());
}

TEST(FindStalls, TheLongestComesFirst) {
  const auto stalls =
      find_stalls({one(State::kParked, seconds(31), 1), one(State::kParked, seconds(50), 2)}, {}, kPatience, kNow);
  ASSERT_THAT(stalls, SizeIs(2));
  EXPECT_EQ(stalls[0].of.peer, 2u);
}

TEST(StallReason, NamesTheRankThePathAndTheLaneOfWhatStandsStillAndNotOfWhatMoves) {
  Dump dump;
  dump.now = kNow;
  dump.lanes = {"network-in", "node-copy"};
  Outstanding moving = one(State::kMoving, seconds(90), 2);
  moving.oldest = kNow - seconds(90);
  Outstanding still = one(State::kMoving, seconds(50), 3, 9);
  still.oldest = kNow - seconds(40);
  dump.outstanding = {moving, still};
  const auto stalls = find_stalls(dump.outstanding, {.from = {{2, kNow}}}, kPatience, kNow);
  const std::string reason = stall_reason(dump, stalls);
  EXPECT_EQ(reason,
            "fetch 9 has stood still for 40.0 s, at fault: rank 3 (chunks are on the way from it by network on lane "
            "network-in); expert 5 of layer 12, version 7, path network, lane network-in");
  EXPECT_THAT(stall_reason(dump, find_stalls({one(State::kQueued, seconds(60), kNoRank)}, {}, kPatience, kNow)),
              HasSubstr("at fault: nobody, it is queued"));
}

class Telling : public ::testing::Test {
 protected:
  bool tell(const std::vector<Outstanding>& all, Nanoseconds after) {
    return watch_.tell(find_stalls(all, {}, kPatience, kNow + after), kNow + after);
  }
  StallWatch watch_{kPatience};
};

TEST_F(Telling, OnceForAStallAndNotAtEveryLook) {
  const std::vector<Outstanding> all = {one(State::kParked, seconds(0))};
  int told = 0;
  for (int second = 0; second < 300; ++second) told += tell(all, seconds(second)) ? 1 : 0;
  EXPECT_EQ(told, 1);
  for (int second = 300; second < 640; ++second) told += tell(all, seconds(second)) ? 1 : 0;
  EXPECT_EQ(told, 3) << "and again after ten times the patience";
}

TEST_F(Telling, AgainWhenItBecomesAnotherOneButNotBeforeThePatienceIsOver) {
  EXPECT_TRUE(tell({one(State::kParked, seconds(0))}, seconds(30)));
  // A second fetch stands still, and another rank is at fault: told together.
  const std::vector<Outstanding> more = {one(State::kMoving, seconds(0)), one(State::kParked, seconds(0), 4, 2)};
  EXPECT_FALSE(tell(more, seconds(31)));
  EXPECT_FALSE(tell(more, seconds(59)));
  EXPECT_TRUE(tell(more, seconds(60)));
  EXPECT_FALSE(tell(more, seconds(100)));
  EXPECT_FALSE(tell({more[0]}, seconds(101))) << "fewer is nothing new";
}

TEST_F(Telling, WhatHasMovedAndStandsStillAgainIsANewStall) {
  const std::vector<Outstanding> all = {one(State::kParked, seconds(0))};
  EXPECT_TRUE(tell(all, seconds(30)));
  EXPECT_FALSE(tell({}, seconds(40)));
  EXPECT_TRUE(tell(all, seconds(60)));
}

}  // namespace
}  // namespace cardea::engine
