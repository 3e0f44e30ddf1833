// SPDX-License-Identifier: Apache-2.0
#include "tests/fault/fault_run.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include "tests/fault/fault_board.h"
#include "tests/fault/fault_rank.h"

namespace cardea::test {
namespace {

constexpr std::uint64_t kMilliNs = 1'000'000;
constexpr std::uint64_t kHangNs = std::uint64_t{90} * 1'000 * kMilliNs;

char state_of(pid_t pid) {
  char path[64], state = '?';
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  std::FILE* const file = std::fopen(path, "r");
  if (file == nullptr) return state;
  if (std::fscanf(file, "%*d (%*[^)]) %c", &state) != 1) state = '?';
  std::fclose(file);
  return state;
}

class Run {
 public:
  Run(const FaultCase& one, const std::atomic<std::uint64_t>& lag) : one_(one), lag_(lag) {
    board_ = make_shared_memory<FaultBoard>();
  }
  ~Run() {
    clean_up();
    munmap(board_, sizeof *board_);
  }

  FaultResult run() {
    prctl(PR_SET_CHILD_SUBREAPER, 1);  // children of ranks that die come here
    start();
    if (strike()) await();
    clean_up();
    if (result_.failure.empty()) judge();
    return result_;
  }
  bool missed() const { return missed_; }

 private:
  template <typename Body>
  pid_t spawn(Body body) {
    std::fflush(nullptr);
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int status = body();
      std::fflush(nullptr);
      // As a program ends: the library must not mind.
      std::exit(status);
    }
    return pid;
  }

  void fail(std::string why) {
    if (result_.failure.empty()) result_.failure = std::move(why);
  }

  /// Looks every half millisecond; false, and the case has failed, after the time that nothing may take.
  bool wait_for(const std::function<bool()>& done, const char* what) {
    const std::uint64_t end = monotonic_ns() + kHangNs;
    while (!done()) {
      reap();
      if (monotonic_ns() > end) {
        fail(fmt::format("HANG: waited {} s for {}", kHangNs / kMilliNs / 1000, what));
        return false;
      }
      nap();
    }
    return true;
  }

