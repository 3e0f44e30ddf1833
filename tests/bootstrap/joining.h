// SPDX-License-Identifier: Apache-2.0
// Ranks of a job as threads of the test.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "lib/base/crypto.h"
#include "lib/bootstrap/bootstrap.h"

namespace cardea::bootstrap {

inline Clock::time_point in_seconds(int seconds) {
  return Clock::now() + std::chrono::seconds(seconds);
}

inline Bytes bytes_of(std::string_view text) {
  const auto raw = std::as_bytes(std::span(text));
  return {raw.begin(), raw.end()};
}

/// Options of a fresh job that meets at an abstract socket that nobody else has.
inline Options fresh_job(std::uint32_t world_size) {
  Options options{.world_size = world_size};
  crypto::random(options.secret);
  std::array<std::byte, 8> name{};
  crypto::random(name);
  options.job = crypto::hex(name);
  options.roots = {Endpoint{.unix_name = "cardea-test-" + options.job}};
  return options;
}

inline Options as_rank(Options options, Rank rank) {
  options.rank = rank;
  return options;
}

/// Runs body(rank) for each rank in a thread of its own.
inline void as_threads(std::uint32_t count, const std::function<void(Rank)>& body) {
  std::vector<std::thread> threads;
  for (Rank rank = 0; rank < count; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

inline void expect_everybodys_name(Exchange& exchange, int seconds = 60) {
  const auto name = [](Rank rank) { return bytes_of(std::string(rank, 'x') + std::to_string(rank)); };
  const Result<std::vector<Bytes>> all = exchange.allgather(name(exchange.rank()), in_seconds(seconds));
  ASSERT_TRUE(all.ok()) << all.status().message();
  ASSERT_EQ(all->size(), exchange.world_size());
  for (Rank rank = 0; rank < all->size(); ++rank) EXPECT_EQ((*all)[rank], name(rank));
}

}  // namespace cardea::bootstrap
