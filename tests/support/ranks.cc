// SPDX-License-Identifier: Apache-2.0
#include "tests/support/ranks.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>

namespace cardea::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kFailedAssertions = 99;

[[noreturn]] void be_rank(unsigned rank, const std::function<void(unsigned)>& body) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    body(rank);
  } catch (const std::exception& error) {
    ADD_FAILURE() << "rank " << rank << " threw: " << error.what();
  }
  std::fflush(nullptr);
  std::exit(::testing::Test::HasFailure() ? kFailedAssertions : 0);
}

bool poll_until(const std::function<bool()>& done) {
  const auto deadline = steady_clock::now() + std::chrono::seconds(30);
  while (!done()) {
    if (steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

}  // namespace

std::vector<RankEnd> run_ranks(unsigned count, const std::function<void(unsigned)>& body, const RankOptions& options) {
  std::fflush(nullptr);
  std::vector<pid_t> pids;
  for (unsigned rank = 0; rank < count; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) be_rank(rank, body);
    if (pid < 0) {
      for (const pid_t started : pids) kill(started, SIGKILL);
      throw std::runtime_error("fork failed");
    }
    pids.push_back(pid);
  }
  const auto deadline = steady_clock::now() + options.deadline;
  if (options.while_running) options.while_running(pids);

  std::vector<RankEnd> ends(count);
  std::vector<bool> reaped(count, false);
  bool overdue = false;
  for (unsigned left = count; left > 0;) {
    if (!overdue && steady_clock::now() > deadline) {
      overdue = true;
      for (unsigned rank = 0; rank < count; ++rank) {
        if (reaped[rank]) continue;
        ends[rank].timed_out = true;
        kill(pids[rank], SIGKILL);
      }
    }
    bool progress = false;
    for (unsigned rank = 0; rank < count; ++rank) {
      int status = 0;
      if (reaped[rank] || waitpid(pids[rank], &status, WNOHANG) != pids[rank]) continue;
      reaped[rank] = progress = true;
      --left;
      ends[rank].exited = WIFEXITED(status);
      ends[rank].exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
      ends[rank].signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    }
    if (!progress) std::this_thread::sleep_for(milliseconds(1));
  }

  for (unsigned rank = 0; rank < count; ++rank) {
    if (std::find(options.victims.begin(), options.victims.end(), rank) != options.victims.end()) continue;
    const RankEnd& end = ends[rank];
    EXPECT_FALSE(end.timed_out) << "rank " << rank << " did not end before the deadline";
    if (end.timed_out) continue;
    EXPECT_EQ(end.signal, 0) << "rank " << rank << " was killed by a signal";
    EXPECT_EQ(end.exit_code, 0) << "rank " << rank << " failed";
  }
  return ends;
}

struct SharedBoard::Cells {
  std::atomic<unsigned long> numbers[1024];
  std::atomic<unsigned> barriers[256];
};

SharedBoard::SharedBoard() {
  void* memory = mmap(nullptr, sizeof(Cells), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  cells_ = new (memory) Cells{};
}

SharedBoard::~SharedBoard() {
  munmap(cells_, sizeof(Cells));
}

bool SharedBoard::barrier(unsigned index, unsigned count) {
  auto& arrived = cells_->barriers[index];
  arrived.fetch_add(1);
  return poll_until([&] { return arrived.load() >= count; });
}

void SharedBoard::set(unsigned index, unsigned long value) {
  cells_->numbers[index].store(value);
}
void SharedBoard::add(unsigned index, unsigned long value) {
  cells_->numbers[index].fetch_add(value);
}
unsigned long SharedBoard::get(unsigned index) const {
  return cells_->numbers[index].load();
}

bool SharedBoard::wait_for(unsigned index, unsigned long value) const {
  return poll_until([&] { return get(index) >= value; });
}

}  // namespace cardea::test
