// SPDX-License-Identifier: Apache-2.0
// Experts come from other GPUs of the node, byte by byte what they were, whatever memory they lie in; and go where they are
// wanted, for hosts that wait and in the order of streams.
#include <dlfcn.h>
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <random>

#include "tests/cuda/gpu_job.h"
#include "tests/telemetry/trace_check.h"

namespace cardea::test {
namespace {

void both(const std::function<void(Gpu&, Job&, unsigned rank)>& body, SharedExchange& exchange,
          const RankOptions& options = {}, std::vector<const char*> nodes = {"here", "here"}) {
  run_ranks(
      exchange.world_size(),
      [&](unsigned rank) {
        Gpu gpu(rank);
        Job job(exchange, rank, nodes[rank]);
        body(gpu, job, rank);
      },
      options);
}

std::string name_of(Weights weights) {
  switch (weights) {
    case Weights::kCardea:
      return "Cardea";
    case Weights::kMalloc:
      return "Malloc";
    case Weights::kPointers:
      return "Pointers";
    case Weights::kHostMapped:
      return "HostMapped";
    case Weights::kHost:
      return "Host";
  }
  return "";
}

class GpuFetch : public ::testing::TestWithParam<Weights> {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }
  SharedExchange exchange{2};
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
};

INSTANTIATE_TEST_SUITE_P(, GpuFetch,
                         ::testing::Values(Weights::kCardea, Weights::kMalloc, Weights::kPointers, Weights::kHostMapped,
                                           Weights::kHost),
                         [](const auto& param) { return name_of(param.param); });

cardea_path_t path_for(Weights weights) {
  return weights <= Weights::kPointers ? CARDEA_PATH_NODE_GPU : CARDEA_PATH_NODE_COPY;
}

TEST_P(GpuFetch, BytesArriveInDeviceSlotsForAHostThatWaits) {
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        GpuLayer layer(gpu, job, {.weights = GetParam(), .slots = 3, .seed = seed});
        for (std::uint64_t version = 1; version <= 3; ++version) {
          layer.publish(version);
          layer.poison_slab();
          EXPECT_EQ(layer.read(version, layer.foreign(), path_for(GetParam())), layer.foreign().size());
          CARDEA_MUST(cardea_finish(layer.handle, version, nullptr));
          CARDEA_MUST(cardea_collect(layer.handle, version, nullptr, kPatience));
        }
        const cardea_counters_t counters = job.counters();
        EXPECT_EQ(counters.experts_node_gpu + counters.experts_node_copied, 3 * layer.foreign().size());
        EXPECT_EQ(counters.experts_failed, 0u);
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange);
}

TEST_P(GpuFetch, StreamsReadEachExpertBeforeTheNextComesIntoItsSlot) {
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        // Two slots for eight experts of the other rank, for many rounds, and no wait of the host anywhere between.
        const GpuShape shape{.weights = GetParam(), .per_rank = 8, .slots = 2, .seed = seed};
        GpuLayer layer(gpu, job, shape);
        layer.publish(1);
        layer.poison_slab();
        std::uint64_t total = 0;
        for (const std::uint64_t bytes : shape.segments) total += bytes;
        constexpr std::uint32_t kRounds = 12;
        std::byte* const results = gpu.alloc(total * 8 * kRounds);
        gpu.poison(results, total * 8 * kRounds);
        std::byte* at = results;
        std::vector<std::pair<std::uint32_t, std::byte*>> taken;
        std::vector<cardea_fetch_t> fetches;
        for (std::uint32_t round = 0; round < kRounds; ++round) {
          const cardea_fetch_t fetch = layer.fetch(1, layer.foreign(), gpu.stream());
          fetches.push_back(fetch);
          for (;;) {
            cardea_status_t status = CARDEA_OK;
            const std::vector<cardea_view_t> views = next(fetch, 1 + round % 2, kPatience, &status);
            must(status, "cardea_next");
            if (views.empty()) break;
            for (const cardea_view_t& view : views) {
              ASSERT_EQ(view.status, CARDEA_OK);
              taken.emplace_back(view.expert, at);
              for (std::size_t s = 0; s < shape.segments.size(); ++s) {
                gpu.copy(at, view.segments[s], shape.segments[s]);
                at += shape.segments[s];
              }
            }
            CARDEA_MUST(cardea_release(views.data(), static_cast<std::uint32_t>(views.size())));
          }
        }
        for (const cardea_fetch_t fetch : fetches) {
          EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
          CARDEA_MUST(cardea_fetch_destroy(fetch));
        }
        gpu.synchronize();
        ASSERT_EQ(taken.size(), 8u * kRounds);
        for (const auto& [expert, where] : taken) {
          std::vector<const void*> segments;
          const std::byte* segment = where;
          for (const std::uint64_t bytes : shape.segments) {
            segments.push_back(segment);
            segment += bytes;
          }
          ASSERT_TRUE(layer.right(expert, 1, segments.data(), true));
        }
        CARDEA_MUST(cardea_finish(layer.handle, 1, nullptr));
        CARDEA_MUST(cardea_collect(layer.handle, 1, nullptr, kPatience));
        CARDEA_MUST(cardea_layer_destroy(layer.handle));
        CARDEA_MUST(cardea_slab_destroy(layer.slab));
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange);
}

