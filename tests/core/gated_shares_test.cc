// SPDX-License-Identifier: Apache-2.0
// GPUs of a node beside a source of another: what is queued behind gates while others share out what they copy, and what
// shares a slot or the node cache with it. Copies are queued when the core orders them, and done when the test says so.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "lib/core/core.h"
#include "tests/cache/plain_memory.h"

namespace cardea::core {
namespace {

constexpr LaneNumber kPull = 1, kUpload = 2, kNetwork = 3;
constexpr Rank kFar = 2, kHome = 3;
constexpr std::uint64_t kFirst = 512, kSecond = 256;

class GatedShares : public testing::Test {
 protected:
  struct Gpu {
    std::unique_ptr<cache::NodeCache> cache;
    std::unique_ptr<Core> core;
    LayerNumber layer = 0;
    SlabNumber slab = 0, other_slab = 0;
    std::vector<StartChunk> network, copies;  // under way
    std::vector<OpenGate> opened;
  };

  /// Experts 0, 1 and 3 come from the other node, 2 lies in host memory of this one.
  explicit GatedShares(std::uint64_t capacity = 16 << 10, std::uint32_t gates = 4) : memory_(capacity, kFirst) {
    for (Rank rank = 0; rank < 2; ++rank) {
      Gpu& gpu = gpus_[rank];
      cache::NodeCacheOptions cached;
      cached.local = rank;
      cached.locals = 3;
      gpu.cache = std::make_unique<cache::NodeCache>(memory_.directory(), lock_, cached);
      CoreOptions options;
      options.chunk_bytes = kFirst;
      options.swap.lane = kPull;
      options.swap.on_device = true;
      options.node_ranks = {0, 1, kHome};
      const LaneLimits whole{.chunks = 100, .chunk_bytes = 1 << 20};
      gpu.core =
          std::make_unique<Core>(options, std::vector<LaneLimits>{{}, whole, whole, {.chunks = 100}}, gpu.cache.get());
      gpu.layer = gpu.core->add_layer({7,
                                       Membership(rank, {0, 1, kFar, kHome}, {0, 0, 1, 0}),
                                       SegmentLayout::make({{"w13", kFirst, 8}, {"w2", kSecond, 8}}).value(),
                                       {1, 7}});
      const ExpertSources far{kFar, {{kFar, CARDEA_PATH_NETWORK, kNetwork}}};
      gpu.core->set_sources(gpu.layer, {far, far, {kHome, {{kHome, CARDEA_PATH_NODE_MAPPED, 0}}}, far});
      gpu.slab = gpu.core->add_slab(4, kUpload, {.gates = gates, .landings = 1});
      gpu.other_slab = gpu.core->add_slab(4, kUpload, {.gates = 4, .landings = 1});
      gpu.core->cache_is_pinned();
      gpu.core->set_swap_peers(gpu.layer, gpu.slab, 0b11 & ~(1u << rank));
      for (const Rank source : {kFar, kHome})
        EXPECT_TRUE(gpu.core->receive(gpu.layer, source, {0, Notice::Kind::kPublished, 0, 1}, now_).ok());
    }
  }
  FetchNumber fetch(Rank rank, std::vector<ExpertIndex> experts, SegmentMask segments = 3) {
    FetchSpec spec;
    spec.experts = std::move(experts);
    spec.segments = segments;
    spec.on_stream = true;
    return submit(rank, spec);
  }
  FetchNumber submit(Rank rank, FetchSpec spec) {
    spec.layer = gpus_[rank].layer;
    spec.version = 1;
    if (!spec.slab) spec.slab = gpus_[rank].slab;
    spec.into_slots = true;
    const Result<FetchNumber> made = gpus_[rank].core->fetch(spec, now_);
    EXPECT_TRUE(made.ok()) << made.status().message();
    look();
    return made.ok() ? *made : 0;
  }
  void look() {
    for (bool any = true; any;) {
      any = false;
      for (Gpu& gpu : gpus_) {
        for (const Action& action : gpu.core->take_actions()) {
          any = true;
          if (const auto* start = std::get_if<StartChunk>(&action)) {
            if (start->lane == kNetwork) {
              gpu.network.push_back(*start);
            } else {
              gpu.copies.push_back(*start);
              if (queues_) gpu.core->chunk_queued(start->chunk, now_);
            }
          } else if (const auto* open = std::get_if<OpenGate>(&action)) {
            gpu.opened.push_back(*open);
          } else if (const auto* tell = std::get_if<TellNode>(&action)) {
            for (Rank to = 0; to < 2; ++to) {
              if ((tell->to >> to & 1) != 0) gpus_[to].core->entry_changed(tell->entry, now_);
            }
          }
        }
      }
    }
  }
  void arrive(Rank rank) {
    arrive_if(rank, [](const StartChunk&) { return true; });
  }
  template <typename Which>
  void arrive_if(Rank rank, Which which) {
    auto& network = gpus_[rank].network;
    const auto found = std::find_if(network.begin(), network.end(), which);
    ASSERT_NE(found, network.end());
    const StartChunk chunk = *found;
    network.erase(found);
    gpus_[rank].core->chunk_done(chunk.chunk, {}, now_);
    look();
  }
  void arrive_all(Rank rank) {
    while (!gpus_[rank].network.empty()) arrive(rank);
  }
  StartChunk copied(Rank rank, const Status& status = {}) {
    EXPECT_FALSE(gpus_[rank].copies.empty());
    const StartChunk copy = gpus_[rank].copies.front();
    gpus_[rank].copies.erase(gpus_[rank].copies.begin());
    gpus_[rank].core->chunk_done(copy.chunk, status, now_);
    look();
    return copy;
  }
  std::uint32_t ready(Rank rank, FetchNumber fetch) { return gpus_[rank].core->counts(fetch).ready; }

