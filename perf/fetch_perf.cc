// SPDX-License-Identifier: Apache-2.0
// What a fetch costs by the C API, each figure beside its limit, measured in the same run:
//
//   --path node     two ranks of one node: time from cardea_fetch to the view, and the rate of the first read through it,
//                   beside the same read of a private buffer
//   --path network  two ranks on two nodes of this machine, over loopback TCP: rate of a fetch of several experts, beside
//   the
//                   best rate of UCX's own active messages over several message sizes
//
// Machines drift, so all that is compared is interleaved, and medians are printed.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include "cardea/cardea.h"
#include "perf/two_ranks.h"
#include "perf/ucx_raw_am.h"

namespace cardea::perf {
namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string path = "all";
  std::size_t least = 1 << 20, most = 256 << 20;  // node: expert bytes
  unsigned fetches = 1000;                        // node: for each size
  unsigned first_reads = 5;                       // node: fresh mappings for each size
  std::size_t expert = 16 << 20;                  // network: expert bytes
  unsigned experts = 8;                           // network: in one fetch
  unsigned repeats = 3;                           // network: fetches in one run
  unsigned runs = 10;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check(cardea_status_t status, const char* call) {
  if (status >= 0) return;
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&info);
  throw std::runtime_error(std::string(call) + ": " + cardea_status_string(status) + ": " + info.message);
}

/// One of two ranks, with a layer of `experts` experts of `bytes` at home on rank 0.
class Rank {
 public:
  Rank(int link, std::uint32_t self, bool two_nodes) : link_(link), self_(self) {
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.bootstrap = CARDEA_BOOTSTRAP_EXCHANGE;
    config.rank = self;
    config.world_size = 2;
    config.exchange = exchange;
    config.exchange_user = this;
    config.node_id = two_nodes && self == 1 ? "one" : "zero";
    check(cardea_context_create(&config, &context_), "cardea_context_create");
    check(cardea_group_create(context_, nullptr, 0, &group_), "cardea_group_create");
  }
  ~Rank() { cardea_context_destroy(context_); }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  void make_layer(std::size_t bytes, std::uint32_t experts, bool with_slab) {
    cardea_segment_t segment = CARDEA_SEGMENT_INIT;
    segment.name = "expert";
    segment.bytes = bytes;
    cardea_layer_desc_t layer = CARDEA_LAYER_DESC_INIT;
    layer.layer_id = 0;
    layer.num_experts = experts;
    layer.segments = &segment;
    layer.num_segments = 1;
    std::vector<std::uint32_t> local;
    cardea_placement_t place = CARDEA_PLACEMENT_INIT;
    if (self_ == 0) {
      check(cardea_memory_alloc(context_, bytes * experts, CARDEA_MEMORY_HOST, &memory_), "cardea_memory_alloc");
      cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
      check(cardea_memory_query(memory_, &info), "cardea_memory_query");
      std::memset(info.address, 1, bytes * experts);
      place.base = info.address;
      place.stride = bytes;
      for (std::uint32_t e = 0; e < experts; ++e) local.push_back(e);
      layer.num_local = experts;
      layer.local_experts = local.data();
      layer.placements = &place;
    } else if (with_slab) {
      cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
      slab.segments = &segment;
      slab.num_segments = 1;
      slab.num_slots = experts;
      check(cardea_slab_create(context_, &slab, &slab_), "cardea_slab_create");
      layer.slab = slab_;
    }
    check(cardea_layer_create(group_, &layer, &layer_), "cardea_layer_create");
  }
  void drop_layer() {
    check(cardea_layer_destroy(layer_), "cardea_layer_destroy");
    if (slab_.id != 0) check(cardea_slab_destroy(slab_), "cardea_slab_destroy");
    if (memory_.id != 0) check(cardea_memory_free(memory_), "cardea_memory_free");
    slab_ = {};
    memory_ = {};
  }
  void publish(std::uint64_t version) { check(cardea_publish(layer_, version, nullptr), "cardea_publish"); }
  void finish(std::uint64_t version) { check(cardea_finish(layer_, version, nullptr), "cardea_finish"); }
  void collect(std::uint64_t version) { check(cardea_collect(layer_, version, nullptr, CARDEA_FOREVER), "cardea_collect"); }

  /// Fetches experts 0 to n - 1 and calls read(view) for each; seconds until the last was ready.
  template <typename Read>
  double fetch(std::uint64_t version, std::uint32_t n, Read read) {
    std::vector<std::uint32_t> experts;
    for (std::uint32_t e = 0; e < n; ++e) experts.push_back(e);
    cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
    desc.version = version;
    desc.experts = experts.data();
    desc.num_experts = n;
    cardea_fetch_t fetch{};
    const auto start = Clock::now();
    check(cardea_fetch(layer_, &desc, &fetch), "cardea_fetch");
    double ready = 0;
    for (std::uint32_t left = n; left > 0;) {
      cardea_view_t view = CARDEA_VIEW_INIT;
      std::uint32_t count = 0;
      check(cardea_next(fetch, &view, 1, &count, CARDEA_FOREVER), "cardea_next");
      check(view.status, "view");
      ready = seconds_since(start);
      read(view);
      check(cardea_release(&view, 1), "cardea_release");
      left -= count;
    }
    check(cardea_fetch_destroy(fetch), "cardea_fetch_destroy");
    return ready;
  }

