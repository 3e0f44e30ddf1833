// SPDX-License-Identifier: Apache-2.0
// The ranks of one job as child processes, each in a process group of its own. They die with this process, also when it is
// killed; what a rank leaves behind in its group is killed when the rank ends. The job's secret lives in memory alone
// (a memfd of this process, which ranks open as /proc/PID/fd/N), so that nothing is left behind. Single-threaded.
//
//     running ── a rank fails ──► 5 s for the others to notice ──► killed
//        ├── SIGINT, SIGTERM, SIGHUP ──► passed on, 5 s ──► killed (at once by a second signal)
//        └── --timeout ──► SIGTERM, 5 s ──► killed
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/unique_fd.h"
#include "lib/launcher/options.h"
#include "lib/launcher/output.h"

namespace cardea::launcher {

class Job {
 public:
  explicit Job(const Options& options) : options_(options) {}
  /// Runs the ranks and waits for them; the exit code for this process.
  int run();

  static constexpr int kTimedOut = 124;
  static constexpr int kCannotStart = 127;

 private:
  using Clock = std::chrono::steady_clock;

  void make_secret();
  bool make_room_for_pipes();
  bool start(unsigned rank);
  [[noreturn]] void become_rank(unsigned rank, int out, int err, int failure);
  std::vector<std::pair<std::string, std::string>> environment_of(unsigned rank) const;
  void supervise();
  void on_signal(int signal);
  void reap();
  void judge(unsigned rank, pid_t pid, int status);
  void signal_all(int signal);
  void end_within_grace();
  void pump_outputs(int timeout_ms);

  const Options& options_;
  std::string root_, job_, secret_path_;
  UniqueFd secret_, signals_;
  std::vector<pid_t> ranks_;  // 0 once reaped
  std::vector<TaggedOutput> outputs_;
  unsigned left_ = 0;
  std::optional<int> result_;  // of the first that failed
  std::optional<Clock::time_point> timeout_, kill_at_;
  int passed_on_ = 0;        // signal
  rlimit original_limit_{};  // of descriptors, given back to the ranks
};

}  // namespace cardea::launcher