  cache::PlainMemory memory_;
  cache::NoLock lock_;
  std::array<Gpu, 2> gpus_;
  bool queues_ = true;  // copies as they are ordered
  Clock::time_point now_{std::chrono::seconds(100)};
};

TEST_F(GatedShares, WhatIsBehindAGateIsClaimedByNobody) {
  const FetchNumber a = fetch(0, {0});
  EXPECT_EQ(ready(0, a), 1u) << "before it has come";
  ASSERT_EQ(gpus_[0].copies.size(), 1u);
  EXPECT_TRUE(gpus_[0].copies[0].gated);
  arrive_all(0);
  ASSERT_EQ(gpus_[0].opened.size(), 1u);
  // The other one finds it in the node cache, and does not wait for a copy whose turn may come late.
  const FetchNumber b = fetch(1, {0});
  EXPECT_EQ(ready(1, b), 1u);
  ASSERT_EQ(gpus_[1].copies.size(), 1u);
  EXPECT_EQ(gpus_[1].copies[0].peer, kNoRank);
}

TEST_F(GatedShares, WhatIsBehindAGateIsOnOfferWhenItIsDone) {
  fetch(0, {0});
  arrive_all(0);
  copied(0);
  const FetchNumber b = fetch(1, {0});
  EXPECT_EQ(ready(1, b), 1u);
  ASSERT_EQ(gpus_[1].copies.size(), 1u);
  EXPECT_EQ(gpus_[1].copies[0].peer, 0u);
  EXPECT_TRUE(gpus_[1].network.empty());
}

TEST_F(GatedShares, WhatAGateBroughtNoWeightsIntoIsOnOfferToNobody) {
  const FetchNumber a = fetch(0, {0});
  const Status why(CARDEA_ERR_CANCELED, "the test said so");
  gpus_[0].core->cancel(a, why, now_);
  look();
  ASSERT_EQ(gpus_[0].opened.size(), 1u);
  EXPECT_FALSE(gpus_[0].opened[0].why.ok());
  copied(0, why);
  const FetchNumber b = fetch(1, {0});
  EXPECT_EQ(ready(1, b), 1u) << "behind a gate of its own";
  ASSERT_EQ(gpus_[1].copies.size(), 1u);
  EXPECT_TRUE(gpus_[1].copies[0].gated);
  arrive_all(0);
  arrive_all(1);
  ASSERT_EQ(gpus_[1].opened.size(), 1u);
  EXPECT_TRUE(gpus_[1].opened[0].why.ok());
}

TEST_F(GatedShares, BothGatesOfTwoGpusOpenWithWhatCameOnce) {
  fetch(0, {0});
  fetch(1, {0});
  std::size_t chunks = 0;
  for (bool any = true; any;) {
    any = false;
    for (Rank rank = 0; rank < 2; ++rank) {
      if (gpus_[rank].network.empty()) continue;
      any = true;
      ++chunks;
      arrive(rank);
    }
  }
  EXPECT_EQ(chunks, 2u) << "each chunk came once for the node";
  for (Rank rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(gpus_[rank].opened.size(), 1u);
    EXPECT_TRUE(gpus_[rank].opened[0].why.ok());
  }
}

TEST_F(GatedShares, ASlotThatLacksSegmentsIsNotCompletedOutOfWhatIsStillToCome) {
  // One segment is here and in a slot; then all of the expert is wanted, of which the rest is still to come.
  fetch(0, {0}, 2);
  arrive(0);
  ASSERT_EQ(gpus_[0].copies.size(), 1u);
  EXPECT_EQ(gpus_[0].copies[0].range.offset, kFirst);
  const FetchNumber all = fetch(0, {0});
  EXPECT_EQ(gpus_[0].copies.size(), 1u) << "nothing else is here that could be copied";
  EXPECT_EQ(ready(0, all), 0u);
  arrive_all(0);
  ASSERT_EQ(gpus_[0].copies.size(), 2u);
  EXPECT_EQ(ready(0, all), 1u);
}

TEST_F(GatedShares, APrefetchOfAGangGoesOnWhenItsExpertsOfTheNetworkAreHere) {
  FetchSpec spec;
  spec.experts = {0, 2};
  spec.segments = 3;
  spec.urgency = Class::kPrefetch;
  spec.wants_views = false;
  spec.gang = true;
  const FetchNumber gang = submit(0, spec);
  EXPECT_TRUE(gpus_[0].copies.empty()) << "it waits for all of its experts";
  arrive_all(0);
  ASSERT_EQ(gpus_[0].copies.size(), 1u);
  EXPECT_EQ(copied(0).expert, 2u);
  EXPECT_EQ(gpus_[0].core->counts(gang).delivered, 2u);
}

/// Room for two experts in the node cache, and one gate at a time.
class CrowdedGatedShares : public GatedShares {
 protected:
  CrowdedGatedShares() : GatedShares(8 << 10, 1) {}
};

TEST_F(CrowdedGatedShares, ASlotCopiedOutOfTheNodeCacheIsNotCompletedOutOfItWhenTheRestLandsElsewhere) {
  fetch(0, {1});  // takes the slab's only gate
  const FetchNumber pinning = fetch(1, {3});
  FetchSpec beside;
  beside.experts = {0};
  beside.segments = 3;
  beside.on_stream = true;
  beside.slab = gpus_[0].other_slab;
  submit(0, beside);                      // the node cache is full: it lands beside it
  const FetchNumber all = fetch(0, {0});  // waits for what lands there
  const auto lands = [](const StartChunk& chunk) { return static_cast<bool>(chunk.lands); };
  ASSERT_EQ(std::count_if(gpus_[0].network.begin(), gpus_[0].network.end(), lands), 2);
  // Then there is room, and one segment comes through the cache into a slot, whose copy is not queued yet.
  arrive_all(1);
  copied(1);
  for (const Delivery& view : gpus_[1].core->take(pinning, 1)) EXPECT_TRUE(gpus_[1].core->release(view.view, now_).ok());
  look();
  queues_ = false;
  fetch(0, {0}, 2);
  arrive_if(0, [](const StartChunk& chunk) { return chunk.expert == 0 && chunk.into != cache::kNoEntry; });
  const StartChunk part = gpus_[0].copies.back();
  ASSERT_TRUE(part.expert == 0 && part.from != cache::kNoEntry && part.range.bytes == kSecond);
  const std::size_t before = gpus_[0].copies.size();
  arrive_if(0, lands);
  arrive_if(0, lands);
  ASSERT_EQ(gpus_[0].copies.size(), before + 1);
  const StartChunk rest = gpus_[0].copies.back();
  EXPECT_TRUE(rest.landed) << "it was copied out of the node cache, where it is not";
  EXPECT_EQ(rest.range.bytes, kFirst + kSecond);
  EXPECT_EQ(gpus_[0].core->counts(all).failed, 0u);
}

}  // namespace
}  // namespace cardea::core
