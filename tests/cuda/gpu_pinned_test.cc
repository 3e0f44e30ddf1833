// SPDX-License-Identifier: Apache-2.0
// Host memory that the GPU copies from and to is pinned, bounded, and where it cannot be, everything works all the same.
#include <unistd.h>

#include "lib/cuda/pinned.h"
#include "tests/cuda/gpu_job.h"

namespace cardea::test {
namespace {

bool known_to_driver(const Gpu& gpu, const void* memory) {
  unsigned type = 0;
  int which = static_cast<int>(cuda::Attribute::kMemoryType);
  void* data = &type;
  gpu.must(gpu.driver().pointer_attributes(1, &which, &data, reinterpret_cast<cuda::Pointer>(memory)),
           "cuPointerGetAttributes");
  return type == cuda::kMemoryTypeHost;
}

class GpuPinned : public ::testing::Test {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }
};

TEST_F(GpuPinned, BuffersArePinnedWhenTheyAreCopiedFirstAndUsedAgain) {
  run_ranks(1, [](unsigned rank) {
    Gpu gpu(rank);
    const auto pool = std::make_shared<cuda::BufferPool>(gpu.device(), 3 << 20);
    auto one = pool->take(1 << 20);
    ASSERT_NE(one, nullptr);
    EXPECT_FALSE(known_to_driver(gpu, one->data())) << "taking one must not call the driver";
    one->pin();
    ASSERT_TRUE(one->pinned());
    EXPECT_TRUE(known_to_driver(gpu, one->data()));
    const std::byte* const place = one->data();
    one.reset();
    one = pool->take(1 << 20);
    EXPECT_EQ(one->data(), place);
    EXPECT_TRUE(one->pinned());
    EXPECT_EQ(pool->pinned_bytes(), 1u << 20);

    // Up to the limit; what is free makes room for other sizes.
    auto two = pool->take(2 << 20);
    two->pin();
    EXPECT_TRUE(two->pinned());
    auto three = pool->take(1 << 20);
    three->pin();
    EXPECT_FALSE(three->pinned());
    two.reset();
    three->pin();
    EXPECT_TRUE(three->pinned());
    EXPECT_LE(pool->pinned_bytes(), std::uint64_t{3} << 20);
  });
}

TEST_F(GpuPinned, TheNodeCacheAndWhatPeersHaveMappedHere) {
  SharedExchange exchange(3);
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
  const char* const nodes[] = {"first", "first", "second"};
  run_ranks(3, [&](unsigned rank) {
    Gpu gpu(rank);
    Job job(exchange, rank, nodes[rank]);
    {
      // Host slabs, so that views lie where they are mapped and in the node cache.
      GpuLayer layer(gpu, job,
                     {.weights = Weights::kHostMapped, .per_rank = 2, .slots = 2, .slab_on_device = false, .seed = seed});
      cardea_memory_t some{};
      CARDEA_MUST(cardea_memory_alloc(job.context, 4096, CARDEA_MEMORY_CUDA, &some));  // from here on there is a GPU
      layer.publish(1);
      if (rank < 2) {
        for (const std::uint32_t expert : {rank == 0 ? 2u : 0u, 4u}) {
          const cardea_fetch_t fetch = layer.fetch(1, {expert});
          const std::vector<cardea_view_t> views = drain(fetch);
          ASSERT_EQ(views.size(), 1u);
          EXPECT_EQ(views[0].slot, CARDEA_NO_SLOT);
          EXPECT_TRUE(layer.right(views[0], 1));
          for (int i = 0; i < 30000 && !known_to_driver(gpu, views[0].segments[0]); ++i) usleep(1000);
          EXPECT_TRUE(known_to_driver(gpu, views[0].segments[0])) << "expert " << expert << " by path " << views[0].path;
          release(views);
          CARDEA_MUST(cardea_fetch_destroy(fetch));
        }
      }
      EXPECT_TRUE(board.barrier(0, 3));
      CARDEA_MUST(cardea_finish(layer.handle, 1, nullptr));
      CARDEA_MUST(cardea_collect(layer.handle, 1, nullptr, kPatience));
      CARDEA_MUST(cardea_layer_destroy(layer.handle));
      CARDEA_MUST(cardea_memory_free(some));
    }
    EXPECT_TRUE(board.barrier(1, 3));
    CARDEA_MUST(job.leave());
  });
}

TEST_F(GpuPinned, WhatCannotBePinnedIsCopiedAllTheSame) {
  if (!fake_gpus()) GTEST_SKIP() << "takes a driver that fails when it is told";
  SharedExchange exchange(3);
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
  const char* const nodes[] = {"first", "first", "second"};
  run_ranks(3, [&](unsigned rank) {
    setenv("FAKE_CUDA_FAIL", "cuMemHostRegister_v2:1:2", 1);
    Gpu gpu(rank);
    Job job(exchange, rank, nodes[rank]);
    GpuLayer layer(gpu, job, {.weights = Weights::kHostMapped, .segments = {3 << 20, 4096}, .slots = 4, .seed = seed});
    layer.publish(1);
    layer.poison_slab();
    layer.read(1, layer.foreign(), CARDEA_PATH_NETWORK);
    const cardea_fetch_t streamed = layer.fetch(1, layer.foreign(), gpu.stream());
    for (std::size_t seen = 0; seen < layer.foreign().size();) {
      cardea_status_t status = CARDEA_OK;
      const std::vector<cardea_view_t> views = next(streamed, 2, kPatience, &status);
      must(status, "cardea_next");
      for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
      seen += views.size();
      release(views);
    }
    EXPECT_EQ(cardea_wait(streamed, kPatience), CARDEA_OK);
    CARDEA_MUST(cardea_fetch_destroy(streamed));
    EXPECT_TRUE(board.barrier(0, 3));
  });
}

}  // namespace
}  // namespace cardea::test
