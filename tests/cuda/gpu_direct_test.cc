// SPDX-License-Identifier: Apache-2.0
// What comes over the network straight into slots in device memory (CARDEA_GPU_DIRECT). The fake driver's device memory is
// host memory, so there UCX is taken to have said that it has device memory (pretend_device_memory), and writes into it as
// it does into a GPU's; on GPUs it must really have it.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "lib/transport/ucx/factory.h"
#include "tests/cuda/gate_scene.h"

namespace cardea::test {
namespace {

using transport::DeviceMemory;

class GpuDirect : public GpuGate {
 protected:
  void SetUp() override {
    CARDEA_NEEDS_GPU();
    sizes_ = {3 << 20, 40000, 96};
    pretend(DeviceMemory::kCopied);
    if (!fake_gpus() && !ucx_takes_gpus()) GTEST_SKIP() << "this UCX has no device memory";
  }
  void TearDown() override { transport::pretend_device_memory(std::nullopt); }

  /// Of the ranks started from here on.
  static void pretend(DeviceMemory what) {
    if (fake_gpus()) transport::pretend_device_memory(what);
  }
  void directly(const std::function<void(Scene&)>& read, GpuShape shape = {}, bool source_dies = false,
                bool settled = true) {
    const bool streams = settled && shape.segments.size() == 3;
    reader_and_source(
        [&](Scene& scene) {
          if (streams) await_stream(scene);
          read(scene);
        },
        std::move(shape), "CARDEA_GPU_DIRECT", "on", source_dies);
  }
  /// Until chunks have a connection of their own a source that thinks the link slow, as on a busy machine, may send them
  /// eagerly, by way of host memory. From then on none may go that way; that it has come to this is told by nobody, so it is
  /// taken from all of them having gone straight, several times in some time. All but the first expert, and the one behind
  /// the last, lie in slots then, as whoever asks for them in order never notices: each takes the next one's slot.
  void await_stream(const Scene& scene) {
    int straight = 0;
    for (int round = 0; round < 100; ++round) {
      base_received_ = received(scene);
      base_direct_ = direct(scene);
      EXPECT_EQ(scene.layer.read(1, {scene.experts[0]}, CARDEA_PATH_NETWORK), 1u);
      for (std::size_t i = 1; i <= scene.experts.size(); ++i)
        scene.layer.read(1, {scene.experts[0] + static_cast<std::uint32_t>(i)}, CARDEA_PATH_NETWORK);
      const std::uint64_t went = direct(scene) - base_direct_;
      const bool all = went != 0 && (!fake_gpus() || went == received(scene) - base_received_);
      straight = all ? straight + 1 : 0;
      if (straight == (fake_gpus() ? 4 : 1)) break;
      if (all) usleep(100000);
    }
    scene.layer.poison_slab();
  }
  void expect_through_host_memory() {
    directly(
        [&](Scene& scene) {
          EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), scene.experts.size());
          EXPECT_EQ(direct(scene), 0u);
        },
        {}, false, false);
  }
  static std::uint64_t received(const Scene& scene) { return scene.job.counters().bytes_network_received; }
  static std::uint64_t direct(const Scene& scene) { return scene.job.counters().bytes_network_direct; }
  void expect_all_direct(const Scene& scene) const {
    EXPECT_GT(direct(scene), base_direct_);
    if (!fake_gpus()) return;  // a source that thinks the link slow, which it is with UCX's copies, sends some of it eagerly
    EXPECT_EQ(direct(scene) - base_direct_, received(scene) - base_received_) << "some of it stayed in host memory";
  }
  static constexpr std::uint64_t kExpertBytes = (3u << 20) + 40000 + 96;
  std::uint64_t base_received_ = 0, base_direct_ = 0;
  /// Reads expert `first` on the stream, which is held up behind that, and releases it. Returns where its first segment is
  /// copied to.
  static std::byte* read_behind_gate(Scene& scene, std::uint32_t first) {
    std::byte* const result = scene.gpu.alloc(3 << 20);
    scene.gpu.poison(result, 3 << 20);
    scene.gpu.synchronize();
    const cardea_fetch_t fetch = scene.layer.fetch(1, {first}, scene.gpu.stream());
    const std::vector<cardea_view_t> views = drain(fetch);
    EXPECT_EQ(views.size(), 1u);
    EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
    scene.gpu.close_gate();
    scene.gpu.copy(result, views.at(0).segments[0], 3 << 20);
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    return result;
  }
  static ::testing::AssertionResult first_segment_right(Scene& scene, std::uint32_t expert, const std::byte* at) {
    const auto expected = random_bytes(scene.seed, expert, 0, 1, 3 << 20);
    return scene.gpu.download(at, 3 << 20) == expected ? ::testing::AssertionSuccess()
                                                       : ::testing::AssertionFailure() << "the stream has read other bytes";
  }
  static std::string metrics_of(const Job& job) {
    std::string text(1 << 16, '\0');
    std::size_t needed = 0;
    CARDEA_MUST(cardea_metrics_text(job.context, text.data(), text.size(), &needed));
    return text.substr(0, needed - 1);
  }
  static ::testing::AssertionResult poisoned_slab(Scene& scene) {
    cardea_slab_info_t info = CARDEA_SLAB_INFO_INIT;
    CARDEA_MUST(cardea_slab_query(scene.layer.slab, &info));
    for (std::size_t s = 0; s < 3; ++s) {
      const auto bytes = scene.gpu.download(info.base[s], info.stride[s] * info.num_slots);
      const auto other = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0xEE}; });
      if (other != bytes.end())
        return ::testing::AssertionFailure() << "segment " << s << " was written at " << other - bytes.begin();
    }
    return ::testing::AssertionSuccess();
  }
};

