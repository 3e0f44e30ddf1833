// SPDX-License-Identifier: Apache-2.0
// Random operations on the core, thousands of orders of them, with what must always hold checked from outside after every
// step. A failing seed prints the command that runs it again.
#include <algorithm>

#include "tests/core/core_driver.h"
#include "tests/core/seeds.h"

namespace cardea::core {
namespace {

using test::Random;

constexpr Rank kRanks = 6;  // on three nodes; this one is 0
constexpr ExpertIndex kExperts = 12;

class Walk {
 public:
  explicit Walk(std::uint64_t seed) : random_(seed), driver_({{.chunks = 4}, {.chunks = 2}}) {
    for (unsigned i = 0; i < 2; ++i)
      slabs_.push_back(driver_.core.add_slab(1 + static_cast<std::uint32_t>(random_.below(5))));
    for (unsigned i = 0; i < 2; ++i) {
      std::vector<ExpertSources> experts;
      for (ExpertIndex e = 0; e < kExperts; ++e) {
        const Rank home = e % kRanks;
        ExpertSources sources{home, {option(home)}};
        if (random_.chance(25)) {
          const Rank second = static_cast<Rank>(random_.below(kRanks));
          if (second != home) sources.options.push_back(option(second));
        }
        experts.push_back(std::move(sources));
      }
      layers_.push_back({driver_.add_layer({0, 0, 1, 1, 2, 2}, std::move(experts)), {}, {}, 1});
    }
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      step();
      check();
    }
    if (!testing::Test::HasFailure()) come_to_rest();
  }

  struct Seen {
    std::uint64_t ready = 0, failed = 0, chunks = 0, refused_finishes = 0, lost = 0, gangs = 0, wasted = 0;
  } seen;

 private:
  struct Layer {
    LayerNumber number;
    std::map<Rank, Version> published;  // by others
    std::optional<Version> finished;
    Version own_next;
  };
  struct Wanted {
    std::size_t layer;
    std::set<ExpertIndex> open;  // not delivered yet
    bool views;
    std::optional<SlabNumber> slab;
  };

  SourceOption option(Rank rank) {
    if (rank == 0) return {0, CARDEA_PATH_HOME, 0};
    if (rank == 1) return {1, random_.chance(50) ? CARDEA_PATH_NODE_MAPPED : CARDEA_PATH_NODE_COPY, 1};
    return {rank, CARDEA_PATH_NETWORK, 0};
  }

  void step() {
    driver_.now += Nanoseconds(static_cast<std::int64_t>(random_.below(100)));
    switch (random_.below(14)) {
      case 0:
      case 1:
      case 2:
        return fetch();
      case 3:
      case 4:
      case 5:
      case 6:
        return complete_one();
      case 7:
      case 8:
        return take();
      case 9:
        return release_one();
      case 10:
        return publish();
      case 11:
        return random_.chance(50) ? cancel() : destroy();
      case 12:
        if (random_.chance(10)) return lose();
        return finish();
      case 13:
        driver_.core.time_passed(driver_.now);
        driver_.look();
        if (!fetches_.empty()) {
          const std::set<FetchNumber> waited{any_fetch()};
          (void)driver_.core.would_deadlock(*waited.begin(), waited, driver_.now);
          driver_.look();
        }
        return;
    }
  }

  void fetch() {
    const std::size_t l = random_.below(layers_.size());
    FetchSpec spec;
    spec.layer = layers_[l].number;
    spec.version = 1 + random_.below(4);
    spec.segments = 1 + random_.below(3);
    spec.slab = slabs_[random_.below(slabs_.size())];
    spec.into_slots = random_.chance(40);
    spec.wants_views = random_.chance(75);
    spec.urgency = spec.wants_views ? Class::kDemand : Class::kPrefetch;
    spec.gang = random_.chance(20);
    if (random_.chance(20)) spec.deadline = driver_.now + Nanoseconds(static_cast<std::int64_t>(random_.below(2000)));
    std::set<ExpertIndex> experts;
    const std::uint64_t count = 1 + random_.below(5);
    while (experts.size() < count) experts.insert(static_cast<ExpertIndex>(random_.below(kExperts)));
    spec.experts.assign(experts.begin(), experts.end());
    const Result<FetchNumber> number = driver_.core.fetch(spec, driver_.now);
    driver_.look();
    if (!number.ok()) {
      const auto code = number.status().code();
      const bool finished = layers_[l].finished && spec.version <= *layers_[l].finished;
      EXPECT_EQ(code == CARDEA_ERR_STALE, finished) << number.status().message();
      if (!finished) {
        EXPECT_TRUE(code == CARDEA_ERR_LIMIT && (spec.gang || !spec.wants_views)) << number.status().message();
      }
      return;
    }
    seen.gangs += spec.gang;
    fetches_.emplace(*number, Wanted{l, std::move(experts), spec.wants_views, spec.slab});
  }

