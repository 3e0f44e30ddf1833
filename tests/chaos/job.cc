// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/job.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <new>
#include <stdexcept>
#include <thread>

#include "tests/chaos/rank.h"

namespace cardea::chaos {
namespace {

using Now = std::chrono::steady_clock;

// A rank gives up by itself after a minute; who does not even do that is noticed a little later.
constexpr auto kPatience = std::chrono::seconds(75);
constexpr auto kStep = std::chrono::milliseconds(5);

std::string first_line(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

}  // namespace

Job::Job(const JobPlan& plan, unsigned number) : plan_(plan) {
  void* const memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("no memory for the board");
  board_ = new (memory) Board();
  start(number);
}

Job::~Job() {
  for (Process& process : processes_) {
    if (process.ended) continue;
    kill(process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
  }
  munmap(board_, sizeof(Board));
}

void Job::start(unsigned number) {
  const std::string root = fmt::format("unix:cardea-chaos-{}-{}", getpid(), number);
  const pid_t driver = getpid();
  std::fflush(nullptr);
  started_ = Now::now();
  for (std::uint32_t rank = 0; rank < plan_.ranks; ++rank) {
    const pid_t pid = fork();
    if (pid < 0) throw std::runtime_error("fork failed");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != driver) _exit(3);
      const bool right = run_rank(plan_, rank, root, board_->ranks[rank]);
      std::fflush(nullptr);
      _exit(right ? 0 : 1);
    }
    processes_.push_back({.pid = pid, .progress = started_});
  }
}

void Job::strike() {
  Process& victim = processes_[plan_.victim];
  const auto since = Now::now() - started_;
  if (plan_.fault == Fault::kNone || struck_ == Struck::kOver || victim.ended) return;
  if (struck_ == Struck::kNot && since >= plan_.strike) {
    victim.killed_by_plan = plan_.fault == Fault::kKill;
    kill(victim.pid, plan_.fault == Fault::kKill ? SIGKILL : SIGSTOP);
    struck_ = plan_.fault == Fault::kKill ? Struck::kOver : Struck::kStopped;
  } else if (struck_ == Struck::kStopped && since >= plan_.strike + plan_.standing) {
    victim.killed_by_plan = plan_.fault == Fault::kStopKill;
    kill(victim.pid, plan_.fault == Fault::kStopKill ? SIGKILL : SIGCONT);
    struck_ = Struck::kOver;
  }
}

void Job::reap() {
  for (Process& process : processes_) {
    int status = 0;
    while (!process.ended && waitpid(process.pid, &status, WNOHANG | WUNTRACED | WCONTINUED) == process.pid) {
      if (WIFSTOPPED(status)) {
        ++stops_;
        process.stopped = true;
      } else if (WIFCONTINUED(status)) {
        process.stopped = false;
      } else {
        process.ended = true;
        process.status = status;
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && process.killed_by_plan) ++kills_;
      }
    }
  }
}

bool Job::running() const {
  for (const Process& process : processes_) {
    if (!process.ended) return true;
  }
  return false;
}

bool Job::hanging() {
  const auto now = Now::now();
  for (std::uint32_t rank = 0; rank < processes_.size(); ++rank) {
    Process& process = processes_[rank];
    const std::uint64_t steps = board_->ranks[rank].steps.load();
    if (process.ended || process.stopped || steps != process.steps) process.progress = now;
    process.steps = steps;
    if (now - process.progress > kPatience) return true;
  }
  return false;
}

void Job::dump(std::string& report) const {
  for (std::uint32_t rank = 0; rank < processes_.size(); ++rank) {
    const Process& process = processes_[rank];
    const Place& place = board_->ranks[rank];
    report += fmt::format("  rank {} (process {}): {}, layer {} version {}, {} steps, last status {}{}\n", rank, process.pid,
                          kDoing[static_cast<std::size_t>(place.doing.load())], place.layer.load(), place.version.load(),
                          place.steps.load(), place.last_status.load(),
                          process.ended     ? fmt::format(", ended ({:#x})", process.status)
                          : process.stopped ? ", stopped"
                                            : "");
    if (process.ended) continue;
    std::error_code none;
    for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", process.pid), none)) {
      report += fmt::format("    thread {}: {}, waits in {}\n", task.path().filename().string(),
                            first_line(task.path() / "comm"), first_line(task.path() / "wchan"));
    }
  }
}

void Job::judge(JobResult& result) const {
  for (std::uint32_t rank = 0; rank < processes_.size(); ++rank) {
    const Process& process = processes_[rank];
    const Place& place = board_->ranks[rank];
    result.fetches += place.fetches.load();
    result.views += place.views.load();
    result.bytes += place.bytes.load();
    result.cancels += place.cancels.load();
    result.prefetches += place.prefetches.load();
    result.gangs += place.gangs.load();
    result.deadlines += place.deadlines.load();
    result.failed_experts += place.failed_experts.load();
    result.lost_layers += place.lost_layers.load();
    if (place.wrong.load() != 0) {
      result.right = false;
      const std::string_view text = place.message;
      result.mismatch |= text.starts_with("MISMATCH");
      result.hung |= text.starts_with("hang");
      result.report += fmt::format("  rank {}: {}\n", rank, text);
    } else if (process.ended && process.status != 0 && !process.killed_by_plan) {
      result.right = false;
      result.report += fmt::format("  rank {} ended by itself: {}\n", rank,
                                   WIFSIGNALED(process.status) ? fmt::format("signal {}", WTERMSIG(process.status))
                                                               : fmt::format("exit code {}", WEXITSTATUS(process.status)));
    }
  }
  result.kills = kills_;
  result.stops = stops_;
}

JobResult Job::run(const std::function<void()>& meanwhile) {
  JobResult result;
  for (unsigned turn = 0; running(); ++turn) {
    strike();
    reap();
    if (turn % 50 == 0) {
      meanwhile();
      if (hanging()) {
        result.right = false;
        result.hung = true;
        break;
      }
    }
    std::this_thread::sleep_for(kStep);
  }
  judge(result);
  if (!result.right) dump(result.report);
  return result;
}

}  // namespace cardea::chaos
