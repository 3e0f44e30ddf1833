// SPDX-License-Identifier: Apache-2.0
#include "lib/launcher/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "cardea/cardea.h"
#include "lib/api/settings.h"

namespace cardea::launcher {
namespace {

[[noreturn]] void usage_error(const std::string& message) {
  fmt::print(stderr, "cardea-run: {}\nTry cardea-run --help.\n", message);
  std::exit(kUsageError);
}

long long checked(const std::string& text, const char* option, long long least, long long most) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || value < least || value > most) {
    usage_error(fmt::format("{} is \"{}\"; it takes a number from {} to {}", option, text, least, most));
  }
  return value;
}

}  // namespace

Options parse_command_line(int argc, char** argv) {
  CLI::App app{
      "Starts the ranks of a Cardea job on this machine, which may play several nodes:\n"
      "cardea-run -n RANKS [OPTIONS] PROGRAM [ARGUMENTS...]"};
  app.name("cardea-run");
  app.footer(
      "Each rank gets CARDEA_RANK, CARDEA_WORLD_SIZE, CARDEA_ROOT, CARDEA_JOB, CARDEA_SECRET_FILE and CARDEA_NODE_ID,\n"
      "with several nodes also UCX_TLS=tcp,self unless UCX_TLS is set. Ranks read /dev/null as standard input.\n"
      "SIGINT, SIGTERM and SIGHUP are passed on; ranks that are still there 5 s later are killed.\n"
      "The exit code is that of the first rank that failed (128 + its signal), 124 after --timeout, 2 for a wrong command "
      "line.");
  app.prefix_command();
  std::string ranks, nodes = "1", timeout = "0";
  std::vector<std::string> environment;
  Options options;
  app.add_option("-n,--ranks", ranks, "Number of ranks (1 to 4096)")->type_name("RANKS");
  app.add_option("--nodes", nodes, "Play this many nodes, each a block of consecutive ranks (default 1)")->type_name("N");
  app.add_option("--timeout", timeout, "End the job after this many seconds (default: never)")->type_name("SECONDS");
  app.add_flag("--tag-output", options.tag_output, "Put [rank] before each line of output");
  app.add_option("--env", environment, "Set a variable for the ranks; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_flag_callback(
      "--variables",
      [] {
        fmt::print("{}", api::variables_table());
        std::exit(0);
      },
      "Show the variables that ranks read, as a table in Markdown");
  app.set_version_flag("--version",
                       fmt::format("cardea-run {}.{}.{}", CARDEA_VERSION_MAJOR, CARDEA_VERSION_MINOR, CARDEA_VERSION_PATCH));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) std::exit(app.exit(error));
    usage_error(error.what());
  }

  options.command = app.remaining();
  if (!options.command.empty() && options.command.front() == "--") {
    options.command.erase(options.command.begin());
  } else if (!options.command.empty() && options.command.front().starts_with("-")) {
    usage_error(fmt::format("unknown option {}", options.command.front()));
  }
  if (ranks.empty()) usage_error("-n RANKS is missing");
  options.ranks = static_cast<unsigned>(checked(ranks, "-n", 1, kMaxRanks));
  options.nodes = static_cast<unsigned>(checked(nodes, "--nodes", 1, kMaxRanks));
  if (options.ranks % options.nodes != 0) {
    usage_error(fmt::format("{} ranks cannot be divided evenly among {} nodes", options.ranks, options.nodes));
  }
  char* end = nullptr;
  options.timeout_seconds = std::strtod(timeout.c_str(), &end);
  if (timeout.empty() || *end != '\0' || !(options.timeout_seconds >= 0 && options.timeout_seconds <= 1e8)) {
    usage_error(fmt::format("--timeout is \"{}\"; it takes seconds", timeout));
  }
  for (const std::string& entry : environment) {
    const std::size_t equals = entry.find('=');
    if (equals == 0 || equals == std::string::npos) usage_error(fmt::format("--env \"{}\" is not NAME=VALUE", entry));
    options.environment.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
  if (options.command.empty()) usage_error("no program to run");
  return options;
}

}  // namespace cardea::launcher
