// SPDX-License-Identifier: Apache-2.0
// The core driven by hand: what would be a transport, a clock and a framework is the test. Every action is looked at as it
// comes, and what must hold of any of them is checked here, from outside.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "lib/core/core.h"

namespace cardea::core {

/// A layer as these tests see it: `home_of` tells the home of each expert, kNoRank-free; all sources by one path rule.
inline SegmentLayout two_segments(std::uint64_t first = 1000, std::uint64_t second = 500) {
  return SegmentLayout::make({{"w13", first, 8}, {"w2", second, 8}}).value();
}

/// A fetch of version 1 into slots, of both segments.
inline FetchSpec into_slots(LayerNumber layer, SlabNumber slab, std::vector<ExpertIndex> experts, bool on_stream) {
  FetchSpec spec;
  spec.layer = layer;
  spec.version = 1;
  spec.experts = std::move(experts);
  spec.segments = 3;
  spec.slab = slab;
  spec.into_slots = true;
  spec.on_stream = on_stream;
  return spec;
}

class Driver {
 public:
  static constexpr std::uint64_t kChunk = 500;

  explicit Driver(std::vector<LaneLimits> lanes = {{.chunks = 4}, {.chunks = 2}},
                  CoreOptions options = {.chunk_bytes = kChunk})
      : core(options, lanes), limits_(std::move(lanes)), on_lane_(limits_.size()) {}

  Core core;
  Clock::time_point now{};

  /// A layer of ranks 0 … n-1 on the given nodes, this rank is 0; expert e has the given sources.
  LayerNumber add_layer(const std::vector<Node>& nodes, std::vector<ExpertSources> experts,
                        SegmentLayout layout = two_segments()) {
    std::vector<Rank> ranks;
    for (Rank rank = 0; rank < nodes.size(); ++rank) ranks.push_back(rank);
    const LayerNumber layer = core.add_layer({7, Membership(0, ranks, nodes), std::move(layout)});
    core.set_sources(layer, std::move(experts));
    return layer;
  }
  static ExpertSources by_network(Rank rank) { return {rank, {{rank, CARDEA_PATH_NETWORK, 0}}}; }
  static ExpertSources by_copy(Rank rank) { return {rank, {{rank, CARDEA_PATH_NODE_COPY, 1}}}; }

  void published_by(LayerNumber layer, Rank rank, Version version) {
    const Status status = core.receive(layer, rank, {0, Notice::Kind::kPublished, 0, version}, now);
    ASSERT_TRUE(status.ok()) << status.message();
    look();
  }
  FetchNumber fetch(const FetchSpec& spec) {
    const Result<FetchNumber> fetch = core.fetch(spec, now);
    EXPECT_TRUE(fetch.ok()) << fetch.status().message();
    look();
    return fetch.ok() ? *fetch : 0;
  }
  std::vector<Delivery> take(FetchNumber fetch, std::size_t max = 1000) {
    std::vector<Delivery> deliveries = core.take(fetch, max);
    for (const Delivery& d : deliveries) {
      if (d.view == 0) continue;
      const Held held{d.slot ? std::optional(std::pair(d.slab, *d.slot)) : std::nullopt, d.expert};
      EXPECT_TRUE(views.emplace(d.view, held).second) << "a view's number was used twice";
    }
    return deliveries;
  }
  void release(ViewNumber view) {
    views.erase(view);
    const auto released = core.release(view, now);
    EXPECT_TRUE(released.ok());
    look();
  }
  void cancel(FetchNumber fetch) {
    core.cancel(fetch, Status(CARDEA_ERR_CANCELED, "the test said so"), now);
    look();
  }
  void destroy(FetchNumber fetch) {
    core.destroy(fetch, now);
    look();
  }
  void complete(ChunkNumber chunk, const Status& status = {}) {
    const auto found = flying.find(chunk);
    ASSERT_NE(found, flying.end());
    --on_lane_[found->second.lane];
    flying.erase(found);
    core.chunk_done(chunk, status, now);
    look();
  }
  void complete_all() {
    while (!flying.empty()) complete(flying.begin()->first);
  }

  /// Carries out what the core wants done, and checks it.
  void look() {
    for (const Action& action : core.take_actions()) {
      if (const auto* start = std::get_if<StartChunk>(&action)) {
        started(*start);
      } else if (const auto* progress = std::get_if<Progress>(&action)) {
        if (progress->done) done.insert(progress->fetch);
      } else if (const auto* tell = std::get_if<Tell>(&action)) {
        told.push_back(*tell);
      } else if (const auto* open = std::get_if<OpenGate>(&action)) {
        EXPECT_TRUE(opened.emplace(open->chunk, open->why).second) << "a gate was opened twice";
      } else if (const auto* advance = std::get_if<AdvanceGate>(&action)) {
        EXPECT_FALSE(opened.contains(advance->chunk)) << "it is open";
        EXPECT_GT(advance->bytes, advanced[advance->chunk]) << "that has been told";
        advanced[advance->chunk] = advance->bytes;
      }
    }
    EXPECT_EQ(core.chunks_in_flight(), flying.size());
  }

  struct Held {
    std::optional<std::pair<SlabNumber, SlotIndex>> slot;
    ExpertIndex expert = 0;
  };
  std::map<ChunkNumber, StartChunk> flying;
  std::map<ViewNumber, Held> views;
  std::vector<StartChunk> log;
  std::set<FetchNumber> done;
  std::vector<Tell> told;
  std::map<ChunkNumber, Status> opened;           // gates, with why
  std::map<ChunkNumber, std::uint64_t> advanced;  // gates: so many bytes are there

  std::uint32_t on_lane(LaneNumber lane) const { return on_lane_[lane]; }
  const LaneLimits& limits(LaneNumber lane) const { return limits_[lane]; }

 private:
  void started(const StartChunk& start) {
    if (start.lands) return lands(start);
    EXPECT_LT(start.slot, core.slots(start.slab));
    for (const auto& [chunk, other] : flying) {
      if (other.lands || other.slab != start.slab || other.slot != start.slot) continue;
      EXPECT_TRUE(other.layer == start.layer && other.expert == start.expert && other.version == start.version)
          << "a slot is filled anew while chunk " << chunk << " still writes into it";
      EXPECT_TRUE(start.range.offset + start.range.bytes <= other.range.offset ||
                  other.range.offset + other.range.bytes <= start.range.offset)
          << "two chunks write the same bytes";
    }
    for (const auto& [view, held] : views) {
      if (held.slot == std::pair(start.slab, start.slot)) {
        EXPECT_EQ(held.expert, start.expert) << "a slot is filled under a view";
      }
    }
    note(start);
  }
  void lands(const StartChunk& start) {
    for (const auto& [chunk, other] : flying) {
      const LandingPlace& place = other.lands ? other.lands : other.landed;
      if (!place || place.slab != start.lands.slab || place.index != start.lands.index) continue;
      EXPECT_TRUE(other.layer == start.layer && other.expert == start.expert && other.version == start.version)
          << "a landing is filled anew while chunk " << chunk << " still uses it";
    }
    note(start);
  }
  void note(const StartChunk& start) {
    EXPECT_TRUE(flying.emplace(start.chunk, start).second) << "a chunk's number was used twice";
    EXPECT_LE(++on_lane_[start.lane], limits_[start.lane].chunks);
    log.push_back(start);
  }

  std::vector<LaneLimits> limits_;
  std::vector<std::uint32_t> on_lane_;
};

}  // namespace cardea::core