TEST_P(GpuFetch, HostSlabsTakeExpertsOfDeviceMemory) {
  if (GetParam() > Weights::kPointers) GTEST_SKIP() << "no device memory in it";
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        GpuLayer layer(gpu, job, {.weights = GetParam(), .slots = 3, .slab_on_device = false, .seed = seed});
        layer.publish(1);
        layer.poison_slab();
        EXPECT_EQ(layer.read(1, layer.foreign(), CARDEA_PATH_NODE_GPU), layer.foreign().size());
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange);
}

class GpuRun : public ::testing::Test {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }
  SharedExchange exchange{2};
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
};

TEST_F(GpuRun, NoContextOfAnotherDeviceBecomesActive) {
  if (gpus_here() < 2) GTEST_SKIP() << "takes two GPUs";
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        GpuLayer layer(gpu, job, {.weights = Weights::kMalloc, .slots = 4, .seed = seed});
        layer.publish(1);
        EXPECT_EQ(layer.read(1, layer.foreign(), CARDEA_PATH_NODE_GPU), layer.foreign().size());
        for (int device = 0; device < gpu.driver().devices; ++device) {
          unsigned flags = 0;
          int active = -1;
          gpu.must(gpu.driver().primary_state(device, &flags, &active), "cuDevicePrimaryCtxGetState");
          EXPECT_EQ(active, device == gpu.ordinal() ? 1 : 0) << "device " << device;
        }
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange);
}

TEST_F(GpuRun, TheTraceShowsWhenTheDeviceCopied) {
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() / ("cardea-gpu-traces-" + std::to_string(getpid()));
  std::filesystem::create_directory(directory);
  const std::string pattern = (directory / "%r.json").string();
  run_ranks(2, [&](unsigned rank) {
    setenv("CARDEA_TRACE", pattern.c_str(), 1);
    Gpu gpu(rank);
    const GpuShape shape{.weights = Weights::kMalloc, .slots = 4, .seed = seed};
    std::uint64_t wanted = 0;
    {
      Job job(exchange, rank, "here");
      GpuLayer layer(gpu, job, shape);
      layer.publish(1);
      EXPECT_EQ(layer.read(1, layer.foreign(), CARDEA_PATH_NODE_GPU), layer.foreign().size());
      for (const std::uint64_t bytes : shape.segments) wanted += bytes * layer.foreign().size();
      EXPECT_TRUE(board.barrier(0, 2));
    }
    const TraceFacts facts = check_trace(read_file((directory / (std::to_string(rank) + ".json")).string()));
    EXPECT_EQ(facts.wrong, "");
    ASSERT_TRUE(facts.slices.contains("gpu pulls"));
    EXPECT_EQ(facts.bytes_in_slices.at("gpu pulls"), wanted);
  });
  std::filesystem::remove_all(directory);
}

