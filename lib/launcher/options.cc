// SPDX-License-Identifier: Apache-2.0
#include "lib/launcher/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "cardea/cardea.h"
#include "lib/api/settings.h"

namespace cardea::launcher {
namespace {

/// What is wrong with the command line, thrown to the one place that answers it.
struct UsageError {
  std::string text;
};

[[noreturn]] void usage_error(std::string text) {
  throw UsageError{std::move(text)};
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

std::variant<Options, Ended> read(int argc, const char* const* argv) {
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
  struct Variables {};
  app.add_flag_callback(
      "--variables", [] { throw Variables{}; }, "Show the variables that ranks read, as a table in Markdown");
  app.set_version_flag("--version",
                       fmt::format("cardea-run {}.{}.{}", CARDEA_VERSION_MAJOR, CARDEA_VERSION_MINOR, CARDEA_VERSION_PATCH));
  try {
    app.parse(argc, argv);
  } catch (const Variables&) {
    return Ended{0, api::variables_table()};
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) usage_error(error.what());
    std::ostringstream answer;
    app.exit(error, answer, answer);
    return Ended{0, answer.str()};
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

}  // namespace

std::variant<Options, Ended> read_command_line(int argc, const char* const* argv) {
  try {
    return read(argc, argv);
  } catch (const UsageError& error) {
    return Ended{kUsageError, fmt::format("cardea-run: {}\nTry cardea-run --help.\n", error.text)};
  }
}

}  // namespace cardea::launcher
