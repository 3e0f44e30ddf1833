// SPDX-License-Identifier: Apache-2.0
// What the scheduler itself costs: submitting tasks (an expert of a fetch each) until so many are queued, then completing
// them all: chunk done, view taken, view released, next transfer started. No bytes move.
//   core_perf [--benchmark_filter=…]        time per task is the column items_per_second, inverted
#include <benchmark/benchmark.h>

#include <deque>

#include "lib/core/core.h"

namespace cardea::core {
namespace {

constexpr ExpertIndex kExpertsPerLayer = 1000;

struct Scheduler {
  explicit Scheduler(std::uint32_t tasks, std::uint32_t slots) : core({}, {{.chunks = 8}, {.chunks = 4}}) {
    const SegmentLayout layout = SegmentLayout::make({{"w13", 600'000, 256}, {"w2", 300'000, 256}}).value();
    const std::vector<Node> nodes{0, 1, 2, 3};
    for (std::uint32_t l = 0; l < (tasks + kExpertsPerLayer - 1) / kExpertsPerLayer; ++l) {
      const LayerNumber layer = core.add_layer({l, Membership(0, {0, 1, 2, 3}, nodes), layout});
      std::vector<ExpertSources> experts;
      for (ExpertIndex e = 0; e < kExpertsPerLayer; ++e)
        experts.push_back({1 + e % 3, {{1 + e % 3, CARDEA_PATH_NETWORK, 0}}});
      core.set_sources(layer, std::move(experts));
      for (const Rank rank : {1u, 2u, 3u}) (void)core.receive(layer, rank, {0, Notice::Kind::kPublished, 0, 1}, now);
      layers.push_back(layer);
    }
    slab = core.add_slab(slots);
  }

  void submit(std::uint32_t tasks, std::uint32_t per_fetch) {
    FetchSpec spec;
    spec.version = 1;
    spec.segments = 3;
    spec.slab = slab;
    for (std::uint32_t first = 0; first < tasks; first += per_fetch) {
      spec.layer = layers[first / kExpertsPerLayer];
      spec.experts.clear();
      for (std::uint32_t i = 0; i < per_fetch; ++i) spec.experts.push_back((first + i) % kExpertsPerLayer);
      benchmark::DoNotOptimize(core.fetch(spec, now));
    }
  }

  std::uint64_t complete_all() {
    std::uint64_t delivered = 0;
    std::deque<ChunkNumber> flying;
    while (true) {
      for (const Action& action : core.take_actions()) {
        if (const auto* start = std::get_if<StartChunk>(&action)) {
          flying.push_back(start->chunk);
        } else if (const auto* progress = std::get_if<Progress>(&action)) {
          for (const Delivery& delivery : core.take(progress->fetch, SIZE_MAX)) {
            benchmark::DoNotOptimize(core.release(delivery.view, now));
            ++delivered;
          }
          if (progress->done) core.destroy(progress->fetch, now);
        }
      }
      if (flying.empty()) return delivered;
      core.chunk_done(flying.front(), {}, now);
      flying.pop_front();
    }
  }

  Core core;
  Clock::time_point now{};
  std::vector<LayerNumber> layers;
  SlabNumber slab = 0;
};

/// Arguments: tasks queued, experts in a fetch, slots of the slab.
void submit_and_complete(benchmark::State& state) {
  const auto tasks = static_cast<std::uint32_t>(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    auto scheduler = std::make_unique<Scheduler>(tasks, static_cast<std::uint32_t>(state.range(2)));
    state.ResumeTiming();
    scheduler->submit(tasks, static_cast<std::uint32_t>(state.range(1)));
    if (scheduler->complete_all() != tasks) state.SkipWithError("not every task completed");
    state.PauseTiming();
    scheduler.reset();
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * tasks);
  state.counters["ns/task"] = benchmark::Counter(static_cast<double>(state.iterations()) * tasks * 1e-9,
                                                 benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(submit_and_complete)
    ->ArgNames({"tasks", "per_fetch", "slots"})
    ->ArgsProduct({{1000, 10'000, 100'000}, {8, 100}, {64, 1024}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace cardea::core

BENCHMARK_MAIN();