TEST_F(GpuRun, AVersionIsPublishedAndFinishedWhenItsStreamGetsThere) {
  both(
      [&](Gpu& gpu, Job& job, unsigned rank) {
        GpuLayer layer(gpu, job, {.slots = 4, .seed = seed});
        layer.write(1);
        if (rank == 0) {
          gpu.close_gate();
          CARDEA_MUST(cardea_publish(layer.handle, 1, gpu.stream()));
          EXPECT_REFUSED(CARDEA_ERR_BUSY, {"still to be published"}, cardea_publish(layer.handle, 1, gpu.stream()));
          EXPECT_TRUE(board.barrier(0, 2));
          EXPECT_TRUE(board.wait_for(1, 1));  // the other has found nothing
          gpu.open_gate();
        } else {
          CARDEA_MUST(cardea_publish(layer.handle, 1, nullptr));
          EXPECT_TRUE(board.barrier(0, 2));
          const cardea_fetch_t early = layer.fetch(1, layer.foreign());
          EXPECT_EQ(info_of(early).parked, layer.foreign().size());
          CARDEA_MUST(cardea_fetch_destroy(early));
          board.set(1, 1);
        }
        EXPECT_EQ(layer.read(1, layer.foreign(), CARDEA_PATH_NODE_GPU), layer.foreign().size());

        if (rank == 0) {
          gpu.close_gate();
          cardea_finish_desc_t finish = CARDEA_FINISH_DESC_INIT;
          finish.stream = gpu.stream();
          CARDEA_MUST(cardea_finish(layer.handle, 1, &finish));
          EXPECT_REFUSED(CARDEA_ERR_STALE, {"finished"}, cardea_finish(layer.handle, 1, &finish));
          EXPECT_EQ(cardea_collect(layer.handle, 1, nullptr, 0), CARDEA_IN_PROGRESS);
          EXPECT_TRUE(board.barrier(2, 2));
          EXPECT_TRUE(board.wait_for(3, 1));
          gpu.open_gate();
        } else {
          CARDEA_MUST(cardea_finish(layer.handle, 1, nullptr));
          EXPECT_TRUE(board.barrier(2, 2));
          EXPECT_EQ(cardea_collect(layer.handle, 1, nullptr, 0), CARDEA_IN_PROGRESS);
          board.set(3, 1);
        }
        CARDEA_MUST(cardea_collect(layer.handle, 1, gpu.stream(), kPatience));
        EXPECT_TRUE(board.barrier(4, 2));
      },
      exchange);
}

TEST_F(GpuRun, WeightsAreUpdatedInPlaceFromVersionToVersionWithoutAWaitForTheirReaders) {
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        const GpuShape shape{.segments = {1 << 20, 4096}, .per_rank = 2, .slots = 4, .seed = seed};
        GpuLayer layer(gpu, job, shape);
        const std::uint64_t total = shape.segments[0] + shape.segments[1];
        std::byte* const results = gpu.alloc(total * 2);
        for (std::uint64_t version = 1; version <= 10; ++version) {
          layer.publish(version);
          const cardea_fetch_t fetch = layer.fetch(version, layer.foreign(), gpu.stream());
          const std::vector<cardea_view_t> views = drain(fetch);
          ASSERT_EQ(views.size(), 2u);
          std::byte* at = results;
          for (const cardea_view_t& view : views) {
            ASSERT_EQ(view.status, CARDEA_OK);
            gpu.copy(at, view.segments[0], shape.segments[0]);
            gpu.copy(at + shape.segments[0], view.segments[1], shape.segments[1]);
            at += total;
          }
          release(views);
          cardea_finish_desc_t finish = CARDEA_FINISH_DESC_INIT;
          finish.stream = gpu.stream();
          CARDEA_MUST(cardea_finish(layer.handle, version, &finish));
          CARDEA_MUST(cardea_collect(layer.handle, version, nullptr, kPatience));
          EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK);
          CARDEA_MUST(cardea_fetch_destroy(fetch));
          for (std::size_t i = 0; i < views.size(); ++i) {
            const void* segments[] = {results + i * total, results + i * total + shape.segments[0]};
            ASSERT_TRUE(layer.right(views[i].expert, version, segments, true));
          }
        }
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange);
}

TEST_F(GpuRun, StreamsThatAreBeingCapturedAreRefused) {
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        GpuLayer layer(gpu, job, {.slots = 4, .seed = seed});
        layer.publish(1);
        const cardea_fetch_t fetch = layer.fetch(1, layer.foreign(), gpu.stream());
        const std::vector<cardea_view_t> views = drain(fetch);
        using Begin = int (*)(cuda::Stream, int);
        using End = int (*)(cuda::Stream, void**);
        void* const library = dlopen("libcuda.so.1", RTLD_NOW);
        gpu.must(reinterpret_cast<Begin>(dlsym(library, "cuStreamBeginCapture_v2"))(gpu.stream(), 2),
                 "cuStreamBeginCapture");
        const auto no = CARDEA_ERR_UNSUPPORTED;
        layer.fetch(1, layer.foreign(), gpu.stream(), 0, no);
        EXPECT_NE(std::string(last_error().message).find("captured"), std::string::npos);
        EXPECT_REFUSED(no, {"captured"}, cardea_release(views.data(), static_cast<std::uint32_t>(views.size())));
        EXPECT_REFUSED(no, {"captured"}, cardea_collect(layer.handle, 1, gpu.stream(), 0));
        void* graph = nullptr;
        gpu.must(reinterpret_cast<End>(dlsym(library, "cuStreamEndCapture"))(gpu.stream(), &graph), "cuStreamEndCapture");
        release(views);  // they were not given up
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange);
}

