// SPDX-License-Identifier: Apache-2.0
// Every rank of a job fetches every expert of every layer: the heaviest traffic there is, for measuring and for looking at
// every byte. Start it by cardea-run, torchrun, mpirun, or on perf/cluster.sh, once per rank.
//
// A repetition is one version of all layers: the homes write and publish it, all ranks meet, then each fetches layer after
// layer, the next one's fetch being open already, and releases views as they come; that much is timed. Repetition 0 opens
// the connections and is not counted. Ranks meet and learn each other's times by one more layer, of which expert r is rank
// r's figures: fetching a version waits until it is published. Exits with 0, with 1 if bytes were wrong or a call failed,
// with 2 on wrong options.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cardea/cardea.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "perf/expert_pattern.h"
#include "perf/fetch_all_report.h"

namespace cardea::perf {
namespace {

namespace cx = cardea::api;
using Clock = std::chrono::steady_clock;

static_assert(std::is_trivially_copyable_v<RankFigures>);

struct Options {
  FetchAllShape shape;
  std::uint32_t repeat = 3;
  std::string check = "first";
  std::string json;
};

std::vector<std::uint32_t> first_numbers(std::uint32_t count) {
  std::vector<std::uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  return numbers;
}

/// Where the ranks meet, and learn each other's figures. Collective.
class Meeting {
 public:
  Meeting(const cx::Context& job, const cx::Group& group, std::uint32_t layer_id)
      : world_(job.info().world_size), memory_(job.allocate(sizeof(RankFigures))) {
    const std::vector<cx::Segment> segments = {{.name = "figures", .bytes = sizeof(RankFigures)}};
    slab_ = job.create_slab({.segments = segments, .slots = world_});
    layer_ = group.create_layer({.layer_id = layer_id,
                                 .num_experts = world_,
                                 .segments = segments,
                                 .local_experts = {job.info().rank},
                                 .local_is_home = {},
                                 .placements = {{.base = memory_.as<>().data(), .stride = sizeof(RankFigures)}},
                                 .slab = &slab_});
  }

  /// Returns everybody's figures once all ranks have come, to all of them at nearly the same time.
  std::vector<RankFigures> meet(const RankFigures& own) {
    std::memcpy(memory_.as<>().data(), &own, sizeof(own));
    layer_.publish(++version_);
    std::vector<RankFigures> all(world_);
    {
      cx::Fetch fetch = layer_.fetch(version_, first_numbers(world_));
      for (const cx::View& view : fetch.views())
        std::memcpy(&all[view.expert()], view.segment<std::byte>(0).data(), sizeof(RankFigures));
    }
    layer_.finish(version_);
    layer_.collect(version_);
    return all;
  }

 private:
  std::uint32_t world_;
  std::uint64_t version_ = 0;
  cx::Memory memory_;
  cx::Slab slab_;
  cx::Layer layer_;
};

/// The layers of the measurement. Collective.
class Layers {
 public:
  Layers(const cx::Context& job, const cx::Group& group, const FetchAllShape& shape)
      : shape_(shape), rank_(job.info().rank), all_(first_numbers(shape.experts)) {
    std::vector<cx::Segment> segments;
    for (std::uint32_t s = 0; s < shape.segments; ++s)
      segments.push_back({.name = fmt::format("s{}", s), .bytes = shape.segment_bytes(s)});
    for (const std::uint32_t e : all_) {
      if (shape.home_of(e, job.info().world_size) == rank_) own_.push_back(e);
    }
    slab_ = job.create_slab({.segments = segments, .slots = shape.slots});
    for (std::uint32_t l = 0; l < shape.layers; ++l) {
      Layer& layer = layers_.emplace_back();
      cx::LayerOptions options{.layer_id = l, .num_experts = shape.experts, .segments = segments, .local_experts = own_};
      options.slab = &slab_;
      for (const cx::Segment& segment : segments) {
        if (own_.empty()) continue;
        layer.memory.push_back(job.allocate(own_.size() * segment.bytes));
        options.placements.push_back({.base = layer.memory.back().as<>().data(), .stride = segment.bytes});
      }
      layer.handle = group.create_layer(options);
    }
  }

  void publish(std::uint64_t version) {
    for (std::uint32_t l = 0; l < shape_.layers; ++l) {
      for (std::uint32_t s = 0; s < shape_.segments; ++s) {
        const std::uint64_t bytes = shape_.segment_bytes(s);
        for (std::size_t i = 0; i < own_.size(); ++i)
          write_pattern({l, own_[i], s, version}, layers_[l].memory[s].as<>().subspan(i * bytes, bytes));
      }
      layers_[l].handle.publish(version);
    }
  }

  /// Fetches all experts of all layers; the number of experts with wrong bytes, if it shall look at them.
  std::uint64_t fetch(std::uint64_t version, bool check) {
    std::uint64_t wrong = 0;
    std::deque<cx::Fetch> open;
    for (std::uint32_t l = 0, next = 0; l < shape_.layers; ++l) {
      for (; next < shape_.layers && next < l + shape_.ahead; ++next)
        open.push_back(layers_[next].handle.fetch(version, all_));
      for (const cx::View& view : open.front().views()) {
        if (check && !right(l, version, view)) ++wrong;
      }
      open.pop_front();
      layers_[l].handle.finish(version);
    }
    return wrong;
  }

