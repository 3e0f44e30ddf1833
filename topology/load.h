// SPDX-License-Identifier: Apache-2.0
// One topology file, whatever its format. Thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "topology/machine.h"

namespace cardea::topology {

/// A description from hwloc XML (root <topology>) or NCCL topology XML (root <system>), told apart by the root. Every error
/// is CONFIGURATION and says what is wrong and where (xml_file.h, hwloc_xml.h, nccl_file.h). It takes well under a second,
/// whatever the file.
Result<Description> load_file(const std::string& path);
/// The same from memory; `label` stands for the path in messages.
Result<Description> load_text(std::string_view text, const std::string& label);

}  // namespace cardea::topology
