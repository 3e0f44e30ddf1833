// SPDX-License-Identifier: Apache-2.0
// The protocol between runtimes, in virtual time: thousands of orders of events, with cancellation and death, of which each
// can be replayed. What is proved: no view ever shows another version's bytes or half of them, every want completes exactly
// once, nobody waits forever, everything is free in the end, and who depends on a dead rank is told so.
#include <gtest/gtest.h>

#include <cstdlib>

#include "lib/base/log.h"
#include "tests/engine/sim_job.h"

namespace cardea::test {
namespace {

JobCounts run_jobs(std::uint64_t seeds, JobPlan plan) {
  setenv("CARDEA_DEBUG", "ERROR", 0);  // deaths are warned of, and here they are many
  EXPECT_TRUE(log::configure_from_environment().ok());
  JobCounts sum;
  for_each_seed(seeds, [&](std::uint64_t seed) {
    plan.seed = seed;
    SimJob job(plan);
    job.run();
    sum.add(job.counts());
  });
  return sum;
}

TEST(RuntimeSim, FourRanksReadTheirVersionsBytesAndNoOthers) {
  JobCounts sum = run_jobs(60, {});
  EXPECT_TRUE(sum.failures.empty() || (sum.failures.size() == 1 && sum.failures.contains(CARDEA_ERR_CANCELED)))
      << "but prefetches that gave way, nothing fails";
  for (const cardea_path_t path : {CARDEA_PATH_HOME, CARDEA_PATH_NODE_MAPPED, CARDEA_PATH_NODE_COPY, CARDEA_PATH_NETWORK})
    EXPECT_GT(sum.views[path], 0u) << path;
  EXPECT_GT(sum.parked, 0u);
  EXPECT_GT(sum.starved, 0u);
  EXPECT_GT(sum.prefetches, 0u);
  EXPECT_GT(sum.gangs, 0u);
  EXPECT_EQ(sum.collected % (4 * 3 * 3), 0u) << "every rank collects every version of every layer";
}

constexpr std::uint64_t kExpertBytes = 1300;  // payload
constexpr std::uint64_t kBlock = 4096;        // of a node cache; takes one expert

TEST(RuntimeSim, WhatComesOverTheNetworkComesOncePerNode) {
  const JobPlan plan{.cache_bytes = 1000 * kBlock};
  const std::uint64_t jobs = number_from_environment("TEST_SEEDS", 60);
  JobCounts sum = run_jobs(jobs, plan);
  EXPECT_GT(sum.views[CARDEA_PATH_CACHE], 0u);
  EXPECT_GT(sum.cache_hits, 0u);
  EXPECT_EQ(sum.evicted + sum.bypassed, 0u);
  // Two experts at home at each of two ranks of the other node, and of every other layer two more sources of them.
  EXPECT_LE(sum.network_bytes, jobs * plan.nodes * plan.layers * plan.versions * 4 * kExpertBytes);
  EXPECT_GT(sum.network_bytes, 0u);
}

TEST(RuntimeSim, ANodeCacheThatIsTooSmallServesAsFarAsItGoes) {
  for (const std::uint64_t blocks : {1, 2, 5}) {
    JobCounts sum = run_jobs(60, {.cache_bytes = blocks * kBlock});
    EXPECT_GT(sum.evicted, 0u);
    EXPECT_GT(sum.bypassed, 0u);
    EXPECT_GT(sum.cache_hits, 0u);
  }
}

TEST(RuntimeSim, WithANodeCacheCancelsAndDeathsLeaveNothingPinned) {
  for (const std::uint64_t blocks : {1, 4, 100}) {
    JobCounts sum = run_jobs(60, {.cache_bytes = blocks * kBlock, .cancels = true});
    EXPECT_GT(sum.failures[CARDEA_ERR_CANCELED], 0u);
    sum = run_jobs(100, {.cache_bytes = blocks * kBlock, .cancels = true, .kill = true});
    EXPECT_GT(sum.killed, 0u);
    EXPECT_GT(sum.failures[CARDEA_ERR_PEER_LOST], 0u);
  }
}

TEST(RuntimeSim, SixteenRanksShareFourNodeCachesThroughADeath) {
  JobCounts sum = run_jobs(10, {.nodes = 4,
                                .ranks_per_node = 4,
                                .layers = 2,
                                .versions = 2,
                                .slots = 6,
                                .cache_bytes = 20 * kBlock,
                                .cancels = true,
                                .kill = true});
  EXPECT_GT(sum.views[CARDEA_PATH_CACHE], 0u);
  EXPECT_GT(sum.failures[CARDEA_ERR_PEER_LOST], 0u);
}

TEST(RuntimeSim, CancelsDeadlinesAndDestroyedFetchesDisturbNobody) {
  JobCounts sum = run_jobs(60, {.cancels = true});
  EXPECT_GT(sum.failures[CARDEA_ERR_CANCELED], 0u);
  EXPECT_GT(sum.failures[CARDEA_ERR_TIMEOUT], 0u);
  EXPECT_EQ(sum.failures.size(), 2u);
  EXPECT_EQ(sum.collected % (4 * 3 * 3), 0u);
}

TEST(RuntimeSim, DeathOfARankIsToldToWhoeverNeedsIt) {
  JobCounts sum = run_jobs(100, {.cancels = true, .kill = true});
  EXPECT_GT(sum.killed, 0u) << "some died while there was work to do";
  EXPECT_GT(sum.failures[CARDEA_ERR_PEER_LOST], 0u);
  EXPECT_GT(sum.aborted, 0u);
}

TEST(RuntimeSim, SixteenRanks) {
  JobCounts sum = run_jobs(5, {.nodes = 4, .ranks_per_node = 4, .layers = 2, .versions = 2, .slots = 6, .cancels = true});
  EXPECT_EQ(sum.collected % (16 * 2 * 2), 0u);
}

TEST(RuntimeSim, SixteenRanksAndADeath) {
  JobCounts sum = run_jobs(10, {.nodes = 4, .ranks_per_node = 4, .layers = 2, .versions = 2, .slots = 6, .kill = true});
  EXPECT_GT(sum.failures[CARDEA_ERR_PEER_LOST], 0u);
}

TEST(RuntimeSim, OneSlotIsEnough) {
  run_jobs(30, {.slots = 1, .cancels = true});
}

TEST(RuntimeSim, ARunIsAFunctionOfItsPlan) {
  const JobPlan plan{.seed = 42, .cancels = true, .kill = true};
  SimJob first(plan), second(plan), other({.seed = 43, .cancels = true, .kill = true});
  first.run();
  second.run();
  other.run();
  EXPECT_EQ(first.hash(), second.hash());
  EXPECT_NE(first.hash(), other.hash());
}

}  // namespace
}  // namespace cardea::test
