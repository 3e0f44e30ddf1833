// SPDX-License-Identifier: Apache-2.0
// Messages to the operator, "cardea[rank] WARN subsystem: text", on standard error or in a file:
//
//   CARDEA_DEBUG       ERROR, VERSION (errors, and one line that names the versions), WARN (default), INFO or TRACE; behind
//                      a colon which subsystems tell INFO and TRACE: INFO:ucx,shm, or TRACE:^events for all but these.
//                      Warnings and errors are always shown
//   CARDEA_DEBUG_FILE  where messages go; %h, %p, %r (path_pattern.h)
//
// A failure is logged once, where it is first detected; what is returned to the caller as a Status is not logged as well.
// Thread-safe.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "lib/base/status.h"

namespace cardea::log {

enum class Level { kError = 0, kWarn = 1, kInfo = 2, kTrace = 3 };

/// Reads the variables; CONFIGURATION if one is set to anything else. A file whose name depends on the rank is opened by
/// open_file, the others here. Called once per context; the last caller wins.
Status configure_from_environment();
/// Whether CARDEA_DEBUG may have this value; changes nothing. CONFIGURATION.
Status check_level(std::string_view text);
/// The rank is known: opens CARDEA_DEBUG_FILE, if it is set and its name depends on it. CONFIGURATION with the reason.
Status open_file(Rank rank);
/// Whether the versions are to be told: by VERSION, INFO and TRACE.
bool tells_version();
bool enabled(Level level, std::string_view subsystem);
/// `who` names the rank, such as "2" or "?" before it is known.
void write(Level level, std::string_view who, std::string_view subsystem, std::string_view text);
/// The same for text of several lines, of which each gets the head; written at once.
void write_lines(Level level, std::string_view who, std::string_view subsystem, std::string_view lines);
/// The same for much text, from a thread that must not wait for whoever reads the output: whole lines, as many as it takes
/// now. Returns how many bytes of `lines` are out; all, if nobody reads any more. Of a line longer than 4 KiB the end is
/// left out.
std::size_t try_write_lines(Level level, std::string_view who, std::string_view subsystem, std::string_view lines);

template <typename... Args>
void print(Level level, std::string_view who, std::string_view subsystem, fmt::format_string<Args...> format,
           Args&&... args) {
  if (enabled(level, subsystem)) write(level, who, subsystem, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace cardea::log