TEST_F(GpuDirect, BytesOfAllSegmentsLieInTheSlotsAndNoneStayedInHostMemory) {
  for (const Weights weights : {Weights::kHost, Weights::kPointers}) {
    for (const bool on_stream : {false, true}) {
      directly(
          [&](Scene& scene) {
            const cardea_fetch_t fetch = scene.layer.fetch(1, scene.experts, on_stream ? scene.gpu.stream() : nullptr);
            const std::vector<cardea_view_t> views = drain(fetch);
            EXPECT_EQ(views.size(), scene.experts.size());
            for (const cardea_view_t& view : views) {
              EXPECT_EQ(view.path, CARDEA_PATH_NETWORK);
              EXPECT_TRUE(scene.layer.right(view, 1));
            }
            EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
            release(views);
            CARDEA_MUST(cardea_fetch_destroy(fetch));
            expect_all_direct(scene);
            const std::string metrics = metrics_of(scene.job);
            EXPECT_NE(metrics.find(fmt::format("cardea_network_direct_bytes_total{{rank=\"0\"}} {}", direct(scene))),
                      std::string::npos);
          },
          {.weights = weights});
    }
  }
}

TEST_F(GpuDirect, AGangAndSegmentsOneByOne) {
  directly(
      [&](Scene& scene) {
        const cardea_fetch_t gang = scene.layer.fetch(1, scene.experts, nullptr, CARDEA_FETCH_GANG);
        const std::vector<cardea_view_t> together = drain(gang);
        EXPECT_EQ(together.size(), scene.experts.size());
        for (const cardea_view_t& view : together) EXPECT_TRUE(scene.layer.right(view, 1));
        release(together);
        CARDEA_MUST(cardea_fetch_destroy(gang));
        EXPECT_GT(direct(scene), 0u);
        await_stream(scene);  // the first expert is in no slot any more: anew, its last segment first
        const std::uint64_t before = direct(scene);
        const std::uint32_t wanted = scene.experts.front();
        cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
        desc.version = 1;
        desc.experts = &wanted;
        desc.num_experts = 1;
        for (const std::uint64_t mask : {4u, 1u, 7u}) {
          desc.segment_mask = mask;
          cardea_fetch_t fetch{};
          CARDEA_MUST(cardea_fetch(scene.layer.handle, &desc, &fetch));
          const std::vector<cardea_view_t> views = drain(fetch);
          ASSERT_EQ(views.size(), 1u);
          if (mask == 7) {
            EXPECT_TRUE(scene.layer.right(views[0], 1));
          }
          release(views);
          CARDEA_MUST(cardea_fetch_destroy(fetch));
        }
        if (fake_gpus()) {  // else see await_stream
          EXPECT_EQ(direct(scene) - before, kExpertBytes) << "each segment once";
        }
        expect_all_direct(scene);
      },
      {}, false, false);
}

TEST_F(GpuDirect, ASlotThatAStreamStillReadsIsNotWrittenBeforeItHasBeenRead) {
  directly(
      [&](Scene& scene) {
        ASSERT_EQ(scene.experts.size(), 1u);
        const std::uint32_t first = scene.experts[0], second = first + 1;
        std::byte* const result = read_behind_gate(scene, first);
        const cardea_fetch_t fetch = scene.layer.fetch(1, {second});
        cardea_status_t status = CARDEA_OK;
        EXPECT_TRUE(next(fetch, 1, 300 * kMilli, &status).empty()) << "its only slot is still being read";
        EXPECT_EQ(status, CARDEA_ERR_TIMEOUT);
        scene.gpu.open_gate();
        scene.gpu.synchronize();
        EXPECT_TRUE(first_segment_right(scene, first, result));
        const std::vector<cardea_view_t> views = drain(fetch);
        ASSERT_EQ(views.size(), 1u);
        EXPECT_TRUE(scene.layer.right(views[0], 1));
        release(views);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        expect_all_direct(scene);
      },
      {.slots = 1});
}

