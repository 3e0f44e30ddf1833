// SPDX-License-Identifier: Apache-2.0
#include "tests/fault/fault_case.h"

#include <fmt/format.h>

#include "tests/core/seeds.h"

namespace cardea::test {
namespace {

constexpr std::array<std::uint64_t, 3> kSizes = {4096, 256 << 10, 4 << 20};

void draw(FaultCase& one, Random& random) {
  one.victim = static_cast<std::uint32_t>(random.below(one.ranks));
  one.split = 1 + static_cast<std::uint32_t>(random.below(one.ranks - 1));
  one.mapped = random.below(2) == 0;
  one.warm_up = static_cast<std::uint32_t>(random.below(4));
  one.delay_us = random.below(one.phase == Phase::kBootstrap ? 8000 : 3000);
}

template <typename Body>
std::vector<FaultCase> cases(std::uint64_t seed, std::uint64_t limit_ms, Body body) {
  std::vector<FaultCase> all;
  Random random(seed);
  for (const Phase phase : kPhases) {
    for (const int signal : {SIGKILL, SIGSTOP}) {
      for (std::uint32_t ranks = 2; ranks <= 4; ++ranks) {
        for (const bool child : {false, true}) {
          FaultCase one;
          one.signal = signal;
          one.ranks = ranks;
          one.phase = phase;
          one.child = child;
          one.limit_ms = limit_ms;
          body(one, random, all);
        }
      }
    }
  }
  for (std::uint32_t i = 0; i < all.size(); ++i) all[i].number = i;
  return all;
}

}  // namespace

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::kBootstrap:
      return "bootstrap";
    case Phase::kPublish:
      return "publish";
    case Phase::kFetch:
      return "fetch";
    case Phase::kFinish:
      return "finish";
    case Phase::kIdle:
      return "idle";
    case Phase::kClose:
      return "close";
  }
  return "?";
}

bool FaultCase::survivors_are_expelled() const {
  if (!two_nodes || (signal == SIGKILL && !child)) return false;
  const std::uint32_t beside = victim < split ? split : ranks - split;
  if (beside != 1) return false;  // somebody of its node knows
  return ranks == 2 && victim == 0;
}

std::string FaultCase::name() const {
  return fmt::format("#{} {} during {}, rank {} of {}{}, experts of {} KiB {}{}, limit {} ms", number,
                     signal == SIGKILL ? "SIGKILL" : "SIGSTOP", name_of(phase), victim, ranks,
                     two_nodes ? fmt::format(" on nodes of {} and {}", split, ranks - split) : std::string(" on one node"),
                     expert_bytes >> 10, mapped ? "mapped" : "private", child ? ", with a child" : "", limit_ms);
}

std::vector<FaultCase> all_cases(std::uint64_t seed, std::uint64_t limit_ms) {
  return cases(seed, limit_ms, [](FaultCase one, Random& random, std::vector<FaultCase>& all) {
    for (const std::uint64_t bytes : kSizes) {
      for (const bool two_nodes : {false, true}) {
        one.expert_bytes = bytes;
        one.two_nodes = two_nodes;
        draw(one, random);
        all.push_back(one);
      }
    }
  });
}

std::vector<FaultCase> some_cases(std::uint64_t seed, std::uint64_t limit_ms) {
  return cases(seed, limit_ms, [](FaultCase one, Random& random, std::vector<FaultCase>& all) {
    one.expert_bytes = kSizes[random.below(kSizes.size())];
    one.two_nodes = all.size() % 2 == 0 ? random.below(2) == 0 : !all.back().two_nodes;
    draw(one, random);
    all.push_back(one);
  });
}

}  // namespace cardea::test
