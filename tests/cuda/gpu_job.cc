// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/gpu_job.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <stdexcept>

#include "lib/transport/ucx/factory.h"

namespace cardea::test {
namespace {

template <typename Ask>
int in_a_child(Ask ask) {
  const pid_t child = fork();
  if (child == 0) _exit(ask());
  int state = 0;
  if (child < 0 || waitpid(child, &state, 0) != child || !WIFEXITED(state)) return 0;
  return WEXITSTATUS(state);
}

}  // namespace

int gpus_here() {
  static const int found = in_a_child([] {
    const auto driver = cuda::Driver::open();
    return driver.ok() ? (*driver)->devices : 0;
  });
  return found;
}

bool fake_gpus() {
  static const int fake = in_a_child([] {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    return library != nullptr && dlsym(library, "fake_cuda_driver") != nullptr ? 1 : 0;
  });
  return fake != 0;
}

bool ucx_takes_gpus() {
  static const int takes = in_a_child([] { return transport::ucx_has_device_memory() ? 1 : 0; });
  return takes != 0;
}

// ---------------------------------------------------------------- the device

Gpu::Gpu(unsigned rank) {
  Result<std::shared_ptr<const cuda::Driver>> driver = cuda::Driver::open();
  if (!driver.ok()) throw std::runtime_error(driver.status().message());
  driver_ = *driver;
  auto device = cuda::Device::open(driver_, static_cast<int>(rank) % driver_->devices);
  if (!device.ok()) throw std::runtime_error(device.status().message());
  device_ = *device;
  must(driver_->context_set(device_->context()), "cuCtxSetCurrent");
  must(driver_->stream_create(&stream_, cuda::kStreamNonBlocking), "cuStreamCreate");
  void* gate = nullptr;
  must(driver_->host_alloc(&gate, 4096, cuda::kHostAllocPortable), "cuMemHostAlloc");
  gate_ = static_cast<std::uint32_t*>(gate);
}

Gpu::~Gpu() {
  open_gate();
  driver_->stream_synchronize(stream_);
  for (const cuda::EventHandle mark : marks_) driver_->event_destroy(mark);
  driver_->stream_destroy(stream_);
  driver_->host_free(gate_);
  driver_->context_set(nullptr);
}

void Gpu::must(int code, const char* call) const {
  if (const Status status = device_->check(code, call); !status.ok()) throw std::runtime_error(status.message());
}

std::byte* Gpu::alloc(std::uint64_t bytes) {
  cuda::Pointer at = 0;
  must(driver_->memory_alloc(&at, bytes), "cuMemAlloc");
  return reinterpret_cast<std::byte*>(at);
}

void Gpu::free(std::byte* memory) {
  driver_->memory_free(reinterpret_cast<cuda::Pointer>(memory));
}

void Gpu::copy(void* to, const void* from, std::uint64_t bytes) {
  must(driver_->copy(reinterpret_cast<cuda::Pointer>(to), reinterpret_cast<cuda::Pointer>(from), bytes, stream_),
       "cuMemcpyAsync");
}

void Gpu::upload(void* to, const std::vector<std::byte>& bytes) {
  copy(to, bytes.data(), bytes.size());
  synchronize();
}

std::vector<std::byte> Gpu::download(const void* from, std::uint64_t bytes) {
  std::vector<std::byte> here(bytes);
  copy(here.data(), from, bytes);
  synchronize();
  return here;
}

void Gpu::poison(void* at, std::uint64_t bytes) {
  must(driver_->memory_set(reinterpret_cast<cuda::Pointer>(at), 0xEE, bytes, stream_), "cuMemsetD8Async");
}

void Gpu::synchronize() {
  must(driver_->stream_synchronize(stream_), "cuStreamSynchronize");
}

cuda::EventHandle Gpu::mark() {
  cuda::EventHandle event = nullptr;
  must(driver_->event_create(&event, cuda::kEventDisableTiming), "cuEventCreate");
  marks_.push_back(event);
  must(driver_->event_record(event, stream_), "cuEventRecord");
  return event;
}

bool Gpu::passed(cuda::EventHandle mark) const {
  const cuda::Code code = driver_->event_query(mark);
  if (code != cuda::kNotReady) must(code, "cuEventQuery");
  return code == cuda::kSuccess;
}

void Gpu::use_here() const {
  must(driver_->context_set(device_->context()), "cuCtxSetCurrent");
}

void Gpu::close_gate() {
  __atomic_store_n(gate_, 0, __ATOMIC_RELEASE);
  must(driver_->stream_wait_value(stream_, reinterpret_cast<cuda::Pointer>(gate_), 1, cuda::kWaitValueGreaterOrEqual),
       "cuStreamWaitValue32");
}

void Gpu::open_gate() {
  __atomic_store_n(gate_, 1, __ATOMIC_RELEASE);
}

// ---------------------------------------------------------------- a layer

std::uint64_t fresh_seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

std::vector<std::byte> random_bytes(std::uint64_t seed, std::uint32_t expert, std::uint32_t segment, std::uint64_t version,
                                    std::uint64_t bytes) {
  std::mt19937_64 random(seed ^ (std::uint64_t{expert} << 40) ^ (std::uint64_t{segment} << 32) ^
                         version * 0x9E3779B97F4A7C15u);
  std::vector<std::byte> out((bytes + 7) / 8 * 8);
  for (std::size_t i = 0; i < out.size(); i += 8) {
    const std::uint64_t word = random();
    std::memcpy(out.data() + i, &word, 8);
  }
  out.resize(bytes);
  return out;
}

GpuLayer::GpuLayer(Gpu& gpu, const Job& job, const GpuShape& shape) : gpu_(gpu), shape_(shape) {
  cardea_group_info_t group = CARDEA_GROUP_INFO_INIT;
  CARDEA_MUST(cardea_group_query(job.all, &group));
  members_ = group.count;
  index_ = group.index;
  constexpr std::uint64_t kBefore = 4096 + 256;  // a framework's allocator puts other things first
  std::uint64_t total = kBefore;
  for (const std::uint64_t bytes : shape_.segments) total += (bytes + 255) / 256 * 256 * shape_.per_rank;
  std::byte* at = nullptr;
  const bool own = shape_.weights == Weights::kCardea || shape_.weights == Weights::kHostMapped;
  if (own) {
    const auto kind = shape_.weights == Weights::kCardea ? CARDEA_MEMORY_CUDA : CARDEA_MEMORY_HOST;
    cardea_memory_t memory{};
    CARDEA_MUST(cardea_memory_alloc(job.context, total, kind, &memory));
    cardea_memory_info_t where = CARDEA_MEMORY_INFO_INIT;
    CARDEA_MUST(cardea_memory_query(memory, &where));
    EXPECT_EQ(where.kind, kind);
    EXPECT_EQ(where.mappable, 1u);
    at = static_cast<std::byte*>(where.address);
  } else if (on_device()) {
    at = memory_ = gpu_.alloc(total);
  } else {
    host_.resize(total);
    at = host_.data();
  }
  at += kBefore;
  std::vector<cardea_placement_t> placements;
  for (const std::uint64_t bytes : shape_.segments) {
    const std::uint64_t stride = (bytes + 255) / 256 * 256;
    std::vector<std::byte*>& places = places_.emplace_back();
    for (std::uint32_t i = 0; i < shape_.per_rank; ++i) places.push_back(at + stride * i);
    if (shape_.weights == Weights::kPointers) std::reverse(places.begin(), places.end());
    cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
    placement.base = at;
    placement.stride = stride;
    placements.push_back(placement);
    at += stride * shape_.per_rank;
  }
  if (shape_.weights == Weights::kPointers) {
    for (std::size_t s = 0; s < placements.size(); ++s) {
      placements[s] = CARDEA_PLACEMENT_INIT;
      placements[s].pointers = reinterpret_cast<void* const*>(places_[s].data());
    }
  }
  const std::vector<cardea_segment_t> segments = segments_of(shape_.segments);
  if (shape_.slots != 0) {
    cardea_slab_desc_t desc = CARDEA_SLAB_DESC_INIT;
    desc.segments = segments.data();
    desc.num_segments = static_cast<std::uint32_t>(segments.size());
    desc.num_slots = shape_.slots;
    desc.kind = shape_.slab_on_device ? CARDEA_MEMORY_CUDA : CARDEA_MEMORY_HOST;
    CARDEA_MUST(cardea_slab_create(job.context, &desc, &slab));
  }
  std::vector<std::uint32_t> local;
  for (std::uint32_t i = 0; i < shape_.per_rank; ++i) local.push_back(index_ * shape_.per_rank + i);
  cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
  desc.num_experts = experts();
  desc.segments = segments.data();
  desc.num_segments = static_cast<std::uint32_t>(segments.size());
  desc.num_local = shape_.per_rank;
  desc.local_experts = local.data();
  desc.placements = placements.data();
  desc.slab = slab;
  CARDEA_MUST(cardea_layer_create(job.all, &desc, &handle));
}

GpuLayer::~GpuLayer() {
  // The framework's memory stays until the process ends: peers may still read it when this rank is done.
}

std::vector<std::uint32_t> GpuLayer::foreign() const {
  std::vector<std::uint32_t> all;
  for (std::uint32_t e = 0; e < experts(); ++e) {
    if (e / shape_.per_rank != index_) all.push_back(e);
  }
  return all;
}

void GpuLayer::write(std::uint64_t version) {
  for (std::uint32_t s = 0; s < shape_.segments.size(); ++s) {
    for (std::uint32_t i = 0; i < shape_.per_rank; ++i) {
      const auto bytes = random_bytes(shape_.seed, index_ * shape_.per_rank + i, s, version, shape_.segments[s]);
      if (on_device()) {
        gpu_.upload(places_[s][i], bytes);
      } else {
        std::memcpy(places_[s][i], bytes.data(), bytes.size());
      }
    }
  }
}

void GpuLayer::publish(std::uint64_t version) {
  write(version);
  CARDEA_MUST(cardea_publish(handle, version, nullptr));
}

void GpuLayer::poison_slab() {
  cardea_slab_info_t info = CARDEA_SLAB_INFO_INIT;
  CARDEA_MUST(cardea_slab_query(slab, &info));
  for (std::size_t s = 0; s < shape_.segments.size(); ++s) {
    if (shape_.slab_on_device) {
      gpu_.poison(info.base[s], info.num_slots * info.stride[s]);
    } else {
      std::memset(info.base[s], 0xEE, info.num_slots * info.stride[s]);
    }
  }
  if (shape_.slab_on_device) gpu_.synchronize();
}

cardea_fetch_t GpuLayer::fetch(std::uint64_t version, const std::vector<std::uint32_t>& experts, cuda::Stream stream,
                               std::uint32_t flags, cardea_status_t expected) const {
  cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
  desc.version = version;
  desc.experts = experts.data();
  desc.num_experts = static_cast<std::uint32_t>(experts.size());
  desc.flags = flags;
  desc.stream = stream;
  cardea_fetch_t fetch{};
  const cardea_status_t got = cardea_fetch(handle, &desc, &fetch);
  EXPECT_EQ(got, expected) << last_error().message;
  return fetch;
}

::testing::AssertionResult GpuLayer::right(std::uint32_t expert, std::uint64_t version, const void* const* segments,
                                           bool on_device) const {
  for (std::uint32_t s = 0; s < shape_.segments.size(); ++s) {
    const auto expected = random_bytes(shape_.seed, expert, s, version, shape_.segments[s]);
    std::vector<std::byte> found(expected.size());
    if (on_device) {
      found = gpu_.download(segments[s], expected.size());
    } else {
      std::memcpy(found.data(), segments[s], found.size());
    }
    const auto [at, e] = std::mismatch(found.begin(), found.end(), expected.begin());
    if (at != found.end()) {
      return ::testing::AssertionFailure() << "expert " << expert << " version " << version << " segment " << s
                                           << " differs from byte " << at - found.begin() << " of " << found.size() << " on";
    }
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult GpuLayer::right(const cardea_view_t& view, std::uint64_t version) const {
  if (view.status != CARDEA_OK) {
    return ::testing::AssertionFailure() << "expert " << view.expert << ": " << cardea_status_string(view.status) << " "
                                         << last_error().message;
  }
  if (view.version != version) return ::testing::AssertionFailure() << "version " << view.version;
  const bool device = view.slot != CARDEA_NO_SLOT ? shape_.slab_on_device : on_device();
  return right(view.expert, version, view.segments, device);
}

std::uint32_t GpuLayer::read(std::uint64_t version, const std::vector<std::uint32_t>& experts, cardea_path_t path) const {
  const cardea_fetch_t fetched = fetch(version, experts);
  std::uint32_t by_path = 0, seen = 0;
  for (;;) {
    cardea_status_t status = CARDEA_OK;
    const std::vector<cardea_view_t> views = next(fetched, 2, kPatience, &status);
    must(status, "cardea_next");
    if (views.empty()) break;
    for (const cardea_view_t& view : views) {
      EXPECT_TRUE(right(view, version));
      ++seen;
      by_path += view.path == path;
    }
    CARDEA_MUST(cardea_release(views.data(), static_cast<std::uint32_t>(views.size())));
  }
  EXPECT_EQ(seen, experts.size());
  CARDEA_MUST(cardea_fetch_destroy(fetched));
  return by_path;
}

Traffic traffic_on(const Job& job, const char* lane) {
  std::array<cardea_traffic_t, 32> rows;
  rows.fill(CARDEA_TRAFFIC_INIT);
  std::uint32_t count = 0;
  CARDEA_MUST(cardea_traffic_query(job.context, rows.data(), rows.size(), &count));
  Traffic traffic;
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(count, rows.size()); ++i) {
    if (std::strcmp(rows[i].lane, lane) != 0) continue;
    traffic.started += rows[i].chunks_started;
    traffic.done += rows[i].chunks_done;
  }
  return traffic;
}

}  // namespace cardea::test