TEST_F(GpuDirect, ASourceThatDiesWhileAStreamHoldsTheSlotIsHeardOfAtOnce) {
  directly(
      [&](Scene& scene) {
        read_behind_gate(scene, scene.experts[0]);
        const cardea_fetch_t fetch = scene.layer.fetch(1, {scene.experts[0] + 1});
        cardea_status_t status = CARDEA_OK;
        EXPECT_TRUE(next(fetch, 1, 50 * kMilli, &status).empty());
        EXPECT_EQ(status, CARDEA_ERR_TIMEOUT);
        Stopped source(scene.board.get(kSource));
        source.die();
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_PEER_LOST) << last_error().message;
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        await_free_slots(scene);
        scene.gpu.open_gate();
        scene.gpu.synchronize();
        scene.layer.poison_slab();
        usleep(50000);
        EXPECT_TRUE(poisoned_slab(scene));
      },
      {.slots = 1}, true);
}

TEST_F(GpuDirect, NothingIsWrittenAfterASourceHasDiedInTheMiddle) {
  setenv("CARDEA_CHUNK_BYTES", "4096", 1);
  setenv("CARDEA_CHUNKS_IN_FLIGHT", "2", 1);
  directly(
      [&](Scene& scene) {
        const std::uint64_t before = received(scene);
        const std::uint64_t all = scene.experts.size() * kExpertBytes;
        const cardea_fetch_t fetch = scene.layer.fetch(1, scene.experts);
        while (received(scene) == before) usleep(50);
        Stopped source(scene.board.get(kSource));
        source.die();
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_PEER_LOST) << last_error().message;
        EXPECT_LT(received(scene) - before, all) << "it was to die in the middle";
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        await_free_slots(scene);
        scene.layer.poison_slab();
        usleep(50000);
        EXPECT_TRUE(poisoned_slab(scene));
        expect_all_direct(scene);
      },
      {}, true);
  unsetenv("CARDEA_CHUNK_BYTES");
  unsetenv("CARDEA_CHUNKS_IN_FLIGHT");
}

TEST_F(GpuDirect, CanceledInTheMiddleAndAskedForAgain) {
  setenv("CARDEA_CHUNK_BYTES", "4096", 1);
  setenv("CARDEA_CHUNKS_IN_FLIGHT", "2", 1);
  directly([&](Scene& scene) {
    const std::uint64_t before = received(scene);
    const cardea_fetch_t fetch = scene.layer.fetch(1, scene.experts);
    while (received(scene) == before) usleep(50);
    CARDEA_MUST(cardea_cancel(fetch));
    EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_CANCELED) << last_error().message;
    EXPECT_LT(received(scene) - before, scene.experts.size() * kExpertBytes) << "it was to be canceled in the middle";
    release(drain(fetch));
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    await_free_slots(scene);
    scene.layer.poison_slab();
    EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), scene.experts.size());
    expect_all_direct(scene);
  });
  unsetenv("CARDEA_CHUNK_BYTES");
  unsetenv("CARDEA_CHUNKS_IN_FLIGHT");
}

TEST_F(GpuDirect, CanceledWhileAStreamHoldsTheSlot) {
  directly(
      [&](Scene& scene) {
        std::byte* const result = read_behind_gate(scene, scene.experts[0]);
        const cardea_fetch_t fetch = scene.layer.fetch(1, {scene.experts[0] + 1});
        CARDEA_MUST(cardea_cancel(fetch));
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_CANCELED);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        usleep(100000);
        scene.gpu.open_gate();
        scene.gpu.synchronize();
        EXPECT_TRUE(first_segment_right(scene, scene.experts[0], result));
        await_free_slots(scene);
        EXPECT_EQ(scene.layer.read(1, {scene.experts[0] + 1}, CARDEA_PATH_NETWORK), 1u);
      },
      {.slots = 1});
}

TEST_F(GpuDirect, OffAndByItselfOverTcpItGoesThroughHostMemory) {
  for (const char* const setting : {"off", "auto"}) {
    reader_and_source(
        [&](Scene& scene) {
          EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), scene.experts.size());
          EXPECT_GT(received(scene), 0u);
          EXPECT_EQ(direct(scene), 0u);
        },
        {}, "CARDEA_GPU_DIRECT", setting);
  }
}

