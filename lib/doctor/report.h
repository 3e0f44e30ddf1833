// SPDX-License-Identifier: Apache-2.0
// The report of `cardea doctor`, for people and as JSON. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "lib/doctor/finding.h"
#include "lib/doctor/inventory.h"
#include "lib/doctor/probe.h"

namespace cardea::doctor {

struct Report {
  std::vector<Section> sections;
  std::string probed;  // which job was formed, or why none
  std::vector<Member> members;
  Findings findings;  // those of this machine, of the job, and of members on other hosts
};

std::string to_text(const Report& report);
std::string to_json(const Report& report);

}  // namespace cardea::doctor
