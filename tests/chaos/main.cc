// SPDX-License-Identifier: Apache-2.0
// The chaos run: job after job of real ranks on nodes that this machine plays, each planned by a seed, with kills, stops,
// cancels, deadlines, prefetches, gangs, versions and sizes at random, until the time is over or something is wrong.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "perf/simulator/random.h"
#include "tests/chaos/job.h"

namespace {

using namespace cardea::chaos;  // NOLINT(google-build-using-namespace)
using Now = std::chrono::steady_clock;

struct Totals {
  unsigned jobs = 0, kills = 0, stops = 0, mismatches = 0, hangs = 0, wrong = 0;
  std::uint64_t fetches = 0, views = 0, bytes = 0, cancels = 0, prefetches = 0, gangs = 0, deadlines = 0, lost_layers = 0;

  void add(const JobResult& job) {
    ++jobs;
    kills += job.kills;
    stops += job.stops;
    mismatches += job.mismatch;
    hangs += job.hung;
    wrong += !job.right && !job.mismatch && !job.hung;
    fetches += job.fetches;
    views += job.views;
    bytes += job.bytes;
    cancels += job.cancels;
    prefetches += job.prefetches;
    gangs += job.gangs;
    deadlines += job.deadlines;
    lost_layers += job.lost_layers;
  }
  std::string text() const {
    return fmt::format(
        "{} jobs, {} fetches ({} prefetches, {} gangs, {} with deadlines), {} views checked ({} MiB read), {} kills, {} "
        "stops, "
        "{} cancels, {} layers lost to kills, {} mismatches, {} hangs, {} wrong ends",
        jobs, fetches, prefetches, gangs, deadlines, views, bytes >> 20, kills, stops, cancels, lost_layers, mismatches,
        hangs, wrong);
  }
};

/// A folder for the job's secret, gone at the end.
class Home {
 public:
  Home() {
    std::string name = std::filesystem::temp_directory_path() / "cardea-chaos-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
    const std::string secret = path_ + "/secret";
    std::ofstream(secret) << "a secret for as long as this runs";
    chmod(secret.c_str(), 0600);
    setenv("CARDEA_SECRET_FILE", secret.c_str(), 1);
  }
  ~Home() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Home(const Home&) = delete;
  Home& operator=(const Home&) = delete;

 private:
  std::string path_;
};

int run(std::uint64_t seed, double seconds, std::uint64_t only_job) {
  const Home home;
  setenv("UCX_TLS", "tcp,self", 0);
  setenv("CARDEA_DEBUG", "ERROR", 0);  // losses are what this is about
  setenv("UCX_LOG_LEVEL", "fatal", 0);
  setenv("UCX_WARN_UNUSED_ENV_VARS", "n", 0);  // a UCX built without logging calls that one unused
  fmt::print("chaos: seed {}, {} s; again: --seed {}\n", seed, seconds, seed);
  const auto began = Now::now();
  const auto spent = [&] { return std::chrono::duration<double>(Now::now() - began).count(); };
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  double shown = 0;
  Totals totals;
  for (unsigned number = 0; spent() < seconds || (only_job != 0 && number == 0); ++number) {
    const std::uint64_t job_seed = only_job != 0 ? only_job : cardea::simulator::Random(seed, number)() >> 16;
    const JobPlan plan = plan_job(job_seed);
    const JobResult result = Job(plan, number).run([&] {
      if (spent() - shown < (terminal ? 0.5 : 20)) return;
      shown = spent();
      fmt::print("{}chaos: {:.0f} s, {}{}", terminal ? "\r" : "", shown, totals.text(), terminal ? "\x1b[K" : "\n");
      std::fflush(stdout);
    });
    totals.add(result);
    if (!result.right) {
      fmt::print("{}FAILED: job {}; again: --job {}\n  {}\n{}", terminal ? "\n" : "", number, job_seed, describe(plan),
                 result.report);
      break;
    }
  }
  const bool right = totals.mismatches + totals.hangs + totals.wrong == 0;
  fmt::print("{}chaos: seed {}: {:.0f} s, {}\n", terminal ? "\r\x1b[K" : "", seed, spent(), totals.text());
  if (right && (totals.views == 0 || (seconds >= 60 && only_job == 0 && (totals.kills == 0 || totals.stops == 0)))) {
    fmt::print("FAILED: nothing was tested\n");
    return 1;
  }
  return right ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Runs random jobs under random faults and checks every byte of every view."};
  double seconds = 60;
  std::uint64_t seed = 0, job = 0;
  app.add_option("--seconds", seconds, "How long (default 60)")->check(CLI::Range(1.0, 1e6));
  app.add_option("--seed", seed, "Of the run (default: another each time)");
  app.add_option("--job", job, "Run one job again, by the seed that was printed, for as long as --seconds says");
  CLI11_PARSE(app, argc, argv);
  if (seed == 0) seed = std::random_device()() % 1000000 + 1;
  try {
    return run(seed, seconds, job);
  } catch (const std::exception& error) {
    fmt::print(stderr, "chaos: {}\n", error.what());
    return 2;
  }
}
