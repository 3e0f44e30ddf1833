// SPDX-License-Identifier: Apache-2.0
// Experts that come over the network, queued on a stream before they have come: who reads what when, and what must not be
// held up meanwhile.
#include <atomic>
#include <cstring>
#include <thread>

#include "tests/cuda/gate_scene.h"

namespace cardea::test {
namespace {

TEST_F(GpuGate, ViewsAreReadyBeforeTheirBytesAndStreamsReadThemWhenTheyHaveCome) {
  for (const Weights weights : {Weights::kHost, Weights::kCardea}) {
    reader_and_source(
        [&](Scene& scene) {
          Gpu& gpu = scene.gpu;
          const std::vector<std::uint64_t>& sizes = sizes_;
          std::uint64_t total = 0;
          for (const std::uint64_t bytes : sizes) total += bytes;
          std::byte* const results = gpu.alloc(total * 4);
          gpu.poison(results, total * 4);
          gpu.synchronize();
          Stopped source(scene.board.get(kSource));
          std::vector<cardea_view_t> views;
          const cardea_fetch_t fetch = take_all(scene, source, views);
          std::byte* at = results;
          for (const cardea_view_t& view : views) {
            for (std::size_t s = 0; s < sizes.size(); ++s) {
              gpu.copy(at, view.segments[s], sizes[s]);
              at += sizes[s];
            }
          }
          release(views);
          const cuda::EventHandle read = gpu.mark();
          EXPECT_EQ(cardea_wait(fetch, 50 * kMilli), CARDEA_ERR_TIMEOUT);
          EXPECT_FALSE(gpu.passed(read)) << "the stream has read what has not come";
          EXPECT_TRUE(source.still());
          source.go_on();
          EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
          gpu.synchronize();
          at = results;
          for (const cardea_view_t& view : views) {
            std::vector<const void*> segments;
            for (const std::uint64_t bytes : sizes) {
              segments.push_back(at);
              at += bytes;
            }
            EXPECT_TRUE(scene.layer.right(view.expert, 1, segments.data(), true));
          }
          CARDEA_MUST(cardea_fetch_destroy(fetch));
        },
        {.weights = weights, .slots = 4});
  }
}

TEST_F(GpuGate, LocalExpertsComeThroughWhileGatesAreShut) {
  // Two GPUs of one node beside the stopped source of another.
  SharedExchange exchange(3);
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
  const char* const nodes[] = {"first", "first", "second"};
  run_ranks(3, [&](unsigned rank) {
    Gpu gpu(rank);
    cardea_config_t config = exchange.config(rank, nodes[rank]);
    config.liveness_limit = 20 * kSecond;
    config.cache_bytes = CARDEA_NO_CACHE;
    Job job(config);
    GpuLayer layer(gpu, job, {.per_rank = 3, .slots = 4, .seed = seed});
    layer.publish(1);
    if (rank == 0) layer.read(1, {5, 8}, CARDEA_PATH_NETWORK);  // both others have published
    if (rank == 2) board.set(kSource, static_cast<unsigned long>(getpid()));
    EXPECT_TRUE(board.barrier(0, 3));
    if (rank == 0) {
      Stopped source(board.get(kSource));
      const cardea_fetch_t fetch = layer.fetch(1, {6, 7, 3, 4}, gpu.stream());
      std::vector<cardea_view_t> views = drain(fetch);
      ASSERT_EQ(views.size(), 4u);
      // The host that waits for local ones shows that they come; they were queued first, too.
      for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(views[i].path, CARDEA_PATH_NODE_GPU);
      const cardea_fetch_t local = layer.fetch(1, {3, 4});
      for (const cardea_view_t& view : drain(local)) {
        EXPECT_EQ(view.status, CARDEA_OK);
        views.push_back(view);
      }
      EXPECT_TRUE(source.still());
      source.go_on();
      EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
      for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
      release(views);
      CARDEA_MUST(cardea_fetch_destroy(local));
      CARDEA_MUST(cardea_fetch_destroy(fetch));
    }
    EXPECT_TRUE(board.barrier(1, 3));
  });
}

TEST_F(GpuGate, ThroughTheNodeCache) {
  SharedExchange exchange(3);
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
  const char* const nodes[] = {"first", "first", "second"};
  run_ranks(3, [&](unsigned rank) {
    Gpu gpu(rank);
    cardea_config_t config = exchange.config(rank, nodes[rank]);
    config.liveness_limit = 20 * kSecond;
    config.cache_bytes = 64 << 20;
    Job job(config);
    GpuLayer layer(gpu, job, {.segments = {3 << 20, 4096}, .per_rank = 8, .slots = 16, .seed = seed});
    layer.publish(1);
    layer.poison_slab();
    if (rank == 2) board.set(kSource, static_cast<unsigned long>(getpid()));
    EXPECT_TRUE(board.barrier(0, 3));
    if (rank < 2) {
      // The cache is pinned behind all that goes on: until it is, nothing of it is gated.
      const auto count = [&](cardea_fetch_t fetch) { return info_of(fetch).ready; };
      std::uint32_t expert = 16;
      bool ready = false;
      if (rank == 0) {
        for (; expert < 20 && !ready; ++expert) {
          Stopped source(board.get(kSource));
          const cardea_fetch_t fetch = layer.fetch(1, {expert}, gpu.stream());
          for (int i = 0; i < 300 && count(fetch) == 0; ++i) usleep(1000);
          ready = count(fetch) == 1 && source.still();
          source.go_on();
          const std::vector<cardea_view_t> views = drain(fetch);
          for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
          EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
          release(views);
          CARDEA_MUST(cardea_fetch_destroy(fetch));
          usleep(200000);
        }
        EXPECT_TRUE(ready) << "no view was ready before its bytes had come";
        board.set(22, expert - 1);
      }
      EXPECT_TRUE(board.barrier(1, 2));
      if (rank == 1) {
        // It has been on offer in the other's slot since it came there, behind its gate.
        const cardea_fetch_t late = layer.fetch(1, {static_cast<std::uint32_t>(board.get(22))}, gpu.stream());
        const std::vector<cardea_view_t> views = drain(late);
        EXPECT_EQ(views.size(), 1u);
        for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
        EXPECT_EQ(cardea_wait(late, kPatience), CARDEA_OK) << last_error().message;
        release(views);
        CARDEA_MUST(cardea_fetch_destroy(late));
        EXPECT_EQ(traffic_on(job, "gpu-pull").done, 1u) << "it was copied out of host memory once more";
      }
      // Both ranks at once, with the source stopped for a while.
      std::unique_ptr<Stopped> source;
      if (rank == 0) source = std::make_unique<Stopped>(board.get(kSource));
      EXPECT_TRUE(board.barrier(2, 2));
      const cardea_fetch_t both = layer.fetch(1, {20, 21, 22, 23}, gpu.stream());
      usleep(100000);
      EXPECT_TRUE(board.barrier(3, 2));
      source.reset();
      const std::vector<cardea_view_t> views = drain(both);
      EXPECT_EQ(views.size(), 4u);
      for (const cardea_view_t& view : views) {
        EXPECT_EQ(view.path, CARDEA_PATH_CACHE);
        EXPECT_TRUE(layer.right(view, 1));
      }
      EXPECT_EQ(cardea_wait(both, kPatience), CARDEA_OK) << last_error().message;
      release(views);
      CARDEA_MUST(cardea_fetch_destroy(both));
      board.add(20, job.counters().bytes_network_received);
      board.add(21, expert - 16);
    }
    EXPECT_TRUE(board.barrier(4, 3));
    EXPECT_EQ(board.get(20), (4 + board.get(21)) * ((3 << 20) + 4096)) << "once for the node";
  });
}

TEST_F(GpuGate, ManyRoundsBothWaysWithOneQueueForAllStreams) {
  // Both ranks' weights lie in device memory, so what each waits for must be copied to host memory by the other, which waits
  // too. With one queue for all streams that would be a deadlock, if gates were used without a trial.
  for (const char* const connections : {"1", "32"}) {
    SharedExchange exchange(2);
    SharedBoard board;
    const std::uint64_t seed = fresh_seed();
    const char* const nodes[] = {"first", "second"};
    run_ranks(2, [&](unsigned rank) {
      setenv("CUDA_DEVICE_MAX_CONNECTIONS", connections, 1);
      setenv("FAKE_CUDA_CONNECTIONS", connections, 1);
      Gpu gpu(rank);
      Job job(exchange, rank, nodes[rank]);
      GpuLayer layer(gpu, job, {.segments = {1 << 20, 4096}, .per_rank = 6, .slots = 3, .seed = seed});
      for (std::uint64_t version = 1; version <= 4; ++version) {
        layer.publish(version);
        layer.poison_slab();
        const cardea_fetch_t fetch = layer.fetch(version, layer.foreign(), gpu.stream());
        std::uint32_t seen = 0;
        for (;;) {
          cardea_status_t status = CARDEA_OK;
          const std::vector<cardea_view_t> views = next(fetch, 2, kPatience, &status);
          must(status, "cardea_next");
          if (views.empty()) break;
          for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, version));
          seen += static_cast<std::uint32_t>(views.size());
          release(views);
        }
        EXPECT_EQ(seen, 6u);
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        CARDEA_MUST(cardea_finish(layer.handle, version, nullptr));
        CARDEA_MUST(cardea_collect(layer.handle, version, nullptr, kPatience));
      }
      EXPECT_TRUE(board.barrier(0, 2));
    });
  }
}

