// SPDX-License-Identifier: Apache-2.0
// Ranks of a node copy parts of experts out of the node cache and pull the rest from one another. properties_test.cc has
// the same among faults.
#include <gtest/gtest.h>

#include <cstdio>
#include <set>
#include <vector>

#include "perf/simulator/simulation.h"

namespace cardea::simulator {
namespace {

constexpr std::uint64_t kExpert = 8 << 10;

/// Two nodes of four ranks, that all want all of 16 experts: 8 of them from the other node.
Plan two_by_four() {
  Plan plan;
  plan.nodes = 2;
  plan.ranks_per_node = 4;
  plan.nics = 4;
  plan.layers = 3;
  plan.experts = 16;
  plan.expert_bytes = kExpert;
  plan.chunk_bytes = 1 << 10;
  plan.slots = 32;
  plan.cache_bytes = 1 << 20;
  plan.copy_rate = 1'000'000'000;
  plan.swap_rate = 10'000'000'000;
  plan.expert_time = 0;
  plan.dense_time = 100'000;
  plan.bytes = true;
  return plan;
}

Report run(const Plan& plan) {
  const Result<Report> report = simulate(plan);
  EXPECT_TRUE(report.ok()) << report.status().message();
  EXPECT_TRUE(report->completed);
  for (const std::string& what : report->violations) ADD_FAILURE() << what;
  return *report;
}

constexpr std::uint64_t kWithinNode = 3 * 2 * 4 * 6 * kExpert;  // layers, nodes, ranks, experts of the node's other ranks
constexpr std::uint64_t kRemote = 3 * 2 * 8 * kExpert;          // layers, nodes, experts of the other node

TEST(SplitAndSwap, ANodesExpertLeavesHostMemoryOnce) {
  const Report report = run(two_by_four());
  EXPECT_EQ(report.copy_bytes, kWithinNode + 4 * kRemote) << "every rank has every expert";
  EXPECT_EQ(report.pulled_bytes, 3 * kRemote) << "one of four copies a chunk, the others pull it";
  EXPECT_GT(report.bytes_checked, 0u);
}

TEST(SplitAndSwap, CanBeSwitchedOff) {
  Plan plan = two_by_four();
  plan.split = false;
  const Report report = run(plan);
  EXPECT_EQ(report.pulled_bytes, 0u);
  EXPECT_EQ(report.copy_bytes, kWithinNode + 4 * kRemote);
}

TEST(SplitAndSwap, IsFasterWhereCopiesAreWhatTakesTime) {
  Plan plan = two_by_four();
  const Nanoseconds with = run(plan).time;
  plan.split = false;
  EXPECT_GT(run(plan).time.count(), with.count() * 1.15);
}

TEST(SplitAndSwap, GoesOnWhereSlotsAreFew) {
  // A slot is needed again before others have pulled from it: they copy for themselves then, and all the same nobody waits.
  Plan plan = two_by_four();
  plan.slots = 2;
  plan.prefetch = false;  // what is taken back of it would be copied again
  const Report report = run(plan);
  EXPECT_GT(report.pulled_bytes, 0u);
  EXPECT_EQ(report.copy_bytes, kWithinNode + 4 * kRemote);
}

/// Chunks that were copied or pulled out of the node cache by rank 0 while others of the expert still set out to there.
std::uint64_t copied_early(const Plan& plan) {
  std::FILE* const log = std::tmpfile();
  EXPECT_TRUE(log != nullptr && simulate(plan, log).ok());
  std::rewind(log);
  struct Start {
    unsigned long long expert, into, from;
  };
  std::vector<Start> starts;
  constexpr unsigned long long kNone = cache::kNoEntry;
  char line[512];
  while (std::fgets(line, sizeof(line), log) != nullptr) {
    unsigned long long rank = 0;
    Start start{};
    const int read = std::sscanf(line,
                                 "%*u %llu start chunk=%*u lane=%*u layer=%*u expert=%llu version=%*u source=%*u slot=%*u "
                                 "into=%llu from=%llu",
                                 &rank, &start.expert, &start.into, &start.from);
    if (read == 4 && (start.into != kNone || rank == 0)) starts.push_back(start);
  }
  std::fclose(log);
  std::uint64_t early = 0;
  std::set<unsigned long long> still_coming;  // experts, seen from the end
  for (auto at = starts.rbegin(); at != starts.rend(); ++at) {
    if (at->into != kNone) still_coming.insert(at->expert);
    if (at->from != kNone) early += still_coming.count(at->expert);
  }
  return early;
}

TEST(SplitAndSwap, CopiesWhatHasComeBeforeTheExpertIsWhole) {
  Plan plan = two_by_four();
  plan.layers = 1;
  plan.prefetch = false;
  plan.expert_bytes = 64 << 10;
  plan.cache_bytes = 4 << 20;
  plan.bytes = false;
  EXPECT_GT(copied_early(plan), 8u * 16) << "of the eight experts with 64 chunks each";
  plan.gangs = 100;  // a gang takes its slots when all of it is there
  EXPECT_EQ(copied_early(plan), 0u);
}

TEST(SplitAndSwap, ARankThatFellBehindPullsFromThoseAhead) {
  // One rank in sixteen freezes for as long as the others need for everything. Had they withdrawn what they had in slots
  // when they finished, it would have to copy all by itself, and the more bytes would leave host memory.
  Plan plan = two_by_four();
  plan.stops = 1;
  plan.stop_time = 5'000'000;
  std::uint64_t stopped = 0;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    plan.seed = seed;
    const Report report = run(plan);
    stopped += report.stops;
    EXPECT_GE(report.pulled_bytes, 3 * kRemote * 95 / 100) << "seed " << seed;
  }
  EXPECT_GT(stopped, 5u);
}

TEST(SplitAndSwap, WhatLiesInSlotsIsNotFetchedAgainWhenTheCacheNeedsItsRoom) {
  // A cache for 17 of the 48 experts of the other node, slots for all, and a rank that freezes and comes late to what the
  // cache has had to give up: it pulls it from those who have it.
  Plan plan = two_by_four();
  plan.layers = 6;
  plan.cache_bytes = 17 * kExpert;
  plan.slots = 96;
  plan.prefetch = false;
  plan.stops = 1;
  plan.stop_time = 5'000'000;
  std::uint64_t left = 0, hits = 0, stopped = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    plan.seed = seed;
    const Report report = run(plan);
    left += report.left_in_slots;
    hits += report.hits_in_slots;
    stopped += report.stops;
    EXPECT_EQ(report.repeated_network_bytes, 0u) << "seed " << seed;
    EXPECT_EQ(report.gone_from_slots + report.housed_again + report.cache_bypassed, 0u) << "seed " << seed;
    EXPECT_EQ(report.distinct_network_bytes, 2 * kRemote) << "seed " << seed;
  }
  EXPECT_GT(stopped, 10u);
  EXPECT_GT(left, 100u);
  EXPECT_GT(hits, 50u);
}

