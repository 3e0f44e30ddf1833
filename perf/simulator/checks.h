// SPDX-License-Identifier: Apache-2.0
// What must hold of one rank's core, watched from outside: from the actions that it gives and the views that it delivers.
//
//   slots      a slot is not written while a view of another expert lies in it or others pull it, nor by two experts' chunks
//              at once, nor the same bytes twice at once; slots in use and slots available are never more than there are
//   lanes      no lane has more chunks, nor more of a background class, than it may
//   order      no chunk of a lower class starts while one of a higher class waits for the lane, but one in twenty
//   wants      every expert of a fetch is delivered once: ready or failed
#pragma once

#include <array>
#include <map>
#include <set>
#include <vector>

#include "lib/core/core.h"
#include "perf/simulator/report.h"

namespace cardea::simulator {

class Checks {
 public:
  Checks(Rank rank, std::uint64_t slots, std::vector<core::LaneLimits> lanes, bool side_by_side, Report& report);

  void started(const core::StartChunk& chunk);
  void ended(const core::StartChunk& chunk);
  /// After chunks of `classes` were started on a lane by one event, `waiting` is what still waits for it.
  void order(core::LaneNumber lane, core::Class lowest_started, std::optional<core::Class> waiting);
  void settled(const core::Core& core, core::SlabNumber slab);

  void fetched(core::FetchNumber fetch, const std::vector<ExpertIndex>& experts);
  void delivered(core::FetchNumber fetch, std::uint64_t layer, Version version, const core::Delivery& delivery);
  void released(core::ViewNumber view);
  /// Another rank pulls an expert out of a slot.
  void pull_begins(core::SlotIndex slot, core::LayerNumber layer, ExpertIndex expert, Version version);
  void pull_ends(core::SlotIndex slot) { --slots_[slot].pulls; }
  /// Everything of it has been delivered, unless it is destroyed with a purpose.
  void closed(core::FetchNumber fetch, bool early);

 private:
  struct Slot {
    core::LayerNumber layer = 0;
    ExpertIndex expert = 0;
    Version version = 0;
    std::vector<core::ChunkRange> writing;
    std::uint32_t readers = 0;
    std::uint32_t pulls = 0;  // by other ranks
    bool used() const { return !writing.empty() || readers != 0; }
  };
  struct Lane {
    core::LaneLimits limits;
    std::uint32_t flying = 0;
    std::array<std::uint32_t, core::kClasses> of_class{};
    std::uint64_t started = 0, jumps = 0;
  };
  void wrong(std::string what) { report_.violation(fmt::format("rank {}: {}", rank_, what)); }
  void count_use(bool before, bool after) {
    used_ += static_cast<std::uint64_t>(after) - static_cast<std::uint64_t>(before);
  }

  Lane& lane_of(core::LaneNumber lane) { return lanes_[side_by_side_ ? lane : 0]; }

  Rank rank_;
  bool side_by_side_;  // false: all lanes count as the first
  Report& report_;
  std::vector<Slot> slots_;
  std::vector<Lane> lanes_;
  std::uint64_t used_ = 0, flying_ = 0;
  std::map<core::FetchNumber, std::set<ExpertIndex>> open_;
  std::map<core::ViewNumber, std::optional<core::SlotIndex>> views_;
};

}  // namespace cardea::simulator
