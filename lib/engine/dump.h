// SPDX-License-Identifier: Apache-2.0
// What a rank waits for, whom that is due to, and what happened last: a picture taken under the runtime's mutex
// (Runtime::take_dump) and turned into text outside of it. Plain values; docs/telemetry.md describes the text.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/core/outstanding.h"
#include "lib/telemetry/record.h"

namespace cardea::engine {

struct Dump {
  struct Lent {
    Rank to = kNoRank;
    std::uint32_t layer_id = 0;
    ExpertIndex expert = 0;
    Clock::time_point since;
  };
  Rank self = 0;
  Node node = 0;
  std::uint32_t ranks = 0;
  Clock::time_point now, began;
  std::chrono::system_clock::time_point wall;
  std::vector<std::string> lanes;
  std::vector<core::Outstanding> outstanding;
  std::vector<Lent> lent;  // chunks that others are being sent
  std::vector<std::pair<Rank, Status>> lost;
  std::vector<telemetry::Record> recent;
  std::uint64_t records = 0;  // made so far; `recent` are the last of them
};

/// A rank for which something waits.
struct Suspect {
  Rank rank = kNoRank;
  std::uint32_t experts = 0;
  Nanoseconds waited{0};  // for the oldest of them
  std::string why;        // of the oldest
};

/// Those that keep this rank waiting, longest first: sources of chunks on the way, ranks of the node that have claimed
/// chunks of the node cache, sources that have not published; this rank itself where its own views hold every slot and
/// nothing else is to blame.
std::vector<Suspect> suspects(const Dump& dump);

/// One block of lines, from "cardea dump: REASON" to "end of dump". Of what is outstanding at most so many lines, the oldest
/// fetches first, and how many were left out.
std::string to_text(const Dump& dump, std::string_view reason, std::size_t most_outstanding = SIZE_MAX);

}  // namespace cardea::engine
