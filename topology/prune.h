// SPDX-License-Identifier: Apache-2.0
// Takes devices out of a description, and renumbers what is left. Pure functions; thread-safe.
#pragma once

#include <vector>

#include "topology/machine.h"

namespace cardea::topology {

/// Keeps devices[i] where keep[i]; children of what goes move up to the nearest ancestor that stays, NVLinks of what goes
/// are dropped. keep[0] must be true.
void prune(Description& description, const std::vector<bool>& keep);
/// Removes host bridges and PCIe switches that have no GPU and no NIC below.
void prune_empty(Description& description);

}  // namespace cardea::topology
