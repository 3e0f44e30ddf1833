// SPDX-License-Identifier: Apache-2.0
// Memory that cannot be shared is refused with advice, and calls of the driver that fail become a status, never an abort.
#include <dlfcn.h>
#include <unistd.h>

#include "tests/cuda/gpu_job.h"

namespace cardea::test {
namespace {

class GpuRefusal : public ::testing::Test {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }
  /// One rank alone.
  void alone(const std::function<void(Gpu&, Job&)>& body, const char* fail = nullptr) {
    SharedExchange exchange(1);
    run_ranks(1, [&](unsigned rank) {
      if (fail != nullptr) setenv("FAKE_CUDA_FAIL", fail, 1);
      Gpu gpu(rank);
      Job job(exchange, rank);
      body(gpu, job);
    });
  }
};

template <typename Function>
Function symbol(const char* name) {
  return reinterpret_cast<Function>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}

TEST_F(GpuRefusal, MemoryThatCannotBeSharedIsRefusedWithAdvice) {
  alone([](Gpu& gpu, Job& job) {
    cardea_memory_t memory{};
    const auto refuse = [&](void* at, std::uint64_t bytes, cardea_status_t code, std::initializer_list<const char*> words) {
      EXPECT_TRUE(refused(code, words, cardea_memory_register(job.context, at, bytes, CARDEA_MEMORY_CUDA, &memory)));
    };
    cuda::Pointer at = 0;
    gpu.must(symbol<int (*)(cuda::Pointer*, std::size_t, unsigned)>("cuMemAllocManaged")(&at, 1 << 20, 1), "managed");
    refuse(reinterpret_cast<void*>(at), 4096, CARDEA_ERR_UNSUPPORTED, {"managed", "cudaMalloc"});
    gpu.must(symbol<int (*)(cuda::Pointer*, std::size_t, cuda::Stream)>("cuMemAllocAsync")(&at, 1 << 20, gpu.stream()),
             "pool");
    gpu.synchronize();
    refuse(reinterpret_cast<void*>(at), 4096, CARDEA_ERR_UNSUPPORTED, {"cudaMallocAsync"});
    std::vector<std::byte> plain(8192);
    refuse(plain.data(), 4096, CARDEA_ERR_INVALID_ARGUMENT, {"no device memory"});
    void* pinned = nullptr;
    gpu.must(gpu.driver().host_alloc(&pinned, 4096, 1), "pinned");
    refuse(pinned, 4096, CARDEA_ERR_INVALID_ARGUMENT, {});
    gpu.must(gpu.driver().host_free(pinned), "cuMemFreeHost");

    // As PyTorch's expandable segments are: one range of addresses, several allocations, no handles to pass on.
    cuda::AllocationProperties properties;
    properties.type = cuda::kAllocationPinned;
    properties.location = {cuda::kLocationDevice, gpu.ordinal()};
    constexpr std::uint64_t kPart = 4 << 20;
    cuda::Pointer range = 0;
    gpu.must(gpu.driver().address_reserve(&range, 2 * kPart, 0, 0, 0), "reserve");
    for (int part = 0; part < 2; ++part) {
      cuda::Allocation allocation = 0;
      gpu.must(gpu.driver().allocation_create(&allocation, kPart, &properties, 0), "create");
      gpu.must(gpu.driver().map(range + part * kPart, kPart, 0, allocation, 0), "map");
    }
    const cuda::AccessDescription access{{cuda::kLocationDevice, gpu.ordinal()}, cuda::kAccessReadWrite};
    gpu.must(gpu.driver().set_access(range, 2 * kPart, &access, 1), "access");
    refuse(reinterpret_cast<void*>(range), 4096, CARDEA_ERR_UNSUPPORTED, {"expandable_segments"});
    refuse(reinterpret_cast<void*>(range + kPart - 4096), 8192, CARDEA_ERR_UNSUPPORTED, {"expandable_segments"});

    // What can be is not.
    std::byte* const good = gpu.alloc(1 << 20);
    CARDEA_MUST(cardea_memory_register(job.context, good + 4096, 8192, CARDEA_MEMORY_CUDA, &memory));
    CARDEA_MUST(cardea_memory_free(memory));
    refuse(good + (1 << 20) - 4096, 1 << 26, CARDEA_ERR_UNSUPPORTED, {"no single allocation"});
    CARDEA_MUST(job.leave());
  });
}

TEST_F(GpuRefusal, MemoryOfAnotherDeviceIsRefused) {
  if (gpus_here() < 2) GTEST_SKIP() << "takes two GPUs";
  alone([](Gpu& gpu, Job& job) {
    cardea_memory_t memory{};
    CARDEA_MUST(cardea_memory_alloc(job.context, 4096, CARDEA_MEMORY_CUDA, &memory));
    Gpu other(static_cast<unsigned>(gpu.ordinal()) + 1);
    std::byte* const theirs = other.alloc(1 << 20);
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"device 1", "device 0"}),
                   cardea_memory_register(job.context, theirs, 4096, CARDEA_MEMORY_CUDA, &memory));
  });
}

TEST_F(GpuRefusal, MoreMemoryThanTheDeviceHasIsNoMemory) {
  alone([](Gpu&, Job& job) {
    cardea_memory_t memory{};
    EXPECT_REFUSED(CARDEA_ERR_NO_MEMORY, ({"cuMemCreate", "device"}),
                   cardea_memory_alloc(job.context, std::uint64_t{1} << 44, CARDEA_MEMORY_CUDA, &memory));
    CARDEA_MUST(cardea_memory_alloc(job.context, 4096, CARDEA_MEMORY_CUDA, &memory));  // it goes on
  });
}