TEST(SplitAndSwap, WhatLiesInSlotsMayGoWhenTheyAreNeeded) {
  // Slots for less than a layer: what the cache gave up, and lay in slots, is fetched again at times, and some of it pulled.
  std::uint64_t hits = 0, gone = 0, deaths = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Plan plan = two_by_four();
    plan.seed = seed;
    plan.cache_bytes = 5 * kExpert;
    plan.prefetch = seed % 3 == 0;
    plan.slots = seed % 2 == 0 ? 5 : 12;
    plan.stops = 3;
    plan.stop_time = 500'000;
    plan.deaths = seed % 2;
    plan.cache_overdue = 100'000;
    plan.chunk_delay = 3'000;
    plan.parts = seed % 4 == 0 ? 30 : 0;
    plan.gangs = seed % 5 == 0 ? 40 : 0;
    plan.fetches = 2;
    const Report report = run(plan);
    hits += report.hits_in_slots;
    gone += report.gone_from_slots;
    deaths += report.deaths;
  }
  EXPECT_GT(hits, 20u);
  EXPECT_GT(gone, 20u);
  EXPECT_GT(deaths, 10u);
}

TEST(SplitAndSwap, SurvivesDeathsAndStops) {
  std::uint64_t pulled = 0, deaths = 0, stops = 0;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    Plan plan = two_by_four();
    plan.seed = seed;
    plan.slots = seed % 2 == 0 ? 3 : 32;  // with plenty, copies begin before experts are whole
    plan.deaths = 1;
    plan.stops = 2;
    plan.stop_time = 300'000;
    plan.cache_overdue = 100'000;
    plan.chunk_delay = 3'000;
    const Report report = run(plan);
    pulled += report.pulled_bytes;
    deaths += report.deaths;
    stops += report.stops;
  }
  EXPECT_GT(pulled, 0u);
  EXPECT_GT(deaths, 10u);
  EXPECT_GT(stops, 10u);
}

}  // namespace
}  // namespace cardea::simulator
