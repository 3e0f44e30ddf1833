// SPDX-License-Identifier: Apache-2.0
// The machine at hand: hwloc's discovery, what the kernel adds in /sys, what the NVIDIA driver adds. Thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "topology/machine.h"

namespace cardea::topology {

/// What hwloc finds here: packages, NUMA nodes, cores that this process may use, the PCI tree. SYSTEM if hwloc fails.
Result<Description> discover_hwloc();

/// Link rates and widths of PCI devices, port speeds of NICs, from `sys` (normally "/sys"). What is missing there, or makes
/// no sense, leaves the description as it was.
void add_sysfs(Description& description, const std::string& sys);

/// A GPU as its driver tells of it. One peer entry per active NVLink.
struct DriverGpu {
  struct Link {
    enum class Remote { kGpu, kNvSwitch, kCpu, kUnknown } remote = Remote::kUnknown;
    std::optional<BusId> bus_id;
  };
  unsigned index = 0;  // NVML's
  BusId bus_id;
  std::string uuid;
  std::string model;
  std::uint64_t memory_bytes = 0;
  unsigned most_generation = 0;  // PCIe
  unsigned most_width = 0;
  unsigned width = 0;  // now
  std::vector<Link> links;
  /// Bus ids of GPUs that the driver can reach over NVLink. Tells of switches that a virtual machine does not see.
  std::vector<BusId> nvlink_peers;
};

/// From libnvidia-ml.so.1, looked for now; empty if there is none or it finds no GPU. `note` gets the reason if the library
/// is there but fails.
std::vector<DriverGpu> query_nvml(std::string& note);

/// Puts UUIDs, numbers, models and NVLinks of `gpus` into the description, by bus id. A GPU that only the driver shows gets
/// a note. NVLinks to an unknown end count as going to an NVSwitch when the driver says that a GPU can be reached by NVLink.
void add_driver_gpus(Description& description, const std::vector<DriverGpu>& gpus);

}  // namespace cardea::topology