TEST_F(GpuDirect, WithoutDeviceMemoryOfUcxsItGoesThroughHostMemory) {
  if (!fake_gpus()) GTEST_SKIP() << "takes a UCX that has none";
  pretend(DeviceMemory::kNone);
  expect_through_host_memory();
}

TEST_F(GpuDirect, MemoryThatUcxTakesForTheHostsGoesThroughHostMemory) {
  if (!fake_gpus()) GTEST_SKIP() << "takes a UCX that is mistaken";
  transport::pretend_device_memory(DeviceMemory::kCopied, false);
  expect_through_host_memory();
}

TEST_F(GpuDirect, WhatTheTransportRefusesGoesThroughHostMemoryAfterAll) {
  if (!fake_gpus()) GTEST_SKIP() << "takes a UCX that changes its mind";
  directly([&](Scene& scene) {
    expect_all_direct(scene);
    const std::uint64_t before = direct(scene);
    pretend(DeviceMemory::kNone);
    EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), scene.experts.size());
    EXPECT_EQ(direct(scene), before);
    EXPECT_GT(received(scene), before);
  });
}

TEST_F(GpuDirect, WhatComesInUcxsBuffersGoesUpFromThere) {
  // A source for which chunks take long sends them eagerly.
  setenv("CARDEA_CHUNK_BYTES", "4096", 1);
  directly(
      [&](Scene& scene) {
        const auto parent = getpid();
        const pid_t sleeper = fork();  // stops this rank now and then, so that the source has to wait for it
        if (sleeper == 0) {
          prctl(PR_SET_PDEATHSIG, SIGKILL);
          for (;;) {
            kill(parent, SIGSTOP);
            usleep(30000);
            kill(parent, SIGCONT);
            usleep(3000);
          }
        }
        std::uint32_t rounds = 0;
        for (; rounds < 200 && direct(scene) == received(scene); ++rounds) {
          EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), scene.experts.size());
          scene.layer.poison_slab();
          EXPECT_EQ(scene.layer.read(1, {scene.experts.back() + 1}, CARDEA_PATH_NETWORK), 1u);
        }
        kill(sleeper, SIGKILL);
        kill(parent, SIGCONT);
        int state = 0;
        waitpid(sleeper, &state, 0);
        EXPECT_LT(direct(scene), received(scene)) << "nothing came eagerly in " << rounds << " rounds";
        EXPECT_GT(direct(scene), 0u);
      },
      {.segments = {20000, 96}, .slots = 3});
  unsetenv("CARDEA_CHUNK_BYTES");
}

TEST_F(GpuDirect, WhatANicWritesIsFlushedBeforeItIsReadyWhereTheDeviceWantsThat) {
  if (!fake_gpus()) GTEST_SKIP() << "takes a NIC, which is pretended beside the fake driver";
  pretend(DeviceMemory::kWritten);
  const auto flushes = [] { return symbol<int (*)()>("fake_cuda_flushes")(); };
  directly([&](Scene& scene) {
    const int before = flushes();
    EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), scene.experts.size());
    EXPECT_GT(flushes(), before);
    expect_all_direct(scene);
  });
  setenv("FAKE_CUDA_RDMA_ORDERED", "100", 1);
  directly([&](Scene& scene) {
    EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), scene.experts.size());
    EXPECT_EQ(flushes(), 0);
    expect_all_direct(scene);
  });
  unsetenv("FAKE_CUDA_RDMA_ORDERED");
  // One that fails is the expert's failure.
  directly([&](Scene& scene) {
    symbol<int (*)(const char*)>("fake_cuda_fail_from_here")("cuFlushGPUDirectRDMAWrites");
    const cardea_fetch_t fetch = scene.layer.fetch(1, scene.experts);
    for (const cardea_view_t& view : drain(fetch)) EXPECT_EQ(view.status, CARDEA_ERR_DEVICE);
    EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_DEVICE) << last_error().message;
    CARDEA_MUST(cardea_fetch_destroy(fetch));
  });
}

TEST_F(GpuDirect, SlabsComeAndGoAndTheContextEndsWhileAStreamHoldsASlot) {
  for (const DeviceMemory what : {DeviceMemory::kCopied, DeviceMemory::kWritten}) {
    pretend(what);
    directly(
        [&](Scene& scene) {
          read_behind_gate(scene, scene.experts[0]);
          const cardea_fetch_t fetch = scene.layer.fetch(1, {scene.experts[0] + 1});
          usleep(20000);
          CARDEA_MUST(cardea_cancel(fetch));
          CARDEA_MUST(cardea_fetch_destroy(fetch));
          scene.gpu.open_gate();
          await_free_slots(scene);
          scene.job.leave();
        },
        {.slots = 1});
  }
}

}  // namespace
}  // namespace cardea::test
