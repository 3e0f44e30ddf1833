// SPDX-License-Identifier: Apache-2.0
// Experts from one GPU of this machine to another, by Cardea and by what it is compared with, in one table: a bare loop of
// the same copies over CUDA IPC (the limit), one batch of them, a copy kernel, NCCL's send and receive called directly (also
// with NCCL_P2P_USE_CUDA_MEMCPY=1), and cudaMemcpyPeerAsync. One way, and both ways at once; each transfer waited for, and
// in a loop of transfers that are queued one after the other and waited for at its end.
//
// Two processes, one for each GPU. Every way runs in two fresh processes of its own, so that none has contexts or buffers of
// another beside it. A row's time goes from the first call to the moment when the receiver's host knows that all bytes have
// come; "host" is the part of it before the wait, and "load" tells whose core that ran on (perf/cache_walk.h). Slots are
// poisoned before and compared after; #wrong counts bytes.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "perf/cache_walk.h"
#include "perf/cuda/mover.h"

namespace cardea::perf {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kSkipped = 77;

struct Settings {
  std::size_t least = 1 << 20, most = 256 << 20;
  unsigned factor = 4;
  std::size_t many_bytes = 9437184;  // an expert of Qwen3-30B-A3B
  std::vector<unsigned> many_segments{1, 3};
  unsigned many = 64;
  unsigned warmup = 5, iterations = 50;
  std::vector<std::string> ways;
  bool network = false;
  std::string json;
};

struct Row {
  double p50 = 0, p99 = 0, host = 0;  // seconds, one way
  double load = 0;                    // seconds of a load from 256 KiB, before and after these
  double slept = 0;                   // times that the thread slept in each of these
  double loop = 0;                    // seconds for each of a loop, one way
  double both = 0;                    // seconds, both ways, the slower rank's median
  double both_loop = 0;               // likewise of a loop
  std::uint64_t wrong = 0;
};

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

/// Times that this thread has gone to sleep so far.
long sleeps() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

std::vector<Load> loads(const Settings& settings) {
  std::vector<Load> all;
  for (std::size_t bytes = settings.least; bytes <= settings.most; bytes *= settings.factor) all.push_back({bytes, 1, 1});
  if (settings.many > 1)
    for (const unsigned segments : settings.many_segments)
      all.push_back({settings.many_bytes / (48 * segments) * 48 * segments, settings.many, segments});
  return all;
}

/// A size's iterations: fewer of the large ones.
unsigned iterations(const Settings& settings, const Load& load) {
  const double total = static_cast<double>(load.bytes) * load.experts;
  return std::max(10u, std::min(settings.iterations, static_cast<unsigned>(16e9 / total)));
}

/// Both ranks run this; rank 1 receives one way.
Row measure(Mover& mover, Link& link, CacheWalk& walk, const Settings& settings, const Load& load) {
  Row row;
  const bool receiver = link.rank() == 1;
  const unsigned count = iterations(settings, load);
  std::vector<double> times, hosts;
  unsigned part = 0;
  const auto queue = [&](bool both) {
    part = (part + 1) % kParts;
    if (receiver || both)
      mover.receive(part, both);
    else
      mover.serve(part);
  };
  const auto transfer = [&](bool both, bool keep) {
    const auto start = Clock::now();
    queue(both);
    const auto queued = Clock::now();
    if (!receiver && !both && keep) return;  // a sender may run ahead of its receiver
    mover.finish();
    if (!keep) return;
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    hosts.push_back(std::chrono::duration<double>(queued - start).count());
  };
  const auto checked = [&](bool both) {
    if (receiver || both) mover.poison();
    link.meet();
    transfer(both, false);
    if (receiver || both) row.wrong += mover.wrong(part);
    link.meet();
  };
  for (const bool both : {false, true}) {
    checked(both);
    for (unsigned i = 0; i < settings.warmup; ++i) transfer(both, false);
    const double load_before = walk();
    link.meet();
    times.clear();
    hosts.clear();
    const long sleeps_before = sleeps();
    for (unsigned i = 0; i < count; ++i) transfer(both, true);
    const double slept = static_cast<double>(sleeps() - sleeps_before) / count;
    mover.finish();
    const double load_after = walk();
    link.meet();
    const auto start = Clock::now();
    for (unsigned i = 0; i < count; ++i) queue(both);
    mover.finish();
    const double loop = std::chrono::duration<double>(Clock::now() - start).count() / count;
    link.meet();
    if (times.empty()) {
      // sent only
    } else if (both) {
      row.both = percentile(times, 0.5);
      row.both_loop = loop;
    } else {
      row.loop = loop;
      row.p50 = percentile(times, 0.5);
      row.p99 = percentile(times, 0.99);
      row.host = percentile(hosts, 0.5);
      row.load = (load_before + load_after) / 2;
      row.slept = slept;
    }
    checked(both);
  }
  const Row other = link.swap(row);
  row.both = std::max(row.both, other.both);
  row.both_loop = std::max(row.both_loop, other.both_loop);
  row.wrong += other.wrong;
  return row;
}

/// One rank's process: rows to `out`, one after the other.
void run_rank(const std::string& way, unsigned rank, int link_end, int out, const Settings& settings) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prepare_process(way);
  Link link(link_end, rank);
  int devices = 0;
  check_cuda(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  check_cuda(cudaSetDevice(devices > 1 ? static_cast<int>(rank) : 0), "cudaSetDevice");
  CacheWalk walk;
  for (const Load& load : loads(settings)) {
    const std::unique_ptr<Mover> mover = make_mover(way, link, load);
    const Row row = measure(*mover, link, walk, settings, load);
    mover->judge();
    if (rank == 1 && ::write(out, &row, sizeof row) != sizeof row) throw std::runtime_error("the parent has gone");
  }
}

/// A way's rows, for as many loads as it got through.
std::vector<Row> run_way(const std::string& way, const Settings& settings) {
  int link[2], result[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) != 0 || pipe(result) != 0)
    throw std::runtime_error("no socket pair");
  pid_t ranks[2];
  for (unsigned rank = 0; rank < 2; ++rank) {
    // A rank must not hold the other's end, else it would not see it go.
    std::fflush(nullptr);
    const int mine = link[rank];
    ranks[rank] = fork();
    if (ranks[rank] < 0) throw std::runtime_error("fork failed");
    if (ranks[rank] == 0) {
      ::close(link[1 - rank]);
      ::close(result[0]);
      int code = 0;
      try {
        run_rank(way, rank, mine, result[1], settings);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s, rank %u: %s\n", way.c_str(), rank, error.what());
        code = 1;
      }
      _exit(code);
    }
  }
  ::close(link[0]);
  ::close(link[1]);
  ::close(result[1]);
  std::vector<Row> rows;
  for (Row row; ::read(result[0], &row, sizeof row) == sizeof row;) {
    rows.push_back(row);
    if (isatty(STDERR_FILENO))
      std::fprintf(stderr, "\r\033[K%s: %zu of %zu", way.c_str(), rows.size(), loads(settings).size());
  }
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K");
  ::close(result[0]);
  for (unsigned rank = 0; rank < 2; ++rank) {
    int end = 0;
    waitpid(ranks[rank], &end, 0);
    if (WIFSIGNALED(end)) std::fprintf(stderr, "%s, rank %u: %s\n", way.c_str(), rank, strsignal(WTERMSIG(end)));
  }
  return rows;
}

