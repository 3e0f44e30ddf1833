// SPDX-License-Identifier: Apache-2.0
// What the ranks of a case do. Each is a process of its own; the functions run its whole life and return its exit status:
// 0 if everything was as it should be, else the board's report has the reason.
#pragma once

#include "tests/fault/fault_board.h"
#include "tests/fault/fault_case.h"

namespace cardea::test {

/// Joins, works until a call says that the victim is lost, goes on without it, leaves.
int run_survivor(const FaultCase& one, FaultBoard& board, std::uint32_t rank);

/// Joins, works until the signal strikes; after SIGSTOP and SIGCONT, finds itself expelled and leaves.
int run_victim(const FaultCase& one, FaultBoard& board);

}  // namespace cardea::test