TEST_F(GpuGate, MemoryFreedInAnotherThreadWhileGatesAreShut) {
  reader_and_source([&](Scene& scene) {
    std::byte* const some = scene.gpu.alloc(1 << 20);
    Stopped source(scene.board.get(kSource));
    std::vector<cardea_view_t> views;
    const cardea_fetch_t fetch = take_all(scene, source, views);
    std::atomic<bool> begun{false}, freed{false};
    std::thread other([&] {
      scene.gpu.use_here();
      begun = true;
      scene.gpu.free(some);
      freed = true;
    });
    while (!begun) usleep(100);
    usleep(50000);
    if (fake_gpus()) {
      EXPECT_FALSE(freed) << "the driver's call was to be held up";
    }
    EXPECT_TRUE(source.still());
    source.go_on();
    other.join();
    EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
    for (const cardea_view_t& view : views) EXPECT_TRUE(scene.layer.right(view, 1));
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
  });
}

// Stores 12345 where it is told to.
constexpr const char* kKernel = R"(
.version 6.0
.target sm_50
.address_size 64
.visible .entry store(.param .u64 where)
{
  .reg .u64 %a;
  .reg .u32 %b;
  ld.param.u64 %a, [where];
  cvta.to.global.u64 %a, %a;
  mov.u32 %b, 12345;
  st.global.u32 [%a], %b;
  ret;
}
)";

