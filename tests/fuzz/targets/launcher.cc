// SPDX-License-Identifier: Apache-2.0
// The command line of cardea-run. An input is its words, each ended by a newline.
#include "lib/launcher/options.h"

#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

bool run(ByteView input) {
  std::vector<std::string> words{"cardea-run"};
  std::string_view text = as_text(input);
  while (!text.empty() && words.size() < 64) {
    words.emplace_back(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(words.back().size() + 1, text.size()));
    words.back() = words.back().c_str();  // an argument ends at its first zero byte
  }
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  const auto read = launcher::read_command_line(static_cast<int>(argv.size()), argv.data());
  if (const auto* ended = std::get_if<launcher::Ended>(&read)) {
    require(ended->code == 0 || ended->code == launcher::kUsageError, "a command line is right, or a question, or wrong");
    return ended->code == 0;
  }
  const auto& options = std::get<launcher::Options>(read);
  require(options.ranks >= 1 && options.ranks <= launcher::kMaxRanks, "there are 1 to 4096 ranks");
  require(options.nodes >= 1 && options.ranks % options.nodes == 0, "nodes have equally many ranks");
  require(options.timeout_seconds >= 0 && options.timeout_seconds <= 1e8, "a time is a time");
  require(!options.command.empty(), "there is something to run");
  for (const auto& [name, value] : options.environment) require(!name.empty(), "variables have names");
  return true;
}

std::vector<Seed> seeds() {
  return {{"usual", as_bytes("-n\n4\n--nodes\n2\n--timeout\n60\n--env\nA=b\n--tag-output\nprogram\n--its-own\n")},
          {"dashes", as_bytes("--ranks=2\n--env=A=\n--\nprogram\n")},
          {"help", as_bytes("--help\n")},
          {"variables", as_bytes("--variables\n")},
          {"version", as_bytes("--version\n")}};
}

}  // namespace

Target launcher() {
  return {"launcher", "the command line of cardea-run", run, seeds, 1024};
}

}  // namespace cardea::fuzz