void print(const Load& load, const std::map<std::string, Row>& rows, const Settings& settings) {
  const double total = static_cast<double>(load.bytes) * load.experts;
  const auto limit = rows.find(limit_name(settings.network));
  for (const std::string& way : settings.ways) {
    const auto found = rows.find(way);
    if (found == rows.end()) continue;
    const Row& row = found->second;
    const auto rate = [&](double seconds) { return total / seconds / 1e9; };
    const auto of_limit = [&](double Row::*what) {
      if (limit != rows.end())
        std::printf(" %8.3f", limit->second.*what / (row.*what));
      else
        std::printf(" %8s", "-");
    };
    std::printf("%12zu %8u %5u %-12s %10.1f %10.1f %8.2f %5.1f %5.1f", load.bytes, load.experts, load.segments, way.c_str(),
                row.p50 * 1e6, row.p99 * 1e6, row.host * 1e6 / load.experts, row.load * 1e9, row.slept);
    of_limit(&Row::p50);
    std::printf(" %10.1f %7.1f", row.loop * 1e6, rate(row.loop));
    of_limit(&Row::loop);
    std::printf(" | %10.1f", row.both * 1e6);
    of_limit(&Row::both);
    std::printf(" %10.1f %7.1f", row.both_loop * 1e6, rate(row.both_loop));
    of_limit(&Row::both_loop);
    std::printf(" | %8llu\n", static_cast<unsigned long long>(row.wrong));
  }
}

void write_json(const Settings& settings, const std::vector<Load>& all,
                const std::vector<std::map<std::string, Row>>& table) {
  nlohmann::json rows = nlohmann::json::array();
  for (std::size_t i = 0; i < all.size(); ++i)
    for (const auto& [way, row] : table[i])
      rows.push_back({{"way", way},
                      {"bytes", all[i].bytes},
                      {"experts", all[i].experts},
                      {"segments", all[i].segments},
                      {"seconds_p50", row.p50},
                      {"seconds_p99", row.p99},
                      {"host_seconds", row.host},
                      {"load_seconds", row.load},
                      {"slept", row.slept},
                      {"loop_seconds", row.loop},
                      {"both_ways_loop_seconds", row.both_loop},
                      {"both_ways_seconds_p50", row.both},
                      {"wrong", row.wrong}});
  std::ofstream(settings.json) << nlohmann::json{{"rows", rows}}.dump(1) << "\n";
}

