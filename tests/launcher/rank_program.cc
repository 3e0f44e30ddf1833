// SPDX-License-Identifier: Apache-2.0
// A rank for the launcher's tests: joins its job from the environment, exchanges its number, prints the job's size.
#include <cstdio>

#include "lib/bootstrap/environment.h"

int main() {
  using namespace std::chrono_literals;
  const auto options = cardea::bootstrap::from_environment();
  if (!options.ok()) return std::fprintf(stderr, "%s\n", options.status().message().c_str()), 10;
  auto exchange = cardea::bootstrap::join(*options, cardea::Clock::now() + 60s);
  if (!exchange.ok()) return std::fprintf(stderr, "%s\n", exchange.status().message().c_str()), 11;
  const auto all = (*exchange)->allgather(cardea::Bytes(options->rank), cardea::Clock::now() + 60s);
  if (!all.ok()) return std::fprintf(stderr, "%s\n", all.status().message().c_str()), 12;
  for (cardea::Rank rank = 0; rank < all->size(); ++rank) {
    if ((*all)[rank].size() != rank) return 13;
  }
  std::printf("joined %zu\n", all->size());
}
