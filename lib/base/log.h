// SPDX-License-Identifier: Apache-2.0
// Messages to the operator, on standard error: "cardea[rank] WARN subsystem: text". CARDEA_DEBUG selects the least severe
// level shown: ERROR, WARN (default), INFO or TRACE. A failure is logged once, where it is first detected; what is returned
// to the caller as a Status is not logged as well. Thread-safe.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "lib/base/status.h"

namespace cardea::log {

enum class Level { kError = 0, kWarn = 1, kInfo = 2, kTrace = 3 };

/// Reads CARDEA_DEBUG; CONFIGURATION if it is set to anything else. Called once per context; the last caller wins.
Status configure_from_environment();
bool enabled(Level level);
/// `who` names the rank, such as "2" or "?" before it is known.
void write(Level level, std::string_view who, std::string_view subsystem, std::string_view text);

template <typename... Args>
void print(Level level, std::string_view who, std::string_view subsystem, fmt::format_string<Args...> format,
           Args&&... args) {
  if (enabled(level)) write(level, who, subsystem, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace cardea::log
