// SPDX-License-Identifier: Apache-2.0
#include "lib/cache/arena.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <thread>

namespace cardea::cache {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

Shape shape_of(std::uint64_t capacity) {
  return Shape::of(capacity, kMiB).value();
}

std::uint64_t resident(int descriptor) {
  struct stat file {};
  fstat(descriptor, &file);
  return static_cast<std::uint64_t>(file.st_blocks) * 512;
}

TEST(Arena, ItsPayloadTakesMemoryOnlyAsItIsBacked) {
  Result<Arena> arena = Arena::create(shape_of(256 * kMiB));
  ASSERT_TRUE(arena.ok()) << arena.status().message();
  const std::uint64_t before = resident(arena->descriptor());
  EXPECT_LT(before, 16 * kMiB);
  ASSERT_TRUE(arena->back(10 * kMiB, 3 * kMiB).ok());
  EXPECT_GE(resident(arena->descriptor()), before + 3 * kMiB);
  EXPECT_LE(resident(arena->descriptor()), before + 8 * kMiB);
  std::memset(arena->directory().payload() + 10 * kMiB, 1, 3 * kMiB);
  ASSERT_TRUE(arena->back(256 * kMiB - 1, 1).ok()) << "its very last byte";
}

TEST(Arena, WhatOneProcessWritesAnotherReads) {
  Result<Arena> arena = Arena::create(shape_of(4 * kMiB));
  ASSERT_TRUE(arena.ok());
  Result<Arena> other = Arena::attach(arena->descriptor());
  ASSERT_TRUE(other.ok()) << other.status().message();
  EXPECT_NE(other->directory().payload(), arena->directory().payload());
  ASSERT_TRUE(other->back(0, 100).ok());
  std::memcpy(other->directory().payload(), "from the other", 15);
  EXPECT_STREQ(reinterpret_cast<const char*>(arena->directory().payload()), "from the other");
}

TEST(Arena, AttachRefusesWhatIsNoArena) {
  EXPECT_FALSE(Arena::attach(-1).ok());
  const UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(Arena::attach(file.get()).status().code(), CARDEA_ERR_PROTOCOL);
  const UniqueFd small(memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(Arena::attach(small.get()).status().code(), CARDEA_ERR_PROTOCOL);
  ASSERT_EQ(ftruncate(small.get(), 1 << 20), 0);
  EXPECT_EQ(Arena::attach(small.get()).status().code(), CARDEA_ERR_PROTOCOL) << "it is not sealed: it could shrink";
  ASSERT_EQ(fcntl(small.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_EQ(Arena::attach(small.get()).status().code(), CARDEA_ERR_PROTOCOL) << "it holds no directory";
}

TEST(Arena, BeyondItsPayloadNothingIsBacked) {
  Result<Arena> arena = Arena::create(shape_of(4 * kMiB));
  ASSERT_TRUE(arena.ok());
  EXPECT_EQ(arena->back(4 * kMiB, 1).code(), CARDEA_ERR_LIMIT);
  EXPECT_EQ(arena->back(64 * kMiB, kMiB).code(), CARDEA_ERR_LIMIT);
  EXPECT_EQ(arena->back(1, UINT64_MAX).code(), CARDEA_ERR_LIMIT);
  EXPECT_TRUE(arena->back(4 * kMiB - 1, 1).ok());
}

TEST(RobustLock, ADeadHolderIsToldOfOnceAndAStoppedOneIsNotWaitedForLong) {
  Result<Arena> arena = Arena::create(shape_of(kMiB));
  ASSERT_TRUE(arena.ok());
  RobustLock lock(arena->directory().header().lock, std::chrono::milliseconds(50));
  const auto holder_that = [&](int signal) {
    const pid_t child = fork();
    if (child == 0) {
      lock.lock();
      raise(signal);
      _exit(1);
    }
    int status = 0;
    waitpid(child, &status, WUNTRACED);
    EXPECT_TRUE(WIFSIGNALED(status) || WIFSTOPPED(status));
    return child;
  };
  holder_that(SIGKILL);
  EXPECT_EQ(lock.lock(), Lock::Taken::kOwnerDied);
  lock.unlock();
  EXPECT_EQ(lock.lock(), Lock::Taken::kClean);
  lock.unlock();

  const pid_t stopped = holder_that(SIGSTOP);
  auto begin = Clock::now();
  EXPECT_EQ(lock.lock(), Lock::Taken::kNot);
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(50));
  begin = Clock::now();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(lock.lock(), Lock::Taken::kNot);
  EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(400)) << "its patience is lost once, not each time";
  kill(stopped, SIGKILL);
  waitpid(stopped, nullptr, 0);
  EXPECT_EQ(lock.lock(), Lock::Taken::kOwnerDied);
  lock.unlock();
}

TEST(RobustLock, ThreadsExcludeEachOther) {
  Result<Arena> arena = Arena::create(shape_of(kMiB));
  ASSERT_TRUE(arena.ok());
  int inside = 0, sum = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      RobustLock lock(arena->directory().header().lock, std::chrono::seconds(60));
      for (int i = 0; i < 2000; ++i) {
        ASSERT_EQ(lock.lock(), Lock::Taken::kClean);
        EXPECT_EQ(++inside, 1);
        ++sum;
        --inside;
        lock.unlock();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, 8000);
}

}  // namespace
}  // namespace cardea::cache
