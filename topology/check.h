// SPDX-License-Identifier: Apache-2.0
// What looks wrong with a machine, and what to do about it. Pure function; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "topology/machine.h"

namespace cardea::topology {

struct Finding {
  std::string kind;                  // "hidden-pcie-tree", "far-nic", … see docs/topology.md
  std::vector<std::string> devices;  // their names
  std::string what;
  std::string remedy;
};

/// Empty if nothing looks wrong. Looks for: a PCIe tree that a virtual machine hides; a GPU whose nearest NIC is on another
/// socket; a link narrower or slower than its ends or than the links below it; NVLink that the model has but no source
/// shows, that is one-sided or that differs between equal GPUs; a GPU or NIC whose NUMA node nobody tells; a NUMA node
/// without processors that has devices.
std::vector<Finding> check(const Machine& machine);

}  // namespace cardea::topology
