// SPDX-License-Identifier: Apache-2.0
// The front door: the machine that this process runs on, by all sources together. Thread-safe; reads files and asks the
// driver, so it takes what those take (tens of ms). Ask once and keep the answer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "topology/live.h"
#include "topology/machine.h"

namespace cardea::topology {

struct Sources {
  std::string file;      // laid over the machine (merge.h); empty: none
  std::string recorded;  // hwloc XML in place of hwloc's, the kernel's and the driver's discovery; empty: the real ones
  std::optional<std::string> cuda_visible;
  std::string measured;  // file of measured figures; empty: none
  std::string sys = "/sys";
  bool driver = true;  // ask NVML, which wakes GPUs that nobody uses: a second or more

  /// CARDEA_TOPO_FILE, else NCCL_TOPO_FILE; CUDA_VISIBLE_DEVICES; default_measured_path().
  static Sources from_environment();
  friend bool operator==(const Sources&, const Sources&) = default;
};

/// CONFIGURATION if a file that was named is wrong or contradicts the machine; SYSTEM if discovery fails.
Result<Machine> discover(const Sources& sources);
/// A file by itself, nothing of this machine: what `cardea-topo show --file` and simulations use.
Result<Machine> machine_from_file(const std::string& path, const std::string& measured = {});

}  // namespace cardea::topology
