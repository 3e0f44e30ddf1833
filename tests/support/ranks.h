// SPDX-License-Identifier: Apache-2.0
// Runs a test body as several processes, as ranks of a job really are. The calling process must have no other threads.
// Assertions work inside the body: a rank in which one failed, which died by a signal it was not meant to get, or which
// outlived the deadline makes the calling test fail, naming the rank. Every rank is reaped before run() returns.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <vector>

namespace cardea::test {

/// How one rank ended.
struct RankEnd {
  bool exited = false;  // by itself, with exit_code
  int exit_code = 0;
  int signal = 0;          // else killed by this signal
  bool timed_out = false;  // by the harness, at the deadline
};

struct RankOptions {
  std::chrono::milliseconds deadline{60000};
  /// Ranks that the test kills or that may end in any way; their end is not judged.
  std::vector<unsigned> victims;
  /// Runs in the parent once all ranks have been started; gets their process ids.
  std::function<void(const std::vector<pid_t>&)> while_running;
};

/// Starts `count` processes that each run body(rank), and judges how they ended.
std::vector<RankEnd> run_ranks(unsigned count, const std::function<void(unsigned rank)>& body,
                               const RankOptions& options = {});

/// A barrier and a board of numbers in memory shared by the test and the ranks it starts; make it before run_ranks.
class SharedBoard {
 public:
  SharedBoard();
  ~SharedBoard();
  SharedBoard(const SharedBoard&) = delete;
  SharedBoard& operator=(const SharedBoard&) = delete;

  /// Waits until `count` processes have called barrier(i, count); false after 30 s. Each index serves once.
  bool barrier(unsigned index, unsigned count);
  /// A number that all see; atomic, zero at first. `index` below 1024.
  void set(unsigned index, unsigned long value);
  void add(unsigned index, unsigned long value);
  unsigned long get(unsigned index) const;
  /// Waits until the number is at least `value`; false after 30 s.
  bool wait_for(unsigned index, unsigned long value) const;

 private:
  struct Cells;
  Cells* cells_;
};

}  // namespace cardea::test
