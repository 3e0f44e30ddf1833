// SPDX-License-Identifier: Apache-2.0
// The credits of one slab: which slots are empty, and which hold an expert that nobody reads just now and which may
// therefore be given up, least recently used first. Plain data structure: no threads, no I/O.
//
//   empty ── take_empty ──► in use ── make_spare ──► spare
//     ▲                      │  ▲                      │
//     └────── give_back ─────┘  └─────── reuse ────────┘
//
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lib/core/index_list.h"

namespace cardea::core {

using SlotIndex = std::uint32_t;

class Slots {
 public:
  explicit Slots(std::uint32_t count) {
    for (std::uint32_t i = count; i > 0; --i) empty_.push_back(i - 1);
    places_.resize(count);
  }

  std::uint32_t count() const { return static_cast<std::uint32_t>(places_.size()); }
  /// Slots that can be had now: empty and spare ones.
  std::uint32_t available() const { return static_cast<std::uint32_t>(empty_.size() + spare_count_); }
  std::uint32_t empty() const { return static_cast<std::uint32_t>(empty_.size()); }

  /// Spare slots, the one used longest ago first.
  const IndexList<SlotIndex>& spares() const { return spare_; }

  /// An empty slot, now in use.
  std::optional<SlotIndex> take_empty() {
    if (empty_.empty()) return std::nullopt;
    const SlotIndex slot = empty_.back();
    empty_.pop_back();
    return slot;
  }
  /// In use → spare: keeps its expert until somebody needs the slot.
  void make_spare(SlotIndex slot) {
    places_[slot] = spare_.push_back(slot);
    ++spare_count_;
  }
  /// Spare → in use, with its expert.
  void reuse(SlotIndex slot) {
    spare_.remove(places_[slot]);
    --spare_count_;
  }
  /// In use → empty.
  void give_back(SlotIndex slot) { empty_.push_back(slot); }

 private:
  std::vector<SlotIndex> empty_;  // a stack: the slot last used is the warmest in caches
  IndexList<SlotIndex> spare_;    // oldest first
  std::size_t spare_count_ = 0;
  std::vector<IndexList<SlotIndex>::Place> places_;
};

}  // namespace cardea::core
