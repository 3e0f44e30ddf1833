// SPDX-License-Identifier: Apache-2.0
// Whose core is it? Microseconds of host time say little on a machine whose cores are shared: a neighbour on the same
// physical core takes its caches, and every call costs more. This measures that beside them: the time of a load out of
// 256 KiB, more than a first-level cache holds and less than a second-level cache does, where each load's address depends on
// the one before. A core of one's own takes its second-level cache's latency, about 14 cycles; more says that somebody
// else's data is there. One thread at a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace cardea::perf {

class CacheWalk {
 public:
  CacheWalk() : next_(kBytes / sizeof(Line)) {
    // One cycle through all lines, in random order, so that no prefetcher helps.
    std::vector<std::uint32_t> order(next_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    for (std::size_t i = 0; i < order.size(); ++i) next_[order[i]].index = order[(i + 1) % order.size()];
  }

  /// Seconds for one load: the median of `times` walks.
  double operator()(unsigned times = 20) {
    std::vector<double> seconds;
    for (unsigned i = 0; i < times; ++i) {
      const auto start = std::chrono::steady_clock::now();
      std::uint32_t at = at_;
      for (std::size_t step = 0; step < next_.size(); ++step) at = next_[at].index;
      at_ = at;
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(seconds.begin(), seconds.begin() + times / 2, seconds.end());
    return seconds[times / 2] / static_cast<double>(next_.size());
  }

 private:
  static constexpr std::size_t kBytes = 256 << 10;
  struct alignas(64) Line {
    std::uint32_t index = 0;
  };
  std::vector<Line> next_;
  volatile std::uint32_t at_ = 0;  // so that the walk is done
};

}  // namespace cardea::perf
