// SPDX-License-Identifier: Apache-2.0
// Where this rank's layers keep their published version, 8 bytes each, in memory that others may read: a rank that has
// copied an expert by itself looks here again after the last byte, and discards the copy if the version has moved on.
// Guarded by the runtime's mutex; the stamps themselves are atomics (release by the owner, acquire by the reader: who reads
// the version still in place has read weights that were in place).
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "lib/engine/regions.h"

namespace cardea::engine {

class Stamps {
 public:
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

  /// A stamp that says "none". NO_MEMORY.
  Result<SegmentPlace::Spot> add(Regions& regions) {
    if (free_.empty()) {
      constexpr std::uint64_t kBytes = 4096;
      Result<RegionNumber> region = regions.allocate(kBytes);
      if (!region.ok()) return region.status();
      for (std::uint64_t offset = kBytes; offset > 0; offset -= sizeof(Version))
        free_.push_back({*region, offset - sizeof(Version)});
    }
    const SegmentPlace::Spot spot = free_.back();
    free_.pop_back();
    set(regions, spot, kNoVersion);
    return spot;
  }
  void set(Regions& regions, const SegmentPlace::Spot& spot, Version version) const {
    auto* word = reinterpret_cast<std::uint64_t*>(regions.at(spot.region).base + spot.offset);
    std::atomic_ref<std::uint64_t>(*word).store(version, std::memory_order_release);
  }
  void remove(Regions& regions, const SegmentPlace::Spot& spot) {
    set(regions, spot, kNoVersion);
    free_.push_back(spot);
  }

 private:
  std::vector<SegmentPlace::Spot> free_;
};

}  // namespace cardea::engine
