// SPDX-License-Identifier: Apache-2.0
// What the ranks measured, and the table made of it. Pure functions; gather.h brings the reports together.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model.h"

namespace moe {

/// One rank's figures; plain bytes, as they travel.
struct RankReport {
  std::uint64_t experts_home = 0, experts_node_mapped = 0, experts_node_copied = 0, experts_cache = 0, experts_network = 0;
  std::uint64_t bytes_network_received = 0;              // as Cardea counted them
  std::uint64_t prefetched = 0, prefetched_chosen = 0;   // see PrefetchCounts
  std::uint64_t choices_guessed = 0, choices_right = 0;  // of tokens, by the guess at the next layer's routing
  std::uint64_t bytes_prefetch_wasted = 0;               // as Cardea counted them
  std::uint64_t bytes_all_to_all = 0;  // what this rank's tokens would have sent between nodes, see routing.h
  // Nanoseconds.
  std::uint64_t fetch_span = 0, fetch_blocked = 0;  // see FetchTimes
  std::uint64_t gate = 0, guess = 0, experts = 0, combine = 0, collect = 0, update = 0, reference = 0, total = 0;
  double error = 0.0;  // worst of all steps; 0 without reference
};

/// The limit of RankReport::error.
inline constexpr double kErrorLimit = 1e-5;

/// What the table's head says.
struct RunDescription {
  Shape shape;
  std::uint32_t ranks = 1, nodes = 1, tokens = 0, steps = 0, slots = 0;
  bool checked = true, prefetch = false;
  std::string text;
};

/// True if every rank's result agrees with the reference.
bool passed(std::span<const RankReport> reports);

/// The table, with a line of PASS or FAIL at its end.
std::string format_table(const RunDescription& run, std::span<const RankReport> reports);

}  // namespace moe
