// SPDX-License-Identifier: Apache-2.0
// The kill matrix: ranks of small jobs are killed and stopped in every phase of their lives, with and without a child that
// holds their descriptors; see --help. Cases mostly wait, so several run side by side, each in processes of its own. Where
// the system allows it, the whole matrix has a network, a /tmp and a /dev/shm of its own, which must be empty at the end.
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "tests/fault/fault_board.h"
#include "tests/fault/fault_run.h"

namespace cardea::test {
namespace {

/// How a case ended, in memory that its process shares with this one.
struct Cell {
  std::atomic<bool> over{false};
  bool proven = false;
  std::uint64_t told_ms = 0, close_ms = 0;
  std::uint32_t attempts = 0;
  char failure[600] = {};
  char heard[400] = {};
};

struct Cells {
  static constexpr std::size_t kMost = 4096;
  std::atomic<std::uint64_t> lag_ns{0};
  Cell cell[kMost];
};

void copy(char* to, std::size_t room, const std::string& text) {
  std::snprintf(to, room, "%s", text.c_str());
}

bool loopback_up() {
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return false;
  ifreq request{};
  std::snprintf(request.ifr_name, sizeof request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  const bool up = ioctl(socket, SIOCSIFFLAGS, &request) == 0;
  close(socket);
  return up;
}

/// A network, a /tmp and a /dev/shm that nobody else uses.
bool isolate() {
  if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0) return false;
  return loopback_up() && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("none", "/dev/shm", "tmpfs", 0, "size=256m") == 0 && mount("none", "/tmp", "tmpfs", 0, "size=256m") == 0;
}

std::string left_behind() {
  std::string left;
  for (const char* const directory : {"/tmp", "/dev/shm"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) left += " " + entry.path().string();
  }
  std::ifstream sockets("/proc/self/net/unix");
  for (std::string line; std::getline(sockets, line);) {
    if (const std::size_t at = line.find('@'); at != std::string::npos) left += " " + line.substr(at);
  }
  return left;
}

pid_t start(const FaultCase& one, Cells& cells, Cell& cell) {
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const FaultResult result = run_case(one, cells.lag_ns);
  cell.proven = result.proven;
  cell.told_ms = result.told_ms;
  cell.close_ms = result.close_ms;
  cell.attempts = result.attempts;
  copy(cell.failure, sizeof cell.failure, result.failure);
  copy(cell.heard, sizeof cell.heard, result.heard);
  cell.over.store(true);
  _exit(0);
}

struct Options {
  bool full = false, verbose = false;
  std::uint64_t seed = 1, limit_ms = 1000;
  std::size_t jobs = 6;
  std::vector<std::uint32_t> only;
};

int run(const Options& options) {
  const bool isolated = isolate();
  if (!isolated) std::printf("not isolated (needs root): sockets and files left behind are not looked for\n");
  std::vector<FaultCase> plan =
      options.full ? all_cases(options.seed, options.limit_ms) : some_cases(options.seed, options.limit_ms);
  if (!options.only.empty()) {
    std::erase_if(plan, [&](const FaultCase& one) {
      return std::find(options.only.begin(), options.only.end(), one.number) == options.only.end();
    });
  }
  Cells& cells = *make_shared_memory<Cells>();
  std::map<pid_t, std::size_t> running;
  std::size_t next = 0, failures = 0, proven = 0;
  std::uint64_t told_killed = 0, told_stopped = 0, close = 0;
  const std::uint64_t began = monotonic_ns();
  while (next < plan.size() || !running.empty()) {
    while (next < plan.size() && running.size() < options.jobs) {
      running.emplace(start(plan[next], cells, cells.cell[next]), next);
      ++next;
    }
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) {
      constexpr std::uint64_t kNap = 2'000'000;
      const std::uint64_t before = monotonic_ns();
      usleep(kNap / 1000);
      const std::uint64_t slept = monotonic_ns() - before;
      cells.lag_ns.store(std::max(cells.lag_ns.load(), slept - std::min(slept, kNap)));
      continue;
    }
    const auto found = running.find(pid);
    if (found == running.end()) continue;
    const FaultCase& one = plan[found->second];
    Cell& cell = cells.cell[found->second];
    running.erase(found);
    if (!cell.over.load())
      copy(cell.failure, sizeof cell.failure, fmt::format("the case itself died: status {:#x}", status));
    proven += cell.proven ? 1 : 0;
    close = std::max(close, cell.close_ms);
    std::uint64_t& told = one.signal == SIGKILL ? told_killed : told_stopped;
    told = std::max(told, cell.told_ms);
    if (cell.failure[0] != '\0') {
      ++failures;
      std::printf("FAILED %s: %s\n", one.name().c_str(), cell.failure);
    } else if (options.verbose) {
      std::printf("ok %s: told after %lu ms, closed in %lu ms, attempt %u; %s\n", one.name().c_str(), cell.told_ms,
                  cell.close_ms, cell.attempts, cell.heard);
    }
    std::fflush(stdout);
  }
  if (isolated) {
    if (const std::string left = left_behind(); !left.empty()) {
      ++failures;
      std::printf("FAILED left behind:%s\n", left.c_str());
    }
  }
  std::printf("kill matrix, seed %lu, liveness limit %lu ms: %zu cases, %zu faults proven, %zu failures\n", options.seed,
              options.limit_ms, plan.size(), proven, failures);
  std::printf(
      "told at the latest after %lu ms (SIGKILL) and %lu ms (SIGSTOP); longest close %lu ms; worst lag of this machine "
      "%.1f ms; %.0f s\n",
      told_killed, told_stopped, close, static_cast<double>(cells.lag_ns.load()) / 1e6,
      static_cast<double>(monotonic_ns() - began) / 1e9);
  return failures == 0 && proven == plan.size() ? 0 : 1;
}

}  // namespace
}  // namespace cardea::test

int main(int argc, char** argv) {
  // Every rank's expectations are looked at by itself; losses are what this is about, and not to be warned of.
  testing::InitGoogleTest(&argc, argv);
  setenv("CARDEA_DEBUG", "ERROR", 0);
  if (std::getenv("UCX_TLS") == nullptr) setenv("UCX_TLS", "tcp,self", 1);
  cardea::test::Options options;
  CLI::App app(
      "Kills and stops ranks in every phase, and checks what the others make of it. Prints counts of cases, faults "
      "proven and failures; exits with 0 if no case failed.");
  app.add_flag("--full", options.full, "every combination of signal, ranks, phase, size, child and placement (default: 72)");
  app.add_option("--seed", options.seed, "of delays, victims and whatever is not a dimension");
  app.add_option("--limit-ms", options.limit_ms, "liveness limit")->check(CLI::Range(200, 60000));
  app.add_option("--jobs", options.jobs, "cases side by side")->check(CLI::Range(1, 64));
  app.add_option("--only", options.only, "numbers of cases");
  app.add_flag("--verbose", options.verbose, "a line for each case");
  CLI11_PARSE(app, argc, argv);
  return cardea::test::run(options);
}
