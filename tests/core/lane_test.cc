// SPDX-License-Identifier: Apache-2.0
#include "lib/core/lane.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>

namespace cardea::core {
namespace {

/// Starts what the lane offers, without an end to anybody's chunks, and finishes them in order.
struct Running {
  explicit Running(LaneLimits limits) : lane(limits) {}
  std::optional<Lane::Choice> start() {
    const auto choice = lane.next();
    if (!choice) return choice;
    lane.started(choice->urgency);
    flying.push_back(choice->urgency);
    ++count[choice->urgency];
    return choice;
  }
  void finish() {
    lane.finished(flying.front());
    flying.pop_front();
  }
  /// As a busy lane does: whenever a chunk ends, the next one starts.
  void run(int chunks) {
    for (int i = 0; i < chunks; ++i) {
      while (start()) {
      }
      finish();
    }
  }
  Lane lane;
  std::deque<Class> flying;
  std::map<Class, int> count;
};

constexpr LaneLimits kNoAging{.chunks = 100, .background_chunks = 100, .aging = 0};

TEST(Lane, ClassesGoInStrictOrder) {
  Running at(kNoAging);
  std::map<Class, Lane::Place> places;
  for (const Class c : {Class::kPlacement, Class::kPrefetch, Class::kDemand, Class::kGradient})
    places[c] = at.lane.add(static_cast<TransferNumber>(c) + 1, c);
  for (const Class c : {Class::kDemand, Class::kGradient, Class::kPrefetch, Class::kPlacement}) {
    const auto choice = at.start();
    ASSERT_TRUE(choice);
    EXPECT_EQ(choice->urgency, c);
    EXPECT_EQ(choice->transfer, static_cast<TransferNumber>(c) + 1);
    at.lane.remove(places[c], c);
  }
  EXPECT_FALSE(at.lane.next());
}

TEST(Lane, TransfersOfAClassGoInTheOrderInWhichTheyCame) {
  Running at(kNoAging);
  const auto first = at.lane.add(5, Class::kDemand);
  (void)at.lane.add(3, Class::kDemand);
  EXPECT_EQ(at.start()->transfer, 5u);
  EXPECT_EQ(at.start()->transfer, 5u) << "until its chunks are out";
  at.lane.remove(first, Class::kDemand);
  EXPECT_EQ(at.start()->transfer, 3u);
}

TEST(Lane, WhatComesLateTakesThePlaceOfItsOrder) {
  Running at(kNoAging);
  std::map<TransferNumber, Lane::Place> places;
  for (const TransferNumber transfer : {30u, 10u, 40u, 20u, 11u})
    places[transfer] = at.lane.add(transfer, Class::kDemand, transfer / 10);
  for (const TransferNumber transfer : {10u, 11u, 20u, 30u, 40u}) {
    EXPECT_EQ(at.start()->transfer, transfer);
    at.lane.remove(places[transfer], Class::kDemand);
  }
  EXPECT_FALSE(at.lane.next());
}

TEST(Lane, NeverMoreChunksThanTheLaneTakes) {
  Running at({.chunks = 3});
  (void)at.lane.add(1, Class::kDemand);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(at.start());
  EXPECT_FALSE(at.start());
  EXPECT_EQ(at.lane.in_flight(), 3u);
  at.finish();
  EXPECT_TRUE(at.start());
  EXPECT_FALSE(at.start());
}

TEST(Lane, GradientsHaveAtMostTwoChunksOnItAndWhatUsesIdleLanesOne) {
  Running at({.chunks = 8});
  for (const Class c : {Class::kGradient, Class::kPrefetch, Class::kPlacement}) (void)at.lane.add(1, c);
  while (at.start()) {
  }
  EXPECT_EQ(at.lane.in_flight(Class::kGradient), 2u);
  for (const Class c : {Class::kPrefetch, Class::kPlacement}) EXPECT_EQ(at.lane.in_flight(c), 1u);
  (void)at.lane.add(2, Class::kDemand);
  EXPECT_EQ(at.start()->urgency, Class::kDemand) << "so that there is room for a demand";
}

TEST(Lane, OneLowerClassGetsAtMostFivePercent) {
  for (const std::uint32_t chunks : {1u, 2u, 8u}) {
    Running at({.chunks = chunks});
    (void)at.lane.add(1, Class::kDemand);
    (void)at.lane.add(2, Class::kPrefetch);
    at.run(20000);
    EXPECT_LE(at.count[Class::kPrefetch], 20000 / 20 + 1);
    EXPECT_GE(at.count[Class::kPrefetch], 20000 / 20 - 20) << "nor is it starved";
  }
}

TEST(Lane, AllLowerClassesTogetherGetAtMostFivePercentAndEachSome) {
  for (const std::uint32_t chunks : {1u, 2u, 8u}) {
    Running at({.chunks = chunks});
    for (const Class c : {Class::kDemand, Class::kGradient, Class::kPrefetch, Class::kPlacement}) (void)at.lane.add(1, c);
    at.run(30000);
    int lower = 0;
    for (const Class c : {Class::kGradient, Class::kPrefetch, Class::kPlacement}) {
      EXPECT_GE(at.count[c], 400) << static_cast<int>(c);
      lower += at.count[c];
    }
    EXPECT_LE(lower, 30000 / 20 + 1);
    EXPECT_GE(lower, 30000 / 20 - 20);
  }
}

TEST(Lane, AgingCountsOnlyWhileSomebodyWaits) {
  Running at({.chunks = 8});
  (void)at.lane.add(1, Class::kDemand);
  at.run(1000);
  (void)at.lane.add(2, Class::kPrefetch);
  at.finish();
  EXPECT_EQ(at.start()->urgency, Class::kDemand) << "it has just come, and waits its turn";
}

TEST(Lane, WithoutAgingALowerClassWaitsForever) {
  Running at({.chunks = 4, .background_chunks = 2, .aging = 0});
  (void)at.lane.add(1, Class::kDemand);
  (void)at.lane.add(2, Class::kPrefetch);
  at.run(5000);
  EXPECT_EQ(at.count[Class::kPrefetch], 0);
}

}  // namespace
}  // namespace cardea::core
