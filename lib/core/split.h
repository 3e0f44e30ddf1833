// SPDX-License-Identifier: Apache-2.0
// The policy of PCIe-switch-aware split and swap: when several GPUs of a node want one expert out of host memory, each
// copies a part of it over its own PCIe link, and they pull the other parts from one another over NVLink (Janus,
// section 5.2). What one of them has brought into the node itself is its part, since that lies near it, and NICs share the
// bringing evenly. Other chunks are dealt: GPUs below one switch share its uplink, so to uplinks first, and then among the
// GPUs of each. Who comes late finds more to pull; who has nothing else to copy takes over what is left of the others'
// parts. Plain values and a pure function; core/split.cc carries it out, cache/slot_copies.cc keeps who has what.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cardea::core {

struct SwapOptions {
  /// Ranks, by local number in the node cache, from whose slots this rank pulls faster than it copies out of host memory.
  /// The relation must be symmetric. 0: nothing is split. Needs side_by_side.
  std::uint64_t peers = 0;
  std::uint32_t lane = 2;                // on which it pulls
  std::vector<std::uint32_t> uplink_of;  // by local number: the shared PCIe uplink that its copies take; empty: each its own
  /// Slots are those that keep the order by themselves (Core::add_slab), and parts are whole experts (shares.cc): `peers` is
  /// 0, and each layer names its own (Core::set_swap_peers).
  bool on_device = false;
};

/// The chunks of an expert that one rank copies: `first`, `first` + `step`, …; none where `step` is 0. Neighbouring chunks
/// go to different uplinks, so that an expert which is still on its way into the node, chunk by chunk, keeps all of them
/// busy.
struct Share {
  std::size_t first = 0, step = 0;
  bool has(std::size_t chunk) const { return step != 0 && chunk % step == first; }
};

/// What local rank `self` copies when all of `ranks` (a mask with its bit) want the expert. With another `turn` for each
/// expert, whoever has a chunk more than others of one has not of the next.
inline Share share_of(std::uint64_t ranks, std::uint32_t self, const std::vector<std::uint32_t>& uplink_of,
                      std::size_t turn) {
  const auto uplink = [&](std::uint32_t local) { return local < uplink_of.size() ? uplink_of[local] : UINT32_MAX - local; };
  // Uplinks in the order of their lowest rank; within each, ranks in order.
  std::size_t uplinks = 0, place = 0, mates = 0, place_below = 0;
  std::uint64_t seen = 0;  // ranks whose uplink has been counted
  for (std::uint64_t left = ranks; left != 0; left &= left - 1) {
    const auto local = static_cast<std::uint32_t>(std::countr_zero(left));
    if (seen >> local & 1) continue;
    const bool own = uplink(local) == uplink(self);
    if (own) place = uplinks;
    ++uplinks;
    for (std::uint64_t rest = left; rest != 0; rest &= rest - 1) {
      const auto other = static_cast<std::uint32_t>(std::countr_zero(rest));
      if (uplink(other) != uplink(local)) continue;
      seen |= std::uint64_t{1} << other;
      if (!own) continue;
      if (other == self) place_below = mates;
      ++mates;
    }
  }
  if ((ranks >> self & 1) == 0) return {};
  const std::size_t step = uplinks * mates;
  return {(place + uplinks * place_below + step - turn % step) % step, step};
}

}  // namespace cardea::core