TEST_F(GpuRefusal, StreamsNeedASlabInDeviceMemory) {
  alone([](Gpu& gpu, Job& job) {
    const std::uint64_t seed = fresh_seed();
    GpuLayer layer(gpu, job, {.slots = 2, .slab_on_device = false, .seed = seed});
    layer.publish(1);
    layer.fetch(1, {0}, gpu.stream(), 0, CARDEA_ERR_INVALID_ARGUMENT);
    EXPECT_NE(std::string(last_error().message).find("slab"), std::string::npos);
  });
}

TEST_F(GpuRefusal, ACopyThatTheDriverRefusesFailsItsExpertsAndNamesTheCall) {
  if (!fake_gpus()) GTEST_SKIP() << "only the fake driver fails when told";
  for (const bool on_stream : {false, true}) {
    SharedExchange exchange(2);
    SharedBoard board;
    const std::uint64_t seed = fresh_seed();
    run_ranks(2, [&](unsigned rank) {
      if (rank == 0) setenv("FAKE_CUDA_FAIL", "cuMemcpyBatchAsync_v2:1:719", 1);
      Gpu gpu(rank);
      Job job(exchange, rank);
      GpuLayer layer(gpu, job, {.slots = 4, .seed = seed});
      layer.publish(1);
      EXPECT_TRUE(board.barrier(0, 2));
      if (rank == 0) {
        const cardea_fetch_t fetch = layer.fetch(1, layer.foreign(), on_stream ? gpu.stream() : nullptr);
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_DEVICE);
        EXPECT_NE(std::string(last_error().message).find("cuMemcpyBatchAsync"), std::string::npos) << last_error().message;
        EXPECT_NE(std::string(last_error().message).find("device 0"), std::string::npos);
        EXPECT_EQ(last_error().peer, 1u);
        for (const cardea_view_t& view : drain(fetch)) EXPECT_EQ(view.status, CARDEA_ERR_DEVICE);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        cardea_slab_info_t slab = CARDEA_SLAB_INFO_INIT;
        CARDEA_MUST(cardea_slab_query(layer.slab, &slab));
        EXPECT_EQ(slab.free_slots, 4u) << "their slots came back";
      }
      EXPECT_TRUE(board.barrier(1, 2));
    });
  }
}

TEST_F(GpuRefusal, WhatCameOutOfTheDeviceBeforeACopyFailedIsSentAndTheRestNamesTheCall) {
  if (!fake_gpus()) GTEST_SKIP() << "only the fake driver fails when told";
  SharedExchange exchange(2);
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
  run_ranks(2, [&](unsigned rank) {
    Gpu gpu(rank);
    Job job(exchange, rank, rank == 0 ? "first" : "second");
    // The first part, of 2 MiB, is of two segments that do not lie together, so it is a batch; the others are of one.
    GpuLayer layer(gpu, job, {.segments = {1 << 20, 30 << 20}, .per_rank = 2, .slots = 1, .seed = seed});
    layer.publish(1);
    EXPECT_TRUE(board.barrier(0, 2));
    if (rank == 1) symbol<int (*)(const char*)>("fake_cuda_fail_from_here")("cuMemcpyAsync");
    EXPECT_TRUE(board.barrier(1, 2));
    if (rank == 0) {
      const cardea_fetch_t fetch = layer.fetch(1, {2});
      EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_DEVICE);
      EXPECT_NE(std::string(last_error().message).find("cuMemcpyAsync"), std::string::npos) << last_error().message;
      EXPECT_EQ(last_error().peer, 1u);
      CARDEA_MUST(cardea_fetch_destroy(fetch));
    } else {
      // The error may overtake them, and then the asker does not count them.
      const auto sent = [&] { return job.counters().bytes_network_sent; };
      for (int i = 0; i < 10000 && sent() == 0; ++i) usleep(1000);
      EXPECT_GE(sent(), 1u << 20) << "nothing was sent before all of it had been copied";
      EXPECT_LE(sent(), 2u << 20);
    }
    EXPECT_TRUE(board.barrier(2, 2));
  });
}

TEST_F(GpuRefusal, ADeviceInErrorFailsWhatIsUnderWayAndTheContextStillEnds) {
  if (!fake_gpus()) GTEST_SKIP() << "only the fake driver fails when told";
  SharedExchange exchange(2);
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
  run_ranks(2, [&](unsigned rank) {
    if (rank == 0) setenv("FAKE_CUDA_FAIL", "cuEventQuery:1:700", 1);
    Gpu gpu(rank);
    Job job(exchange, rank);
    GpuLayer layer(gpu, job, {.slots = 4, .seed = seed});
    layer.publish(1);
    EXPECT_TRUE(board.barrier(0, 2));
    if (rank == 0) {
      const cardea_fetch_t fetch = layer.fetch(1, layer.foreign());
      EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_DEVICE);
      const cardea_fetch_t streamed = layer.fetch(1, {4}, gpu.stream());
      EXPECT_EQ(drain(streamed).size(), 1u) << "it was queued";
      EXPECT_EQ(cardea_wait(streamed, kPatience), CARDEA_ERR_DEVICE) << "but its output must not be trusted";
      CARDEA_MUST(job.leave());
    }
    EXPECT_TRUE(board.barrier(1, 2));
  });
}

}  // namespace
}  // namespace cardea::test
