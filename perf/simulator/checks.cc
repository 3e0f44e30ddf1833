// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/checks.h"

#include <algorithm>

namespace cardea::simulator {

Checks::Checks(Rank rank, std::uint64_t slots, std::vector<core::LaneLimits> lanes, bool side_by_side, Report& report)
    : rank_(rank), side_by_side_(side_by_side), report_(report), slots_(slots) {
  for (const core::LaneLimits& limits : lanes) lanes_.push_back({limits});
}

void Checks::started(const core::StartChunk& chunk) {
  ++flying_;
  Lane& lane = lane_of(chunk.lane);
  ++lane.started;
  if (++lane.flying > lane.limits.chunks) wrong(fmt::format("lane {} has {} chunks in flight", chunk.lane, lane.flying));
  const std::uint32_t of_class = ++lane.of_class[static_cast<std::size_t>(chunk.urgency)];
  if (chunk.urgency != core::Class::kDemand) {
    ++report_.background_chunks;
    if (of_class > lane.limits.background_chunks)
      wrong(fmt::format("lane {} has {} chunks of a background class", chunk.lane, of_class));
  }
  if (chunk.into != cache::kNoEntry) return;  // the node's memory watches that
  if (chunk.slot >= slots_.size()) return wrong(fmt::format("a chunk for slot {}, which is none", chunk.slot));
  Slot& slot = slots_[chunk.slot];
  const bool same = slot.layer == chunk.layer && slot.expert == chunk.expert && slot.version == chunk.version;
  if (!same && !slot.writing.empty()) wrong(fmt::format("slot {} is filled anew under a writer", chunk.slot));
  if (!same && slot.pulls != 0) wrong(fmt::format("slot {} is filled anew while others pull from it", chunk.slot));
  if (!same && slot.readers != 0) wrong(fmt::format("slot {} is filled anew under a view", chunk.slot));
  for (const core::ChunkRange& range : slot.writing) {
    if (chunk.range.offset < range.offset + range.bytes && range.offset < chunk.range.offset + chunk.range.bytes)
      wrong(fmt::format("two chunks write the same bytes of slot {}", chunk.slot));
  }
  const bool used = slot.used();
  slot.layer = chunk.layer;
  slot.expert = chunk.expert;
  slot.version = chunk.version;
  slot.writing.push_back(chunk.range);
  count_use(used, true);
}

void Checks::ended(const core::StartChunk& chunk) {
  --flying_;
  Lane& lane = lane_of(chunk.lane);
  --lane.flying;
  --lane.of_class[static_cast<std::size_t>(chunk.urgency)];
  if (chunk.into != cache::kNoEntry) return;
  Slot& slot = slots_[chunk.slot];
  const auto found = std::find_if(slot.writing.begin(), slot.writing.end(),
                                  [&](const core::ChunkRange& range) { return range.offset == chunk.range.offset; });
  if (found == slot.writing.end()) return wrong("a chunk ended that was not under way");
  slot.writing.erase(found);
  count_use(true, slot.used());
}

void Checks::order(core::LaneNumber number, core::Class lowest_started, std::optional<core::Class> waiting) {
  if (!waiting || *waiting >= lowest_started) return;
  Lane& lane = lane_of(number);
  ++lane.jumps;
  ++report_.jumps;
  if (lane.jumps * 20 > lane.started + 20)
    wrong(fmt::format("on lane {} {} of {} chunks went before more urgent ones", number, lane.jumps, lane.started));
}

void Checks::settled(const core::Core& core, core::SlabNumber slab) {
  if (core.chunks_in_flight() != flying_)
    wrong(fmt::format("the core counts {} chunks in flight, there are {}", core.chunks_in_flight(), flying_));
  if (used_ + core.available_slots(slab) > slots_.size())
    wrong(fmt::format("{} slots are used and {} available, of {}", used_, core.available_slots(slab), slots_.size()));
}

void Checks::fetched(core::FetchNumber fetch, const std::vector<ExpertIndex>& experts) {
  if (!open_.emplace(fetch, std::set<ExpertIndex>(experts.begin(), experts.end())).second)
    wrong("a fetch's number was used twice");
}

void Checks::delivered(core::FetchNumber fetch, std::uint64_t layer, Version version, const core::Delivery& delivery) {
  if (open_.at(fetch).erase(delivery.expert) != 1)
    wrong(fmt::format("fetch {} delivers expert {} twice, or unasked", fetch, delivery.expert));
  if ((delivery.view != 0) != delivery.status.ok()) wrong("a delivery is neither a view nor a failure");
  if (delivery.view == 0) return;
  if (!views_.emplace(delivery.view, delivery.slot).second) wrong("a view's number was used twice");
  if (!delivery.slot) return;
  Slot& slot = slots_[*delivery.slot];
  if (slot.layer != layer || slot.expert != delivery.expert || slot.version != version)
    wrong(fmt::format("the view of expert {} names slot {}, which holds another", delivery.expert, *delivery.slot));
  const bool used = slot.used();
  ++slot.readers;
  count_use(used, true);
}

void Checks::released(core::ViewNumber view) {
  const auto found = views_.find(view);
  if (found == views_.end()) return wrong("a view was released twice");
  if (found->second) {
    Slot& slot = slots_[*found->second];
    --slot.readers;
    count_use(true, slot.used());
  }
  views_.erase(found);
}

void Checks::pull_begins(core::SlotIndex number, core::LayerNumber layer, ExpertIndex expert, Version version) {
  Slot& slot = slots_[number];
  if (slot.layer != layer || slot.expert != expert || slot.version != version)
    wrong(fmt::format("another rank pulls expert {} from slot {}, which holds another", expert, number));
  ++slot.pulls;
}

void Checks::closed(core::FetchNumber fetch, bool early) {
  const auto found = open_.find(fetch);
  if (!early && !found->second.empty())
    wrong(fmt::format("fetch {} ended with {} experts not delivered", fetch, found->second.size()));
  open_.erase(found);
}

}  // namespace cardea::simulator
