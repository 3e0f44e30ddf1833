// SPDX-License-Identifier: Apache-2.0
// The production core over a modelled cluster in virtual time; docs/simulator.md tells what is modelled.
//   simulate                     one run, and what it did
//   simulate --ablation          what each strategy is worth; with --machine FILE, on such machines
//   simulate --random --seed N   the small job full of faults that a property test ran
//   simulate --replay FILE       the requests of a log again; of a real run, one FILE for each rank
//   simulate --emulated …        predicts fetch_all on perf/cluster.sh
// Exits with 0, with 1 if a run broke a rule or did not come to its end, with 2 on wrong options.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <fstream>
#include <memory>

#include "perf/simulator/ablation.h"
#include "perf/simulator/cluster.h"
#include "perf/simulator/job_log.h"
#include "perf/simulator/random_plan.h"
#include "perf/simulator/simulation.h"

namespace cardea::simulator {
namespace {

constexpr int kWrongOptions = 2;

struct Options {
  bool ablation = false, random = false, emulated = false;
  bool ranks_given = false;
  std::string log, json;
  std::vector<std::string> replay;
  std::uint64_t hosts = 4, ranks_per_host = 1;
  double gbit = 1, goodput = 0.92;
};

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

int refuse(const Status& status) {
  fmt::print(stderr, "simulate: {} (--help lists the options)\n", status.message());
  return kWrongOptions;
}

/// On a terminal, for runs that take long.
class ProgressBar {
 public:
  void show(const std::string& what, double done) {
    if (!terminal_ || std::chrono::steady_clock::now() - began_ < std::chrono::seconds(1)) return;
    constexpr int kWidth = 40;
    const int full = static_cast<int>(done * kWidth);
    fmt::print(stderr, "\r{:<22} [{:<{}}] {:3.0f}%", what, std::string(static_cast<std::size_t>(full), '#'), kWidth,
               done * 100);
    shown_ = true;
  }
  ~ProgressBar() {
    if (shown_) fmt::print(stderr, "\r{:80}\r", "");
  }

