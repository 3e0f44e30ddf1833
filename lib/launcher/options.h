// SPDX-License-Identifier: Apache-2.0
// The command line of cardea-run.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cardea::launcher {

struct Options {
  unsigned ranks = 0;
  unsigned nodes = 1;
  double timeout_seconds = 0;  // 0: none
  bool tag_output = false;
  std::vector<std::pair<std::string, std::string>> environment;
  std::vector<std::string> command;  // program and its arguments
};

/// Ends the process after --help, --variables, --version, or a message about what is wrong (exit code kUsageError).
Options parse_command_line(int argc, char** argv);

inline constexpr unsigned kMaxRanks = 4096;
inline constexpr int kUsageError = 2;

}  // namespace cardea::launcher
