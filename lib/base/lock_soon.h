// SPDX-License-Identifier: Apache-2.0
// Locks a mutex that is held for microseconds at a time. A thread that finds one taken and goes to sleep comes back tens of
// microseconds later, however soon the mutex was free, and whoever lets go of it pays for waking it; so this tries for
// about as long as that would take before it sleeps. Where the holder is not running (fewer cores than threads), that is
// what is lost by it.
#pragma once

#include <chrono>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cardea {

inline std::unique_lock<std::mutex> lock_soon(std::mutex& mutex) {
  constexpr std::chrono::microseconds kTrying{20};
  constexpr int kPauses = 8;  // between two tries: a taken mutex's cache line is left to its holder
  std::unique_lock lock(mutex, std::try_to_lock);
  if (lock) return lock;
  const auto until = std::chrono::steady_clock::now() + kTrying;
  do {
    for (int i = 0; i < kPauses; ++i) {
#if defined(__x86_64__)
      _mm_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
    if (lock.try_lock()) return lock;
  } while (std::chrono::steady_clock::now() < until);
  lock.lock();
  return lock;
}

}  // namespace cardea