TEST_F(GpuRun, ADeadRanksExpertsStayReadable) {
  for (const Weights weights : {Weights::kCardea, Weights::kMalloc}) {
    SharedExchange job_exchange(2);
    SharedBoard job_board;
    RankOptions options;
    options.victims = {1};
    const std::vector<RankEnd> ends = run_ranks(
        2,
        [&](unsigned rank) {
          Gpu gpu(rank);
          Job job(job_exchange, rank);
          GpuLayer layer(gpu, job, {.weights = weights, .segments = {8 << 20, 4096}, .slots = 2, .seed = seed});
          layer.publish(1);
          EXPECT_TRUE(job_board.barrier(0, 2));
          if (rank == 1) {
            job_board.set(1, static_cast<unsigned long>(getpid()));
            for (;;) pause();
          }
          EXPECT_TRUE(job_board.wait_for(1, 1));
          EXPECT_EQ(layer.read(1, layer.foreign(), CARDEA_PATH_NODE_GPU), 4u);
          // It dies while a fetch is under way, and after that.
          const cardea_fetch_t fetch = layer.fetch(1, layer.foreign());
          ASSERT_EQ(kill(static_cast<pid_t>(job_board.get(1)), SIGKILL), 0);
          std::uint32_t seen = 0;
          for (;;) {
            cardea_status_t status = CARDEA_OK;
            const std::vector<cardea_view_t> views = next(fetch, 1, kPatience, &status);
            must(status, "cardea_next");
            if (views.empty()) break;
            EXPECT_TRUE(layer.right(views[0], 1));
            ++seen;
            release(views);
          }
          EXPECT_EQ(seen, 4u);
          CARDEA_MUST(cardea_fetch_destroy(fetch));
          cardea_rank_info_t info = CARDEA_RANK_INFO_INIT;
          for (info.alive = 1; info.alive != 0; usleep(1000)) CARDEA_MUST(cardea_rank_query(job.context, 1, &info));
          layer.poison_slab();
          EXPECT_EQ(layer.read(1, {4, 5}, CARDEA_PATH_NODE_GPU), 2u);
          const cardea_fetch_t streamed = layer.fetch(1, {6, 7}, gpu.stream());
          const std::vector<cardea_view_t> views = drain(streamed);
          for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
          release(views);
          EXPECT_EQ(cardea_wait(streamed, kPatience), CARDEA_OK);
          CARDEA_MUST(cardea_fetch_destroy(streamed));
        },
        options);
    EXPECT_EQ(ends[1].signal, SIGKILL) << "the rank did not die as it should";
  }
}

TEST_P(GpuFetch, ExpertsOfAnotherNodeLandInDeviceSlots) {
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        GpuLayer layer(gpu, job, {.weights = GetParam(), .segments = {3 << 20, 4096}, .slots = 2, .seed = seed});
        layer.publish(1);
        layer.poison_slab();
        EXPECT_EQ(layer.read(1, layer.foreign(), CARDEA_PATH_NETWORK), 4u);
        const cardea_fetch_t streamed = layer.fetch(1, layer.foreign(), gpu.stream());
        std::uint32_t seen = 0;
        for (;;) {
          cardea_status_t status = CARDEA_OK;
          const std::vector<cardea_view_t> views = next(streamed, 2, kPatience, &status);
          must(status, "cardea_next");
          if (views.empty()) break;
          for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
          seen += static_cast<std::uint32_t>(views.size());
          release(views);
        }
        EXPECT_EQ(seen, 4u);
        EXPECT_EQ(cardea_wait(streamed, kPatience), CARDEA_OK);
        CARDEA_MUST(cardea_fetch_destroy(streamed));
        // The next version is not served from what was copied of this one.
        CARDEA_MUST(cardea_finish(layer.handle, 1, nullptr));
        CARDEA_MUST(cardea_collect(layer.handle, 1, nullptr, kPatience));
        layer.publish(2);
        EXPECT_EQ(layer.read(2, layer.foreign(), CARDEA_PATH_NETWORK), 4u);
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange, {}, {"first", "second"});
}

