// SPDX-License-Identifier: Apache-2.0
// cardea-run: starts the ranks of a job on this machine. See job.h for what becomes of them.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "lib/launcher/job.h"
#include "lib/launcher/options.h"

int main(int argc, char** argv) {
  try {
    const cardea::launcher::Options options = cardea::launcher::parse_command_line(argc, argv);
    return cardea::launcher::Job(options).run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "cardea-run: {}\n", error.what());
    return 1;
  }
}
