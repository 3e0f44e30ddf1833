// SPDX-License-Identifier: Apache-2.0
// File names that differ by process: %h is the host's name, %p the process's number, %r the rank, %% a percent sign. Pure
// function but for asking the system for host and process.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lib/base/status.h"

namespace cardea {

/// CONFIGURATION for another letter after %, or a % at the end. `rank` stands for %r; "unknown" where there is none yet.
Result<std::string> expand_path(std::string_view pattern, std::optional<Rank> rank);
/// Whether the name depends on the rank.
bool names_rank(std::string_view pattern);

}  // namespace cardea
