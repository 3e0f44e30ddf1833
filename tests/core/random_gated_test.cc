// SPDX-License-Identifier: Apache-2.0
// Random fetches on streams and of hosts, over the network and from GPUs of the node, with few slots, gates and landings,
// and a GPU that queues and copies when it likes but never passes a gate that is shut. What must hold is checked from
// outside: no gate opens before its bytes are here, no slot behind a shut gate goes to another, and in the end all of it is
// free.
#include <algorithm>

#include "tests/core/core_driver.h"
#include "tests/core/seeds.h"

namespace cardea::core {
namespace {

using test::Random;

constexpr LaneNumber kNetwork = 0, kPulls = 2, kUploads = 3;
constexpr ExpertIndex kExperts = 12;
constexpr std::uint64_t kWhole = 1500;  // bytes of an expert
const SegmentLayout kLayout = two_segments();

class GatedWalk {
 public:
  explicit GatedWalk(std::uint64_t seed)
      : random_(seed),
        driver_({{.chunks = 4},
                 {.chunks = 2},
                 {.chunks = 1000, .chunk_bytes = 1 << 20},
                 {.chunks = 1000, .chunk_bytes = 1 << 20}}) {
    std::vector<ExpertSources> experts;
    for (ExpertIndex e = 0; e < kExperts; ++e) {
      if (e % 3 == 0) {
        experts.push_back({1, {{1, CARDEA_PATH_NODE_GPU, kPulls}}});
      } else {
        experts.push_back(Driver::by_network(2 + e % 2));
      }
    }
    layer_ = driver_.add_layer({0, 0, 1, 2}, experts);
    for (unsigned i = 0; i < 2; ++i) {
      const auto slots = 1 + static_cast<std::uint32_t>(random_.below(4));
      const GateLimits limits{static_cast<std::uint32_t>(random_.below(slots + 1)),
                              static_cast<std::uint32_t>(random_.below(4))};
      slabs_.push_back(driver_.core.add_slab(slots, kUploads, limits));
    }
    for (const Rank rank : {1u, 2u, 3u}) driver_.published_by(layer_, rank, 1);
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      step();
      look();
    }
    if (!testing::Test::HasFailure()) come_to_rest();
  }

  std::uint64_t gated = 0, good = 0, failed = 0, canceled = 0, advanced = 0;

 private:
  void step() {
    driver_.now += Nanoseconds(static_cast<std::int64_t>(random_.below(100)));
    switch (random_.below(12)) {
      case 0:
      case 1:
        return fetch();
      case 2:
      case 3:
        return queue_next();
      case 4:
      case 5:
      case 6:
        return complete_one();
      case 7:
      case 8:
        if (!fetches_.empty()) driver_.take(any_fetch(), 1 + random_.below(3));
        return;
      case 9:
        return release_one();
      case 10:
        if (fetches_.empty() || random_.chance(60)) return;
        if (random_.chance(50)) {
          ++canceled;
          return driver_.cancel(any_fetch());
        }
        return destroy(any_fetch());
      case 11:
        if (random_.chance(2)) return lose(2 + static_cast<Rank>(random_.below(2)));
        driver_.core.time_passed(driver_.now);
        driver_.look();
        if (fetches_.empty()) return;
        const std::set<FetchNumber> waited{any_fetch()};
        (void)driver_.core.would_deadlock(*waited.begin(), waited, driver_.now);
        return driver_.look();
    }
  }

  void fetch() {
    FetchSpec spec;
    spec.layer = layer_;
    spec.version = 1;
    spec.segments = random_.chance(85) ? 3 : 1 + random_.below(3);
    spec.slab = slabs_[random_.below(slabs_.size())];
    spec.into_slots = true;
    spec.wants_views = random_.chance(90);
    spec.on_stream = spec.wants_views && random_.chance(75);
    spec.urgency = spec.wants_views ? Class::kDemand : Class::kPrefetch;
    spec.gang = random_.chance(10);
    if (random_.chance(15)) spec.deadline = driver_.now + Nanoseconds(static_cast<std::int64_t>(random_.below(3000)));
    std::set<ExpertIndex> experts;
    const std::uint64_t count = 1 + random_.below(5);
    while (experts.size() < count) experts.insert(static_cast<ExpertIndex>(random_.below(kExperts)));
    spec.experts.assign(experts.begin(), experts.end());
    const Result<FetchNumber> number = driver_.core.fetch(spec, driver_.now);
    driver_.look();
    if (number.ok()) fetches_.insert(*number);
  }
  FetchNumber any_fetch() {
    auto at = fetches_.begin();
    std::advance(at, random_.below(fetches_.size()));
    return *at;
  }
  void destroy(FetchNumber number) {
    fetches_.erase(number);
    driver_.destroy(number);
  }
  void release_one() {
    if (driver_.views.empty()) return;
    auto at = driver_.views.begin();
    std::advance(at, random_.below(driver_.views.size()));
    driver_.release(at->first);
  }
  /// The GPU takes the oldest copy that it has not queued.
  void queue_next() {
    if (to_queue_.empty()) return;
    const ChunkNumber chunk = to_queue_.front();
    to_queue_.pop_front();
    if (random_.chance(2)) return driver_.complete(chunk, Status(CARDEA_ERR_DEVICE, "it could not be queued"));
    driver_.flying.at(chunk).slot = 0xFFFF;  // the GPU keeps its order from here on
    driver_.core.chunk_queued(chunk, driver_.now);
    queued_.insert(chunk);
    driver_.look();
  }
  void complete_one() {
    std::vector<ChunkNumber> may;
    for (const auto& [chunk, start] : driver_.flying) {
      const bool copy = start.lane == kPulls || start.lane == kUploads;
      if (copy && !queued_.contains(chunk)) {
        if (std::find(to_queue_.begin(), to_queue_.end(), chunk) != to_queue_.end()) continue;
      }
      if (start.gated && !driver_.opened.contains(chunk)) continue;
      may.push_back(chunk);
    }
    if (may.empty()) return;
    complete(may[random_.below(may.size())]);
  }
  void complete(ChunkNumber chunk) {
    const StartChunk start = driver_.flying.at(chunk);
    Status status;
    if (start.gated) status = driver_.opened.at(chunk);
    if (start.lane == kNetwork && (lost_.contains(start.source) || random_.chance(2)))
      status = Status(CARDEA_ERR_PEER_LOST, "the chunk failed");
    if (start.lands && status.ok()) {
      landed_[{start.lands.slab, start.lands.index}] += start.range.bytes;
      offsets_[{start.lands.slab, start.lands.index}].insert(start.range.offset);
    }
    driver_.complete(chunk, status);
  }
  void lose(Rank rank) {
    if (!lost_.insert(rank).second) return;
    driver_.core.peer_lost(rank, false, Status(CARDEA_ERR_PEER_LOST, "killed"), driver_.now);
    driver_.look();
  }

