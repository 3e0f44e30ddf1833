// SPDX-License-Identifier: Apache-2.0
// GPUs of a node that want the same experts out of host memory: who copies which, who pulls from whom, and when a slot is
// free. The GPUs are played by the test: copies are queued when the core orders them, and done when the test says so.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "lib/core/core.h"
#include "tests/cache/plain_memory.h"

namespace cardea::core {
namespace {

constexpr LaneNumber kPull = 2, kUpload = 3;
constexpr Rank kHome = 3;  // in host memory, without a GPU
constexpr std::uint64_t kExpert = 16 << 20;

class Shares : public testing::Test {
 protected:
  struct Gpu {
    std::unique_ptr<cache::NodeCache> cache;
    std::unique_ptr<Core> core;
    LayerNumber layer = 0;
    SlabNumber slab = 0;
    std::vector<StartChunk> under_way;
    std::uint64_t uploads = 0, pulls = 0;
  };

  /// Ranks 0 to 2 have a GPU each, and these slots; `mapped` says which peers have mapped one another's slabs.
  void make(std::uint32_t slots, cache::LocalMask mapped = 0b111) {
    for (std::uint32_t local = 0; local < 3; ++local) {
      Gpu& gpu = gpus_[local];
      cache::NodeCacheOptions cached;
      cached.local = local;
      cached.locals = 4;
      cached.process_ended = [this](std::uint32_t other) { return ended_[other]; };
      gpu.cache = std::make_unique<cache::NodeCache>(memory_.directory(), lock_, cached);
      CoreOptions options;
      options.swap.lane = kPull;
      options.swap.on_device = true;
      options.node_ranks = {0, 1, 2, 3};
      const LaneLimits whole{.chunks = UINT32_MAX, .chunk_bytes = std::uint64_t{1} << 48};
      gpu.core = std::make_unique<Core>(options, std::vector<LaneLimits>{{}, {}, whole, whole}, gpu.cache.get());
      gpu.layer = gpu.core->add_layer(
          {7, Membership(local, {0, 1, 2, 3}, {0, 0, 0, 0}), SegmentLayout::make({{"w", kExpert, 8}}).value(), {1, 7}});
      gpu.core->set_sources(gpu.layer, std::vector<ExpertSources>(8, {kHome, {{kHome, CARDEA_PATH_NODE_MAPPED, 1}}}));
      gpu.slab = gpu.core->add_slab(slots, kUpload);
      const cache::LocalMask self = cache::LocalMask{1} << local;
      gpu.core->set_swap_peers(gpu.layer, gpu.slab, (mapped & self) != 0 ? mapped & ~self : 0);
      EXPECT_TRUE(gpu.core->receive(gpu.layer, kHome, {0, Notice::Kind::kPublished, 0, 1}, now_).ok());
    }
  }
  Gpu& gpu(std::uint32_t local) { return gpus_[local]; }
  FetchNumber fetch(std::uint32_t local, std::vector<ExpertIndex> experts, bool on_stream = false) {
    FetchSpec spec;
    spec.layer = gpu(local).layer;
    spec.version = 1;
    spec.experts = std::move(experts);
    spec.segments = 1;
    spec.slab = gpu(local).slab;
    spec.into_slots = true;
    spec.on_stream = on_stream;
    const Result<FetchNumber> made = gpu(local).core->fetch(spec, now_);
    EXPECT_TRUE(made.ok()) << made.status().message();
    look();
    return made.ok() ? *made : 0;
  }
  /// Carries out what all cores want done, news of one another included.
  void look() {
    for (bool any = true; any;) {
      any = false;
      for (std::uint32_t local = 0; local < 3; ++local) {
        Gpu& of = gpu(local);
        if (of.core == nullptr || ended_[local]) continue;
        for (const Action& action : of.core->take_actions()) {
          any = true;
          if (const auto* start = std::get_if<StartChunk>(&action)) {
            begin(of, *start);
          } else if (const auto* tell = std::get_if<TellNode>(&action)) {
            for (std::uint32_t to = 0; to < 3; ++to) {
              if (tell->to >> to & 1 && !ended_[to]) gpu(to).core->entry_changed(tell->entry, now_);
            }
          }
        }
      }
    }
  }
  void begin(Gpu& of, const StartChunk& start) {
    ++(start.peer == kNoRank ? of.uploads : of.pulls);
    EXPECT_EQ(start.lane, start.peer == kNoRank ? kUpload : kPull);
    if (start.peer != kNoRank) {
      EXPECT_EQ(start.peer_slab, gpu(start.peer).slab);
      EXPECT_EQ((contents_[{start.peer, start.peer_slot}]), start.expert) << "pulled from a slot that holds another";
      ++readers_[{start.peer, start.peer_slot}];
    }
    of.under_way.push_back(start);
    of.core->chunk_queued(start.chunk, now_);
  }
  /// The oldest copy of a GPU is done.
  StartChunk finish_one(std::uint32_t local, const Status& status = {}) {
    Gpu& of = gpu(local);
    EXPECT_FALSE(of.under_way.empty());
    const StartChunk done = of.under_way.front();
    of.under_way.erase(of.under_way.begin());
    EXPECT_EQ((readers_[{local, done.slot}]), 0) << "a slot is filled anew while somebody pulls from it";
    contents_[{local, done.slot}] = done.expert;
    if (done.peer != kNoRank) --readers_[{done.peer, done.peer_slot}];
    of.core->chunk_done(done.chunk, status, now_);
    look();
    return done;
  }
  void finish_all() {
    for (bool any = true; any;) {
      any = false;
      for (std::uint32_t local = 0; local < 3; ++local) {
        if (ended_[local] || gpu(local).under_way.empty()) continue;
        finish_one(local);
        any = true;
      }
    }
  }
  void pass(Nanoseconds time) {
    now_ += time;
    for (Gpu& each : gpus_) each.core->time_passed(now_);
    look();
  }
  std::uint32_t ready(std::uint32_t local, FetchNumber fetch) { return gpu(local).core->counts(fetch).ready; }
  void release_all(std::uint32_t local, FetchNumber fetch) {
    for (const Delivery& view : gpu(local).core->take(fetch, 100))
      EXPECT_TRUE(gpu(local).core->release(view.view, now_).ok());
    look();
  }