 private:
  bool terminal_ = isatty(STDERR_FILENO) != 0, shown_ = false;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

double milliseconds(Nanoseconds time) {
  return static_cast<double>(time.count()) * 1e-6;
}

int print(const Plan& plan, const Report& report, const std::string& replay) {
  const Result<Routing> routing = Routing::make(plan);
  const Bound bound = lower_bound(plan, *routing);
  fmt::print("{} nodes of {} ranks, {} layers of {} experts of {:.2f} MiB, {} steps, seed {}\n\n", plan.nodes,
             plan.ranks_per_node, plan.layers, plan.experts, static_cast<double>(plan.expert_bytes) / (1 << 20), plan.steps,
             plan.seed);
  fmt::print("{:<34} {:>16.3f} ms\n", "time", milliseconds(report.time));
  fmt::print("{:<34} {:>16.3f} ms  ({})\n", "lower bound", milliseconds(bound.time), bound.busiest);
  fmt::print("{:<34} {:>16.3f}\n", "ratio", milliseconds(report.time) / milliseconds(bound.time));
  fmt::print("{:<34} {:>16}\n", "chunks", report.chunks);
  fmt::print("{:<34} {:>16}  ({} of them a second time into a node)\n", "bytes over the network", report.network_bytes,
             report.repeated_network_bytes);
  fmt::print("{:<34} {:>16}  ({} of them pulled from other ranks' slots)\n", "bytes copied within nodes", report.copy_bytes,
             report.pulled_bytes);
  for (const auto& [path, count] : report.views)
    fmt::print("{:<34} {:>16}\n", fmt::format("views by path {}", static_cast<int>(path)), count);
  for (const auto& [code, count] : report.failures)
    fmt::print("{:<34} {:>16}\n", fmt::format("experts failed: {}", cardea_status_string(code)), count);
  fmt::print("{:<34} {:>16}\n", "prefetched bytes wasted", report.wasted_bytes);
  fmt::print("{:<34} {:>16}\n", "node cache: hits, misses", fmt::format("{}, {}", report.cache_hits, report.cache_misses));
  fmt::print("{:<34} {:>16}\n", "  evicted, overdue, bypassed",
             fmt::format("{}, {}, {}", report.cache_evicted, report.cache_overdue, report.cache_bypassed));
  fmt::print("{:<34} {:>16}\n", "deaths, stops, aborts",
             fmt::format("{}, {}, {}", report.deaths, report.stops, report.aborted));
  fmt::print("{:<34} {:>16}\n", "events of the log", report.events);
  fmt::print("{:<34} {:016x}\n", "hash", report.hash);
  for (const std::string& what : report.violations) fmt::print("VIOLATION: {}\n", what);
  if (report.violation_count != 0) fmt::print("{} violations; replay: {}\n", report.violation_count, replay);
  return report.violation_count == 0 ? 0 : 1;
}

int run_ablation(const Plan& plan, const Options& options) {
  Result<std::vector<AblationRow>> rows = [&] {
    ProgressBar bar;
    return ablation(plan, [&](const std::string& row, double done) { bar.show(row, done); });
  }();
  if (!rows.ok()) return refuse(rows.status());
  fmt::print("{} nodes of {} ranks, {} layers of {} experts of {:.2f} MiB\n\n{}", plan.nodes, plan.ranks_per_node,
             plan.layers, plan.experts, static_cast<double>(plan.expert_bytes) / (1 << 20), to_table(*rows));
  if (!options.json.empty()) {
    std::ofstream out(options.json);
    out << to_json(plan, *rows);
    if (!out.flush())
      return refuse(Status::error(CARDEA_ERR_INVALID_ARGUMENT, "--json {}: cannot be written", options.json));
  }
  std::uint64_t violations = 0;
  for (const AblationRow& row : *rows) violations += row.report ? row.report->violation_count : 0;
  return violations == 0 ? 0 : 1;
}

/// Ranks of fetch_all meet when all have published, and fetch then; that time does not count.
constexpr std::uint64_t kMeeting = 1'000'000;

/// fetch_all on perf/cluster.sh: hosts with one shaped link each, experts of the host mapped, nothing computed.
Plan emulated(Plan plan, const Options& options) {
  plan.nodes = options.hosts;
  plan.ranks_per_node = options.ranks_per_host;
  plan.nics = 1;
  plan.nic_rate = static_cast<std::uint64_t>(options.gbit * 1e9 / 8 * options.goodput);
  plan.mapped = true;
  plan.prefetch = false;
  plan.expert_time = 0;
  plan.dense_time = kMeeting;
  return plan;
}

int print_emulated(const Plan& plan, const Report& report, const Options& options) {
  const double time =
      static_cast<double>(report.ready_time.count() - static_cast<std::int64_t>(kMeeting * plan.layers)) * 1e-9;
  const double per_host = static_cast<double>(report.network_bytes) / static_cast<double>(plan.nodes);
  fmt::print("{} hosts of {} ranks at {} Gbit/s, {} layers of {} experts of {:.2f} MiB\n\n", plan.nodes, plan.ranks_per_node,
             options.gbit, plan.layers, plan.experts, static_cast<double>(plan.expert_bytes) / (1 << 20));
  fmt::print("{:<34} {:>12.3f} s\n", "predicted time of one repetition", time);
  fmt::print("{:<34} {:>12.1f} MiB\n", "received by each host", per_host / (1 << 20));
  fmt::print("{:<34} {:>12.2f} MB/s\n", "that is", per_host / time / 1e6);
  if (!options.json.empty()) {
    std::ofstream out(options.json);
    out << fmt::format("{{\"seconds\": {:.6f}, \"received_bytes_per_host\": {:.0f}, \"plan\": \"{}\"}}\n", time, per_host,
                       to_line(plan));
    if (!out.flush())
      return refuse(Status::error(CARDEA_ERR_INVALID_ARGUMENT, "--json {}: cannot be written", options.json));
  }
  for (const std::string& what : report.violations) fmt::print("VIOLATION: {}\n", what);
  return report.violation_count == 0 ? 0 : 1;
}

void add_flags(CLI::App& app, Plan& plan) {
  const std::map<std::string, std::uint64_t> times = {{"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}};
  const std::map<std::string, std::uint64_t> rates = {{"K", 1'000}, {"M", 1'000'000}, {"G", 1'000'000'000}};
  for (const Field& field : fields(plan)) {
    const std::string flag = std::string("--") + field.name;
    CLI::Option* option = nullptr;
    if (auto* const* number = std::get_if<std::uint64_t*>(&field.at)) {
      option = app.add_option(flag, **number, field.help);
      if (field.unit == Unit::kTime)
        option->transform(CLI::AsNumberWithUnit(times, CLI::AsNumberWithUnit::CASE_SENSITIVE, "TIME"))->type_name("TIME");
      if (field.unit == Unit::kRate)
        option->transform(CLI::AsNumberWithUnit(rates, CLI::AsNumberWithUnit::CASE_SENSITIVE, "RATE"))->type_name("BYTES/S");
      if (field.unit == Unit::kBytes) option->transform(CLI::AsSizeValue(false))->type_name("BYTES");
      if (field.unit == Unit::kPercent) option->type_name("PERCENT");
    } else if (auto* const* real = std::get_if<double*>(&field.at)) {
      option = app.add_option(flag, **real, field.help);
    } else if (auto* const* flagged = std::get_if<bool*>(&field.at)) {
      option = app.add_option(flag, **flagged, field.help)->type_name("0|1");
    } else {
      option = app.add_option(flag, *std::get<std::string*>(field.at), field.help);
    }
    option->capture_default_str()->group("Plan");
  }
}

/// What --replay names: the log of a simulation, or those of a real job's ranks.
Result<RecordedRun> read_run(const Options& options) {
  std::vector<std::unique_ptr<std::istream>> logs;
  for (const std::string& name : options.replay) {
    auto in = std::make_unique<std::ifstream>(name);
    if (!*in) return Status::from_errno(errno, "open", name);
    logs.push_back(std::move(in));
  }
  if (!is_job_log(*logs.front())) {
    if (logs.size() != 1) return Status(CARDEA_ERR_INVALID_ARGUMENT, "--replay takes one log of a simulation");
    Result<RecordedRun> recorded = read_log(*logs.front());
    return recorded.ok() ? std::move(recorded) : Result<RecordedRun>(recorded.status().within(options.replay.front()));
  }
  Result<JobLog> job = merge_job_logs(logs);
  if (!job.ok()) return job.status().within("--replay");
  fmt::print("a real run of {} ranks; {} requests over {:.3f} ms\n", job->run.plan.ranks(), job->run.requests.size(),
             static_cast<double>(job->nanoseconds) * 1e-6);
  fmt::print("rates as it showed them: network {:.3f} GB/s into a node, copies {:.3f} GB/s of a rank\n",
             static_cast<double>(job->run.plan.nic_rate) * 1e-9, static_cast<double>(job->run.plan.copy_rate) * 1e-9);
  for (const std::string& what : job->left_out) fmt::print("left out: {}\n", what);
  return std::move(job->run);
}

int run(Plan plan, const Options& options, const std::string& command) {
  if (options.emulated) plan = emulated(plan, options);
  if (options.random) plan = random_plan(plan.seed);
  if (options.emulated && (!(options.gbit > 0) || !(options.goodput > 0 && options.goodput <= 1)))
    return refuse(Status(CARDEA_ERR_INVALID_ARGUMENT, "--gbit and --goodput must be above 0, and --goodput at most 1"));
  if (const Status status = Cluster::fit(plan, options.ranks_given); !status.ok()) return refuse(status);
  if (const Status status = check(plan); !status.ok()) return refuse(status);
  if (options.ablation) return run_ablation(plan, options);

  File log(nullptr, &std::fclose);
  if (!options.log.empty()) {
    log.reset(std::fopen(options.log.c_str(), "w"));
    if (!log) return refuse(Status::from_errno(errno, "fopen", options.log));
  }
  Result<Report> report = Status(CARDEA_ERR_INVALID_ARGUMENT, "nothing to run");
  {
    ProgressBar bar;
    const auto show = [&](double done) { bar.show("simulating", done); };
    if (options.replay.empty()) {
      report = simulate(plan, log.get(), show);
    } else {
      const Result<RecordedRun> recorded = read_run(options);
      if (!recorded.ok()) return refuse(recorded.status());
      plan = recorded->plan;
      report = simulate(*recorded, log.get(), show);
    }
  }
  if (!report.ok()) return refuse(report.status());
  if (options.emulated) return print_emulated(plan, *report, options);
  return print(plan, *report, command);
}

}  // namespace
}  // namespace cardea::simulator

int main(int argc, char** argv) {
  using namespace cardea::simulator;
  Plan plan;
  Options options;
  CLI::App app("Simulates Cardea's core over a modelled cluster in virtual time");
  auto* const ablation = app.add_flag("--ablation", options.ablation, "what each strategy is worth");
  auto* const random = app.add_flag("--random", options.random, "a small job full of faults, drawn from --seed");
  auto* const emulated = app.add_flag("--emulated", options.emulated, "predict fetch_all on perf/cluster.sh");
  auto* const replay = app.add_option("--replay", options.replay,
                                      "the requests of a log, in the cluster that it names; of a real job all ranks' logs");
  app.add_option("--log", options.log, "write every event here");
  app.add_option("--json", options.json, "write the result of --ablation or --emulated here");
  app.add_option("--hosts", options.hosts, "of --emulated")
      ->needs(emulated)
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  app.add_option("--ranks-per-host", options.ranks_per_host, "of --emulated")
      ->needs(emulated)
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option("--gbit", options.gbit, "of --emulated: rate of each host's link")->needs(emulated)->capture_default_str();
  app.add_option("--goodput", options.goodput, "of --emulated: payload's part of the link's bytes")
      ->needs(emulated)
      ->capture_default_str();
  add_flags(app, plan);
  ablation->excludes(random)->excludes(emulated)->excludes(replay);
  random->excludes(emulated)->excludes(replay);
  emulated->excludes(replay);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongOptions;
  }
  options.ranks_given = app.count("--ranks-per-node") != 0;
  std::string command;
  for (int i = 0; i < argc; ++i) command += (i == 0 ? "" : " ") + std::string(argv[i]);
  return run(plan, options, command);
}
