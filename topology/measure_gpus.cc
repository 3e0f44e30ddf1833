// SPDX-License-Identifier: Apache-2.0
#include <sched.h>

#include <algorithm>
#include <map>
#include <memory>
#include <thread>

#include "topology/cuda_driver.h"
#include "topology/measure.h"
#include "topology/paths.h"

namespace cardea::topology {
namespace {

constexpr std::size_t kSmall = std::size_t{1} << 20;  // its time beyond bandwidth is the latency
constexpr unsigned kPortable = 1;                     // CU_MEMHOSTALLOC_PORTABLE
constexpr unsigned kNonBlocking = 1;                  // CU_STREAM_NON_BLOCKING

/// One GPU with its buffers, a stream and two events in its primary context. Resource type.
class Bench {
 public:
  Bench(cuda::Driver& driver, std::size_t bytes) : driver_(driver), bytes_(bytes) {}
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() {
    if (!context_) return;
    driver_.set_context(context_);
    if (stream_) driver_.destroy_stream(stream_);
    for (const cuda::Event event : {start_, stop_}) {
      if (event) driver_.destroy_event(event);
    }
    for (const cuda::Pointer memory : {memory_, second_}) {
      if (memory) driver_.release(memory);
    }
    if (host_) driver_.release_host(host_);
    driver_.set_context(nullptr);
    driver_.release_context(device_);
  }

  int open(const BusId& bus_id) {
    int code = driver_.device_by_bus_id(&device_, to_string(bus_id).c_str());
    if (code == 0) code = driver_.retain_context(&context_, device_);
    if (code == 0) code = driver_.set_context(context_);
    if (code == 0) code = driver_.allocate(&memory_, bytes_);
    if (code == 0) code = driver_.allocate(&second_, bytes_);
    if (code == 0) code = driver_.allocate_host(&host_, bytes_, kPortable);
    if (code == 0) code = driver_.create_stream(&stream_, kNonBlocking);
    if (code == 0) code = driver_.create_event(&start_, 0);
    if (code == 0) code = driver_.create_event(&stop_, 0);
    return code;
  }

  /// Median seconds of one copy by this GPU's engine.
  int time(cuda::Pointer to, cuda::Pointer from, std::size_t bytes, unsigned repeats, double& seconds) {
    int code = driver_.set_context(context_);
    std::vector<float> times;
    for (unsigned i = 0; code == 0 && i <= repeats; ++i) {
      code = driver_.record(start_, stream_);
      if (code == 0) code = driver_.copy(to, from, bytes, stream_);
      if (code == 0) code = driver_.record(stop_, stream_);
      if (code == 0) code = driver_.wait(stop_);
      float milliseconds = 0;
      if (code == 0) code = driver_.elapsed(&milliseconds, start_, stop_);
      if (i > 0) times.push_back(milliseconds);
    }
    if (code != 0) return code;
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    seconds = times[times.size() / 2] / 1e3;
    return 0;
  }

  cuda::Pointer memory() const { return memory_; }
  cuda::Pointer second() const { return second_; }
  cuda::Pointer host() const { return reinterpret_cast<cuda::Pointer>(host_); }
  cuda::Context context() const { return context_; }
  cuda::Device device() const { return device_; }
  void make_current() { driver_.set_context(context_); }

 private:
  cuda::Driver& driver_;
  std::size_t bytes_;
  cuda::Device device_ = 0;
  cuda::Context context_ = nullptr;
  cuda::Pointer memory_ = 0;
  cuda::Pointer second_ = 0;
  void* host_ = nullptr;
  cuda::Stream stream_ = nullptr;
  cuda::Event start_ = nullptr;
  cuda::Event stop_ = nullptr;
};

class GpuMeasurer {
 public:
  GpuMeasurer(const Machine& machine, const MeasureOptions& options, cuda::Driver& driver)
      : machine_(machine), options_(options), driver_(driver) {}

  std::vector<Measurement> run() {
    for (const DeviceId gpu : machine_.of(DeviceKind::kGpu)) open(gpu);
    for (const auto& [gpu, bench] : benches_) measure_one(gpu, *bench);
    for (const auto& [to, bench] : benches_) {
      for (const auto& [from, other] : benches_) {
        if (from != to) measure_pair(from, *other, to, *bench);
      }
    }
    std::vector<Measurement> all;
    for (auto& [lane, one] : found_) {
      say(fmt::format("{}: {:.1f} GB/s, {:.0f} ns", one.lane, one.bandwidth / 1e9, one.latency));
      all.push_back(one);
    }
    return all;
  }

 private:
  void say(const std::string& line) const {
    if (options_.progress) options_.progress(line);
  }

  /// Pinned memory comes from the node of the thread that asks.
  void bind_near(DeviceId gpu) const {
    const DeviceId node = machine_.device(gpu).numa;
    if (node == kNoDevice) return;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (const auto& core : machine_.device(node).cores) {
      for (const unsigned cpu : core) {
        if (cpu < CPU_SETSIZE) CPU_SET(cpu, &cpus);
      }
    }
    if (CPU_COUNT(&cpus) > 0) ::sched_setaffinity(0, sizeof(cpus), &cpus);
  }

  void open(DeviceId gpu) {
    if (!machine_.device(gpu).bus_id) return;
    bind_near(gpu);
    auto bench = std::make_unique<Bench>(driver_, options_.device_bytes);
    const int code = bench->open(*machine_.device(gpu).bus_id);
    if (code != 0) return say(fmt::format("{}: {}, left out", machine_.device(gpu).name, driver_.error(code)));
    benches_[gpu] = std::move(bench);
  }