  cache::PlainMemory memory_{2 * kExpert, 1 << 20};
  cache::NoLock lock_;
  std::array<Gpu, 3> gpus_;
  std::map<std::pair<Rank, SlotIndex>, ExpertIndex> contents_;
  std::map<std::pair<Rank, SlotIndex>, int> readers_;
  Clock::time_point now_{std::chrono::seconds(100)};
  bool ended_[4] = {};
};

TEST_F(Shares, EachExpertIsCopiedOnceAndPulledByTheOthers) {
  make(8);
  const FetchNumber a = fetch(0, {0, 1, 2, 3, 4, 5}), b = fetch(1, {0, 1, 2, 3, 4, 5}), c = fetch(2, {0, 1, 2, 3, 4, 5});
  EXPECT_EQ(gpu(0).under_way.size(), 2u) << "a few at a time: the rest is for the others";
  EXPECT_EQ(gpu(1).under_way.size(), 2u);
  EXPECT_EQ(gpu(1).under_way[0].expert, 2u);
  finish_all();
  EXPECT_EQ(gpu(0).uploads + gpu(1).uploads + gpu(2).uploads, 6u);
  EXPECT_EQ(gpu(0).pulls + gpu(1).pulls + gpu(2).pulls, 12u);
  for (const auto& [local, number] : {std::pair(0u, a), {1u, b}, {2u, c}}) {
    EXPECT_EQ(ready(local, number), 6u);
    EXPECT_GE(gpu(local).uploads, 1u);
    release_all(local, number);
    EXPECT_EQ(gpu(local).core->available_slots(gpu(local).slab), 8u);
  }
}

TEST_F(Shares, AloneARankCopiesAllOfItAndIsReadyWhenItIsQueued) {
  make(8);
  const FetchNumber a = fetch(0, {0, 1}, true);
  EXPECT_EQ(ready(0, a), 2u);
  finish_all();
  EXPECT_EQ(gpu(0).uploads, 2u);
}

TEST_F(Shares, WhoComesLaterPullsWhatIsThere) {
  make(8);
  fetch(0, {0, 1, 2});
  finish_all();
  const FetchNumber b = fetch(1, {2, 1, 0}, true);
  EXPECT_EQ(ready(1, b), 3u) << "what is on offer is done, so the pull may be queued at once";
  EXPECT_EQ(gpu(1).pulls, 3u);
  finish_all();
}

TEST_F(Shares, NobodyPullsWhatIsNotDone) {
  make(8);
  fetch(0, {0}, true);
  const FetchNumber b = fetch(1, {0}, true);
  EXPECT_EQ(ready(1, b), 0u);
  EXPECT_TRUE(gpu(1).under_way.empty());
  finish_one(0);
  EXPECT_EQ(gpu(1).pulls, 1u);
  EXPECT_EQ(ready(1, b), 1u);
  finish_all();
}

TEST_F(Shares, WhatFailsThereIsCopiedHere) {
  make(8);
  const FetchNumber a = fetch(0, {0}), b = fetch(1, {0});
  finish_one(0, Status(CARDEA_ERR_DEVICE, "the test said so"));
  EXPECT_EQ(gpu(0).core->counts(a).failed, 1u);
  EXPECT_EQ(gpu(1).uploads, 1u);
  finish_all();
  EXPECT_EQ(ready(1, b), 1u);
}

TEST_F(Shares, APullThatFailsComesFromHostMemory) {
  make(8);
  fetch(0, {0});
  finish_all();
  // Before it is queued: a mapping that is gone.
  FetchSpec spec{
      .layer = gpu(1).layer, .version = 1, .experts = {0}, .segments = 1, .slab = gpu(1).slab, .into_slots = true};
  const FetchNumber b = *gpu(1).core->fetch(spec, now_);
  const std::vector<Action> actions = gpu(1).core->take_actions();
  const auto pulled = std::find_if(actions.begin(), actions.end(),
                                   [](const Action& action) { return std::holds_alternative<StartChunk>(action); });
  ASSERT_NE(pulled, actions.end());
  EXPECT_EQ(std::get<StartChunk>(*pulled).peer, 0u);
  gpu(1).core->chunk_done(std::get<StartChunk>(*pulled).chunk, Status(CARDEA_ERR_UNSUPPORTED, "not mapped"), now_);
  look();
  EXPECT_EQ(gpu(1).uploads, 1u);
  finish_all();
  EXPECT_EQ(ready(1, b), 1u);
}

TEST_F(Shares, WhatADeadRankHasClaimedIsCopiedByTheNext) {
  make(8);
  fetch(0, {0, 1, 2});
  const FetchNumber b = fetch(1, {0, 1, 2});
  EXPECT_EQ(gpu(1).uploads, 1u);
  ended_[0] = true;
  gpu(1).core->peer_lost(0, false, Status(CARDEA_ERR_PEER_LOST, "it died"), now_);
  look();
  finish_all();
  EXPECT_EQ(gpu(1).uploads, 3u);
  EXPECT_EQ(ready(1, b), 3u);
}

TEST_F(Shares, ASilentRanksClaimIsTakenOver) {
  make(8);
  fetch(0, {0});
  const FetchNumber b = fetch(1, {0});
  pass(std::chrono::milliseconds(900));
  EXPECT_EQ(gpu(1).uploads, 0u);
  pass(std::chrono::milliseconds(200));
  EXPECT_EQ(gpu(1).uploads, 1u);
  finish_one(1);
  EXPECT_EQ(ready(1, b), 1u);
  finish_all();
}

TEST_F(Shares, ASlotThatOthersWaitForStaysUntilTheyHavePulled) {
  make(1);
  const FetchNumber a = fetch(0, {0}, true), b = fetch(1, {0}, true);
  release_all(0, a);  // its reader is queued on the stream
  const FetchNumber next = fetch(0, {1}, true);
  EXPECT_EQ(gpu(0).uploads, 1u) << "the one slot is waited for";
  finish_one(0);
  EXPECT_EQ(gpu(1).pulls, 1u);
  EXPECT_EQ(gpu(0).uploads, 1u) << "it is being pulled";
  finish_one(1);
  EXPECT_EQ(ready(1, b), 1u);
  EXPECT_EQ(gpu(0).uploads, 2u);
  EXPECT_EQ(ready(0, next), 1u);
  finish_all();
}

TEST_F(Shares, ASlotThatNobodyWaitsForGoesAtOnce) {
  make(1);
  const FetchNumber a = fetch(0, {0}, true);
  release_all(0, a);
  const FetchNumber next = fetch(0, {1}, true);
  EXPECT_EQ(ready(0, next), 1u) << "the GPU keeps the order of the slot";
  fetch(1, {0}, true);
  EXPECT_EQ(gpu(1).uploads, 1u) << "it is not to be had from there";
  finish_all();
}

TEST_F(Shares, WhoCannotMapTheOthersCopiesForItself) {
  make(8, 0b011);
  fetch(0, {0});
  const FetchNumber c = fetch(2, {0});
  EXPECT_EQ(gpu(2).uploads, 1u);
  finish_all();
  EXPECT_EQ(ready(2, c), 1u);
  const FetchNumber b = fetch(1, {0});
  EXPECT_EQ(gpu(1).pulls, 1u);
  finish_all();
  EXPECT_EQ(ready(1, b), 1u);
}

TEST_F(Shares, CanceledWantsLeaveNothingBehind) {
  make(4);
  const FetchNumber a = fetch(0, {0, 1, 2, 3}), b = fetch(1, {0, 1, 2, 3});
  gpu(1).core->cancel(b, Status(CARDEA_ERR_CANCELED, "the test said so"), now_);
  gpu(0).core->cancel(a, Status(CARDEA_ERR_CANCELED, "the test said so"), now_);
  look();
  finish_all();
  const FetchNumber c = fetch(2, {0, 1, 2, 3});
  finish_all();
  EXPECT_EQ(ready(2, c), 4u);
  for (std::uint32_t local = 0; local < 2; ++local) EXPECT_EQ(gpu(local).core->available_slots(gpu(local).slab), 4u);
}

}  // namespace
}  // namespace cardea::core
