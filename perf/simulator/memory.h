// SPDX-License-Identifier: Apache-2.0
// The bytes of a run that carries any: each rank's own experts and its slab. A word of an expert is a hash of layer, expert,
// version and offset, so that a byte from anywhere else shows. Own experts are poison while no version is published.
#pragma once

#include <cstring>
#include <vector>

#include "lib/core/segment_layout.h"
#include "perf/simulator/plan.h"
#include "perf/simulator/random.h"

namespace cardea::simulator {

class Memory {
 public:
  Memory(const Plan& plan, const core::SegmentLayout& layout, std::uint64_t own_experts)
      : on_(plan.bytes), packed_(layout.packed_bytes()), own_experts_(own_experts) {
    if (!on_) return;
    own_.resize(plan.layers * own_experts * packed_, kPoison);
    slab_.resize(plan.slots * packed_, kPoison);
  }

  bool on() const { return on_; }
  std::byte* own(std::uint64_t layer, std::uint64_t place) { return &own_[(layer * own_experts_ + place) * packed_]; }
  std::byte* slot(std::uint64_t slot) { return &slab_[slot * packed_]; }

  void write(std::byte* expert, std::uint64_t layer, ExpertIndex index, Version version) const {
    for (std::uint64_t at = 0; at < packed_; ++at) expert[at] = right(layer, index, version, at);
  }
  void poison(std::byte* expert) const { std::memset(expert, static_cast<int>(kPoison), packed_); }
  /// True if the range is what was written.
  static bool is_right(const std::byte* expert, std::uint64_t layer, ExpertIndex index, Version version, std::uint64_t from,
                       std::uint64_t bytes) {
    for (std::uint64_t at = from; at < from + bytes; ++at) {
      if (expert[at] != right(layer, index, version, at)) return false;
    }
    return true;
  }

 private:
  static constexpr std::byte kPoison{0xDB};
  static std::byte right(std::uint64_t layer, ExpertIndex index, Version version, std::uint64_t at) {
    const std::uint64_t word = Random::mixed(layer << 48 ^ std::uint64_t{index} << 24 ^ version << 8 ^ at >> 3);
    return static_cast<std::byte>(word >> (at & 7) * 8);
  }

  bool on_;
  std::uint64_t packed_, own_experts_;
  std::vector<std::byte> own_, slab_;
};

}  // namespace cardea::simulator
