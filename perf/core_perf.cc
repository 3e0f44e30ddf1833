// SPDX-License-Identifier: Apache-2.0
// What the scheduler itself costs: submitting tasks (an expert of a fetch each) until so many are queued, then completing
// them all: chunk done, view taken, view released, next transfer started. No bytes move.
//   core_perf [--benchmark_filter=…]
// Ends with a table: time per task by the number of tasks queued, and how it grows against what n log n would allow.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <deque>
#include <map>
#include <string>

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
    std::vector<Action> actions;
    while (true) {
      core.take_actions(actions);
      for (const Action& action : actions) {
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

struct Shape {
  std::uint32_t per_fetch;  // experts of a fetch
  std::uint32_t slots;      // of the slab
};

void submit_and_complete(benchmark::State& state, Shape shape) {
  const auto tasks = static_cast<std::uint32_t>(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    auto scheduler = std::make_unique<Scheduler>(tasks, shape.slots);
    state.ResumeTiming();
    scheduler->submit(tasks, shape.per_fetch);
    if (scheduler->complete_all() != tasks) state.SkipWithError("not every task completed");
    state.PauseTiming();
    scheduler.reset();
    state.ResumeTiming();
  }
  state.SetComplexityN(tasks);
  state.counters["per_task"] = benchmark::Counter(static_cast<double>(state.iterations()) * tasks,
                                                  benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

/// Google Benchmark's own table, and what is asked of the scheduler beneath it.
class Reporter final : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.complexity_n == 0) continue;
      shapes_[run.run_name.function_name][static_cast<double>(run.complexity_n)] =
          run.GetAdjustedCPUTime() * 1e9 / benchmark::GetTimeUnitMultiplier(run.time_unit) /
          static_cast<double>(run.complexity_n);
    }
  }
  void table() const {
    constexpr double kMost = 1000;  // ns per task
    fmt::print("\n{:<44} {:>9} {:>9} {:>11} {:>9} {:>8}\n", "CPU time per task", "tasks", "ns", "n log n: ns", "of it",
               "<= 1 us");
    for (const auto& [name, points] : shapes_) {
      const auto& [least, first] = *points.begin();
      for (const auto& [tasks, ns] : points) {
        const double allowed = first * std::log(tasks) / std::log(least);
        fmt::print("{:<44} {:>9.0f} {:>9.0f} {:>11.0f} {:>9.2f} {:>8}\n", name, tasks, ns, allowed, ns / allowed,
                   ns <= kMost ? "yes" : "NO");
      }
    }
  }

 private:
  std::map<std::string, std::map<double, double>> shapes_;  // ns per task by tasks queued
};

int run(int argc, char** argv) {
  for (const Shape shape : {Shape{8, 64}, Shape{100, 64}, Shape{8, 1024}, Shape{100, 1024}}) {
    benchmark::RegisterBenchmark(fmt::format("fetches_of_{}_slots_{}", shape.per_fetch, shape.slots).c_str(),
                                 [shape](benchmark::State& state) { submit_and_complete(state, shape); })
        ->RangeMultiplier(10)
        ->Range(1000, 100'000)
        ->Unit(benchmark::kMillisecond)
        ->Complexity(benchmark::oNLogN);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  reporter.table();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace cardea::core

int main(int argc, char** argv) {
  return cardea::core::run(argc, argv);
}
