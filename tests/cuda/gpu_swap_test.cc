// SPDX-License-Identifier: Apache-2.0
// Several GPUs of a node want the same experts out of host memory: each is copied there once, and pulled out of that GPU's
// slot by the others; byte by byte what it was, also when slots are few, and when one of them dies over it.
#include <signal.h>
#include <unistd.h>

#include "tests/cuda/gpu_job.h"

namespace cardea::test {
namespace {

constexpr unsigned kRanks = 3;
constexpr std::uint32_t kPerRank = 6;
enum Cell : unsigned { kPulled = 10, kUploaded = 11, kReceived = 12, kUnderWay = 13, kSeen = 14 };

class GpuSwap : public ::testing::Test {
 protected:
  void SetUp() override { CARDEA_NEEDS_GPU(); }
  std::vector<RankEnd> ranks(const std::function<void(Gpu&, Job&, unsigned rank)>& body, const RankOptions& options = {},
                             std::vector<const char*> nodes = {"here", "here", "here"}) {
    return run_ranks(
        kRanks,
        [&](unsigned rank) {
          Gpu gpu(rank);
          Job job(exchange, rank, nodes[rank]);
          body(gpu, job, rank);
        },
        options);
  }
  void count(const Job& job) {
    board.add(kPulled, traffic_on(job, "gpu-pull").done);
    board.add(kUploaded, traffic_on(job, "gpu-upload").done);
    board.add(kReceived, job.counters().bytes_network_received);
  }
  GpuShape shape(std::uint32_t slots) const {
    return {.weights = Weights::kHostMapped,
            .segments = {1 << 18, 40000, 96},
            .per_rank = kPerRank,
            .slots = slots,
            .seed = seed};
  }

