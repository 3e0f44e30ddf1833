// SPDX-License-Identifier: Apache-2.0
// The modelled cluster's shape: which lanes there are, of what rate, and which of them bytes take. Either flat (each rank a
// NIC's share and a lane for copies), or every node a machine as topology/ models it, with the PCIe switches, sockets and
// NVLinks that its ranks share. One shape serves the fabric, which moves chunks over it, the bound, which counts bytes on
// it, and the cores, which are told their lanes. Immutable once made.
#pragma once

#include <optional>
#include <vector>

#include "lib/core/core.h"
#include "perf/simulator/plan.h"
#include "topology/affinity.h"
#include "topology/machine.h"
#include "topology/paths.h"

namespace cardea::simulator {

/// The lanes of a rank's core: those of the network first, then copies out of host memory, then pulls from other GPUs.
struct CoreLanes {
  std::uint32_t rails = 1;
  core::LaneNumber copy() const { return rails; }
  core::LaneNumber pull() const { return rails + 1; }
  bool is_network(core::LaneNumber lane) const { return lane < rails; }
};

/// A lane of the cluster, and how long a byte takes to the next one.
struct Step {
  std::uint32_t lane = 0;
  std::uint64_t latency = 0;
};
using Steps = std::vector<Step>;

class Cluster {
 public:
  /// INVALID_ARGUMENT: the machine's file, more ranks than it has GPUs, no NIC.
  static Result<Cluster> make(const Plan& plan);
  /// A plan with the ranks and NICs of its machine.
  static Status fit(Plan& plan, bool ranks_given);

  struct PhysicalLane {
    std::string name;
    std::uint64_t rate = 0;
  };
  const std::vector<PhysicalLane>& lanes() const { return lanes_; }
  CoreLanes core_lanes(Rank rank) const;
  /// Of its node, by rail.
  const std::vector<std::uint32_t>& nics(Rank rank) const { return local_[local(rank)].nics; }
  core::SwapOptions swap(Rank rank) const;
  /// An expert of the node comes from its home by this lane: pulled, or copied through host memory.
  core::SourceOption within_node(Rank reader, Rank home) const;

  // ---- ways, each in order. `numa` is where a chunk lies in the node cache, among the machine's NUMA nodes
  Steps network(Rank source, Rank reader, std::uint32_t rail, std::uint32_t numa) const;
  /// Only the part that lies in the source's node.
  Steps out(Rank source, std::uint32_t rail) const;
  /// Out of host memory into the reader's slot.
  Steps copy(Rank reader, std::uint32_t numa) const;
  Steps pull(Rank reader, Rank peer) const;
  /// Both of one node, the expert at home with the latter.
  Steps from_home(Rank reader, Rank home) const;

  // ---- for the bound
  std::uint32_t nic_in_lane(Node node, std::uint32_t nic) const;
  const std::vector<std::uint32_t>& nics_of_node() const { return used_nics_; }
  /// The lane that bounds copies out of host memory into a rank, and may be shared.
  std::uint32_t uplink(Rank rank) const;
  std::uint64_t copy_rate(Rank rank) const;
  std::uint64_t pull_rate(Rank rank) const;
  /// Of all NUMA nodes of a machine together; 0 if there is none.
  std::uint64_t host_memory_rate() const;
  /// Where memory that the rank touches first comes from.
  std::uint32_t numa(Rank rank) const { return local_[local(rank)].numa; }
  bool is_machine() const { return machine_.has_value(); }

 private:
  struct Local {                                      // a rank of any node, by its place in the node
    topology::DeviceId device = topology::kNoDevice;  // its GPU, or its NUMA node
    std::vector<std::uint32_t> nics;
    std::uint64_t peers = 0;  // local ranks that it reaches by NVLink
    std::uint32_t uplink = 0;
    std::uint32_t numa = 0;
  };
  explicit Cluster(const Plan& plan) : plan_(plan) {}
  void make_flat();
  Status make_machine();
  std::size_t local(Rank rank) const { return rank % plan_.ranks_per_node; }
  std::uint32_t base(Node node) const { return static_cast<std::uint32_t>(node * lanes_per_node_); }
  Steps steps(Node node, topology::DeviceId from, topology::DeviceId to, topology::MemoryKind kind) const;
  topology::DeviceId memory(std::uint32_t numa) const;

  Plan plan_;
  std::optional<topology::Machine> machine_;
  std::vector<PhysicalLane> lanes_;
  std::size_t lanes_per_node_ = 0;
  std::vector<Local> local_;
  std::vector<std::uint32_t> used_nics_;
};

}  // namespace cardea::simulator
