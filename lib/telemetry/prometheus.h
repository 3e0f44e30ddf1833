// SPDX-License-Identifier: Apache-2.0
// Counters in Prometheus's text exposition format 0.0.4: HELP and TYPE for each family, then its samples. Families and
// labels are listed in docs/telemetry.md and do not change their meaning. Pure function.
#pragma once

#include <cstdint>
#include <string>

#include "lib/telemetry/counters.h"

namespace cardea::telemetry {

/// What is known beside the recorder's counters.
struct Gauges {
  Rank rank = 0;
  Node node = 0;
  std::string version;                 // of the library
  std::uint64_t network_received = 0;  // payload bytes
  std::uint64_t network_direct = 0;    // of those received, straight into a GPU's memory
  std::uint64_t network_sent = 0;
  std::uint64_t node_copied = 0;
  std::uint64_t prefetch_wasted = 0;
  std::uint64_t peers = 0, peers_alive = 0;
  std::uint64_t cache_capacity = 0, cache_used = 0;  // capacity 0: no cache
  std::uint64_t cache_hits = 0, cache_misses = 0, cache_evicted = 0, cache_bypassed = 0, cache_overdue = 0;
};

/// Samples that are 0 and have a lane, class, path or status are left out; all others are there.
std::string prometheus_text(const Counters& counters, const Gauges& gauges);

}  // namespace cardea::telemetry
