// SPDX-License-Identifier: Apache-2.0
// One cell of the kill matrix: what happens to whom, when, and in which surroundings. Plain values; a plan is a function of
// its seed.
#pragma once

#include <signal.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace cardea::test {

enum class Phase : std::uint32_t { kBootstrap = 1, kPublish, kFetch, kFinish, kIdle, kClose };
inline constexpr std::array kPhases = {Phase::kBootstrap, Phase::kPublish, Phase::kFetch,
                                       Phase::kFinish,    Phase::kIdle,    Phase::kClose};
const char* name_of(Phase phase);

struct FaultCase {
  std::uint32_t number = 0;
  int signal = SIGKILL;  // or SIGSTOP
  std::uint32_t ranks = 2;
  Phase phase = Phase::kIdle;
  std::uint64_t expert_bytes = 4096;
  bool child = false;      // the victim has forked a child that sleeps and holds its descriptors
  bool two_nodes = false;  // ranks below `split` are one node, the others another
  std::uint32_t split = 1;
  bool mapped = false;  // weights lie in memory that the node maps
  std::uint32_t victim = 0;
  std::uint32_t warm_up = 0;      // rounds of the phase before the one of the fault
  std::uint64_t delay_us = 0;     // from the victim's reaching it to the signal
  std::uint64_t limit_ms = 1000;  // of liveness

  const char* node_of(std::uint32_t rank) const { return two_nodes && rank >= split ? "b" : "a"; }
  /// The victim falls silent rather than provably dying, and the others cannot tell that from being cut off themselves:
  /// alone on its node, and they are no majority (docs/failure-model.md).
  bool survivors_are_expelled() const;
  /// Within which an error that names the victim must have come.
  std::uint64_t bound_ms() const { return signal == SIGKILL ? 6000 : 2 * limit_ms; }
  std::string name() const;
};

/// Every combination of signal, ranks, phase, expert size, child and placement; delays, victims and memory by chance.
std::vector<FaultCase> all_cases(std::uint64_t seed, std::uint64_t limit_ms);
/// Every combination of signal, ranks, phase and child; the rest by chance.
std::vector<FaultCase> some_cases(std::uint64_t seed, std::uint64_t limit_ms);

}  // namespace cardea::test
