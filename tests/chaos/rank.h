// SPDX-License-Identifier: Apache-2.0
// What a rank of a chaos run does, over the public interface alone: step after step it publishes each layer's weights,
// fetches some experts in some way, looks at every byte of every view, when it is delivered and again before it is released,
// cancels, prefetches, finishes, collects, and overwrites its weights with poison before it writes the next version.
#pragma once

#include <string>

#include "tests/chaos/board.h"
#include "tests/chaos/plan.h"

namespace cardea::chaos {

/// Runs one rank in this process, from joining to leaving. False if something was wrong that the plan's fault does not
/// explain; the rank's place on the board says what. `root` is where the ranks meet (CARDEA_ROOT).
bool run_rank(const JobPlan& plan, std::uint32_t rank, const std::string& root, Place& place);

}  // namespace cardea::chaos
