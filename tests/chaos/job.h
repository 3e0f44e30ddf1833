// SPDX-License-Identifier: Apache-2.0
// One job of a chaos run: starts its ranks as processes, strikes the one that the plan names, watches all of them, and
// judges how they ended. A rank that gets on with nothing for a minute is a hang: then it says of every rank what it was
// doing, and what its threads wait for, and kills them. One thread; nothing of the job is left when run() returns.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "tests/chaos/board.h"
#include "tests/chaos/plan.h"

namespace cardea::chaos {

struct JobResult {
  bool right = true;
  bool hung = false;
  bool mismatch = false;
  unsigned kills = 0, stops = 0;  // that have been seen to happen
  std::uint64_t fetches = 0, views = 0, bytes = 0, cancels = 0, prefetches = 0, gangs = 0, deadlines = 0, failed_experts = 0,
                lost_layers = 0;
  std::string report;  // of what was wrong
};

class Job {
 public:
  Job(const JobPlan& plan, unsigned number);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// `meanwhile` is called several times a second.
  JobResult run(const std::function<void()>& meanwhile);

 private:
  struct Process {
    pid_t pid = 0;
    bool ended = false, stopped = false, killed_by_plan = false;
    int status = 0;
    std::uint64_t steps = 0;
    std::chrono::steady_clock::time_point progress;
  };

  void start(unsigned number);
  void strike();
  void reap();
  bool running() const;
  bool hanging();
  void dump(std::string& report) const;
  void judge(JobResult& result) const;

  const JobPlan& plan_;
  Board* board_;
  std::vector<Process> processes_;
  std::chrono::steady_clock::time_point started_;
  enum class Struck { kNot, kStopped, kOver } struck_ = Struck::kNot;
  unsigned kills_ = 0, stops_ = 0;
};

}  // namespace cardea::chaos
