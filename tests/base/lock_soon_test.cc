// SPDX-License-Identifier: Apache-2.0
#include "lib/base/lock_soon.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace cardea {
namespace {

TEST(LockSoon, TakesWhatIsFree) {
  std::mutex mutex;
  const std::unique_lock<std::mutex> held = lock_soon(mutex);
  EXPECT_TRUE(held.owns_lock());
  std::thread([&] { EXPECT_FALSE(mutex.try_lock()); }).join();
}

TEST(LockSoon, WaitsForAHolderWhoStaysLongerThanItTries) {
  std::mutex mutex;
  std::atomic<bool> holds{false}, let_go{false}, taken{false};
  std::thread holder([&] {
    const std::scoped_lock held(mutex);
    holds = true;
    while (!let_go) std::this_thread::yield();
    EXPECT_FALSE(taken) << "two have it";
  });
  while (!holds) std::this_thread::yield();
  std::thread waiter([&] {
    const auto held = lock_soon(mutex);
    taken = true;
    EXPECT_TRUE(let_go) << "taken while another held it";
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a thousand times as long as it tries
  EXPECT_FALSE(taken);
  let_go = true;
  holder.join();
  waiter.join();
  EXPECT_TRUE(taken);
}

TEST(LockSoon, LetsOneInAtATime) {
  std::mutex mutex;
  std::uint64_t count = 0;  // not atomic: guarded
  constexpr std::uint64_t kEach = 20'000;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (std::uint64_t k = 0; k < kEach; ++k) {
        const auto held = lock_soon(mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 4 * kEach);
}

}  // namespace
}  // namespace cardea
