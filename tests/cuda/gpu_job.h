// SPDX-License-Identifier: Apache-2.0
// Ranks that use GPUs, for tests of the C API: a rank's own use of the driver, and a layer whose weights lie in device
// memory. Each rank is a process, and the test's own process never touches the driver, which does not survive a fork. What
// cannot be set up throws, which fails the rank. The tests run on the machine's GPUs, or on the fake driver (fake/) where
// they are started with it in the library path.
#pragma once

#include <functional>
#include <memory>
#include <ostream>

#include "lib/cuda/device.h"
#include "tests/api/api_job.h"

namespace cardea::test {

/// GPUs that a process started now would see, looked for in a process of its own.
int gpus_here();
/// Whether those are the fake driver's.
bool fake_gpus();
/// Whether this UCX takes a GPU's memory as a chunk's destination, asked in a process of its own.
bool ucx_takes_gpus();

#define CARDEA_NEEDS_GPU() \
  if (::cardea::test::gpus_here() == 0) GTEST_SKIP() << "no GPU here"

/// A rank's device, current on the thread that makes it.
class Gpu {
 public:
  explicit Gpu(unsigned rank);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const cuda::Driver& driver() const { return *driver_; }
  const std::shared_ptr<const cuda::Device>& device() const { return device_; }
  int ordinal() const { return device_->ordinal(); }
  cuda::Stream stream() const { return stream_; }

  std::byte* alloc(std::uint64_t bytes);
  void free(std::byte* memory);
  /// Synchronous, by way of this rank's stream.
  void upload(void* to, const std::vector<std::byte>& bytes);
  std::vector<std::byte> download(const void* from, std::uint64_t bytes);
  /// On the stream, not waited for.
  void copy(void* to, const void* from, std::uint64_t bytes);
  void poison(void* at, std::uint64_t bytes);
  void synchronize();
  /// A place on the stream, and whether the GPU has got there.
  cuda::EventHandle mark();
  bool passed(cuda::EventHandle mark) const;
  /// Makes the device current on another thread.
  void use_here() const;
  /// Stops the stream until open().
  void close_gate();
  void open_gate();
  /// Throws unless it is CUDA_SUCCESS.
  void must(int code, const char* call) const;

 private:
  std::shared_ptr<const cuda::Driver> driver_;
  std::shared_ptr<const cuda::Device> device_;
  cuda::Stream stream_ = nullptr;
  std::uint32_t* gate_ = nullptr;
  std::vector<cuda::EventHandle> marks_;
};

/// Where a layer's weights lie.
enum class Weights {
  kCardea,      // cardea_memory_alloc
  kMalloc,      // one cudaMalloc, stacked behind some bytes that are not ours
  kPointers,    // one cudaMalloc, a pointer for each expert and segment, in no order
  kHostMapped,  // host memory that the node can map
  kHost,        // private host memory
};
/// For the names of tests.
inline void PrintTo(Weights weights, std::ostream* out) {
  constexpr const char* kNames[] = {"Cardea", "Malloc", "Pointers", "HostMapped", "Host"};
  *out << kNames[static_cast<std::size_t>(weights)];
}

/// The bytes of an expert's segment; `seed` is drawn anew for each run.
std::vector<std::byte> random_bytes(std::uint64_t seed, std::uint32_t expert, std::uint32_t segment, std::uint64_t version,
                                    std::uint64_t bytes);
std::uint64_t fresh_seed();

/// Chunks that this rank has begun, and that are done, on a lane.
struct Traffic {
  std::uint64_t started = 0, done = 0;
};
Traffic traffic_on(const Job& job, const char* lane);

struct GpuShape {
  Weights weights = Weights::kCardea;
  std::vector<std::uint64_t> segments = {1 << 16, 40000, 96};
  std::uint32_t per_rank = 4;
  std::uint32_t slots = 4;
  bool slab_on_device = true;
  std::uint64_t seed = 0;
};

class GpuLayer {
 public:
  GpuLayer(Gpu& gpu, const Job& job, const GpuShape& shape);
  ~GpuLayer();

  std::uint32_t experts() const { return members_ * shape_.per_rank; }
  /// Those at home at others.
  std::vector<std::uint32_t> foreign() const;
  void write(std::uint64_t version);
  void publish(std::uint64_t version);
  void poison_slab();
  cardea_fetch_t fetch(std::uint64_t version, const std::vector<std::uint32_t>& experts, cuda::Stream stream = nullptr,
                       std::uint32_t flags = 0, cardea_status_t expected = CARDEA_OK) const;
  /// That a view has its bytes; waits for nothing.
  ::testing::AssertionResult right(const cardea_view_t& view, std::uint64_t version) const;
  ::testing::AssertionResult right(std::uint32_t expert, std::uint64_t version, const void* const* segments,
                                   bool on_device) const;
  /// Fetches these, checks and releases all; returns how many came by `path`.
  std::uint32_t read(std::uint64_t version, const std::vector<std::uint32_t>& experts, cardea_path_t path) const;

  cardea_layer_t handle{};
  cardea_slab_t slab{};

 private:
  bool on_device() const { return shape_.weights <= Weights::kPointers; }

  Gpu& gpu_;
  GpuShape shape_;
  std::uint32_t members_ = 0, index_ = 0;
  std::byte* memory_ = nullptr;
  std::vector<std::byte> host_;
  std::vector<std::vector<std::byte*>> places_;  // by segment, by local expert
};

}  // namespace cardea::test
