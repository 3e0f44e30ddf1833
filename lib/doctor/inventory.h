// SPDX-License-Identifier: Apache-2.0
// What there is: the library and what it stands on, the machine, the kernel. Lines of a name and a value, by section; facts
// only, what to think of them is the checks' business. UCX is asked for its transports, which opens no connection.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/doctor/system.h"

namespace cardea::doctor {

struct Section {
  std::string title;
  std::vector<std::pair<std::string, std::string>> lines;
};

std::vector<Section> inventory(const System& system);

/// "tcp: eth0, lo", a line for each of UCX's transports.
std::vector<std::string> ucx_transports();

}  // namespace cardea::doctor