  SharedExchange exchange{kRanks};
  SharedBoard board;
  const std::uint64_t seed = fresh_seed();
};

TEST_F(GpuSwap, AnExpertLeavesHostMemoryOnceForAllGpusThatWantIt) {
  constexpr std::uint64_t kVersions = 3;
  ranks([&](Gpu& gpu, Job& job, unsigned) {
    GpuLayer layer(gpu, job, shape(2 * kPerRank));
    for (std::uint64_t version = 1; version <= kVersions; ++version) {
      layer.publish(version);
      layer.poison_slab();
      EXPECT_TRUE(board.barrier(static_cast<unsigned>(version), kRanks));
      layer.read(version, layer.foreign(), CARDEA_PATH_NODE_COPY);
      CARDEA_MUST(cardea_finish(layer.handle, version, nullptr));
      CARDEA_MUST(cardea_collect(layer.handle, version, nullptr, kPatience));
    }
    EXPECT_EQ(job.counters().experts_failed, 0u);
    count(job);
    EXPECT_TRUE(board.barrier(0, kRanks));
  });
  // Two of three want each expert. A claim that is overdue, on a machine that stood still, would cost a copy more.
  constexpr std::uint64_t kEach = kRanks * kPerRank * kVersions;
  EXPECT_EQ(board.get(kPulled) + board.get(kUploaded), 2 * kEach);
  EXPECT_GE(board.get(kPulled), kEach - 2) << "of " << kEach;
}

TEST_F(GpuSwap, StreamsReadWhatWasPulledInOrder) {
  constexpr std::uint32_t kRounds = 6;
  ranks([&](Gpu& gpu, Job& job, unsigned) {
    // Fewer slots than experts: what another GPU waits for keeps its slot a while, and nobody waits for ever.
    const GpuShape of = shape(5);
    GpuLayer layer(gpu, job, of);
    layer.publish(1);
    layer.poison_slab();
    std::uint64_t total = 0;
    for (const std::uint64_t bytes : of.segments) total += bytes;
    const std::uint64_t all = layer.foreign().size() * kRounds;
    std::byte* const results = gpu.alloc(total * all);
    gpu.poison(results, total * all);
    EXPECT_TRUE(board.barrier(1, kRanks));
    std::byte* at = results;
    std::vector<std::pair<std::uint32_t, std::byte*>> taken;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      const cardea_fetch_t fetch = layer.fetch(1, layer.foreign(), gpu.stream());
      for (;;) {
        cardea_status_t status = CARDEA_OK;
        const std::vector<cardea_view_t> views = next(fetch, 1 + round % 2, kPatience, &status);
        must(status, "cardea_next");
        if (views.empty()) break;
        for (const cardea_view_t& view : views) {
          ASSERT_EQ(view.status, CARDEA_OK);
          taken.emplace_back(view.expert, at);
          for (std::size_t s = 0; s < of.segments.size(); ++s) {
            gpu.copy(at, view.segments[s], of.segments[s]);
            at += of.segments[s];
          }
        }
        release(views);
      }
      EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
      CARDEA_MUST(cardea_fetch_destroy(fetch));
    }
    gpu.synchronize();
    ASSERT_EQ(taken.size(), all);
    for (const auto& [expert, where] : taken) {
      std::vector<const void*> segments;
      const std::byte* segment = where;
      for (const std::uint64_t bytes : of.segments) {
        segments.push_back(segment);
        segment += bytes;
      }
      ASSERT_TRUE(layer.right(expert, 1, segments.data(), true));
    }
    CARDEA_MUST(cardea_finish(layer.handle, 1, nullptr));
    CARDEA_MUST(cardea_collect(layer.handle, 1, nullptr, kPatience));
    count(job);
    CARDEA_MUST(cardea_layer_destroy(layer.handle));
    CARDEA_MUST(cardea_slab_destroy(layer.slab));
    EXPECT_TRUE(board.barrier(0, kRanks));
  });
  EXPECT_GT(board.get(kPulled), 0u);
}

TEST_F(GpuSwap, WhatCameOverTheNetworkOnceIsCopiedUpOnce) {
  ranks(
      [&](Gpu& gpu, Job& job, unsigned rank) {
        GpuLayer layer(gpu, job, shape(2 * kPerRank));
        layer.publish(1);
        layer.poison_slab();
        EXPECT_TRUE(board.barrier(1, kRanks));
        if (rank != 2) {
          std::vector<std::uint32_t> far;
          for (std::uint32_t i = 0; i < kPerRank; ++i) far.push_back(2 * kPerRank + i);
          layer.read(1, far, CARDEA_PATH_NETWORK);
          count(job);
        }
        EXPECT_TRUE(board.barrier(0, kRanks));
      },
      {}, {"near", "near", "far"});
  EXPECT_EQ(board.get(kReceived), kPerRank * ((1 << 18) + 40000 + 96)) << "once for the node";
  EXPECT_EQ(board.get(kPulled) + board.get(kUploaded), 2 * kPerRank);
  EXPECT_GE(board.get(kPulled), kPerRank - 1);
}

TEST_F(GpuSwap, TheOthersGoOnWhenOneDiesOverItsCopies) {
  RankOptions options;
  options.victims = {1};
  const std::vector<RankEnd> ends = ranks(
      [&](Gpu& gpu, Job& job, unsigned rank) {
        GpuLayer layer(gpu, job, shape(2 * kPerRank));
        layer.publish(1);
        layer.poison_slab();
        EXPECT_TRUE(board.barrier(1, kRanks));
        if (rank == 1) {
          // It dies with copies under way that it has claimed for all.
          layer.fetch(1, layer.foreign());
          const Traffic up = traffic_on(job, "gpu-upload");
          board.set(kUnderWay, up.started - up.done);
          board.set(2, 1);
          raise(SIGKILL);
        }
        // These wait for what it has claimed, or come first.
        EXPECT_TRUE(board.wait_for(2, 1));
        board.add(kSeen, layer.read(1, layer.foreign(), CARDEA_PATH_NODE_COPY));
        EXPECT_EQ(job.counters().experts_failed, 0u);
        count(job);
        EXPECT_TRUE(board.barrier(3, 2));
      },
      options);
  EXPECT_EQ(ends[1].signal, SIGKILL) << "the rank did not die as it should";
  EXPECT_GT(board.get(kUnderWay), 0u) << "nothing was under way when it died";
  EXPECT_EQ(board.get(kSeen), 2u * 2 * kPerRank);
}

}  // namespace
}  // namespace cardea::test
