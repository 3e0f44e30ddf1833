// SPDX-License-Identifier: Apache-2.0
// What must hold of any run, over many small jobs full of faults: checked by the simulator itself (perf/simulator/checks.h,
// simulation.cc), here it is proved that it held and that the runs had in them what could have broken it. TEST_SEEDS and
// TEST_SEED choose the seeds; `simulate --random --seed N` runs one again.
#include <gtest/gtest.h>

#include "perf/simulator/random_plan.h"
#include "perf/simulator/simulation.h"
#include "tests/core/seeds.h"

namespace cardea::simulator {
namespace {

// At least 10,000 where it is fast; sanitizers slow it ten times.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kSeeds = 1'000;
#elif defined(__OPTIMIZE__)
constexpr std::uint64_t kSeeds = 10'000;
#else
constexpr std::uint64_t kSeeds = 2'000;
#endif

TEST(SimulatedJobs, KeepTheRulesWhateverHappens) {
  std::map<cardea_path_t, std::uint64_t> views;
  std::map<cardea_status_t, std::uint64_t> failures;
  Report sum;
  test::for_each_seed(kSeeds, [&](std::uint64_t seed) {
    const Result<Report> report = simulate(random_plan(seed));
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_TRUE(report->completed);
    EXPECT_EQ(report->violation_count, 0u);
    for (const std::string& what : report->violations) ADD_FAILURE() << what;
    if (testing::Test::HasFailure()) ADD_FAILURE() << "replay: simulate --random --seed " << seed;
    for (const auto& [path, count] : report->views) views[path] += count;
    for (const auto& [code, count] : report->failures) failures[code] += count;
    sum.chunks += report->chunks;
    sum.failed_chunks += report->failed_chunks;
    sum.background_chunks += report->background_chunks;
    sum.gangs += report->gangs;
    sum.destroyed += report->destroyed;
    sum.deaths += report->deaths;
    sum.stops += report->stops;
    sum.aborted += report->aborted;
    sum.collected += report->collected;
    sum.wasted_bytes += report->wasted_bytes;
    sum.bytes_checked += report->bytes_checked;
    sum.waits += report->waits;
    sum.jumps += report->jumps;
    sum.pulled_bytes += report->pulled_bytes;
    sum.left_in_slots += report->left_in_slots;
    sum.hits_in_slots += report->hits_in_slots;
    sum.housed_again += report->housed_again;
    sum.gone_from_slots += report->gone_from_slots;
  });
  const std::uint64_t seeds = test::number_from_environment("TEST_SEEDS", kSeeds);
  if (seeds < 100) return;  // too few to have everything in them
  for (const cardea_path_t path : {CARDEA_PATH_HOME, CARDEA_PATH_NODE_MAPPED, CARDEA_PATH_NODE_COPY, CARDEA_PATH_NETWORK})
    EXPECT_GT(views[path], 0u) << "by path " << path;
  for (const cardea_status_t code : {CARDEA_ERR_CANCELED, CARDEA_ERR_TIMEOUT, CARDEA_ERR_PEER_LOST})
    EXPECT_GT(failures[code], 0u) << cardea_status_string(code);
  EXPECT_GT(sum.failed_chunks, 0u);
  EXPECT_GT(sum.background_chunks, 0u);
  EXPECT_GT(sum.gangs, 0u);
  EXPECT_GT(sum.destroyed, 0u);
  EXPECT_GT(sum.deaths, 0u);
  EXPECT_GT(sum.stops, 0u);
  EXPECT_GT(sum.aborted, 0u);
  EXPECT_GT(sum.collected, 0u);
  EXPECT_GT(sum.wasted_bytes, 0u);
  EXPECT_GT(sum.bytes_checked, 0u);
  EXPECT_GT(sum.pulled_bytes, 0u);
  EXPECT_GT(sum.left_in_slots, 0u);
  EXPECT_GT(sum.hits_in_slots, 0u) << "nothing was pulled that lay in slots alone";
  if (seeds >= 10'000) {  // a rare one
    EXPECT_GT(sum.housed_again, 0u) << "nobody wanted otherwise what lay in slots alone";
  }
  EXPECT_GT(sum.gone_from_slots, 0u);
  EXPECT_GT(sum.waits, 0u) << "no view that nobody had taken was taken back";
  std::printf("%llu chunks, %llu went before more urgent ones\n", static_cast<unsigned long long>(sum.chunks),
              static_cast<unsigned long long>(sum.jumps));
}

}  // namespace
}  // namespace cardea::simulator
