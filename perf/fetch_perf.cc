// SPDX-License-Identifier: Apache-2.0
// What a fetch costs by the C API, each figure beside its limit, measured in the same run:
//
//   no --path       a table in the manner of nccl-tests: a row for each way (experts of the node mapped, or copied into
//                   slots; experts of another node over loopback TCP) and size, beside memcpy, a plain socket and UCX's
//                   active messages, bytes checked
//   --path node     two ranks of one node: time from cardea_fetch to the view, and the rate of the first read through it,
//                   beside the same read of a private buffer
//   --path network  two ranks on two nodes of this machine, over loopback TCP: rate of a fetch of several experts, beside
//   the
//                   best rate of UCX's own active messages over several message sizes
//
// Machines drift, so all that is compared is interleaved, and medians are printed.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cardea/cardea.h"
#include "perf/fetch_rank.h"
#include "perf/fetch_table.h"
#include "perf/two_ranks.h"
#include "perf/ucx_raw_am.h"

namespace cardea::perf {
namespace {

struct Settings {
  std::string path = "table";
  std::size_t least = 1 << 20, most = 256 << 20;  // node: expert bytes
  unsigned fetches = 1000;                        // node: for each size
  unsigned first_reads = 5;                       // node: fresh mappings for each size
  std::size_t expert = 16 << 20;                  // network: expert bytes
  unsigned experts = 8;                           // network: in one fetch
  unsigned repeats = 3;                           // network: fetches in one run
  std::vector<std::size_t> messages = {256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20};
  unsigned runs = 10;
};

// ---------------------------------------------------------------- same node

/// Reads all of it, 64 bytes at a time; the sum keeps the compiler from leaving it out.
double read_rate(const void* data, std::size_t bytes) {
  const auto* words = static_cast<const std::uint64_t*>(data);
  const auto start = Clock::now();
  std::uint64_t sum[8] = {};
  for (std::size_t i = 0; i + 8 <= bytes / sizeof(std::uint64_t); i += 8) {
    for (std::size_t j = 0; j < 8; ++j) sum[j] += words[i + j];
  }
  const double took = seconds_since(start);
  for (const std::uint64_t part : sum) asm volatile("" : : "r"(part));
  return static_cast<double>(bytes) / took;
}

/// Neither buffer shall be read from a cache that the other did not have.
void empty_caches() {
  static std::vector<std::uint64_t> scratch((std::size_t{256} << 20) / sizeof(std::uint64_t), 1);
  read_rate(scratch.data(), scratch.size() * sizeof(std::uint64_t));
}

struct NodeRow {
  double p50 = 0, p99 = 0, view_rate = 0, private_rate = 0;
};

NodeRow measure_node(const Settings& settings, std::size_t bytes) {
  const auto source = [&](int link) {
    FetchRank rank(link, 0, false);
    for (unsigned i = 0; i < settings.first_reads; ++i) {
      rank.make_layer(bytes, 1, false);
      rank.publish(1);
      rank.finish(1);
      rank.collect(1);
      rank.drop_layer();
    }
  };
  const auto sink = [&](int link) {
    FetchRank rank(link, 1, false);
    std::vector<double> times, views, privates;
    for (unsigned i = 0; i < settings.first_reads; ++i) {
      rank.make_layer(bytes, 1, false);
      std::unique_ptr<unsigned char, decltype(&std::free)> buffer(
          static_cast<unsigned char*>(std::aligned_alloc(4096, bytes)), &std::free);
      std::memset(buffer.get(), 1, bytes);
      const auto read_view = [&] {
        rank.fetch(1, 1, [&](const cardea_view_t& view) { views.push_back(read_rate(view.segments[0], bytes)); });
      };
      const auto read_private = [&] { privates.push_back(read_rate(buffer.get(), bytes)); };
      // In turns, so that neither is always the later one.
      empty_caches();
      i % 2 == 0 ? read_view() : read_private();
      empty_caches();
      i % 2 == 0 ? read_private() : read_view();
      for (unsigned f = 0; f < settings.fetches / settings.first_reads; ++f)
        times.push_back(rank.fetch(1, 1, [](const cardea_view_t&) {}));
      rank.finish(1);
      rank.drop_layer();
    }
    return std::vector<double>{percentile(times, 0.5), percentile(times, 0.99), median(views), median(privates)};
  };
  const std::vector<double> values = run_two(source, sink);
  return {values[0], values[1], values[2], values[3]};
}

void measure_same_node(const Settings& settings) {
  std::printf("same node, host memory: %u fetches of each size; first read of %u fresh mappings, median\n\n",
              settings.fetches, settings.first_reads);
  std::printf("%12s %14s %14s %16s %16s %8s\n", "expert", "ready p50", "ready p99", "first read", "private buffer", "ratio");
  std::printf("%12s %14s %14s %16s %16s %8s\n", "MiB", "us", "us", "GB/s", "GB/s", "");
  for (std::size_t bytes = settings.least; bytes <= settings.most; bytes *= 4) {
    const NodeRow row = measure_node(settings, bytes);
    std::printf("%12.1f %14.2f %14.2f %16.2f %16.2f %8.2f\n", static_cast<double>(bytes) / (1 << 20), row.p50 * 1e6,
                row.p99 * 1e6, row.view_rate / 1e9, row.private_rate / 1e9, row.view_rate / row.private_rate);
    std::fflush(stdout);
  }
}

// ---------------------------------------------------------------- between nodes

/// One run's rate: the best of several fetches would flatter, so it is all of them together.
double network_rate(const Settings& settings) {
  const auto source = [&](int link) {
    FetchRank rank(link, 0, true);
    rank.make_layer(settings.expert, settings.experts, false);
    for (std::uint64_t version = 0; version <= settings.repeats; ++version) {
      rank.publish(version);
      rank.finish(version);
      rank.collect(version);
    }
    rank.drop_layer();
  };
  const auto sink = [&](int link) {
    FetchRank rank(link, 1, true);
    rank.make_layer(settings.expert, settings.experts, true);
    double took = 0;
    for (std::uint64_t version = 0; version <= settings.repeats; ++version) {
      const double seconds = rank.fetch(version, settings.experts, [](const cardea_view_t&) {});
      if (version != 0) took += seconds;  // the first opens connections
      rank.finish(version);
    }
    rank.drop_layer();
    return std::vector<double>{static_cast<double>(settings.expert) * settings.experts * settings.repeats / took};
  };
  return run_two(source, sink)[0];
}

double raw_rate(const Settings& settings, std::size_t bytes, RawErrors errors) {
  const std::size_t count = std::max<std::size_t>(settings.expert * settings.experts * settings.repeats / bytes, 1);
  constexpr std::size_t kWindow = 8;
  const std::size_t footprint = settings.expert * settings.experts;  // the same memory as the fetches move
  return run_two(
      [&](int link) { raw_send(link, bytes, count, kWindow, footprint, RawProtocol::kDefault, errors); },
      [&](int link) { return std::vector<double>{raw_receive(link, bytes, count, kWindow, footprint, errors)}; })[0];
}

void measure_network(const Settings& settings) {
  std::vector<double> fetches;
  std::map<std::size_t, std::vector<double>> raw, surviving;
  for (unsigned run = 0; run < settings.runs; ++run) {
    if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\rrun %u of %u", run + 1, settings.runs);
    fetches.push_back(network_rate(settings));
    for (const std::size_t bytes : settings.messages) {
      raw[bytes].push_back(raw_rate(settings, bytes, RawErrors::kNone));
      surviving[bytes].push_back(raw_rate(settings, bytes, RawErrors::kPeer));
    }
  }
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r%*s\r", 20, "");
  double best = 0, best_surviving = 0;
  std::printf("two nodes over loopback TCP (UCX_TLS=%s): medians of %u interleaved runs of %zu MiB each\n\n",
              std::getenv("UCX_TLS"), settings.runs, settings.expert * settings.experts * settings.repeats >> 20);
  const auto row = [](const std::string& what, const std::vector<double>& rates) {
    std::printf("%-48s %10.2f %10.2f %10.2f\n", what.c_str(), median(rates) / 1e9, percentile(rates, 0) / 1e9,
                percentile(rates, 1) / 1e9);
    return median(rates);
  };
  std::printf("%-48s %10s %10s %10s\n", "", "GB/s", "least", "most");
  for (const auto& [bytes, rates] : raw)
    best = std::max(best, row("UCX active messages of " + std::to_string(bytes >> 10) + " KiB", rates));
  for (const auto& [bytes, rates] : surviving)
    best_surviving =
        std::max(best_surviving, row("the same of " + std::to_string(bytes >> 10) + " KiB, peer errors on", rates));
  const double fetch = row("cardea_fetch of " + std::to_string(settings.experts) + " experts of " +
                               std::to_string(settings.expert >> 10) + " KiB",
                           fetches);
  std::printf("\n%-48s %10.2f\n", "of the best of UCX's", fetch / best);
  std::printf("%-48s %10.2f\n", "of the best of UCX's with peer errors on", fetch / best_surviving);
}

}  // namespace
}  // namespace cardea::perf

