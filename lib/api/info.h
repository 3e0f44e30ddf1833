// SPDX-License-Identifier: Apache-2.0
// What cardea_version tells, in words.
#pragma once

#include <string>

namespace cardea::api {

/// "cardea 0.1.0 (abi 0, wire 1), UCX 1.13.1, hwloc 2.9.0, no CUDA driver, …"
std::string describe_versions();

}  // namespace cardea::api
