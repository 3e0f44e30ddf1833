// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/counters.h"

namespace cardea::telemetry {

const char* class_name(std::uint8_t urgency) {
  constexpr std::array kNames = {"demand", "gradient", "prefetch", "placement"};
  return urgency < kNames.size() ? kNames[urgency] : "unknown";
}

Counters::Counters(std::vector<std::string> lanes) : lanes_(std::move(lanes)) {
  lanes_.emplace_back("other");
  traffic_.resize(lanes_.size() * kClassCount * kPathCount);
}

}  // namespace cardea::telemetry