namespace {

/// The exit status: 1 if bytes were wrong.
int print_table(const cardea::perf::TableSettings& settings, const std::string& json) {
  std::vector<cardea::perf::TableRow> rows;
  std::uint64_t wrong = 0;
  fmt::print("{}", table_head(settings));
  for (const std::string& way : settings.ways) {
    for (const std::size_t bytes : sizes_of(settings)) {
      rows.push_back(measure_row(settings, way, bytes));
      wrong += rows.back().wrong;
      fmt::print("{}", to_line(rows.back()));
      std::fflush(stdout);
    }
  }
  fmt::print("{}", table_foot(rows));
  if (!json.empty()) {
    std::ofstream out(json);
    out << to_json(settings, rows);
    if (!out.flush()) throw std::runtime_error("cannot write " + json);
  }
  return wrong == 0 ? 0 : 1;
}

/// GPU to GPU is measured by fetch_perf_cuda beside this program, with the same arguments; it is built where CUDA is.
/// Returns only if it is not there.
int hand_over_to_cuda(char** argv) {
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "fetch_perf_cuda";
  execv(program.c_str(), argv);
  std::fprintf(stderr, "fetch_perf: no %s: it is built where CUDA's compiler is found\n", program.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--memory=cuda" || (argument == "--memory" && i + 1 < argc && argv[i + 1] == std::string_view("cuda")))
      return hand_over_to_cuda(argv);
  }
  cardea::perf::Settings settings;
  cardea::perf::TableSettings table;
  unsigned iterations = 0;
  std::string json;
  CLI::App app("What a fetch costs, beside the limit measured in the same run");
  app.add_option("--path", settings.path, "a report of its own: node, network or all; without it, a table")
      ->check(CLI::IsMember({"node", "network", "all"}));
  auto* const least = app.add_option("-b,--minbytes", table.least, "smallest expert")->transform(CLI::AsSizeValue(false));
  auto* const most = app.add_option("-e,--maxbytes", table.most, "largest expert")->transform(CLI::AsSizeValue(false));
  auto* const step =
      app.add_option("-i,--stepbytes", table.step, "bytes from size to size")->transform(CLI::AsSizeValue(false));
  app.add_option("-f,--stepfactor", table.factor, "factor from size to size")->check(CLI::Range(1.01, 1e6))->excludes(step);
  app.add_option("-n,--iters,--fetches", iterations, "fetches of each size; 20, and 1000 with --path node")
      ->check(CLI::Range(1, 1000000));
  app.add_option("-w,--warmup_iters", table.warmup, "fetches before these")->check(CLI::Range(0, 1000000));
  app.add_option("-c,--check", table.check, "look at every byte: 1 or 0")->capture_default_str();
  app.add_option("--ways", table.ways, "rows of the table: mapped, copy, network")
      ->delimiter(',')
      ->check(CLI::IsMember({"mapped", "copy", "network"}));
  app.add_option("--json", json, "write the table to this file too, for perf/plot.py");
  app.add_flag("--spoil", table.spoil, "change a byte behind the library's back: the check must find it")->group("");
  app.add_option("--expert", settings.expert, "expert bytes, with --path network")->transform(CLI::AsSizeValue(false));
  auto* const experts = app.add_option("--experts", settings.experts, "experts in one fetch; 4, and 8 with --path network")
                            ->check(CLI::Range(1, 4096));
  app.add_option("--runs", settings.runs, "interleaved runs, with --path network")->check(CLI::Range(1, 1000));
  app.add_option("--messages", settings.messages, "sizes of UCX's messages, with --path network")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--memory", "host; or cuda: GPU to GPU, for which --memory cuda --help tells the options")
      ->check(CLI::IsMember({"host"}));
  CLI11_PARSE(app, argc, argv);
  if (!least->empty()) settings.least = table.least;
  if (!most->empty()) settings.most = table.most;
  if (!experts->empty()) table.experts = settings.experts;
  if (iterations != 0) settings.fetches = std::max(iterations, settings.first_reads);
  if (iterations != 0) table.iterations = iterations;
  if (table.least == 0 || table.least > table.most) {
    std::fprintf(stderr, "fetch_perf: -b must be at least 1 and at most -e\n");
    return 2;
  }
  setenv("UCX_TLS", "tcp,self", 0);  // two nodes on one machine
  try {
    if (settings.path == "table") return print_table(table, json);
    if (settings.path != "network") cardea::perf::measure_same_node(settings);
    if (settings.path == "all") std::printf("\n");
    if (settings.path != "node") cardea::perf::measure_network(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fetch_perf: %s\n", error.what());
    return 1;
  }
}