TEST_P(GpuFetch, ExpertsThatLeaveTheDeviceInPartsArriveWhole) {
  both(
      [&](Gpu& gpu, Job& job, unsigned) {
        // Parts of 2, 4, 8, 16 and 16 MiB end within segments, and where a segment ends.
        const GpuShape shape{
            .weights = GetParam(), .segments = {5 << 20, 9 << 20, (21 << 20) + 96}, .per_rank = 2, .seed = seed};
        GpuLayer layer(gpu, job, shape);
        for (std::uint64_t version = 1; version <= 2; ++version) {
          layer.publish(version);
          layer.poison_slab();
          EXPECT_EQ(layer.read(version, layer.foreign(), CARDEA_PATH_NETWORK), 2u);
          CARDEA_MUST(cardea_finish(layer.handle, version, nullptr));
          CARDEA_MUST(cardea_collect(layer.handle, version, nullptr, kPatience));
        }
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange, {}, {"first", "second"});
}

TEST_P(GpuFetch, RanksThatUseNoDeviceMemoryThemselvesGetExpertsOfIt) {
  if (GetParam() > Weights::kPointers) GTEST_SKIP() << "no device memory in it";
  both(
      [&](Gpu& gpu, Job& job, unsigned rank) {
        const Weights weights = rank == 0 ? GetParam() : Weights::kHost;
        GpuLayer layer(gpu, job, {.weights = weights, .slots = 2, .slab_on_device = false, .seed = seed});
        layer.publish(1);
        layer.poison_slab();
        EXPECT_EQ(layer.read(1, layer.foreign(), CARDEA_PATH_NODE_COPY), 4u);
        EXPECT_TRUE(board.barrier(0, 2));
      },
      exchange);
}

TEST_F(GpuRun, AContextThatEndsWhileExpertsComeForTheDeviceKeepsNoMemory) {
  constexpr std::uint64_t kExpert = 10 << 20;
  constexpr unsigned kRounds = 8;
  std::deque<SharedExchange> exchanges;
  for (unsigned round = 0; round < kRounds; ++round) exchanges.emplace_back(2u);
  run_ranks(2, [&](unsigned rank) {
    Gpu gpu(rank);
    std::mt19937_64 random(fresh_seed());
    const auto mapped = [] { return mallinfo2().hblkhd; };
    std::size_t before = 0;
    unsigned ended_in_the_middle = 0;
    for (unsigned round = 0; round < kRounds; ++round) {
      {
        Job job(exchanges[round], rank, rank == 0 ? "first" : "second");
        GpuLayer layer(gpu, job, {.segments = {kExpert}, .per_rank = 2, .slots = 2, .seed = 1});
        layer.publish(1);
        EXPECT_TRUE(board.barrier(2 * round, 2));
        if (rank == 0) {
          const cardea_fetch_t fetch = layer.fetch(1, {2, 3});
          for (int i = 0; i < 10000 && job.counters().bytes_network_received == 0; ++i) usleep(100);
          usleep(static_cast<useconds_t>(random() % 1000));
          if (cardea_wait(fetch, 0) == CARDEA_IN_PROGRESS) ++ended_in_the_middle;
          CARDEA_MUST(job.leave());
        }
        EXPECT_TRUE(board.barrier(2 * round + 1, 2));
      }
      if (round == 1) before = mapped();
    }
    if (rank == 0) {
      EXPECT_GT(ended_in_the_middle, kRounds / 4);
      EXPECT_LT(mapped(), before + (1 << 20)) << "bytes that every context leaves behind";
    }
  });
}

TEST_F(GpuRun, TheRanksOfANodeShareWhatCameOverTheNetwork) {
  SharedExchange three(3);
  both(
      [&](Gpu& gpu, Job& job, unsigned rank) {
        GpuLayer layer(gpu, job, {.segments = {3 << 20, 4096}, .slots = 8, .seed = seed});
        layer.publish(1);
        layer.poison_slab();
        if (rank < 2) {
          // The third rank's experts, through the node cache, by one rank after the other and then by both at once.
          const std::vector<std::uint32_t> far = {8, 9, 10, 11};
          if (rank == 0) {
            EXPECT_EQ(layer.read(1, {8, 9}, CARDEA_PATH_NETWORK), 0u) << "copied out of the node cache";
          }
          EXPECT_TRUE(board.barrier(0, 2));
          layer.read(1, far, CARDEA_PATH_CACHE);
          const cardea_fetch_t streamed = layer.fetch(1, far, gpu.stream());
          const std::vector<cardea_view_t> views = drain(streamed);
          EXPECT_EQ(views.size(), 4u);
          for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
          release(views);
          EXPECT_EQ(cardea_wait(streamed, kPatience), CARDEA_OK);
          CARDEA_MUST(cardea_fetch_destroy(streamed));
          EXPECT_TRUE(board.barrier(1, 2));
          const cardea_counters_t counters = job.counters();
          board.add(10, counters.bytes_network_received);
        }
        EXPECT_TRUE(board.barrier(2, 3));
        EXPECT_EQ(board.get(10), 4u * ((3 << 20) + 4096)) << "once for the node";
      },
      three, {}, {"first", "first", "second"});
}

}  // namespace
}  // namespace cardea::test
