// SPDX-License-Identifier: Apache-2.0
// Seeded random tests: how many seeds, starting where, and how a failing one is run again. TEST_SEEDS (a count) and
// TEST_SEED (the first) override what a test asks for.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>

namespace cardea::test {

/// splitmix64: the same numbers with every library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}
  std::uint64_t operator()() {
    state_ += 0x9e3779b97f4a7c15;
    std::uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }
  /// In [0, bound).
  std::uint64_t below(std::uint64_t bound) { return (*this)() % bound; }
  bool chance(unsigned percent) { return below(100) < percent; }

 private:
  std::uint64_t state_;
};

inline std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// Runs `body(seed)` for each seed, up to the first that fails, and says how to run that one alone.
template <typename Body>
void for_each_seed(std::uint64_t count, Body body) {
  const std::uint64_t first = number_from_environment("TEST_SEED", 1);
  count = number_from_environment("TEST_SEEDS", count);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    body(seed);
    if (!testing::Test::HasFailure()) continue;
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    ADD_FAILURE() << "replay: TEST_SEED=" << seed << " TEST_SEEDS=1 " << testing::internal::GetArgvs()[0]
                  << " --gtest_filter=" << test->test_suite_name() << '.' << test->name();
    return;
  }
}

}  // namespace cardea::test
