// SPDX-License-Identifier: Apache-2.0
// cardea-run: starts the ranks of a job on this machine. See job.h for what becomes of them.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "lib/launcher/job.h"
#include "lib/launcher/options.h"

int main(int argc, char** argv) {
  try {
    const auto read = cardea::launcher::read_command_line(argc, argv);
    if (const auto* ended = std::get_if<cardea::launcher::Ended>(&read)) {
      std::fputs(ended->text.c_str(), ended->code == 0 ? stdout : stderr);
      return ended->code;
    }
    return cardea::launcher::Job(std::get<cardea::launcher::Options>(read)).run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "cardea-run: {}\n", error.what());
    return 1;
  }
}
