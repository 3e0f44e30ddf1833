// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/trace_list.h"

#include "lib/base/path_pattern.h"

namespace cardea::telemetry {

Result<std::vector<TraceTarget>> parse_trace_list(std::string_view text) {
  std::vector<TraceTarget> targets;
  for (bool more = true; more;) {
    const std::size_t comma = text.find(',');
    const std::string_view name = text.substr(0, comma);
    more = comma != std::string_view::npos;
    text.remove_prefix(more ? comma + 1 : text.size());
    if (const auto path = expand_path(name, 0); !path.ok()) return path.status();
    if (name.ends_with(".json") && name.size() > 5) {
      targets.push_back({TraceTarget::Kind::kPerfetto, std::string(name)});
    } else if (name.ends_with(".events") && name.size() > 7) {
      targets.push_back({TraceTarget::Kind::kEvents, std::string(name)});
    } else {
      return Status::error(CARDEA_ERR_CONFIGURATION,
                           "\"{}\" ends neither in .json (a trace for Perfetto) nor in .events (an event log)", name);
    }
  }
  return targets;
}

}  // namespace cardea::telemetry
