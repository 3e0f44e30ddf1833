// SPDX-License-Identifier: Apache-2.0
// Reads hwloc XML, versions 1.x and 2.x. The machine at hand comes the same way: live discovery lets hwloc export what it
// found (hwloc_live.h). So hwloc itself never parses a file, and recorded machines test what live ones go through.
// Pure function; thread-safe.
#pragma once

#include <pugixml.hpp>

#include "topology/machine.h"

namespace cardea::topology {

/// `root` is the <topology> element. Link figures get `origin`: kSystem, since hwloc asked the hardware.
/// CONFIGURATION, naming the object, for: a newer version, no Machine, a malformed processor set or bus id, the same bus id
/// twice or within itself, a negative or absurd link speed.
Result<Description> read_hwloc_xml(const pugi::xml_node& root);

}  // namespace cardea::topology