int run(const Settings& settings) {
  const std::vector<Load> all = loads(settings);
  std::vector<std::map<std::string, Row>> table(all.size());
  bool failed = false;
  for (const std::string& way : settings.ways) {
    const std::vector<Row> rows = run_way(way, settings);
    failed |= rows.size() != all.size();
    for (std::size_t i = 0; i < rows.size(); ++i) table[i][way] = rows[i];
  }
  std::printf(
      "GPU to GPU, two processes%s. Alone: medians of transfers that are waited for, one by one; loop: of many that are\n"
      "queued, each; GB/s each way. \"of limit\": of %s, %s, waited for or looped alike.\n"
      "\"load\": of the core that \"host\" ran on, ns for each of dependent loads from 256 KiB: some 14 cycles where its\n"
      "second-level cache is this process's own, more where others use it, and then \"host\" is longer, too.\n"
      "\"slept\": times that the thread went to sleep in a transfer, for a mutex that another had, or in the driver\n\n",
      settings.network ? ", two nodes over this machine's TCP" : "", limit_name(settings.network),
      settings.network ? "the same between host memories" : "the same copies by hand");
  std::printf("%12s %8s %5s %-12s %10s %10s %8s %5s %5s %8s %10s %7s %8s | %10s %8s %10s %7s %8s | %8s\n", "expert",
              "experts", "segs", "one way:", "alone", "p99", "host", "load", "slept", "of limit", "loop", "GB/s", "of limit",
              "both alone", "of limit", "loop", "GB/s", "of limit", "#wrong");
  std::printf("%12s %8s %5s %-12s %10s %10s %8s %5s %5s %8s %10s %7s %8s | %10s %8s %10s %7s %8s | %8s\n", "bytes", "", "",
              "", "us", "us", "us/exp.", "ns", "", "", "us", "", "", "us", "", "us", "", "", "bytes");
  std::uint64_t wrong = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    print(all[i], table[i], settings);
    for (const auto& [way, row] : table[i]) wrong += row.wrong;
  }
  if (!settings.json.empty()) write_json(settings, all, table);
  if (wrong != 0) std::printf("\nFAILED: %llu bytes are wrong\n", static_cast<unsigned long long>(wrong));
  if (failed) std::printf("\nnot every way got through: see above\n");
  return wrong != 0 || failed ? 1 : 0;
}

/// In a child: a process that has used CUDA cannot be forked.
bool gpu_is_there() {
  const pid_t child = fork();
  if (child == 0) {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess) std::fprintf(stderr, "%s\n", cudaGetErrorString(status));
    _exit(status == cudaSuccess && devices > 0 ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace
}  // namespace cardea::perf

int main(int argc, char** argv) {
  cardea::perf::Settings settings;
  CLI::App app("Experts from GPU to GPU: Cardea beside the limit and beside NCCL, in one run");
  app.add_option("-b,--minbytes", settings.least, "smallest expert")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("-e,--maxbytes", settings.most, "largest expert")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("-f,--stepfactor", settings.factor, "from one size to the next")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  app.add_option("-n,--iters", settings.iterations, "transfers of each size, at most")
      ->check(CLI::Range(10, 100000))
      ->capture_default_str();
  app.add_option("-w,--warmup_iters", settings.warmup, "transfers before them")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--experts", settings.many, "experts of the transfer of many; 1: no such rows")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--expert-bytes", settings.many_bytes, "size of each of them")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--segments", settings.many_segments, "segments of each of them, one set of rows for each number")
      ->check(CLI::Range(1, 16))
      ->delimiter(',')
      ->capture_default_str();
  std::vector<std::string> all = cardea::perf::mover_names(false);
  for (const std::string& way : cardea::perf::mover_names(true)) all.push_back(way);
  app.add_option("--ways", settings.ways, "which ways, in this order; all of the path's")
      ->check(CLI::IsMember(all))
      ->delimiter(',');
  std::string path = "node";
  app.add_option("--path", path, "node: two GPUs of one node; network: two nodes, which this machine plays over TCP")
      ->check(CLI::IsMember({"node", "network"}))
      ->capture_default_str();
  app.add_option("--json", settings.json, "also write the table to this file");
  app.add_option("--memory", "cuda: the only kind here")->check(CLI::IsMember({"cuda"}));
  CLI11_PARSE(app, argc, argv);
  settings.network = path == "network";
  if (settings.ways.empty()) settings.ways = cardea::perf::mover_names(settings.network);
  if (settings.least < 16 || settings.least % 16 != 0 || settings.many_bytes < 48 * 16) {
    std::fprintf(stderr, "fetch_perf_cuda: sizes are multiples of 16 bytes\n");
    return 2;
  }
  if (!cardea::perf::gpu_is_there()) {
    std::fprintf(stderr, "skipped: no GPU here\n");
    return cardea::perf::kSkipped;
  }
  try {
    return cardea::perf::run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fetch_perf_cuda: %s\n", error.what());
    return 1;
  }
}