  void complete_one() {
    if (driver_.flying.empty()) return;
    auto at = driver_.flying.begin();
    std::advance(at, random_.below(driver_.flying.size()));
    ++seen.chunks;
    const Rank source = at->second.source;
    if (lost_.contains(source) || random_.chance(3)) {
      driver_.complete(at->first, Status(CARDEA_ERR_PEER_LOST, "the chunk failed"));
    } else {
      driver_.complete(at->first);
    }
  }

  FetchNumber any_fetch() {
    auto at = fetches_.begin();
    std::advance(at, random_.below(fetches_.size()));
    return at->first;
  }

  void take_from(FetchNumber number, std::size_t max) {
    Wanted& wanted = fetches_.at(number);
    for (const Delivery& delivery : driver_.take(number, max)) {
      ++(delivery.view != 0 ? seen.ready : seen.failed);
      EXPECT_EQ(delivery.view != 0, delivery.status.ok());
      EXPECT_EQ(wanted.open.erase(delivery.expert), 1u) << "completed twice, or never asked for";
      if (!wanted.views) {
        EXPECT_EQ(delivery.view, 0u) << "a prefetch delivers no views";
      }
    }
  }
  void take() {
    if (!fetches_.empty()) take_from(any_fetch(), 1 + random_.below(3));
  }

  void release_one() {
    if (driver_.views.empty()) return;
    auto at = driver_.views.begin();
    std::advance(at, random_.below(driver_.views.size()));
    driver_.release(at->first);
  }

  void publish() {
    Layer& layer = layers_[random_.below(layers_.size())];
    const Rank rank = static_cast<Rank>(random_.below(kRanks));
    if (lost_.contains(rank)) return;
    if (rank == 0) {
      const Status status = driver_.core.publish(layer.number, layer.own_next, driver_.now);
      if (status.ok()) ++layer.own_next;
      driver_.look();
    } else {
      Version& last = layer.published[rank];
      if (last < 4) driver_.published_by(layer.number, rank, ++last);
    }
  }

  void cancel() {
    if (!fetches_.empty()) driver_.cancel(any_fetch());
  }
  void destroy() {
    if (fetches_.empty()) return;
    const FetchNumber number = any_fetch();
    driver_.destroy(number);
    fetches_.erase(number);
  }

  void finish() {
    Layer& layer = layers_[random_.below(layers_.size())];
    const Version version = 1 + random_.below(3);
    const Status status = driver_.core.finish(layer.number, version, driver_.now);
    driver_.look();
    if (status.ok()) {
      layer.finished = version;
    } else {
      ++seen.refused_finishes;
      EXPECT_TRUE(status.code() == CARDEA_ERR_BUSY || status.code() == CARDEA_ERR_STALE) << status.message();
    }
    (void)driver_.core.collect(layer.number, version);
    driver_.look();
  }

  void lose() {
    const Rank rank = 1 + static_cast<Rank>(random_.below(kRanks - 1));
    if (!lost_.insert(rank).second) return;
    ++seen.lost;
    // As a transport does: its chunks are completed first, or, if the loss was decided above it, afterwards.
    if (random_.chance(50)) fail_chunks_of(rank);
    driver_.core.peer_lost(rank, false, Status(CARDEA_ERR_PEER_LOST, "killed"), driver_.now);
    driver_.look();
  }
  void fail_chunks_of(Rank rank) {
    for (bool again = true; std::exchange(again, false);) {
      for (const auto& [chunk, start] : driver_.flying) {
        if (start.source != rank) continue;
        driver_.complete(chunk, Status(CARDEA_ERR_PEER_LOST, "killed"));
        again = true;
        break;
      }
    }
  }

