// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/bound.h"

#include <gtest/gtest.h>

namespace cardea::simulator {
namespace {

Plan two_nodes_of_two() {
  Plan plan;
  plan.nodes = 2;
  plan.ranks_per_node = 2;
  plan.nics = 1;
  plan.layers = 1;
  plan.experts = 8;
  plan.top_k = 2;
  plan.expert_bytes = 1'000'000;
  plan.nic_rate = 1'000'000'000;
  plan.copy_rate = 100'000'000'000;
  plan.expert_time = plan.dense_time = 0;
  return plan;
}

Bound bound_of(const Plan& plan) {
  return lower_bound(plan, *Routing::make(plan));
}

TEST(LowerBound, CountsEachExpertOnceForEachRankWithoutTheCache) {
  Plan plan = two_nodes_of_two();
  plan.node_cache = false;
  // Two ranks of a node want the other node's four experts each: 8 MB over 1 GB/s.
  EXPECT_EQ(bound_of(plan).time, Nanoseconds(8'000'000));
}

TEST(LowerBound, CountsEachExpertOnceForEachNodeWithTheCache) {
  Plan plan = two_nodes_of_two();
  plan.node_cache = true;
  EXPECT_EQ(bound_of(plan).time, Nanoseconds(4'000'000));
}

TEST(LowerBound, IsTheComputingWhereThatTakesLonger) {
  Plan plan = two_nodes_of_two();
  plan.expert_time = 10'000'000;
  plan.dense_time = 1'000;
  plan.layers = 3;
  const Bound bound = bound_of(plan);
  EXPECT_EQ(bound.time, Nanoseconds(3 * 80'001'000));
  EXPECT_EQ(bound.busiest, "computing of rank 0");
}

TEST(LowerBound, CountsCopiesWithinTheNode) {
  Plan plan = two_nodes_of_two();
  plan.nodes = 1;
  plan.experts = 4;
  plan.copy_rate = 1'000'000'000;
  EXPECT_EQ(bound_of(plan).time, Nanoseconds(2'000'000)) << "two of four experts are the neighbour's";
  plan.memory_rate = 1'000'000'000;
  EXPECT_EQ(bound_of(plan).time, Nanoseconds(4'000'000)) << "both ranks' copies pass the node's memory";
  plan.mapped = true;
  EXPECT_EQ(bound_of(plan).time, Nanoseconds(0)) << "what is mapped does not move";
}

}  // namespace
}  // namespace cardea::simulator
