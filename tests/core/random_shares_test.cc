// SPDX-License-Identifier: Apache-2.0
// Random walks of three GPUs of a node (shares_walk.h), thousands of them. A failing seed prints the command that runs it
// again.
#include "tests/core/shares_walk.h"

namespace cardea::core {
namespace {

Seen walk(std::uint64_t seeds, bool deaths) {
  Seen sum;
  test::for_each_seed(seeds, [&](std::uint64_t seed) {
    SharesWalk walk(seed, deaths, sum);
    walk.run(5000);
  });
  EXPECT_GT(sum.pulled, 0u);
  EXPECT_GT(sum.gated, 0u);
  EXPECT_GT(sum.advanced, 0u);
  EXPECT_GT(sum.failed_gates, 0u);
  EXPECT_GT(sum.pulled_after_gate, 0u) << "what came behind a gate was never pulled by another";
  EXPECT_GT(sum.read, 0u);
  EXPECT_GT(sum.failed_copies, 0u);
  return sum;
}

TEST(RandomShares, EveryByteIsRightAndNobodyWaitsForEver) {
  const Seen sum = walk(300, false);
  EXPECT_GT(sum.versions, 0u) << "no version was ever over";
}

TEST(RandomShares, ThroughDeaths) {
  const Seen sum = walk(300, true);
  EXPECT_GT(sum.deaths, 0u);
}

}  // namespace
}  // namespace cardea::core
