// SPDX-License-Identifier: Apache-2.0
// A small job with everything in it that can go wrong, drawn from a seed: for tests of what must always hold.
#pragma once

#include "perf/simulator/plan.h"

namespace cardea::simulator {

Plan random_plan(std::uint64_t seed);

}  // namespace cardea::simulator
