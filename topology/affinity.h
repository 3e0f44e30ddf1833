// SPDX-License-Identifier: Apache-2.0
// What each rank of a node should use: its GPU, NICs in order, NUMA node, processors for its engine thread. Every rank
// computes the same answer for all ranks of its node from the same machine, so they need not talk to share it out fairly.
// Pure functions; thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "topology/machine.h"

namespace cardea::topology {

struct RankAffinity {
  DeviceId gpu = kNoDevice;    // none on a machine without
  std::vector<DeviceId> nics;  // best first
  DeviceId numa = kNoDevice;   // for the rank's host memory
  std::vector<unsigned> cpus;  // for its engine thread: whole cores of its own, empty if the source tells no processors
  /// By which NICs its chunks come (rails.h), where somebody has asked the system for it: assign() does not.
  std::optional<std::vector<std::string>> rails;
};

/// What the operator wants instead for one rank; what is empty stays as computed.
struct AffinityOverride {
  unsigned rank = 0;
  DeviceId gpu = kNoDevice;
  std::vector<DeviceId> nics;
  std::vector<std::string> nic_names;  // as they were written: those in `nics`, and interfaces that are no device's
  unsigned rails = 0;                  // NICs by which its chunks come (rails.h); 0: as computed
  DeviceId numa = kNoDevice;
  std::vector<unsigned> cpus;
};
inline constexpr unsigned kMaxRails = 4;

/// "rank=0 gpu=GPU1 nic=mlx5_2,mlx5_3 rails=2 numa=NUMA1 cpus=8-15", words in any order, rank required. Devices by any name
/// that Machine::find knows; as a NIC also what `is_interface` knows, such as a bridge or a virtual interface.
/// CONFIGURATION names the word that is wrong.
using IsInterface = std::function<bool(const std::string& name)>;
Result<AffinityOverride> parse_override(const Machine& machine, std::string_view text, const IsInterface& is_interface = {});

/// One entry per rank. Rank r drives gpus[r] (kNoDevice: none); ranks without a GPU are dealt to the NUMA nodes in turn.
/// NICs: those slower than a quarter of the fastest come last; then by nearness, then by the bandwidth of the path; among
/// equals the one that fewest ranks have taken first, for its speed, so two ranks under a switch with two NICs do not take
/// the same one. Processors of a NUMA node are dealt out evenly, by whole cores.
std::vector<RankAffinity> assign(const Machine& machine, const std::vector<DeviceId>& gpus,
                                 const std::vector<AffinityOverride>& overrides = {});

/// The ranks that a machine has by nature: one per GPU in order; without GPUs, one per NUMA node.
std::vector<DeviceId> natural_ranks(const Machine& machine);

}  // namespace cardea::topology