  void nap() {
    constexpr std::uint64_t kNap = 500'000;
    const std::uint64_t before = monotonic_ns();
    usleep(kNap / 1000);
    const std::uint64_t slept = monotonic_ns() - before;
    own_lag_ = std::max(own_lag_, slept - std::min(slept, kNap));
  }

  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) ended_[pid] = status;
  }
  bool has_ended(pid_t pid) const { return ended_.contains(pid); }

  void start() {
    meeting_ = spawn([this] {
      if (cardea_unique_id_create("127.0.0.1:0", &board_->id) != CARDEA_OK) return 1;
      board_->id_ready.store(true);
      for (;;) pause();
    });
    for (std::uint32_t rank = 0; rank < one_.ranks; ++rank) {
      ranks_.push_back(spawn([this, rank] {
        const std::uint64_t end = monotonic_ns() + kHangNs;
        while (!board_->id_ready.load() && monotonic_ns() < end) usleep(500);
        return rank == one_.victim ? run_victim(one_, *board_) : run_survivor(one_, *board_, rank);
      }));
    }
  }

  pid_t victim() const { return ranks_[one_.victim]; }

  bool strike() {
    const bool reached = wait_for([&] { return board_->phase_reached.load() || has_ended(victim()); }, "the phase");
    if (!reached) return false;
    if (has_ended(victim())) return fail("the victim ended before the fault: " + text_of(one_.victim)), false;
    if (one_.child) {
      board_->fork_wanted.store(true);
      if (!wait_for([&] { return board_->child.load() != 0; }, "the victim to fork")) return false;
    }
    if (one_.delay_us != 0) usleep(static_cast<useconds_t>(one_.delay_us));
    const std::uint64_t now = monotonic_ns();
    if (kill(victim(), one_.signal) != 0) return fail("the victim was gone before the signal"), false;
    const auto struck = [&] { return one_.signal == SIGKILL ? has_ended(victim()) : state_of(victim()) == 'T'; };
    if (!wait_for(struck, "the signal to strike")) return false;
    board_->fault_at.store(now);
    const bool in_phase = board_->victim_at.load() == static_cast<std::uint32_t>(one_.phase);
    const bool killed = one_.signal != SIGKILL || (WIFSIGNALED(ended_[victim()]) && WTERMSIG(ended_[victim()]) == SIGKILL);
    const bool child_lives = !one_.child || (state_of(board_->child.load()) != '?' && state_of(board_->child.load()) != 'Z');
    result_.proven = in_phase && killed && child_lives;
    missed_ = killed && child_lives && !in_phase;
    if (!killed) fail("the victim did not die by the signal");
    if (!child_lives) fail("the victim's child does not live");
    return result_.failure.empty();
  }

  void await() {
    const auto told = [&](std::uint32_t rank) {
      return rank == one_.victim || board_->reports[rank].told_at.load() != 0 || has_ended(ranks_[rank]);
    };
    const auto all = [&](const auto& what) {
      for (std::uint32_t rank = 0; rank < one_.ranks; ++rank) {
        if (!what(rank)) return false;
      }
      return true;
    };
    if (!wait_for([&] { return all(told); }, "the survivors to be told")) return;
    const auto ended = [&](std::uint32_t rank) { return rank == one_.victim || has_ended(ranks_[rank]); };
    const auto went_on = [&](std::uint32_t rank) { return ended(rank) || board_->reports[rank].went_on.load(); };
    if (!wait_for([&] { return all(went_on); }, "the survivors to go on")) return;
    if (one_.signal == SIGSTOP) {
      kill(victim(), SIGCONT);
      if (!wait_for([&] { return has_ended(victim()); }, "the victim that came back to end")) return;
    }
    wait_for([&] { return all(ended); }, "the survivors to leave");
  }

  void clean_up() {
    for (const pid_t rank : ranks_) {
      if (!has_ended(rank)) {
        kill(rank, SIGKILL);
        kill(rank, SIGCONT);
      }
    }
    if (meeting_ > 0 && !has_ended(meeting_)) kill(meeting_, SIGKILL);
    if (const int child = board_->child.load(); child > 0 && !has_ended(child)) kill(child, SIGKILL);
    // Everything that the case has started is this process's to reap, children of the victim's included.
    int status = 0;
    const std::uint64_t end = monotonic_ns() + kHangNs;
    for (;;) {
      const pid_t pid = waitpid(-1, &status, WNOHANG);
      if (pid < 0) break;
      if (pid > 0) {
        ended_[pid] = status;
      } else if (monotonic_ns() > end) {
        return fail("processes are left behind");
      } else {
        usleep(500);
      }
    }
  }

  std::string text_of(std::uint32_t rank) const { return board_->reports[rank].text; }

  void judge() {
    const std::uint64_t slack_ms = std::max(own_lag_, lag_.load()) * 10 / kMilliNs;
    std::uint64_t last = 0;
    for (std::uint32_t rank = 0; rank < one_.ranks; ++rank) {
      const FaultBoard::Report& report = board_->reports[rank];
      const int status = ended_[ranks_[rank]];
      if (rank == one_.victim) {
        if (one_.signal == SIGKILL) continue;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !report.done.load())
          return fail(fmt::format("the victim that came back: status {:#x}: {}", status, text_of(rank)));
        const bool must_learn = one_.phase != Phase::kBootstrap && one_.phase != Phase::kClose;
        if (must_learn && !board_->victim_saw_expulsion.load() && !one_.survivors_are_expelled())
          return fail("the victim came back and did not learn that it was expelled");
      } else {
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !report.done.load())
          return fail(fmt::format("rank {}: status {:#x}: {}", rank, status, text_of(rank)));
        const std::uint64_t told = report.told_at.load();
        const std::uint64_t took = told > board_->fault_at.load() ? (told - board_->fault_at.load()) / kMilliNs : 0;
        last = std::max(last, took);
        result_.heard = text_of(rank);
        if (took > one_.bound_ms() + slack_ms)
          return fail(fmt::format("rank {} was told after {} ms, later than {} (+ {} for this machine's lag)", rank, took,
                                  one_.bound_ms(), slack_ms));
        if (report.descriptors.load() > 0)
          return fail(fmt::format("rank {} has {} more descriptors open than before", rank, report.descriptors.load()));
        const bool regroups = one_.phase != Phase::kBootstrap && one_.ranks > 2 && !one_.survivors_are_expelled();
        if (regroups && !report.went_on.load()) return fail(fmt::format("rank {} did not go on without the victim", rank));
      }
      const std::uint64_t close_ms = report.close_ns.load() / kMilliNs;
      result_.close_ms = std::max(result_.close_ms, close_ms);
      if (close_ms > 2000 + slack_ms) return fail(fmt::format("rank {} took {} ms to destroy its context", rank, close_ms));
    }
    result_.told_ms = last;
  }

  const FaultCase one_;
  const std::atomic<std::uint64_t>& lag_;
  std::uint64_t own_lag_ = 0;
  FaultBoard* board_;
  pid_t meeting_ = 0;
  std::vector<pid_t> ranks_;
  std::map<pid_t, int> ended_;
  FaultResult result_;
  bool missed_ = false;
};

}  // namespace

FaultResult run_case(const FaultCase& one, const std::atomic<std::uint64_t>& lag_ns) {
  constexpr std::uint32_t kAttempts = 8;
  FaultCase now = one;
  FaultResult result;
  for (std::uint32_t attempt = 1; attempt <= kAttempts; ++attempt) {
    Run run(now, lag_ns);
    result = run.run();
    result.attempts = attempt;
    if (!result.failure.empty() || !run.missed()) break;
    now.delay_us /= 3;  // the phase was over before the signal came: what followed was right, but proves another thing
  }
  if (result.failure.empty() && !result.proven) result.failure = "the fault could not be brought into its phase";
  return result;
}

}  // namespace cardea::test
