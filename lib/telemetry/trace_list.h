// SPDX-License-Identifier: Apache-2.0
// What CARDEA_TRACE names. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace cardea::telemetry {

struct TraceTarget {
  enum class Kind : std::uint8_t { kPerfetto, kEvents };
  Kind kind = Kind::kPerfetto;
  std::string pattern;  // path_pattern.h
};

/// A list by commas: NAME.json is a trace for Perfetto, NAME.events an event log. CONFIGURATION for anything else.
Result<std::vector<TraceTarget>> parse_trace_list(std::string_view text);

}  // namespace cardea::telemetry
