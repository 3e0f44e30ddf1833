// SPDX-License-Identifier: Apache-2.0
// The command line of cardea-run.
#pragma once

#include <string>
#include <utility>
#include <variant>
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

inline constexpr unsigned kMaxRanks = 4096;
inline constexpr int kUsageError = 2;

/// What the command line asks for is to say something and end: for standard output if the code is 0, else for standard
/// error.
struct Ended {
  int code = 0;
  std::string text;
};

/// Ended after --help, --variables and --version (0), and when something is wrong (kUsageError, with what it is).
std::variant<Options, Ended> read_command_line(int argc, const char* const* argv);

}  // namespace cardea::launcher
