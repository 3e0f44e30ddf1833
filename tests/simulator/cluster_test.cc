// SPDX-License-Identifier: Apache-2.0
// Which lanes bytes take in a cluster of real machines, and what the strategies are worth there.
#include "perf/simulator/cluster.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "perf/simulator/ablation.h"
#include "perf/simulator/simulation.h"

namespace cardea::simulator {
namespace {

Plan machines(const std::string& name) {
  Plan plan;
  plan.machine = fmt::format("{}/{}.xml", CARDEA_MACHINES, name);
  EXPECT_TRUE(Cluster::fit(plan, false).ok());
  return plan;
}

Cluster cluster_of(const Plan& plan) {
  Result<Cluster> made = Cluster::make(plan);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(made).value();
}

std::string names(const Cluster& cluster, const Steps& way) {
  std::vector<std::string> all;
  for (const Step& step : way) all.push_back(cluster.lanes()[step.lane].name);
  return fmt::format("{}", fmt::join(all, ", "));
}

TEST(Cluster, ARankForEachGpuOfAMachine) {
  const Plan plan = machines("dgx-a100");
  EXPECT_EQ(plan.ranks_per_node, 8u);
  EXPECT_EQ(plan.nics, 4u);
}

TEST(Cluster, WithAffinityBytesLeaveANodeBelowTheirSwitch) {
  Plan plan = machines("dgx-a100");
  EXPECT_EQ(names(cluster_of(plan), cluster_of(plan).out(2, 0)),
            "pcie-up:GPU2>SW1 of node 0, pcie-down:SW1>NIC1 of node 0, nic-out:NIC1 of node 0");
  plan.nic_affinity = false;
  EXPECT_EQ(names(cluster_of(plan), cluster_of(plan).out(2, 0)),
            "pcie-up:GPU2>SW1 of node 0, pcie-up:SW1>NUMA0 of node 0, interconnect:PKG0>PKG1 of node 0, "
            "pcie-down:NUMA1>SW2 of node 0, pcie-down:SW2>NIC2 of node 0, nic-out:NIC2 of node 0");
}

TEST(Cluster, GpusOfASwitchShareItsUplink) {
  const Cluster cluster = cluster_of(machines("dgx-a100"));
  EXPECT_EQ(cluster.lanes()[cluster.uplink(9)].name, "pcie-down:NUMA0>SW0 of node 1");
  EXPECT_EQ(cluster.uplink(8), cluster.uplink(9));
  EXPECT_NE(cluster.uplink(9), cluster.uplink(10));
  EXPECT_NE(cluster.uplink(0), cluster.uplink(8)) << "another node's";
  const core::SwapOptions swap = cluster.swap(1);
  EXPECT_EQ(swap.peers, 0b11111101u);
  EXPECT_EQ(swap.uplink_of[0], swap.uplink_of[1]);
  EXPECT_EQ(swap.lane, 2u);
}

TEST(Cluster, WithoutNvlinkNothingIsSwapped) {
  const Cluster cluster = cluster_of(machines("pcie-8gpu"));
  EXPECT_EQ(cluster.swap(0).peers, 0u);
  EXPECT_EQ(cluster.within_node(0, 1).lane, cluster.core_lanes(0).copy());
}

TEST(Cluster, MoreNicsThanRanksAreRails) {
  Plan plan = machines("hgx-h200");
  plan.ranks_per_node = 4;
  plan.nics = 4;
  const Cluster cluster = cluster_of(plan);
  EXPECT_EQ(cluster.core_lanes(0).rails, 2u);
  EXPECT_EQ(cluster.nics(0).front(), 0u) << "its own switch's first";
  plan.rails = 1;
  EXPECT_EQ(cluster_of(plan).core_lanes(0).rails, 1u);
}

TEST(Cluster, SeveralRailsCarryOneExpertFaster) {
  Plan plan = machines("hgx-h200");
  plan.ranks_per_node = 1;  // so that only one rank draws on the eight NICs
  plan.nics = 1;
  plan.nodes = 2;
  plan.layers = 2;
  plan.experts = 2;
  plan.top_k = 1;
  plan.expert_bytes = 256 << 20;
  plan.expert_time = 0;
  plan.prefetch = false;
  const Result<Report> four = simulate(plan);
  plan.rails = 1;
  const Result<Report> one = simulate(plan);
  ASSERT_TRUE(four.ok() && one.ok());
  EXPECT_EQ(four->violation_count + one->violation_count, 0u);
  const auto fetching = [&](const Report& report) {
    return report.ready_time.count() - 2 * static_cast<std::int64_t>(plan.dense_time);
  };
  EXPECT_GT(static_cast<double>(fetching(*one)), static_cast<double>(fetching(*four)) * 1.1);
}

TEST(Cluster, SaysWhatIsWrongWithAMachine) {
  Plan plan;
  plan.machine = "/no/such/machine.xml";
  EXPECT_NE(check(plan).message().find("/no/such/machine.xml"), std::string::npos) << check(plan).message();
  plan = machines("dgx-a100");
  plan.ranks_per_node = 9;
  EXPECT_NE(check(plan).message().find("8 GPUs"), std::string::npos) << check(plan).message();
}

[[maybe_unused]] double factor(const AblationRow& before, const AblationRow& after) {
  return static_cast<double>(before.report->time.count()) / static_cast<double>(after.report->time.count());
}
[[maybe_unused]] double over_bound(const AblationRow& row) {
  return static_cast<double>(row.report->time.count()) / static_cast<double>(row.bound.time.count());
}

/// 4 nodes, 32 experts per layer, and transfers are what takes time.
Plan heavy(const std::string& machine, std::uint64_t layers, std::uint64_t expert_bytes = 88'000'000) {
  Plan plan = machines(machine);
  plan.nodes = 4;
  plan.layers = layers;
  plan.experts = 32;
  plan.expert_bytes = expert_bytes;
  plan.expert_time = 0;
  plan.dense_time = 100'000;
  return plan;
}

double time_of(const Plan& plan) {
  const Result<Report> report = simulate(plan);
  EXPECT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->violation_count, 0u);
  return static_cast<double>(report->time.count());
}

#if !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)  // where it takes minutes; split_test.cc has the same code
TEST(MachineAblation, SplitAndAffinityCureContentionOfDgxA100) {
  for (const Plan& plan : {heavy("dgx-a100", 2), heavy("dgx-a100", 8, 9'400'000)}) {
    const Result<std::vector<AblationRow>> made = ablation(plan);
    ASSERT_TRUE(made.ok()) << made.status().message();
    const std::vector<AblationRow>& rows = *made;
    ASSERT_EQ(rows.size(), 7u);
    for (const AblationRow& row : rows) {
      EXPECT_EQ(row.report->violation_count, 0u) << row.name;
      EXPECT_GE(row.report->time, row.bound.time) << row.name << " is faster than what is called a lower bound";
    }
    EXPECT_EQ(rows[5].name, "+ PCIe-aware split");
    EXPECT_GE(factor(rows[4], rows[5]), 1.15);
    EXPECT_EQ(rows[6].name, "+ NIC affinity");
    EXPECT_GE(factor(rows[5], rows[6]), 1.15);
    EXPECT_LE(over_bound(rows[6]), 1.10) << plan.expert_bytes;
  }
}

TEST(MachineAblation, HgxH200IsBoundByItsHostMemory) {
  // Bytes pass it twice, into the node cache and out of it; a bound that leaves it out cannot be come near to.
  for (const Plan& plan : {heavy("hgx-h200", 2), heavy("hgx-h200", 8, 9'400'000)}) {
    const Bound bound = lower_bound(plan, *Routing::make(plan));
    EXPECT_EQ(bound.busiest, "host memory of node 0");
    EXPECT_LE(time_of(plan), static_cast<double>(bound.time.count()) * 1.20) << plan.expert_bytes;
  }
}

#endif

TEST(MachineAblation, NeitherMakesAnythingSlowerWhereThereIsNoContention) {
  for (const char* machine : {"hgx-h200", "pcie-8gpu"}) {
    Plan plan = heavy(machine, 2);
    const double both = time_of(plan);
    plan.nic_affinity = false;
    const double split = time_of(plan);
    plan.split = false;
    EXPECT_LE(split, time_of(plan) * 1.001) << machine;
    EXPECT_LE(both, split * 1.001) << machine;
  }
}

}  // namespace
}  // namespace cardea::simulator
