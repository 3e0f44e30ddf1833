// SPDX-License-Identifier: Apache-2.0
// Runs one case of the kill matrix: starts its ranks, strikes, proves that the fault happened, and judges what the others
// made of it. Blocking; the calling process must have no other threads and no other children.
#pragma once

#include <atomic>
#include <string>

#include "tests/fault/fault_case.h"

namespace cardea::test {

struct FaultResult {
  bool proven = false;         // the signal struck, in the phase
  std::string failure;         // empty: all was well
  std::uint64_t told_ms = 0;   // from the signal to the last survivor's error
  std::uint64_t close_ms = 0;  // the longest cardea_context_destroy
  std::string heard;           // an error as a survivor got it
  std::uint32_t attempts = 1;  // to strike in the phase
};

/// `lag_ns`: how late this machine wakes sleepers, the worst so far; kept by the caller. What the matrix bounds in time is
/// extended by ten times that.
FaultResult run_case(const FaultCase& one, const std::atomic<std::uint64_t>& lag_ns);

}  // namespace cardea::test
