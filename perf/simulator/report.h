// SPDX-License-Identifier: Apache-2.0
// What a run did, and what was wrong about it. Plain values.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/base/status.h"

namespace cardea::simulator {

struct Report {
  Nanoseconds time{0};        // until the last rank had collected its last version, or left
  Nanoseconds ready_time{0};  // until the last expert was ready
  bool completed = false;
  /// Rules that were broken, the first few of them. Empty in a correct run, whatever its faults.
  std::vector<std::string> violations;
  std::uint64_t violation_count = 0;

  std::uint64_t hash = 0;    // of everything that happened
  std::uint64_t events = 0;  // of the log
  std::uint64_t virtual_events = 0;
  std::uint64_t chunks = 0, failed_chunks = 0, background_chunks = 0;
  std::uint64_t network_bytes = 0, copy_bytes = 0;  // that arrived
  std::uint64_t pulled_bytes = 0;                   // of those copied, out of another rank's slot
  std::uint64_t distinct_network_bytes = 0;         // counting each expert and version once per node
  std::uint64_t repeated_network_bytes = 0;         // that arrived at a node that had asked for them before
  std::map<cardea_path_t, std::uint64_t> views;
  std::map<cardea_status_t, std::uint64_t> failures;
  std::uint64_t fetches = 0, prefetches = 0, gangs = 0, canceled = 0, destroyed = 0, deadlines = 0, waits = 0;
  std::uint64_t deaths = 0, stops = 0, aborted = 0, collected = 0, wasted_bytes = 0, bytes_checked = 0, jumps = 0;

  std::uint64_t cache_hits = 0, cache_misses = 0, cache_evicted = 0, cache_bypassed = 0, cache_overdue = 0;
  std::uint64_t left_in_slots = 0, hits_in_slots = 0, housed_again = 0, gone_from_slots = 0;  // cache::CacheCounters

  void violation(std::string what) {
    ++violation_count;
    if (violations.size() < 10) violations.push_back(std::move(what));
  }
};

}  // namespace cardea::simulator
