// SPDX-License-Identifier: Apache-2.0
// How long a model takes from a description or a file, and all its paths. Discovery by hwloc and NVML is not in it.
#include <benchmark/benchmark.h>

#include "topology/affinity.h"
#include "topology/load.h"
#include "topology/paths.h"

namespace {

using cardea::topology::DeviceKind;
using cardea::topology::MemoryKind;

void all_paths(const cardea::topology::Machine& machine) {
  std::vector<cardea::topology::DeviceId> ends;
  for (const DeviceKind kind : {DeviceKind::kNumaNode, DeviceKind::kGpu, DeviceKind::kNic}) {
    ends.insert(ends.end(), machine.of(kind).begin(), machine.of(kind).end());
  }
  for (const auto from : ends) {
    for (const auto to : ends) {
      for (const MemoryKind kind : {MemoryKind::kDevice, MemoryKind::kHost})
        benchmark::DoNotOptimize(find_path(machine, from, to, kind));
    }
  }
}

void model_and_paths(benchmark::State& state) {
  const auto description = cardea::topology::load_file(CARDEA_SOURCE_DIR "/topology/machines/hgx-h100.xml");
  if (!description.ok()) return state.SkipWithError(description.status().message().c_str());
  for (auto _ : state) {
    const auto machine = assemble(*description);
    all_paths(*machine);
    benchmark::DoNotOptimize(assign(*machine, natural_ranks(*machine)));
  }
}
BENCHMARK(model_and_paths)->Unit(benchmark::kMillisecond);

void file_model_and_paths(benchmark::State& state) {
  for (auto _ : state) {
    const auto description = cardea::topology::load_file(CARDEA_SOURCE_DIR "/topology/machines/hgx-h100.xml");
    if (!description.ok()) return state.SkipWithError(description.status().message().c_str());
    const auto machine = assemble(*description);
    all_paths(*machine);
  }
}
BENCHMARK(file_model_and_paths)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
