// SPDX-License-Identifier: Apache-2.0
#include <hwloc.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <thread>

#include "topology/measure.h"

namespace cardea::topology {
namespace {

using SteadyClock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

/// Memory on one NUMA node, touched. Resource type.
class NodeMemory {
 public:
  NodeMemory(hwloc_topology_t topology, unsigned node, std::size_t bytes) : topology_(topology), bytes_(bytes) {
    const hwloc_obj_t object = hwloc_get_numanode_obj_by_os_index(topology, node);
    if (!object) return;
    data_ = hwloc_alloc_membind(topology, bytes, object->nodeset, HWLOC_MEMBIND_BIND,
                                HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_STRICT);
    if (!data_ && hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE) == 1) data_ = hwloc_alloc(topology, bytes);
    if (data_) std::memset(data_, 1, bytes);
  }
  ~NodeMemory() {
    if (data_) hwloc_free(topology_, data_, bytes_);
  }
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;
  void* get() const { return data_; }

 private:
  hwloc_topology_t topology_;
  std::size_t bytes_;
  void* data_ = nullptr;
};

double copy_bandwidth(void* to, const void* from, const MeasureOptions& options) {
  std::vector<double> times;
  for (unsigned i = 0; i <= options.repeats; ++i) {
    const auto start = SteadyClock::now();
    std::memcpy(to, from, options.memory_bytes);
    if (i > 0) times.push_back(seconds_since(start));
  }
  return static_cast<double>(options.memory_bytes) / median(times);
}

/// ns from one dependent read to the next, cache lines in random order.
double chase_latency(void* memory, std::size_t bytes) {
  constexpr std::size_t kLine = 64 / sizeof(std::uint64_t);
  auto* words = static_cast<std::uint64_t*>(memory);
  std::vector<std::uint32_t> order(bytes / 64);
  if (order.size() < 2) return 0;
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (std::size_t i = 0; i < order.size(); ++i) words[order[i] * kLine] = order[(i + 1) % order.size()] * kLine;
  constexpr unsigned kSteps = 1000000;
  volatile std::uint64_t position = 0;
  const auto start = SteadyClock::now();
  std::uint64_t at = 0;
  for (unsigned i = 0; i < kSteps; ++i) at = words[at];
  position = at;
  (void)position;
  return seconds_since(start) * 1e9 / kSteps;
}

void say(const MeasureOptions& options, const std::string& line) {
  if (options.progress) options.progress(line);
}

}  // namespace

std::vector<Measurement> measure_memory(const Machine& machine, const MeasureOptions& options) {
  std::vector<Measurement> measurements;
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return measurements;
  const auto destroy = [](hwloc_topology* topology) { hwloc_topology_destroy(topology); };
  const std::unique_ptr<hwloc_topology, decltype(destroy)> topology(raw, destroy);
  if (hwloc_topology_load(raw) != 0) return measurements;

  const auto measure_pair = [&](DeviceId from, DeviceId to) {
    const Lane& lane = machine.lane(machine.find_lane(LaneKind::kMemoryCopy, from, to));
    const NodeMemory source(raw, machine.device(from).os_index.value_or(0), options.memory_bytes);
    const NodeMemory destination(raw, machine.device(to).os_index.value_or(0), options.memory_bytes);
    if (!source.get() || !destination.get()) return say(options, lane.name + ": memory cannot be bound there, left out");
    const hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(raw, machine.device(to).os_index.value_or(0));
    if (node && !hwloc_bitmap_iszero(node->cpuset)) hwloc_set_cpubind(raw, node->cpuset, HWLOC_CPUBIND_THREAD);
    Measurement copy{lane.name, copy_bandwidth(destination.get(), source.get(), options), 0};
    say(options, fmt::format("{}: {:.1f} GB/s", lane.name, copy.bandwidth / 1e9));
    measurements.push_back(copy);
    if (from != to) return;
    const Lane& memory = machine.lane(machine.find_lane(LaneKind::kMemory, from, from));
    measurements.push_back({memory.name, 0, chase_latency(source.get(), options.memory_bytes)});
    say(options, fmt::format("{}: {:.0f} ns", memory.name, measurements.back().latency));
  };
  // A thread of its own, so that the caller keeps its binding.
  std::thread worker([&] {
    for (const DeviceId from : machine.of(DeviceKind::kNumaNode)) {
      for (const DeviceId to : machine.of(DeviceKind::kNumaNode)) measure_pair(from, to);
    }
  });
  worker.join();
  return measurements;
}

Result<std::vector<Measurement>> measure(const Machine& machine, const MeasureOptions& options) {
  std::vector<Measurement> all = measure_memory(machine, options);
  if (const Result<Measurement> loopback = measure_loopback(machine, options); loopback.ok()) {
    all.push_back(*loopback);
  } else {
    say(options, "loopback: " + loopback.status().message());
  }
  if (options.gpus) {
    for (Measurement& one : measure_gpus(machine, options)) all.push_back(std::move(one));
  }
  if (all.empty()) return Status::error(CARDEA_ERR_SYSTEM, "no lane of this machine could be measured");
  return all;
}

}  // namespace cardea::topology
