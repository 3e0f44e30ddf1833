// SPDX-License-Identifier: Apache-2.0
// Reads Slurm's compressed lists of hosts. Pure function.
#pragma once

#include <string>
#include <string_view>

#include "lib/base/status.h"

namespace cardea::bootstrap {

/// The first host of a list such as "gpu[007-012,020]n[1-4],login": "gpu007n1". INVALID_ARGUMENT if it is malformed up to
/// the end of that host, or the name is longer than 255 bytes.
Result<std::string> first_slurm_host(std::string_view list);

}  // namespace cardea::bootstrap
