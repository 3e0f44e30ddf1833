// SPDX-License-Identifier: Apache-2.0
// What the processes of one case tell each other: memory that they share. Everything is atomic or written once before a
// flag.
#pragma once

#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <stdexcept>

#include "cardea/cardea.h"

namespace cardea::test {

inline std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

struct FaultBoard {
  static constexpr unsigned kRanks = 4;

  struct Report {                              // of one rank
    std::atomic<std::uint64_t> told_at{0};     // when it had an error that names the victim; 0: not yet
    std::atomic<int> status{0};                // of that error
    std::atomic<bool> went_on{false};          // in a group without the victim
    std::atomic<bool> done{false};             // everything that it had to do and to check
    std::atomic<std::uint64_t> close_ns{0};    // that cardea_context_destroy took
    std::atomic<std::int64_t> descriptors{0};  // more of them open after it than before the context
    char text[400] = {};                       // what went wrong, or the error
  };

  cardea_unique_id_t id{};
  std::atomic<bool> id_ready{false};
  std::atomic<unsigned> formed{0};          // ranks that are ready for the phase
  std::atomic<bool> phase_reached{false};   // by the victim, in the round of the fault
  std::atomic<std::uint32_t> victim_at{0};  // the Phase that it is in; 0 outside of calls of it
  std::atomic<bool> fork_wanted{false};
  std::atomic<int> child{0};               // process id
  std::atomic<std::uint64_t> fault_at{0};  // ns; 0: not yet
  std::atomic<unsigned> regrouped{0};
  std::atomic<int> victim_status{0};  // what its first call after coming back said
  std::atomic<bool> victim_saw_expulsion{false};
  Report reports[kRanks];
};

/// Zero-filled, shared with processes forked from now on.
template <typename T>
T* make_shared_memory() {
  void* const memory = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  return new (memory) T{};
}

}  // namespace cardea::test
