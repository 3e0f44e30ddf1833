// SPDX-License-Identifier: Apache-2.0
// Reads NCCL topology XML (NCCL_TOPO_FILE, NCCL_TOPO_DUMP_FILE), with a few attributes of our own that NCCL skips; they
// are listed in docs/topology.md. Pure function; thread-safe.
#pragma once

#include <pugixml.hpp>

#include "topology/machine.h"

namespace cardea::topology {

/// `root` is the <system> element. CONFIGURATION, naming element and bus id, for: a missing or malformed bus id, the same
/// one twice or within itself, a link rate or width or port speed that is zero, negative or absurd, an NVLink to itself.
Result<Description> read_nccl(const pugi::xml_node& root);

}  // namespace cardea::topology
