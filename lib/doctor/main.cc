// SPDX-License-Identifier: Apache-2.0
// cardea-doctor, or `cardea doctor`: why is it slow, or failing, here? Finds out what there is, checks it, forms a small job
// and measures each peer's path. Exit status: 0 all is well, 1 something is off, 2 wrong options or out of time.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

#include "lib/doctor/checks.h"
#include "lib/doctor/own_job.h"
#include "lib/doctor/report.h"
#include "topology/discover.h"

namespace cardea::doctor {
namespace {

constexpr int kOff = 1;
constexpr int kFailed = 2;

struct Arguments {
  bool json = false, no_job = false, member = false;
  unsigned timeout = 60;
};

/// Ends the program when its time is over, whatever it waits for: a driver, a file system, a name server.
class Watchdog {
 public:
  explicit Watchdog(unsigned seconds) {
    std::thread([this, seconds] {
      std::this_thread::sleep_for(std::chrono::seconds(seconds));
      const std::string text = fmt::format("cardea-doctor: out of time after {} s, while {}\n", seconds, doing_.load());
      [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
      _exit(kFailed);
    }).detach();
  }
  void now(const char* what) { doing_.store(what); }

 private:
  std::atomic<const char*> doing_{"starting"};
};

/// Ranks of the job that a launcher has made this process part of; 1 where none has. Slurm's own shells know how many tasks
/// there will be, and are none of them.
unsigned launched_ranks(const System& system) {
  constexpr std::array<std::pair<const char*, const char*>, 3> kLaunchers = {
      {{"CARDEA_WORLD_SIZE", "CARDEA_RANK"},
       {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
       {"SLURM_NTASKS", "SLURM_PROCID"}}};
  for (const auto& [size, rank] : kLaunchers) {
    const auto text = system.variable(size);
    if (text && system.variable(rank)) return static_cast<unsigned>(std::atoi(text->c_str()));
  }
  // torchrun's names are common words: all of them must be there.
  if (system.variable("RANK") && system.variable("MASTER_ADDR")) {
    if (const auto text = system.variable("WORLD_SIZE")) return static_cast<unsigned>(std::atoi(text->c_str()));
  }
  return 1;
}

std::string program_path() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

void find_machine(System& system) {
  Result<topology::Machine> machine = topology::discover(topology::Sources::from_environment());
  if (machine.ok()) {
    system.machine = std::move(*machine);
  } else {
    system.machine_error = machine.status().message();
  }
}

/// Findings of members of other hosts, which rank 0 has not made itself.
void add_from_others(const Probe& probe, Findings& findings) {
  if (probe.members.empty()) return;
  std::vector<std::string> hosts = {probe.members.front().host};
  for (const Member& member : probe.members) {
    if (std::find(hosts.begin(), hosts.end(), member.host) != hosts.end()) continue;
    hosts.push_back(member.host);
    for (Finding finding : member.findings) {
      finding.what = fmt::format("{}: {}", member.host, finding.what);
      findings.push_back(std::move(finding));
    }
  }
}

int run_member(const Findings& own, Nanoseconds patience) {
  const Probe probe = member(own, patience);
  if (probe.self == 0) {
    fmt::print("{}{}\n", kMemberMark, probe_line(probe));
  } else {
    for (const Finding& finding : probe.findings) fmt::print(stderr, "rank {}: {}\n", probe.self, finding.what);
  }
  return 0;
}

int run(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Why is it slow, or failing, here? Shows what Cardea finds on this machine, checks limits, kernel and variables, "
      "forms a\n"
      "small job (that of the launcher which has started it, else one of four ranks on this machine) and measures the path\n"
      "that each peer gets. Exit status: 0 all is well, 1 something is off, 2 wrong options or out of time."};
  app.name("cardea-doctor");
  app.add_flag("--json", arguments.json, "JSON");
  app.add_flag("--no-job", arguments.no_job, "form no job");
  app.add_option("--timeout", arguments.timeout, "seconds for all of it")
      ->capture_default_str()
      ->check(CLI::Range(5U, 3600U));
  app.add_flag("--member", arguments.member, "")->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kFailed;
  }

  System system = System::of_this_process();  // forks, so that it comes before any thread
  std::erase_if(system.variables, [](const auto& entry) { return set_by_log_ucx(entry.first, entry.second); });
  const unsigned ranks = launched_ranks(system);
  const bool in_job = (ranks > 1 || arguments.member) && !arguments.no_job;
  if (in_job) log_ucx(argv);
  Watchdog watchdog(arguments.timeout);
  const Clock::time_point end = Clock::now() + std::chrono::seconds(arguments.timeout);
  // What follows the job has to be printed, too.
  const auto patience = [&] { return (end - Clock::now()) * 4 / 5; };
  if (arguments.member) {
    watchdog.now("a job was formed");
    return run_member({}, patience());
  }
  watchdog.now("the machine's topology was read");
  find_machine(system);
  if (const auto root = system.variable("CARDEA_ROOT"); root && !in_job && !root->starts_with("unix:")) {
    watchdog.now("CARDEA_ROOT was tried");
    system.root_reach = reach(*root, std::min<Nanoseconds>(patience() / 3, std::chrono::seconds(5)));
  }
  watchdog.now("it was checked");
  Report report;
  report.findings = run_checks(system);
  Probe probe;
  if (in_job) {
    watchdog.now("the job was formed and probed");
    probe = member(report.findings, patience());
    report.probed = probe.members.empty() || probe.findings.empty() || probe.findings.front().kind != "job.form"
                        ? fmt::format("the launcher's job: {} ranks", ranks)
                        : fmt::format("the launcher's job of {} ranks was not formed, or broke", ranks);
  } else if (!arguments.no_job) {
    watchdog.now("a job of four ranks was formed and probed");
    probe = own_job(program_path(), patience());
    report.probed = "four ranks on two nodes that this machine plays (started under a launcher, doctor probes its job)";
  } else {
    report.probed = "no job was formed (--no-job)";
  }
  report.members = probe.members;
  if (report.members.size() == 1 && report.members.front().peers.empty()) report.members.clear();
  report.findings.insert(report.findings.end(), probe.findings.begin(), probe.findings.end());
  add_from_others(probe, report.findings);
  // Of a job that has formed, rank 0 tells everything.
  const bool formed = std::none_of(probe.findings.begin(), probe.findings.end(),
                                   [](const Finding& finding) { return finding.kind == "job.form"; });
  if (in_job && formed && probe.self != 0) return 0;
  watchdog.now("the report was made");
  report.sections = inventory(system);
  const std::string text = arguments.json ? to_json(report) : to_text(report);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return something_is_off(report.findings) ? kOff : 0;
}

}  // namespace
}  // namespace cardea::doctor

int main(int argc, char** argv) {
  try {
    return cardea::doctor::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cardea-doctor: {}\n", error.what());
    return 2;
  }
}