  void collect(std::uint64_t version) {
    for (Layer& layer : layers_) layer.handle.collect(version);
  }

 private:
  struct Layer {
    std::vector<cx::Memory> memory;  // of each segment, [experts at home, ...]
    cx::Layer handle;
  };

  bool right(std::uint32_t layer, std::uint64_t version, const cx::View& view) const {
    for (std::uint32_t s = 0; s < shape_.segments; ++s) {
      const auto wrong = first_wrong_byte({layer, view.expert(), s, version}, view.segment<std::byte>(s));
      if (!wrong) continue;
      fmt::print(stderr,
                 "fetch_all: rank {}: layer {}, expert {}, version {}, segment {}: byte {} is wrong; it came by {}\n", rank_,
                 layer, view.expert(), version, s, *wrong, cardea_path_string(view.path()));
      return false;
    }
    return true;
  }

  FetchAllShape shape_;
  std::uint32_t rank_;
  std::vector<std::uint32_t> all_, own_;
  cx::Slab slab_;
  std::vector<Layer> layers_;  // after the slab, which layers must not outlive
};

/// What the counters have grown by.
void add_counters(RankFigures& figures, const cardea_counters_t& before, const cardea_counters_t& after) {
  figures.experts_home = after.experts_home - before.experts_home;
  figures.experts_node_mapped = after.experts_node_mapped - before.experts_node_mapped;
  figures.experts_node_copied = after.experts_node_copied - before.experts_node_copied;
  figures.experts_cache = after.experts_cache - before.experts_cache;
  figures.experts_network = after.experts_network - before.experts_network;
  figures.network_bytes = after.bytes_network_received - before.bytes_network_received;
}

bool write_file(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  const bool written = file != nullptr && std::fputs(text.c_str(), file) >= 0;
  if (file == nullptr || std::fclose(file) != 0 || !written) {
    fmt::print(stderr, "fetch_all: cannot write {}: {}\n", path, std::strerror(errno));
    return false;
  }
  return true;
}

int run(const Options& options) {
  const cx::Context job;
  const cx::Group group = job.group();
  const cardea_context_info_t me = job.info();
  Layers layers(job, group, options.shape);
  Meeting meeting(job, group, options.shape.layers);

  RankFigures own;
  own.node = me.node;
  const cardea_rank_info_t self = job.rank(me.rank);
  std::memcpy(own.host, self.host, sizeof(own.host));

  Figures figures;
  for (std::uint32_t repetition = 0; repetition <= options.repeat; ++repetition) {
    const std::uint64_t version = repetition + 1;
    const bool check = options.check == "all" || (options.check == "first" && repetition == 0);
    layers.publish(version);
    auto before = meeting.meet(own);
    if (repetition > 0) figures.push_back(std::move(before));
    const cardea_counters_t counters = job.counters();
    const auto start = Clock::now();
    own.wrong_experts = layers.fetch(version, check);
    own.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    add_counters(own, counters, job.counters());
    layers.collect(version);
  }
  figures.push_back(meeting.meet(own));

  std::uint64_t wrong = 0;
  for (const auto& ranks : figures) {
    for (const RankFigures& rank : ranks) wrong += rank.wrong_experts;
  }
  bool written = true;
  if (me.rank == 0) {
    fmt::print("{}", format_table(options.shape, figures, options.check != "none"));
    if (!options.json.empty()) written = write_file(options.json, format_json(options.shape, figures));
  }
  return wrong == 0 && written ? 0 : 1;
}

}  // namespace
}  // namespace cardea::perf

int main(int argc, char** argv) {
  cardea::perf::Options options;
  auto& shape = options.shape;
  CLI::App app("Every rank of a job fetches every expert of every layer");
  const auto count = [](unsigned most) { return CLI::Range(1u, most); };
  app.add_option("--layers", shape.layers, "Layers, fetched one after another")->check(count(1024))->capture_default_str();
  app.add_option("--experts", shape.experts, "Experts of a layer, over all ranks")
      ->check(count(65536))
      ->capture_default_str();
  app.add_option("--expert-bytes", shape.expert_bytes,
                 "Bytes of an expert, such as 4194304 or 4Mi; at least one per segment")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--segments", shape.segments, "Segments of an expert")
      ->check(count(CARDEA_MAX_SEGMENTS))
      ->capture_default_str();
  app.add_option("--slots", shape.slots, "Slots of each rank's slab")->check(count(65536))->capture_default_str();
  app.add_option("--ahead", shape.ahead,
                 "Layers whose fetches are open at a time; 1: a layer begins when the last has ended")
      ->check(count(1024))
      ->capture_default_str();
  app.add_option("--repeat", options.repeat, "Repetitions after the warm-up")->check(count(1000000))->capture_default_str();
  app.add_option("--check", options.check,
                 "Look at every byte: in the first repetition (which is not timed), in all, in none")
      ->check(CLI::IsMember({"none", "first", "all"}))
      ->capture_default_str();
  app.add_option("--json", options.json, "Rank 0 writes its figures to this file too");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (shape.expert_bytes < shape.segments) {
    fmt::print(stderr, "fetch_all: --expert-bytes {} is less than one byte for each of --segments {}\n", shape.expert_bytes,
               shape.segments);
    return 2;
  }
  try {
    return cardea::perf::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "fetch_all: {}\n", error.what());
  }
  return 1;
}