TEST_F(GpuGate, TheFirstLaunchOfALazilyLoadedKernelWhileGatesAreShut) {
  reader_and_source([&](Scene& scene) {
    void* module = nullptr;
    scene.gpu.must(symbol<int (*)(void**, const void*)>("cuModuleLoadData")(&module, kKernel), "cuModuleLoadData");
    std::byte* const word = scene.gpu.alloc(4096);
    scene.gpu.poison(word, 4096);
    scene.gpu.synchronize();
    Stopped source(scene.board.get(kSource));
    std::vector<cardea_view_t> views;
    const cardea_fetch_t fetch = take_all(scene, source, views);
    std::atomic<bool> begun{false}, launched{false};
    std::thread other([&] {
      scene.gpu.use_here();
      begun = true;
      void* function = nullptr;
      scene.gpu.must(symbol<int (*)(void**, void*, const char*)>("cuModuleGetFunction")(&function, module, "store"),
                     "cuModuleGetFunction");
      auto at = reinterpret_cast<cuda::Pointer>(word);
      void* parameters[] = {&at};
      using Launch =
          int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cuda::Stream, void**, void**);
      scene.gpu.must(
          symbol<Launch>("cuLaunchKernel")(function, 1, 1, 1, 1, 1, 1, 0, scene.gpu.stream(), parameters, nullptr),
          "cuLaunchKernel");
      launched = true;
    });
    while (!begun) usleep(100);
    usleep(50000);
    if (fake_gpus()) {
      EXPECT_FALSE(launched) << "the launch was to be held up";
    }
    EXPECT_TRUE(source.still());
    source.go_on();
    other.join();
    EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
    const auto stored = scene.gpu.download(word, 4);
    std::uint32_t value = 0;
    std::memcpy(&value, stored.data(), 4);
    EXPECT_EQ(value, 12345u);
    for (const cardea_view_t& view : views) EXPECT_TRUE(scene.layer.right(view, 1));
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
  });
}

