// SPDX-License-Identifier: Apache-2.0
// Three ranks of a node with one cache, in one process, taking turns.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "lib/cache/node_cache.h"
#include "tests/cache/plain_memory.h"

namespace cardea::cache {

class ThreeRanks : public testing::Test {
 protected:
  ThreeRanks(std::uint64_t capacity, std::uint64_t chunk_bytes) : memory_(capacity, chunk_bytes) {
    for (std::uint32_t local = 0; local < 3; ++local) {
      NodeCacheOptions options;
      options.local = local;
      options.locals = 3;
      options.process_ended = [this](std::uint32_t other) { return ended_[other]; };
      ranks_.push_back(std::make_unique<NodeCache>(memory_.directory(), lock_, options));
    }
  }
  NodeCache& rank(std::uint32_t local) { return *ranks_[local]; }

  PlainMemory memory_;
  NoLock lock_;
  std::vector<std::unique_ptr<NodeCache>> ranks_;
  Clock::time_point now_{std::chrono::seconds(100)};
  bool ended_[3] = {};
};

}  // namespace cardea::cache
