// SPDX-License-Identifier: Apache-2.0
// What happened in a run, an event a line, and a hash of it. The format is documented in docs/simulator.md:
//
//   # cardea events 1
//   # plan seed=1 nodes=4 …                                          (of a simulation)
//   <nanoseconds> <rank> <what> <name>=<number> … [experts=0,5,6]
//
// Requests (publish, fetch, take, release, cancel, destroy, finish, collect, wait, leave, die, stop) are what a replay
// carries out again; all other lines are for readers. A line's numbers enter the hash whether it is written or not. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "perf/simulator/plan.h"

namespace cardea::simulator {

struct EventArgument {
  const char* name;
  std::uint64_t value;
};

class EventLog {
 public:
  /// Writes nothing unless it is given a file, which must outlive it.
  explicit EventLog(std::FILE* file = nullptr) : file_(file) {}

  void begin(const Plan& plan);
  void event(Clock::time_point when, Rank rank, const char* what, std::initializer_list<EventArgument> arguments,
             std::span<const ExpertIndex> experts = {});
  std::uint64_t hash() const { return hash_; }
  std::uint64_t events() const { return events_; }

 private:
  void mix(std::uint64_t value) { hash_ = (hash_ ^ value) * 0x9E3779B97F4A7C15u + (hash_ >> 29); }

  std::FILE* file_;
  std::uint64_t hash_ = 0xcbf29ce484222325;
  std::uint64_t events_ = 0;
};

/// A request of a log.
struct LoggedRequest {
  enum class What { kPublish, kFetch, kTake, kRelease, kCancel, kDestroy, kFinish, kCollect, kLeave, kDie, kStop, kWait };
  std::uint64_t when = 0;
  Rank rank = 0;
  What what = What::kPublish;
  std::uint64_t id = 0, layer = 0, version = 0, expert = 0, count = 0, nanoseconds = 0;
  std::uint64_t urgency = 0, gang = 0, slots = 0, views = 1, segments = 0, deadline = 0;
  std::vector<ExpertIndex> experts;
};

struct RecordedRun {
  Plan plan;
  std::vector<LoggedRequest> requests;  // in the order of the log
};

/// PROTOCOL names the line that is wrong: unknown words, numbers out of the plan's range, time that goes back for a rank,
/// a fetch id used twice or unknown.
Result<RecordedRun> read_log(std::istream& in);

}  // namespace cardea::simulator