TEST_F(GpuGate, MoreExpertsThanOneQueueOfTheDeviceHoldsCommandsFor) {
  // With a gate for each, copies and waits would be more than twice as many, and the driver would hold up who queues them.
  const std::vector<std::uint64_t> sizes{4096, 512, 96, 160};
  reader_and_source(
      [&](Scene& scene) {
        ASSERT_EQ(scene.experts.size(), 300u);
        Stopped source(scene.board.get(kSource));
        const cardea_fetch_t fetch = scene.layer.fetch(1, scene.experts, scene.gpu.stream());
        const std::uint32_t ready = info_of(fetch).ready;
        EXPECT_GT(ready, 0u);
        EXPECT_LT(ready, 300u);
        EXPECT_LE(ready * (3 + 2 * sizes.size()), cuda::kGateCommands);
        EXPECT_TRUE(source.still()) << "queued before anything could come";
        source.go_on();
        const std::vector<cardea_view_t> views = drain(fetch);
        EXPECT_EQ(views.size(), 300u);
        scene.gpu.synchronize();
        for (const cardea_view_t& view : views) EXPECT_TRUE(scene.layer.right(view, 1));
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
        release(views);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
      },
      {.segments = sizes, .slots = 300});
}

TEST_F(GpuGate, OneGateByItself) {
  run_ranks(1, [&](unsigned rank) {
    Gpu gpu(rank);
    if (gpu.driver().stream_wait_value == nullptr) GTEST_SKIP() << "no stream memory operations";
    const auto made =
        cuda::GateSet::make(gpu.device(), {.gates = 1, .sealed_bytes = 8192, .landings = 1, .landing_bytes = 1 << 20});
    ASSERT_TRUE(made.ok()) << made.status().message();
    cuda::GateSet& set = **made;
    std::byte* const slot = gpu.alloc(1 << 20);
    const auto slot_at = reinterpret_cast<cuda::Pointer>(slot), from = reinterpret_cast<cuda::Pointer>(set.landing(0));
    for (const bool good : {true, false, true}) {
      gpu.poison(slot, 1 << 20);
      gpu.synchronize();
      std::shared_ptr<cuda::Gate> gate = set.take();
      ASSERT_NE(gate, nullptr);
      EXPECT_EQ(set.take(), nullptr) << "there is one";
      // Two segments, one of them smaller than what is sealed.
      const std::vector<cuda::CopyPiece> pieces{{slot_at, from, 500000}, {slot_at + 600000, from + 524288, 100}};
      gpu.must(gpu.driver().stream_wait_value(gpu.stream(), gate->word(), gate->value(), cuda::kWaitValueGreaterOrEqual),
               "cuStreamWaitValue32");
      for (const cuda::CopyPiece& piece : gate->seal(pieces))
        gpu.must(gpu.driver().copy(piece.to, piece.from, piece.bytes, gpu.stream()), "cuMemcpyAsync");
      const cuda::EventHandle done = gpu.mark();
      const auto weights = random_bytes(fresh_seed(), 0, 0, 0, 1 << 20);
      std::memcpy(set.landing(0), weights.data(), weights.size());
      usleep(10000);
      EXPECT_FALSE(gpu.passed(done));
      if (good) {
        gate->open();
      } else {
        gate->fail(Status(CARDEA_ERR_PEER_LOST, "the test said so"));
      }
      gate->fail(Status(CARDEA_ERR_TIMEOUT, "what comes first counts"));
      EXPECT_EQ(gate->verdict().code(), good ? CARDEA_OK : CARDEA_ERR_PEER_LOST);
      const auto first = gpu.download(slot, 500000), second = gpu.download(slot + 600000, 100);
      EXPECT_EQ(std::equal(first.begin(), first.end(), weights.begin()), good);
      EXPECT_EQ(std::equal(second.begin(), second.end(), weights.begin() + 524288), good);
      const auto ones = [](std::byte byte) { return byte == std::byte{0xFF}; };
      EXPECT_EQ(std::all_of(first.begin(), first.begin() + cuda::GateSet::kSealed, ones), !good);
      EXPECT_EQ(std::all_of(second.begin(), second.end(), ones), !good);
    }
  });
}

