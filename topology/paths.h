// SPDX-License-Identifier: Apache-2.0
// Which lanes bytes take from one device to another, what bounds them, and how long they should take. Pure functions of
// a Machine; thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "topology/machine.h"

namespace cardea::topology {

/// Where the bytes lie before they move. A NIC's bytes come from the network, so for a NIC it means nothing.
enum class MemoryKind : std::uint8_t {
  kDevice,  // in the source GPU's own memory
  kHost,    // in host memory of the source's NUMA node
};
const char* to_string(MemoryKind kind);

struct Path {
  std::vector<LaneId> lanes;       // in the order in which bytes take them
  LaneId bottleneck = kNoLane;     // the first of those with the least bandwidth
  double bandwidth = 0;            // bytes/s, the bottleneck's
  double latency = 0;              // ns, the sum over the lanes
  Origin origin = Origin::kGuess;  // of the bottleneck's figure

  /// ns until the last of so many bytes is there: latency + bytes / bandwidth, since lanes pass bytes on as they come.
  double expected_time(std::uint64_t bytes) const { return latency + static_cast<double>(bytes) / bandwidth * 1e9; }
};

/// From a GPU, NIC or NUMA node to another. GPU to GPU in device memory takes NVLink where there is any (directly, or
/// through NVSwitches), else PCIe through the nearest device above both. A path that ends or begins at a NIC includes
/// the NIC's lane to or from the network. INVALID_ARGUMENT for any other kind of device, or an unknown one.
Result<Path> find_path(const Machine& machine, DeviceId source, DeviceId destination, MemoryKind kind);

/// How near two devices are, in the terms of nvidia-smi topo -m, nearest first.
enum class Nearness : std::uint8_t {
  kSelf,
  kNvlink,      // NV#: bonded NVLinks
  kOneSwitch,   // PIX: at most one PCIe switch
  kSwitches,    // PXB: several PCIe switches, not the host bridge
  kHostBridge,  // PHB: the host bridge
  kNode,        // NODE: host bridges of one NUMA node
  kSystem,      // SYS: the link between NUMA nodes
};
/// PCIe alone if `nvlink` is false. Devices whose place is hidden count as on the machine's only NUMA node, else SYS.
Nearness nearness(const Machine& machine, DeviceId a, DeviceId b, bool nvlink = true);
/// "NV18", "PIX", …, "X" for the device itself.
std::string nearness_label(const Machine& machine, DeviceId a, DeviceId b);

}  // namespace cardea::topology
