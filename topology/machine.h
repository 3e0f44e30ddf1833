// SPDX-License-Identifier: Apache-2.0
// The machine as Cardea sees it: devices in a tree, and lanes between them. A lane is one direction of one physical path,
// with a bandwidth in bytes/s and a latency in ns; each figure says where it is from. Everything under a lane's device
// shares it: that is how two GPUs and a NIC under one PCIe switch come to contend for the switch's uplink.
//
//   machine ─ package ─ NUMA node ─ host bridge ─ PCIe switch ─ GPU, NIC      NVSwitch hangs on the machine
//             ◄─interconnect─►  (memory, copy)    ◄── pcie up, pcie down ──►  ◄─ nvlink ─►   ◄─ nic out, nic in
//
// Sources (hwloc, NCCL files, NVML, see source.h) write a Description; assemble() numbers its devices, adds lanes, and
// makes the Machine, a value that never changes afterwards but for the figures that measurements replace. Thread-safe
// for readers.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "lib/base/status.h"
#include "topology/pci.h"

namespace cardea::topology {

/// Where a figure is from, best first.
enum class Origin : std::uint8_t {
  kMeasured,     // by cardea-topo measure on this very machine
  kFile,         // a topology file says so
  kSystem,       // the hardware says so of itself: link rate and width, port speed
  kVendorTable,  // published for this model (vendor.h)
  kGuess,        // an ordinary machine has it so
};
const char* to_string(Origin origin);

struct Figure {
  double value = 0;
  Origin origin = Origin::kGuess;
};

enum class DeviceKind : std::uint8_t { kMachine, kPackage, kNumaNode, kHostBridge, kPcieSwitch, kGpu, kNic, kNvSwitch };
const char* to_string(DeviceKind kind);

using DeviceId = std::uint32_t;  // index into Machine::devices()
using LaneId = std::uint32_t;    // index into Machine::lanes()
inline constexpr DeviceId kNoDevice = std::numeric_limits<DeviceId>::max();
inline constexpr LaneId kNoLane = std::numeric_limits<LaneId>::max();

struct Device {
  DeviceKind kind = DeviceKind::kMachine;
  DeviceId parent = kNoDevice;
  std::string name;                   // "GPU0", "NIC3", "NUMA1", "SW2": given by assemble()
  std::string model;                  // "NVIDIA H200", empty if not told
  std::vector<std::string> os_names;  // "mlx5_0", "ib0"
  std::optional<BusId> bus_id;
  PciIdentity identity;
  std::string uuid;
  /// The operating system's number (NUMA node, package), or the driver's (GPU, by NVML).
  std::optional<unsigned> os_index;
  /// CUDA's ordinal in this process; none if CUDA_VISIBLE_DEVICES hides the GPU, or nobody asked.
  std::optional<unsigned> cuda_index;
  PciLink link;  // to the parent
  Origin link_origin = Origin::kGuess;
  std::vector<std::vector<unsigned>> cores;  // NUMA node: its cores, each a list of processor numbers
  std::uint64_t memory_bytes = 0;
  double memory_bandwidth = 0;         // bytes/s, 0 = not told
  double port_bandwidth = 0;           // NIC: bytes/s one way on the network, 0 = not told
  Origin port_origin = Origin::kFile;  // of what was told, as for memory_bandwidth
  /// assemble(): the NUMA node above, or the only one there is; none if the source hides where the device sits.
  DeviceId numa = kNoDevice;
};

/// NVLink between two devices (GPU or NVSwitch; a NUMA node where the CPU has NVLink), one direction.
struct NvlinkEdge {
  DeviceId from = kNoDevice;
  DeviceId to = kNoDevice;
  unsigned links = 0;
  double link_bandwidth = 0;  // bytes/s one way of one link, 0 = not told
  Origin origin = Origin::kFile;
};

/// What a source knows. devices[0] is the machine; a parent stands before its children.
struct Description {
  std::string name;    // "DGX A100", host name, …
  std::string source;  // "hwloc 2 XML /path", "this machine"
  std::vector<Device> devices;
  std::vector<NvlinkEdge> nvlinks;
  double interconnect_bandwidth = 0;  // bytes/s one way between two packages, 0 = not told
  /// What the operator should know: devices ignored, assumptions made.
  std::vector<std::string> notes;