TEST_F(GpuGate, WhatIsThereIsCopiedBeforeTheGateOpens) {
  constexpr std::uint64_t kMany = 14 << 20, kMore = 20 << 20, kFew = 1000;
  constexpr std::uint64_t kAll = kMany + kMore + kFew;
  run_ranks(1, [&](unsigned rank) {
    Gpu gpu(rank);
    if (gpu.driver().stream_wait_value == nullptr) GTEST_SKIP() << "no stream memory operations";
    const auto made =
        cuda::GateSet::make(gpu.device(), {.gates = 1, .sealed_bytes = 3 * 4096, .landings = 1, .landing_bytes = 35 << 20});
    ASSERT_TRUE(made.ok()) << made.status().message();
    cuda::GateSet& set = **made;
    std::byte* const slot = gpu.alloc(kAll);
    const auto to = reinterpret_cast<cuda::Pointer>(slot), from = reinterpret_cast<cuda::Pointer>(set.landing(0));
    std::byte* const landing = set.landing(0);
    for (const bool good : {true, false, true}) {
      gpu.poison(slot, kAll);
      gpu.synchronize();
      std::memset(landing, 0xEE, kAll);
      std::shared_ptr<cuda::Gate> gate = set.take();
      ASSERT_NE(gate, nullptr);
      const std::vector<cuda::CopyPiece> pieces{
          {to, from, kMany}, {to + kMany, from + kMany, kMore}, {to + kMany + kMore, from + kMany + kMore, kFew}};
      const std::vector<cuda::CopyPiece> last = gate->seal(pieces);
      ASSERT_EQ(gate->steps().size(), cuda::GateSet::kSteps);
      const auto queue = [&](std::uint32_t value, std::span<const cuda::CopyPiece> copies) {
        gpu.must(gpu.driver().stream_wait_value(gpu.stream(), gate->word(), value, cuda::kWaitValueGreaterOrEqual),
                 "cuStreamWaitValue32");
        for (const cuda::CopyPiece& piece : copies)
          gpu.must(gpu.driver().copy(piece.to, piece.from, piece.bytes, gpu.stream()), "cuMemcpyAsync");
        return gpu.mark();
      };
      std::vector<cuda::EventHandle> passed;
      for (const cuda::Gate::Step& step : gate->steps()) passed.push_back(queue(step.value, step.pieces));
      const cuda::EventHandle whole = queue(gate->value(), last);
      const auto weights = random_bytes(fresh_seed(), 0, 0, 0, kAll);

      std::uint64_t here = 0;
      for (std::size_t i = 0; i < 2; ++i) {
        const std::uint64_t until = gate->steps()[i].until;
        EXPECT_GT(until, here);
        gate->advance(until - 1);
        usleep(5000);
        EXPECT_FALSE(gpu.passed(passed[i])) << "a byte is missing";
        std::memcpy(landing + here, weights.data() + here, until - here);
        gate->advance(until);
        for (int k = 0; k < 20000 && !gpu.passed(passed[i]); ++k) usleep(100);
        EXPECT_TRUE(gpu.passed(passed[i])) << "what is there is not copied";
        here = until;
      }
      EXPECT_FALSE(gpu.passed(passed[2]));
      EXPECT_FALSE(gpu.passed(whole));
      EXPECT_FALSE(gate->is_open());
      gate->advance(0);  // nothing is taken back
      if (good) {
        std::memcpy(landing + here, weights.data() + here, kAll - here);
        gate->open();
      } else {
        gate->fail(Status(CARDEA_ERR_PEER_LOST, "the test said so"));
      }
      gate->advance(here);  // of one that is open nothing changes
      const auto all = gpu.download(slot, kAll);
      EXPECT_TRUE(gpu.passed(whole));
      EXPECT_EQ(std::equal(all.begin(), all.end(), weights.begin()), good);
      if (good) continue;
      const auto ones = [](std::byte byte) { return byte == std::byte{0xFF}; };
      for (const std::uint64_t segment : {std::uint64_t{0}, kMany})
        EXPECT_TRUE(std::all_of(all.data() + segment, all.data() + segment + cuda::GateSet::kSealed, ones));
      EXPECT_TRUE(std::all_of(all.end() - kFew, all.end(), ones));
      EXPECT_TRUE(std::equal(all.begin() + cuda::GateSet::kSealed, all.begin() + (12 << 20),
                             weights.begin() + cuda::GateSet::kSealed))
          << "what had come was copied when it had";
    }
  });
}

}  // namespace
}  // namespace cardea::test
