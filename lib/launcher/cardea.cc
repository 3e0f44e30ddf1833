// SPDX-License-Identifier: Apache-2.0
// cardea COMMAND [ARGUMENT]...: becomes cardea-COMMAND, which lies beside it or on PATH.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>

#include "cardea/cardea.h"

namespace {

constexpr int kUsageError = 2;

constexpr const char* kUsage =
    "usage: cardea COMMAND [ARGUMENT]...\n"
    "\n"
    "  doctor   why is it slow, or failing, here?\n"
    "  run      starts the ranks of a job on this machine\n"
    "  topo     what Cardea knows of a machine: devices, lanes, paths\n"
    "  trace    puts traces of ranks side by side\n"
    "\n"
    "cardea COMMAND --help tells more of each.\n";

bool may_be_a_command(std::string_view word) {
  return !word.empty() && word.front() != '-' && word.find('/') == std::string_view::npos;
}

int run(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "--help" || command == "-h" || command == "help") {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (command == "--version") {
    fmt::print("cardea {}.{}.{}\n", CARDEA_VERSION_MAJOR, CARDEA_VERSION_MINOR, CARDEA_VERSION_PATCH);
    return 0;
  }
  if (!may_be_a_command(command)) {
    std::fputs(kUsage, stderr);
    return kUsageError;
  }
  const std::string name = fmt::format("cardea-{}", command);
  std::error_code error;
  const std::filesystem::path beside = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / name;
  argv[1] = const_cast<char*>(name.c_str());
  execv(beside.c_str(), argv + 1);
  execvp(name.c_str(), argv + 1);
  fmt::print(stderr, "cardea: there is no {}: {}\n{}", name, std::strerror(errno), kUsage);
  return kUsageError;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cardea: {}\n", error.what());
    return kUsageError;
  }
}
