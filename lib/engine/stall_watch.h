// SPDX-License-Identifier: Apache-2.0
// Which of the experts that fetches wait for stand still, and when that is worth a dump. Pure: no clock, no lock, no output;
// the runtime looks once per heartbeat (watch.cc) and writes the dump outside of its mutex.
//
// An expert stands still when for `patience`
//   moving           no chunk has come from its source, its own or another's
//   shared           a rank of the node has held a claim on its chunks in the node cache
//   parked           its version has not been published
//   starved, queued  no chunk at all has come to this rank, and no view was released
// Of prefetches only what is on the way counts: they wait for slots and versions as a matter of course.
//
// A stall is told once, and again when it becomes another one (an expert more, another state, another rank at fault), or
// after kRepeat times the patience; never more often than once in `patience`.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "lib/engine/dump.h"

namespace cardea::engine {

struct Stall {
  core::Outstanding of;
  Nanoseconds still{0};
};

/// When something last moved.
struct LastMoved {
  std::map<Rank, Clock::time_point> from;  // chunks, by source
  Clock::time_point anything{};            // a chunk from anywhere, or a view released
};

/// Those of `outstanding` that have stood still for `patience`, longest first.
std::vector<Stall> find_stalls(const std::vector<core::Outstanding>& outstanding, const LastMoved& moved,
                               Nanoseconds patience, Clock::time_point now);

/// What a dump's first line says of them: for how long, which rank is at fault, which expert, by which path and lane. `dump`
/// is of the same moment; `stalls` are not empty.
std::string stall_reason(const Dump& dump, const std::vector<Stall>& stalls);

class StallWatch {
 public:
  static constexpr int kRepeat = 10;

  explicit StallWatch(Nanoseconds patience) : patience_(patience) {}

  /// Whether it is time to tell of these; if so, they count as told.
  bool tell(const std::vector<Stall>& stalls, Clock::time_point now);

 private:
  using Key = std::tuple<std::uint64_t, ExpertIndex, core::Outstanding::State, Rank>;  // fetch, expert, state, at fault

  const Nanoseconds patience_;
  std::set<Key> told_;
  std::optional<Clock::time_point> last_;
};

}  // namespace cardea::engine
