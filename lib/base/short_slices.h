// SPDX-License-Identifier: Apache-2.0
// For a thread that works briefly and must not wait for long: the kernel runs it sooner, for shorter, and in all as much as
// before. Where many threads compete for a processor, one that has slept then goes before those that compute, instead of
// behind each one's slice of milliseconds; the engine's heartbeats depend on that. Advice, which needs no privilege: Linux
// takes it from 6.12 on, older kernels ignore it.
#pragma once

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace cardea {

/// Of the calling thread. False if the kernel refused, or the thread is of a class of its own (real time).
inline bool ask_for_short_slices() {
  struct Attributes {  // struct sched_attr of the kernel, which not every C library declares
    std::uint32_t size = sizeof(Attributes), policy = 0;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime = 0, deadline = 0, period = 0;
  };
  constexpr std::uint64_t kSlice = 300'000;  // ns; the kernel allows 0.1 to 100 ms
  Attributes attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 || attributes.policy != SCHED_OTHER)
    return false;
  attributes.size = sizeof attributes;
  attributes.runtime = kSlice;
  return syscall(SYS_sched_setattr, 0, &attributes, 0) == 0;
}

}  // namespace cardea
