// SPDX-License-Identifier: Apache-2.0
// The owner of device memory learns when the others have let go of it, whoever they are and whatever becomes of them.
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "tests/cuda/gpu_job.h"

namespace cardea::test {
namespace {

constexpr std::uint64_t kWeights = 4 << 20;

/// One layer over memory of cudaMalloc, each rank with one expert in it.
class Part {
 public:
  Part(Gpu& gpu, const Job& job, std::uint32_t layer_id = 0) { make(gpu.alloc(kWeights), job, layer_id); }
  Part(std::byte* at, const Job& job, std::uint32_t layer_id = 0) { make(at, job, layer_id); }

  void destroy() { CARDEA_MUST(cardea_layer_destroy(handle)); }

  std::byte* memory = nullptr;
  cardea_layer_t handle{};

 private:
  void make(std::byte* at, const Job& job, std::uint32_t layer_id) {
    memory = at;
    const std::vector<cardea_segment_t> segments = segments_of({4096});
    cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
    placement.base = memory + 8192;
    placement.stride = 4096;
    cardea_group_info_t group = CARDEA_GROUP_INFO_INIT;
    CARDEA_MUST(cardea_group_query(job.all, &group));
    cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
    desc.layer_id = layer_id;
    desc.num_experts = group.count;
    desc.segments = segments.data();
    desc.num_segments = 1;
    desc.num_local = 1;
    desc.local_experts = &group.index;
    desc.placements = &placement;
    CARDEA_MUST(cardea_layer_create(job.all, &desc, &handle));
  }
};

cardea_status_t wait_unmapped(const Job& job, const void* at, std::uint64_t timeout, std::uint64_t bytes = kWeights) {
  return cardea_memory_wait_unmapped(job.context, at, bytes, timeout);
}

class GpuExports : public ::testing::Test {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }
  void run(unsigned count, const std::function<void(Gpu&, Job&, unsigned rank)>& body, const RankOptions& options = {}) {
    SharedExchange exchange(count);
    run_ranks(
        count,
        [&](unsigned rank) {
          Gpu gpu(rank);
          Job job(exchange, rank, "here");
          body(gpu, job, rank);
        },
        options);
  }
  SharedBoard board;
};

TEST_F(GpuExports, TheOwnerWaitsUntilTheOthersHaveDestroyedTheirLayers) {
  run(3, [&](Gpu& gpu, Job& job, unsigned rank) {
    Part part(gpu, job);
    if (rank == 0) {
      EXPECT_REFUSED(CARDEA_ERR_BUSY, ({"layers"}), wait_unmapped(job, part.memory, kPatience));
      part.destroy();
      EXPECT_EQ(wait_unmapped(job, part.memory, 0), CARDEA_IN_PROGRESS);
      EXPECT_REFUSED(CARDEA_ERR_TIMEOUT, ({"rank 1", "let go"}), wait_unmapped(job, part.memory, 20 * kMilli));
      EXPECT_EQ(last_error().peer, 1u);
      // Another part of the memory, and what lies behind it.
      EXPECT_EQ(wait_unmapped(job, part.memory + kWeights - 1, 0, 1), CARDEA_IN_PROGRESS) << "it is mapped as a whole";
      EXPECT_EQ(wait_unmapped(job, part.memory + kWeights, 0, 1), CARDEA_OK);
      EXPECT_TRUE(board.barrier(0, 3));
      CARDEA_MUST(wait_unmapped(job, part.memory, kPatience));
      EXPECT_EQ(board.get(1), 1u) << "before the others had ended";
      EXPECT_EQ(board.get(2), 1u);
      CARDEA_MUST(wait_unmapped(job, part.memory, CARDEA_FOREVER));  // once more
      CARDEA_MUST(wait_unmapped(job, part.memory, 0));
      gpu.free(part.memory);
    } else {
      EXPECT_TRUE(board.barrier(0, 3));
      usleep(rank * 30000);
      board.set(rank, 1);
      part.destroy();
      CARDEA_MUST(wait_unmapped(job, part.memory, kPatience));
    }
    EXPECT_TRUE(board.barrier(1, 3));
  });
}

TEST_F(GpuExports, MemoryThatIsRegisteredIsFreedFirst) {
  run(2, [&](Gpu& gpu, Job& job, unsigned) {
    std::byte* const mine = gpu.alloc(kWeights);
    cardea_memory_t memory{};
    CARDEA_MUST(cardea_memory_register(job.context, mine, kWeights, CARDEA_MEMORY_CUDA, &memory));
    CARDEA_MUST(wait_unmapped(job, mine, 0));  // nobody was offered it
    for (std::uint32_t round = 0; round < 3; ++round) {
      Part part(mine, job, round);
      part.destroy();
      EXPECT_REFUSED(CARDEA_ERR_BUSY, ({"cardea_memory_t"}), wait_unmapped(job, mine, 0));
    }
    CARDEA_MUST(cardea_memory_free(memory));
    CARDEA_MUST(wait_unmapped(job, mine, kPatience));
    gpu.free(mine);
    // Cardea's own.
    CARDEA_MUST(cardea_memory_alloc(job.context, kWeights, CARDEA_MEMORY_CUDA, &memory));
    cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
    CARDEA_MUST(cardea_memory_query(memory, &info));
    Part part(static_cast<std::byte*>(info.address), job, 9);
    part.destroy();
    CARDEA_MUST(cardea_memory_free(memory));
    CARDEA_MUST(wait_unmapped(job, info.address, kPatience));
    EXPECT_TRUE(board.barrier(0, 2));
  });
}

TEST_F(GpuExports, ARankThatDiesWhileItMapsCountsAsHavingLetGo) {
  RankOptions options;
  options.victims = {1};
  run(
      2,
      [&](Gpu& gpu, Job& job, unsigned rank) {
        Part part(gpu, job);
        if (rank == 1) {
          board.set(1, static_cast<unsigned long>(getpid()));
          for (;;) pause();
        }
        EXPECT_TRUE(board.wait_for(1, 1));
        part.destroy();
        EXPECT_EQ(wait_unmapped(job, part.memory, 0), CARDEA_IN_PROGRESS);
        ASSERT_EQ(kill(static_cast<pid_t>(board.get(1)), SIGKILL), 0);
        CARDEA_MUST(wait_unmapped(job, part.memory, CARDEA_FOREVER));
        gpu.free(part.memory);
      },
      options);
}

TEST_F(GpuExports, ARankThatLeavesCountsAsHavingLetGo) {
  run(2, [&](Gpu& gpu, Job& job, unsigned rank) {
    Part part(gpu, job);
    EXPECT_TRUE(board.barrier(0, 2));
    if (rank == 1) return;  // without having destroyed anything
    part.destroy();
    CARDEA_MUST(wait_unmapped(job, part.memory, CARDEA_FOREVER));
    gpu.free(part.memory);
  });
}

TEST_F(GpuExports, RanksThatDoNotOrCannotMapItLetGoAsWell) {
  SharedExchange exchange(3);
  run_ranks(3, [&](unsigned rank) {
    // Rank 1 has no GPU that it could use; rank 2 cannot map what it is offered, on the fake driver.
    if (rank == 1) setenv("FAKE_CUDA_DEVICES", "0", 1);
    if (rank == 2) setenv("FAKE_CUDA_FAIL", "cuIpcOpenMemHandle_v2:1:201", 1);
    std::unique_ptr<Gpu> gpu;
    if (rank != 1) gpu = std::make_unique<Gpu>(rank);
    Job job(exchange, rank, "here");
    std::vector<std::byte> host(kWeights);
    std::byte* const mine = rank == 0 ? gpu->alloc(kWeights) : host.data();
    if (rank == 2) {  // so that it tries
      cardea_memory_t some{};
      CARDEA_MUST(cardea_memory_alloc(job.context, 4096, CARDEA_MEMORY_CUDA, &some));
    }
    Part part(mine, job);
    if (rank == 0) {
      part.destroy();
      EXPECT_EQ(wait_unmapped(job, mine, 0), CARDEA_IN_PROGRESS);
      EXPECT_TRUE(board.barrier(0, 3));
      CARDEA_MUST(wait_unmapped(job, mine, kPatience));
      gpu->free(mine);
    } else {
      CARDEA_MUST(wait_unmapped(job, mine, 0));  // host memory
      EXPECT_TRUE(board.barrier(0, 3));
      part.destroy();
    }
    EXPECT_TRUE(board.barrier(1, 3));
  });
}

TEST_F(GpuExports, ALayerThatNeverFormsHoldsNobodyUp) {
  SharedExchange exchange(2);
  run_ranks(2, [&](unsigned rank) {
    Gpu gpu(rank);
    cardea_config_t config = exchange.config(rank, "here");
    config.setup_timeout = (rank == 0 ? 200 : 60000) * kMilli;
    Job job(config);
    std::byte* const mine = gpu.alloc(kWeights);
    const std::vector<cardea_segment_t> segments = segments_of({4096});
    cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
    placement.base = mine;
    placement.stride = 4096;
    cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
    desc.num_experts = 2;
    desc.segments = segments.data();
    desc.num_segments = 1;
    desc.num_local = 1;
    desc.local_experts = &rank;
    desc.placements = &placement;
    cardea_layer_t layer{};
    if (rank == 0) {
      // The other does not come in time: what it was offered waits there for its layer.
      EXPECT_REFUSED(CARDEA_ERR_TIMEOUT, ({"ranks 1"}), cardea_layer_create(job.all, &desc, &layer));
      CARDEA_MUST(wait_unmapped(job, mine, kPatience));
      EXPECT_TRUE(board.barrier(0, 2));
      EXPECT_TRUE(board.barrier(1, 2));
      gpu.free(mine);
    } else {
      EXPECT_TRUE(board.barrier(0, 2));
      EXPECT_REFUSED(CARDEA_ERR_TIMEOUT, ({"rank 0", "gave up"}), cardea_layer_create(job.all, &desc, &layer));
      CARDEA_MUST(wait_unmapped(job, mine, kPatience));
      EXPECT_TRUE(board.barrier(1, 2));
      gpu.free(mine);
    }
    EXPECT_TRUE(board.barrier(2, 2));
  });
}

TEST_F(GpuExports, ThoseWhoWaitEndWithTheContext) {
  run(2, [&](Gpu& gpu, Job& job, unsigned rank) {
    Part part(gpu, job);
    EXPECT_TRUE(board.barrier(0, 2));
    if (rank == 0) {
      part.destroy();
      std::thread abort([&] {
        usleep(20000);
        CARDEA_MUST(cardea_context_abort(job.context));
      });
      EXPECT_EQ(wait_unmapped(job, part.memory, CARDEA_FOREVER), CARDEA_ERR_CANCELED);
      abort.join();
    }
    EXPECT_TRUE(board.barrier(1, 2));
  });
}

}  // namespace
}  // namespace cardea::test
