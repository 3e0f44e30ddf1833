// SPDX-License-Identifier: Apache-2.0
// Which rail of one rank speaks to which of another. Both compute the same from what they have told each other, so nothing
// has to be agreed upon. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/types.h"
#include "lib/transport/transport.h"
#include "lib/transport/ucx/wire.h"

namespace cardea::transport::ucx {

struct RailPair {
  std::uint32_t mine = 0, theirs = 0;
  friend bool operator==(const RailPair&, const RailPair&) = default;
};

/// Rails in one network are paired, each with the first of the other that is left; then those whose network nobody tells,
/// with whatever is left. Where that pairs none, the network between is taken to be routed, and they are paired by number.
/// A rank with more rails than the other, or than have a network in common, does without the rest. Never empty unless a
/// rank has no rails; in the order of the lower rank's rails, and the first pair is the main one: messages go by it.
std::vector<RailPair> pair_rails(Rank self, std::span<const RailAddress> mine, Rank peer,
                                 std::span<const RailAddress> theirs);

/// Of the rails of this rank that are in these pairs, the first of which is the main one, the longest run, the main one's if
/// it is as long as any.
RailRun run_of(const std::vector<RailPair>& pairs);

}  // namespace cardea::transport::ucx
