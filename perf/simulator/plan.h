// SPDX-License-Identifier: Apache-2.0
// All that a simulated run depends on: the cluster, the work, the strategies, the faults, the seed. Two runs of equal plans
// are equal, event by event. One table of the fields serves the tool's flags, the first line of an event log and their
// checks. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "lib/base/status.h"

namespace cardea::simulator {

/// Times are in nanoseconds, sizes in bytes, rates in bytes per second.
struct Plan {
  std::uint64_t seed = 1;

  // The cluster. Ranks are numbered node by node; rank i of a node uses NIC i * nics / ranks_per_node of it.
  std::uint64_t nodes = 4;
  std::uint64_t ranks_per_node = 8;
  std::uint64_t nics = 4;                    // per node; each has a lane in and a lane out
  std::uint64_t nic_rate = 25'000'000'000;   // each direction
  std::uint64_t copy_rate = 55'000'000'000;  // each rank's lane for copies within its node
  std::uint64_t memory_rate = 0;             // of each node, shared by its ranks' copies; 0: without limit
  std::uint64_t network_latency = 5'000;     // one way
  std::uint64_t node_latency = 1'000;        // one way
  std::uint64_t network_chunk_time = 0;      // for which each chunk occupies NICs beside its bytes
  std::uint64_t copy_chunk_time = 0;         // likewise the copy lane
  bool fair = false;                         // lanes share their rate among chunks, instead of first come, first served
  std::uint64_t swap_rate = 0;               // each rank's lane for pulls from other ranks' slots; 0: there is none
  std::string machine;  // topology file that every node is like; then its lanes count, not the rates above
  bool mapped = false;  // experts of the node are read where they lie, instead of copied into slots

  // The work: steps over all layers, each layer published, fetched, computed in order of delivery, finished, collected.
  std::uint64_t layers = 32;
  std::uint64_t experts = 64;  // per layer; expert e is at home on rank e * ranks / experts
  std::uint64_t expert_bytes = 18 << 20;
  std::uint64_t segments = 3;
  std::uint64_t steps = 1;
  std::uint64_t slots = 128;    // of each rank's slab
  std::string routing = "all";  // all, zipf, or a file of counts (docs/simulator.md)
  double zipf = 1.0;            // exponent
  std::uint64_t tokens = 4096;  // per rank and layer
  std::uint64_t top_k = 8;
  std::uint64_t expert_time = 150'000;   // of computing with one expert, however many tokens
  double tflops = 0;                     // 0: only expert_time counts; else of computing each token's share
  std::uint64_t dense_time = 2'000'000;  // before each layer, of what is no expert
  std::uint64_t update_time = 0;         // from collect to publish of the next version
  std::uint64_t open_ahead = 1;          // layers whose fetches are open together
  std::uint64_t fetches = 1;             // into which a layer's experts are split
  std::uint64_t hold = 0;                // views kept after they were computed with, until more are
  std::uint64_t gangs = 0;               // percent of fetches
  std::uint64_t parts = 0;               // percent of fetches that ask for some segments only
  std::uint64_t take_any = 0;            // percent of takes from another open layer than the first
  bool bytes = false;                    // carry real bytes and check every view

  // Strategies of the core.
  std::uint64_t chunk_bytes = 1 << 20;
  std::uint64_t network_chunks = 8;  // in flight, of each rank
  std::uint64_t copy_chunks = 4;
  std::uint64_t pull_chunks = 8;  // out of other ranks' slots: more, for they come from several ranks
  bool stagger = true;
  bool network_first = true;
  bool side_by_side = true;
  bool node_cache = true;
  std::uint64_t cache_bytes = std::uint64_t{8} << 30;  // of each node
  std::uint64_t cache_overdue = 1'000'000'000;         // age at which others take over a chunk that a rank has claimed
  bool prefetch = true;                                // the next layer's experts while this one computes
  bool split = true;         // ranks copy parts of an expert out of host memory and swap them, where there is a lane for it
  bool nic_affinity = true;  // with a machine: each rank its nearest NICs, else NICs are dealt in turn
  std::uint64_t rails = 4;   // with a machine of more NICs than ranks: NICs that a rank uses, at most

  // Faults.
  std::uint64_t message_delay = 0;  // at most, beside the latency
  std::uint64_t chunk_delay = 0;
  std::uint64_t cancels = 0;                   // percent of fetches
  std::uint64_t deadlines = 0;                 // percent of fetches
  std::uint64_t destroys = 0;                  // percent of fetches, at any time
  std::uint64_t deaths = 0;                    // ranks
  std::uint64_t stops = 0;                     // times that some rank freezes
  std::uint64_t stop_time = 0;                 // at most
  std::uint64_t detection = 1'000'000;         // from a death to its news
  std::uint64_t fault_span = 0;                // from the start, in which faults happen; 0: twice the lower bound
  std::uint64_t watchdog = 1'000'000'000'000;  // a run that takes longer has failed

  /// Alone on its node, a rank has nobody to share with.
  bool caches() const { return node_cache && ranks_per_node > 1; }
  std::uint64_t ranks() const { return nodes * ranks_per_node; }
  Node node_of(std::uint64_t rank) const { return static_cast<Node>(rank / ranks_per_node); }
  std::uint64_t nic_of(std::uint64_t rank) const { return rank % ranks_per_node * nics / ranks_per_node; }
  std::uint64_t home_of(std::uint64_t expert) const { return expert * ranks() / experts; }
};

enum class Unit { kCount, kPercent, kBytes, kRate, kTime, kSwitch, kReal, kText };

struct Field {
  const char* name;  // of the flag, and in the log
  Unit unit;
  std::variant<std::uint64_t*, bool*, double*, std::string*> at;
  std::uint64_t least, most;
  const char* help;
};

/// The plan's fields, in a fixed order.
std::vector<Field> fields(Plan& plan);

/// INVALID_ARGUMENT that names the field.
Status check(const Plan& plan);

/// "nodes=4 ranks-per-node=8 …", all of it, in one line.
std::string to_line(const Plan& plan);
/// INVALID_ARGUMENT that names the word that is wrong. Fields not named keep their defaults.
Result<Plan> from_line(std::string_view line);

}  // namespace cardea::simulator