 private:
  static int exchange(void* user, const void* mine, std::size_t bytes, void* all) try {
    const auto& self = *static_cast<Rank*>(user);
    auto* const out = static_cast<unsigned char*>(all);
    give(self.link_, mine, bytes);
    take(self.link_, out + bytes * (1 - self.self_), bytes);
    std::memcpy(out + bytes * self.self_, mine, bytes);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }

  int link_;
  std::uint32_t self_;
  cardea_context_t context_{};
  cardea_group_t group_{};
  cardea_layer_t layer_{};
  cardea_memory_t memory_{};
  cardea_slab_t slab_{};
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
    Rank rank(link, 0, false);
    for (unsigned i = 0; i < settings.first_reads; ++i) {
      rank.make_layer(bytes, 1, false);
      rank.publish(1);
      rank.finish(1);
      rank.collect(1);
      rank.drop_layer();
    }
  };
  const auto sink = [&](int link) {
    Rank rank(link, 1, false);
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
    Rank rank(link, 0, true);
    rank.make_layer(settings.expert, settings.experts, false);
    for (std::uint64_t version = 0; version <= settings.repeats; ++version) {
      rank.publish(version);
      rank.finish(version);
      rank.collect(version);
    }
    rank.drop_layer();
  };
  const auto sink = [&](int link) {
    Rank rank(link, 1, true);
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

double raw_rate(const Settings& settings, std::size_t bytes, RawProtocol protocol) {
  const std::size_t count = std::max<std::size_t>(settings.expert * settings.experts * settings.repeats / bytes, 1);
  constexpr std::size_t kWindow = 8;
  const std::size_t footprint = settings.expert * settings.experts;  // the same memory as the fetches move
  return run_two([&](int link) { raw_send(link, bytes, count, kWindow, footprint, protocol); },
                 [&](int link) { return std::vector<double>{raw_receive(link, bytes, count, kWindow, footprint)}; })[0];
}

void measure_network(const Settings& settings) {
  std::vector<double> fetches;
  std::map<std::size_t, std::vector<double>> raw;
  for (unsigned run = 0; run < settings.runs; ++run) {
    if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\rrun %u of %u", run + 1, settings.runs);
    fetches.push_back(network_rate(settings));
    for (std::size_t bytes = 256 << 10; bytes <= (16 << 20); bytes *= 2)
      raw[bytes].push_back(raw_rate(settings, bytes, RawProtocol::kDefault));
  }
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r%*s\r", 20, "");
  double best = 0;
  std::printf("two nodes over loopback TCP (UCX_TLS=%s): medians of %u interleaved runs of %zu MiB each\n\n",
              std::getenv("UCX_TLS"), settings.runs, settings.expert * settings.experts * settings.repeats >> 20);
  std::printf("%-44s %10s %10s %10s\n", "", "GB/s", "least", "most");
  for (const auto& [bytes, rates] : raw) {
    best = std::max(best, median(rates));
    std::printf("UCX active messages of %6zu KiB              %10.2f %10.2f %10.2f\n", bytes >> 10, median(rates) / 1e9,
                percentile(rates, 0) / 1e9, percentile(rates, 1) / 1e9);
  }
  std::printf("cardea_fetch of %2u experts of %6zu KiB        %10.2f %10.2f %10.2f\n", settings.experts,
              settings.expert >> 10, median(fetches) / 1e9, percentile(fetches, 0) / 1e9, percentile(fetches, 1) / 1e9);
  std::printf("\nratio to the best of UCX's                   %10.2f\n", median(fetches) / best);
}

}  // namespace
}  // namespace cardea::perf

int main(int argc, char** argv) {
  cardea::perf::Settings settings;
  CLI::App app("What a fetch costs, beside the limit measured in the same run");
  app.add_option("--path", settings.path, "node, network or all")
      ->check(CLI::IsMember({"node", "network", "all"}))
      ->capture_default_str();
  app.add_option("-b,--minbytes", settings.least, "smallest expert on the same node")->transform(CLI::AsSizeValue(false));
  app.add_option("-e,--maxbytes", settings.most, "largest expert on the same node")->transform(CLI::AsSizeValue(false));
  app.add_option("-n,--fetches", settings.fetches, "fetches of each size on the same node")->check(CLI::Range(10, 1000000));
  app.add_option("--expert", settings.expert, "expert bytes between nodes")->transform(CLI::AsSizeValue(false));
  app.add_option("--experts", settings.experts, "experts in one fetch between nodes")->check(CLI::Range(1, 4096));
  app.add_option("--runs", settings.runs, "interleaved runs between nodes")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  setenv("UCX_TLS", "tcp,self", 0);  // two nodes on one machine
  try {
    if (settings.path != "network") cardea::perf::measure_same_node(settings);
    if (settings.path == "all") std::printf("\n");
    if (settings.path != "node") cardea::perf::measure_network(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fetch_perf: %s\n", error.what());
    return 1;
  }
}