  DeviceId add(Device device);
  DeviceId find(const BusId& id) const;
};

enum class LaneKind : std::uint8_t {
  kMemory,        // a NUMA node's DRAM
  kMemoryCopy,    // one core of the destination's node copies from NUMA node to NUMA node
  kLoopback,      // TCP from this machine to itself
  kInterconnect,  // package to package
  kPcieUp,        // device to what is above it
  kPcieDown,
  kNvlink,  // GPU to GPU, or between a GPU and the NVSwitches
  kNicOut,  // onto the network
  kNicIn,
  kDeviceMemory,  // a GPU copies within its own memory
};
const char* to_string(LaneKind kind);

struct Lane {
  LaneKind kind = LaneKind::kMemory;
  DeviceId from = kNoDevice;
  DeviceId to = kNoDevice;
  std::string name;  // "pcie-up:SW0>NUMA0": unique in its machine, the key of measured figures
  Figure bandwidth;  // bytes/s that a long transfer gets, packet overhead taken off
  Figure latency;    // ns that the lane adds to the first byte
  unsigned links = 0;
  std::vector<DeviceId> users;  // GPUs and NICs whose traffic to host memory takes it
  bool shared() const { return users.size() > 1; }
};

class Machine {
 public:
  const std::string& name() const { return description_.name; }
  const std::string& source() const { return description_.source; }
  const std::vector<std::string>& notes() const { return description_.notes; }
  const Description& description() const { return description_; }

  const std::vector<Device>& devices() const { return description_.devices; }
  const Device& device(DeviceId id) const { return description_.devices[id]; }
  const std::vector<Lane>& lanes() const { return lanes_; }
  const Lane& lane(LaneId id) const { return lanes_[id]; }

  /// Of one kind, in the order of their numbers.
  const std::vector<DeviceId>& of(DeviceKind kind) const { return by_kind_[static_cast<std::size_t>(kind)]; }
  /// By name ("GPU0"), bus id, UUID or operating-system name ("mlx5_0"); kNoDevice if there is none.
  DeviceId find(std::string_view any_name) const;
  LaneId find_lane(LaneKind kind, DeviceId from, DeviceId to) const;
  /// The package above a device, or kNoDevice.
  DeviceId package_of(DeviceId id) const;
  /// The device itself, its parent, and so on up to the machine.
  std::vector<DeviceId> ancestry(DeviceId id) const;
  /// Links from GPU to GPU, directly or through NVSwitches (the lesser of the two ends); 0 if there are none.
  unsigned nvlinks(DeviceId from, DeviceId to) const;

  /// 16 hexadecimal digits over devices, bus ids, models and links, not over host names: equal machines share figures.
  std::string fingerprint() const;
  /// Puts a measured figure in place of what was there; false if no lane has that name. 0 leaves a figure as it is.
  bool set_measured(std::string_view lane_name, double bandwidth, double latency);

 private:
  friend Result<Machine> assemble(Description description);
  void number();
  void add_lanes();
  void add_users();
  void add_lane(LaneKind kind, DeviceId from, DeviceId to, Figure bandwidth, Figure latency, unsigned links = 0);
  void add_pcie_lanes(DeviceId id);

  Description description_;
  std::vector<Lane> lanes_;
  std::vector<DeviceId> by_kind_[8];
  std::map<std::tuple<LaneKind, DeviceId, DeviceId>, LaneId> lane_index_;
};

/// CONFIGURATION if the description contradicts itself: a parent after its child, two devices with one bus id, an NVLink
/// to nowhere, no NUMA node. The message names the device.
Result<Machine> assemble(Description description);

}  // namespace cardea::topology
