// SPDX-License-Identifier: Apache-2.0
// Which ranks form a node, computed by every rank from the same input to the same result. Pure functions.
#pragma once

#include <vector>

#include "lib/base/types.h"

namespace cardea::shm {

/// What all ranks know once the proofs have been exchanged.
struct Proofs {
  /// Equal numbers: the same node proposed.
  std::vector<std::uint32_t> proposal;
  /// proved[a][b]: a says that it shares memory with b. Only what both say counts.
  std::vector<std::vector<bool>> proved;
};

/// Node of each rank. A node is a set of ranks that proposed the same and all proved each other; nodes are numbered by
/// their lowest rank. Out of a proposed node, the rank with most missing proofs leaves first (among equals the highest),
/// until those left have all proofs; those that left form nodes among themselves in the same way. So one rank that cannot
/// share memory ends alone, and two containers that look like one host end as two nodes.
std::vector<Node> make_node_table(const Proofs& proofs);

}  // namespace cardea::shm
