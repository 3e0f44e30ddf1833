// SPDX-License-Identifier: Apache-2.0
// One job of a chaos run: its ranks, layers and sizes, and what befalls it. A function of its seed, so that the driver,
// every rank and a later repetition agree on it. Plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace cardea::chaos {

enum class Fault {
  kNone,
  kKill,      // SIGKILL
  kStop,      // SIGSTOP for less than anybody may mind, then SIGCONT
  kStopKill,  // SIGSTOP, and SIGKILL some time later
};

struct LayerPlan {
  std::vector<std::uint32_t> ranks;  // its group, in this order
  std::uint32_t experts_per_rank = 1;
  std::vector<std::uint64_t> segments;  // bytes
  bool mapped = true;                   // weights in memory that the node can map, else the caller's own
  std::uint32_t slots = 1;              // of the slab; as many for all ranks
  bool own_rows = false;                // the slab is made over the caller's arrays

  std::uint32_t experts() const { return experts_per_rank * static_cast<std::uint32_t>(ranks.size()); }
  std::uint32_t home(std::uint32_t expert) const { return ranks[expert / experts_per_rank]; }
  bool has(std::uint32_t rank) const;
};

struct JobPlan {
  std::uint64_t seed = 0;
  std::uint32_t ranks = 2;
  std::vector<std::uint32_t> node_of;  // by rank; this machine plays them
  std::vector<LayerPlan> layers;
  std::vector<std::uint64_t> versions;  // ascending, with gaps
  std::uint64_t chunk_bytes = 0, cache_bytes = 0;
  std::uint32_t chunks_in_flight = 0;
  Fault fault = Fault::kNone;
  std::uint32_t victim = 0;
  std::chrono::milliseconds strike{0};    // after the ranks were started
  std::chrono::milliseconds standing{0};  // that it stays stopped

  /// Whether the fault may be noticed by a member of the layer.
  bool touches(const LayerPlan& layer) const {
    return (fault == Fault::kKill || fault == Fault::kStopKill) && layer.has(victim);
  }
};

JobPlan plan_job(std::uint64_t seed);

/// In one line, for a report.
std::string describe(const JobPlan& plan);

}  // namespace cardea::chaos