  /// What has been opened and started since.
  void look() {
    look_at_gates();
    for (; seen_ < driver_.log.size(); ++seen_) {
      const StartChunk& start = driver_.log[seen_];
      if (start.lands && start.range.offset == 0) {
        landed_[{start.lands.slab, start.lands.index}] = 0;
        offsets_[{start.lands.slab, start.lands.index}].clear();
      }
      if (start.lands || (start.lane != kPulls && start.lane != kUploads)) continue;
      to_queue_.push_back(start.chunk);
      for (const auto& [chunk, place] : shut_) {
        EXPECT_NE(place, std::pair(start.slab, start.slot)) << "the slot's gate is shut";
      }
      if (!start.gated) continue;
      ++gated;
      ASSERT_TRUE(start.landed);
      shut_.emplace(start.chunk, std::pair(start.slab, start.slot));
      from_.emplace(start.chunk, std::pair(start.landed.slab, start.landed.index));
    }
    look_at_gates();
  }
  void look_at_gates() {
    for (const auto& [gate, place] : from_) {
      const auto told = driver_.advanced.find(gate);
      if (told == driver_.advanced.end() || !shut_.contains(gate)) continue;
      for (const ChunkRange& chunk : kLayout.chunks(kLayout.all(), Driver::kChunk)) {
        if (chunk.offset >= told->second) break;
        ++advanced;
        EXPECT_TRUE(offsets_[place].contains(chunk.offset)) << "what is said to be here is not";
      }
    }
    std::erase_if(shut_, [&](const auto& gate) {
      const auto opened = driver_.opened.find(gate.first);
      if (opened == driver_.opened.end()) return false;
      ++(opened->second.ok() ? good : failed);
      if (opened->second.ok()) {
        EXPECT_EQ(landed_.at(from_.at(gate.first)), kWhole) << "a gate was opened before its bytes were here";
      }
      return true;
    });
  }

  void come_to_rest() {
    driver_.core.cancel_all(Status(CARDEA_ERR_CANCELED, "the end"), driver_.now);
    driver_.look();
    look();
    EXPECT_TRUE(shut_.empty()) << "a gate is shut after the end of all";
    while (!fetches_.empty()) destroy(*fetches_.begin());
    for (unsigned i = 0; i < 10000 && !driver_.flying.empty(); ++i) {
      queue_next();
      complete_one();
      look();
    }
    EXPECT_TRUE(driver_.flying.empty());
    while (!driver_.views.empty()) driver_.release(driver_.views.begin()->first);
    EXPECT_EQ(driver_.core.draining(layer_), 0u);
    for (const SlabNumber slab : slabs_) EXPECT_EQ(driver_.core.available_slots(slab), driver_.core.slots(slab));
    const Status status = driver_.core.remove_layer(layer_);
    EXPECT_TRUE(status.ok()) << status.message();
    for (const SlabNumber slab : slabs_) EXPECT_TRUE(driver_.core.remove_slab(slab).ok());
  }

  Random random_;
  Driver driver_;
  LayerNumber layer_ = 0;
  std::vector<SlabNumber> slabs_;
  std::set<FetchNumber> fetches_;
  std::set<Rank> lost_;
  std::deque<ChunkNumber> to_queue_;
  std::set<ChunkNumber> queued_;
  std::size_t seen_ = 0;
  std::map<ChunkNumber, std::pair<SlabNumber, SlotIndex>> shut_;
  std::map<ChunkNumber, std::pair<SlabNumber, std::uint32_t>> from_;
  std::map<std::pair<SlabNumber, std::uint32_t>, std::uint64_t> landed_;
  std::map<std::pair<SlabNumber, std::uint32_t>, std::set<std::uint64_t>> offsets_;  // of the chunks that have
};

TEST(RandomGated, WhatMustHoldHoldsAfterEveryStep) {
  std::uint64_t gated = 0, good = 0, failed = 0, canceled = 0, advanced = 0;
  test::for_each_seed(1500, [&](std::uint64_t seed) {
    GatedWalk walk(seed);
    walk.run(300);
    gated += walk.gated;
    good += walk.good;
    failed += walk.failed;
    canceled += walk.canceled;
    advanced += walk.advanced;
  });
  EXPECT_GT(gated, 0u);
  EXPECT_GT(good, 0u);
  EXPECT_GT(failed, 0u);
  EXPECT_GT(canceled, 0u);
  EXPECT_GT(advanced, 0u);
}

}  // namespace
}  // namespace cardea::core