  void check() {
    for (const SlabNumber slab : slabs_) {
      std::set<SlotIndex> used;
      for (const auto& [view, held] : driver_.views) {
        if (held.slot && held.slot->first == slab) used.insert(held.slot->second);
      }
      for (const auto& [chunk, start] : driver_.flying) {
        if (start.slab == slab) used.insert(start.slot);
      }
      EXPECT_LE(used.size() + driver_.core.available_slots(slab), driver_.core.slots(slab)) << "more credits than slots";
    }
    for (const auto& [number, wanted] : fetches_) {
      const FetchCounts counts = driver_.core.counts(number);
      const std::uint32_t finished = counts.experts - counts.parked - counts.starved - counts.moving;
      EXPECT_GE(finished, counts.delivered);
      if (wanted.views) {
        EXPECT_EQ(counts.experts - counts.delivered, wanted.open.size());
      }
      // Who moves has bytes on the way, or waits for a lane that is full.
      if (counts.moving != 0 && driver_.flying.empty()) {
        ADD_FAILURE() << "fetch " << number << " moves and nothing does";
      }
      // A gang is reserved whole, so it waits for the last of its experts to be published.
      if (counts.starved != 0 && counts.parked == 0 && driver_.views.empty() && driver_.flying.empty() && wanted.views &&
          nothing_undelivered())
        ADD_FAILURE() << "fetch " << number << " starves though nobody holds a slot: " << counts.starved << " of "
                      << counts.experts << " starved, " << counts.parked << " parked; the slabs have "
                      << driver_.core.available_slots(slabs_[0]) << " and " << driver_.core.available_slots(slabs_[1])
                      << " slots to give";
    }
    const bool room = driver_.on_lane(0) < driver_.limits(0).chunks;
    if (room && driver_.on_lane(0) == 0) {
      EXPECT_EQ(moving_by_network(), 0u) << "an empty lane, and somebody waits for it";
    }
  }
  bool nothing_undelivered() const {
    return std::all_of(fetches_.begin(), fetches_.end(),
                       [&](const auto& entry) { return driver_.core.counts(entry.first).ready == 0; });
  }
  std::uint32_t moving_by_network() const {
    // Only if no copy is under way can it be told from outside which lane a moving expert waits for.
    if (driver_.on_lane(1) != 0) return 0;
    std::uint32_t moving = 0;
    for (const auto& [number, wanted] : fetches_) moving += driver_.core.counts(number).moving;
    return moving;
  }

  void come_to_rest() {
    for (const auto& [number, wanted] : fetches_) driver_.cancel(number);
    driver_.complete_all();
    for (const auto& [number, wanted] : fetches_) {
      take_from(number, 1000);
      if (wanted.views) {
        EXPECT_TRUE(wanted.open.empty()) << "a want never completed";
      }
    }
    while (!driver_.views.empty()) driver_.release(driver_.views.begin()->first);
    EXPECT_EQ(driver_.core.chunks_in_flight(), 0u);
    for (const SlabNumber slab : slabs_) EXPECT_EQ(driver_.core.available_slots(slab), driver_.core.slots(slab));
    for (const auto& [number, wanted] : fetches_) driver_.destroy(number);
    for (const Layer& layer : layers_) {
      const Status status = driver_.core.remove_layer(layer.number);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    for (const SlabNumber slab : slabs_) EXPECT_TRUE(driver_.core.remove_slab(slab).ok());
    seen.wasted = driver_.core.counters().prefetch_bytes_wasted;
  }

  Random random_;
  Driver driver_;
  std::vector<SlabNumber> slabs_;
  std::vector<Layer> layers_;
  std::map<FetchNumber, Wanted> fetches_;
  std::set<Rank> lost_;
};

TEST(RandomCore, WhatMustHoldHoldsAfterEveryStep) {
  Walk::Seen sum;
  test::for_each_seed(1500, [&](std::uint64_t seed) {
    Walk walk(seed);
    walk.run(200);
    sum.ready += walk.seen.ready;
    sum.failed += walk.seen.failed;
    sum.chunks += walk.seen.chunks;
    sum.refused_finishes += walk.seen.refused_finishes;
    sum.lost += walk.seen.lost;
    sum.gangs += walk.seen.gangs;
    sum.wasted += walk.seen.wasted;
  });
  EXPECT_GT(sum.ready, 0u);
  EXPECT_GT(sum.failed, 0u);
  EXPECT_GT(sum.chunks, 0u);
  EXPECT_GT(sum.refused_finishes, 0u);
  EXPECT_GT(sum.lost, 0u);
  EXPECT_GT(sum.gangs, 0u);
  EXPECT_GT(sum.wasted, 0u);
}

}  // namespace
}  // namespace cardea::core
