// SPDX-License-Identifier: Apache-2.0
// The checks, a table of functions of a System. Each looks for one thing that makes jobs fail or slow, and says what to do.
// None waits, none changes anything; a check that cannot tell finds nothing.
#pragma once

#include <span>

#include "lib/doctor/finding.h"
#include "lib/doctor/system.h"

namespace cardea::doctor {

struct Check {
  const char* name;  // of the findings' kind
  const char* about;
  Findings (*run)(const System& system);
};

/// In the order in which a report shows them.
std::span<const Check> all_checks();
Findings run_checks(const System& system);

// By topic; each is a part of the table.
std::span<const Check> limit_checks();        // check_limits.cc
std::span<const Check> kernel_checks();       // check_kernel.cc
std::span<const Check> environment_checks();  // check_environment.cc

}  // namespace cardea::doctor
