// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/simulation.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <sstream>

#include "perf/simulator/ablation.h"
#include "perf/simulator/random_plan.h"
#include "tests/core/seeds.h"

namespace cardea::simulator {
namespace {

/// 4 nodes of 8 ranks, but few layers.
Plan small_4_by_8() {
  Plan plan;
  plan.layers = 4;
  plan.expert_bytes = 4 << 20;
  plan.expert_time = 40'000;
  plan.dense_time = 500'000;
  return plan;
}

std::string run_logged(const std::function<Result<Report>(std::FILE*)>& run, Report& report) {
  char* text = nullptr;
  std::size_t bytes = 0;
  std::FILE* const file = open_memstream(&text, &bytes);
  const Result<Report> result = run(file);
  std::fclose(file);
  EXPECT_TRUE(result.ok()) << result.status().message();
  if (result.ok()) report = *result;
  std::string log(text, bytes);
  std::free(text);
  return log;
}

TEST(Simulation, OneTransferTakesLatenciesAndBytesOverRate) {
  Plan plan;
  plan.nodes = 2;
  plan.ranks_per_node = plan.nics = plan.layers = plan.segments = 1;
  plan.experts = 2;
  plan.top_k = 1;
  plan.expert_bytes = plan.chunk_bytes = 1'000'000;
  plan.nic_rate = 1'000'000'000;
  plan.network_latency = 5'000;
  plan.expert_time = plan.dense_time = 0;
  plan.prefetch = false;
  const Result<Report> report = simulate(plan);
  ASSERT_TRUE(report.ok());
  // The publication, the request and the bytes travel: three latencies.
  EXPECT_EQ(report->ready_time, Nanoseconds(1'000'000 + 3 * 5'000));
  EXPECT_EQ(report->network_bytes, 2'000'000u);
  EXPECT_EQ(report->violation_count, 0u);
}

TEST(Simulation, IsAFunctionOfItsPlan) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Report one, same;
    const std::string log = run_logged([&](std::FILE* file) { return simulate(random_plan(seed), file); }, one);
    EXPECT_EQ(log, run_logged([&](std::FILE* file) { return simulate(random_plan(seed), file); }, same));
    EXPECT_EQ(one.hash, same.hash);
  }
  Plan plan = small_4_by_8(), other;
  plan.layers = 1;
  other = plan;
  other.network_latency += 1;
  EXPECT_NE(simulate(plan)->hash, simulate(other)->hash);
}

/// What was delivered: every expert of every fetch, without times.
std::multiset<std::string> deliveries(const std::string& log) {
  std::multiset<std::string> found;
  std::istringstream in(log);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string when, rank, what, id, expert;
    words >> when >> rank >> what >> id >> expert;
    if (what == "ready") found.insert(rank + " " + id + " " + expert);
  }
  return found;
}

TEST(Simulation, ReplaysItsOwnLog) {
  std::uint64_t faults = 0;
  for (std::uint64_t seed = 1; seed <= 200 && !testing::Test::HasFailure(); ++seed) {
    Plan plan = random_plan(seed);
    // What these hit depends on the order of events of one time, in which a replay may differ.
    plan.cancels = plan.deadlines = plan.destroys = plan.deaths = plan.hold = plan.take_any = plan.gangs = 0;
    plan.open_ahead = 1;
    plan.prefetch = false;
    Report first, again;
    const std::string log = run_logged([&](std::FILE* file) { return simulate(plan, file); }, first);
    std::istringstream in(log);
    const Result<RecordedRun> recorded = read_log(in);
    ASSERT_TRUE(recorded.ok()) << recorded.status().message();
    const std::string replayed = run_logged([&](std::FILE* file) { return simulate(*recorded, file); }, again);
    EXPECT_TRUE(again.completed) << "seed " << seed;
    EXPECT_EQ(again.violations, std::vector<std::string>()) << "seed " << seed;
    EXPECT_EQ(deliveries(log), deliveries(replayed)) << "seed " << seed;
    EXPECT_EQ(first.stops, again.stops);
    faults += first.stops;
  }
  EXPECT_GT(faults, 0u);
}

TEST(Simulation, ReplaysARunWithoutTiesToTheNanosecond) {
  Plan plan = small_4_by_8();
  plan.nodes = 2;
  plan.ranks_per_node = 1;
  plan.nics = 1;
  plan.message_delay = 5'000;
  plan.chunk_delay = 5'000;
  Report first, again;
  const std::string log = run_logged([&](std::FILE* file) { return simulate(plan, file); }, first);
  std::istringstream in(log);
  const Result<RecordedRun> recorded = read_log(in);
  ASSERT_TRUE(recorded.ok()) << recorded.status().message();
  EXPECT_EQ(log, run_logged([&](std::FILE* file) { return simulate(*recorded, file); }, again));
  EXPECT_EQ(first.hash, again.hash);
}

TEST(Simulation, SaysWhoWaitsWhenNothingCanHappen) {
  // A fetch of a version that nobody publishes.
  std::istringstream in(
      "# cardea events 1\n# plan nodes=2 ranks-per-node=1 nics=1 layers=1 experts=2 top-k=1\n"
      "0 0 fetch id=1 layer=0 version=1 segments=7 experts=1\n0 0 take id=1 count=1\n0 0 destroy id=1\n");
  const Result<RecordedRun> recorded = read_log(in);
  ASSERT_TRUE(recorded.ok()) << recorded.status().message();
  const Result<Report> report = simulate(*recorded);
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->completed);
  ASSERT_EQ(report->violations.size(), 2u);
  EXPECT_NE(report->violations[0].find("nothing can happen"), std::string::npos);
  EXPECT_NE(report->violations[1].find("rank 0 waits"), std::string::npos);
}

TEST(Simulation, NumbersOutOfRangeAreRefusedByName) {
  Plan plan;
  plan.nodes = 0;
  EXPECT_NE(simulate(plan).status().message().find("nodes 0"), std::string::npos);
  plan = {};
  plan.nics = 9;
  EXPECT_NE(simulate(plan).status().message().find("nics 9"), std::string::npos);
  plan = {};
  plan.bytes = true;
  EXPECT_NE(simulate(plan).status().message().find("bytes"), std::string::npos);
}

TEST(Ablation, EveryStrategyHelpsAndAllTogetherComeNearTheBound) {
  const Result<std::vector<AblationRow>> rows = ablation(small_4_by_8());
  ASSERT_TRUE(rows.ok()) << rows.status().message();
  ASSERT_EQ(rows->size(), 5u);
  const Report* before = nullptr;
  for (const AblationRow& row : *rows) {
    if (!row.report) continue;
    EXPECT_EQ(row.report->violation_count, 0u) << row.name;
    EXPECT_GE(row.report->time, row.bound.time) << "faster than what is called a lower bound";
    if (before != nullptr) {
      EXPECT_LE(row.report->time.count(), before->time.count() * 1.001) << row.name << " makes it slower";
      const bool great = row.name == "+ stagger" || row.name == "+ node cache";
      if (great) {
        EXPECT_GE(before->time.count(), row.report->time.count() * 1.15) << row.name;
      }
    }
    before = &*row.report;
  }
  EXPECT_LE(before->time.count(), rows->back().bound.time.count() * 1.10);
}

}  // namespace
}  // namespace cardea::simulator