  bool time(Bench& bench, cuda::Pointer to, cuda::Pointer from, const std::string& what, double& bandwidth,
            double& latency) {
    double large = 0;
    double small = 0;
    int code = bench.time(to, from, options_.device_bytes, options_.repeats, large);
    if (code == 0) code = bench.time(to, from, std::min(kSmall, options_.device_bytes), options_.repeats * 3, small);
    if (code != 0) return say(fmt::format("{}: {}, left out", what, driver_.error(code))), false;
    bandwidth = static_cast<double>(options_.device_bytes) / large;
    latency = std::max(1.0, (small - static_cast<double>(std::min(kSmall, options_.device_bytes)) / bandwidth) * 1e9);
    return true;
  }

  void note(LaneId lane, double bandwidth, double latency) {
    if (lane == kNoLane) return;
    Measurement& one = found_[lane];
    one.lane = machine_.lane(lane).name;
    // A lane takes part in several paths; what it gave in the best of them it can give.
    one.bandwidth = std::max(one.bandwidth, bandwidth);
    one.latency = one.latency > 0 ? std::min(one.latency, latency) : latency;
  }

  /// The path's latency less what its other lanes add.
  double own_latency(DeviceId from, DeviceId to, LaneId lane, double whole) const {
    const Result<Path> path = find_path(machine_, from, to, MemoryKind::kDevice);
    if (!path.ok()) return whole;
    for (const LaneId other : path->lanes) whole -= other == lane ? 0 : machine_.lane(other).latency.value;
    return std::max(1.0, whole);
  }

  LaneId to_gpu(DeviceId node, DeviceId gpu) const {
    const LaneId nvlink = machine_.find_lane(LaneKind::kNvlink, node, gpu);
    return nvlink != kNoLane ? nvlink : machine_.find_lane(LaneKind::kPcieDown, machine_.device(gpu).parent, gpu);
  }
  LaneId from_gpu(DeviceId gpu, DeviceId node) const {
    const LaneId nvlink = machine_.find_lane(LaneKind::kNvlink, gpu, node);
    return nvlink != kNoLane ? nvlink : machine_.find_lane(LaneKind::kPcieUp, gpu, machine_.device(gpu).parent);
  }

  void measure_one(DeviceId gpu, Bench& bench) {
    const std::string& name = machine_.device(gpu).name;
    const DeviceId node =
        machine_.device(gpu).numa == kNoDevice ? machine_.of(DeviceKind::kNumaNode).front() : machine_.device(gpu).numa;
    double bandwidth = 0;
    double latency = 0;
    if (time(bench, bench.memory(), bench.host(), "host to " + name, bandwidth, latency)) {
      const LaneId lane = to_gpu(node, gpu);
      note(lane, bandwidth, own_latency(node, gpu, lane, latency));
    }
    if (time(bench, bench.host(), bench.memory(), name + " to host", bandwidth, latency)) {
      const LaneId lane = from_gpu(gpu, node);
      note(lane, bandwidth, own_latency(gpu, node, lane, latency));
    }
    if (time(bench, bench.second(), bench.memory(), "within " + name, bandwidth, latency)) {
      note(machine_.find_lane(LaneKind::kDeviceMemory, gpu, gpu), bandwidth, latency);
    }
  }

  /// The destination pulls, in its own context, as the runtime does.
  void measure_pair(DeviceId from, Bench& source, DeviceId to, Bench& destination) {
    const std::string what = fmt::format("{} to {}", machine_.device(from).name, machine_.device(to).name);
    int peers = 0;
    if (driver_.can_access_peer(&peers, destination.device(), source.device()) != 0 || peers == 0) {
      return say(what + ": no peer access, left out");
    }
    destination.make_current();
    driver_.enable_peer(source.context(), 0);  // may be on already
    double bandwidth = 0;
    double latency = 0;
    if (!time(destination, destination.memory(), source.memory(), what, bandwidth, latency)) return;
    say(fmt::format("{}: {:.1f} GB/s", what, bandwidth / 1e9));
    const Result<Path> path = find_path(machine_, from, to, MemoryKind::kDevice);
    if (!path.ok()) return;
    // Over PCIe the lanes are those measured with host memory; over NVLink the path is nothing but the lanes sought.
    for (const LaneId lane : path->lanes) {
      if (machine_.lane(lane).kind == LaneKind::kNvlink)
        note(lane, bandwidth, latency / static_cast<double>(path->lanes.size()));
    }
  }

  const Machine& machine_;
  const MeasureOptions& options_;
  cuda::Driver& driver_;
  std::map<DeviceId, std::unique_ptr<Bench>> benches_;
  std::map<LaneId, Measurement> found_;
};

}  // namespace

std::vector<Measurement> measure_gpus(const Machine& machine, const MeasureOptions& options) {
  if (machine.of(DeviceKind::kGpu).empty()) return {};
  std::string why;
  const std::unique_ptr<cuda::Driver> driver = cuda::Driver::open(why);
  if (!driver) {
    if (options.progress) options.progress("GPUs are not measured: " + why);
    return {};
  }
  std::vector<Measurement> measurements;
  // A thread of its own, so that the caller keeps its binding and its current context.
  std::thread worker([&] { measurements = GpuMeasurer(machine, options, *driver).run(); });
  worker.join();
  return measurements;
}

}  // namespace cardea::topology
