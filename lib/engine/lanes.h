// SPDX-License-Identifier: Apache-2.0
// The lanes of a rank's core, by number.
#pragma once

#include <string>
#include <vector>

#include "lib/core/actions.h"

namespace cardea::engine {

inline constexpr core::LaneNumber kNodeCopy = 0;   // copies within the node's host memory, by the engine
inline constexpr core::LaneNumber kGpuPull = 1;    // from other GPUs of the node, by this GPU's copy engine
inline constexpr core::LaneNumber kGpuUpload = 2;  // from the node's host memory, by this GPU's copy engine
inline constexpr core::LaneNumber kNetworkIn = 3;  // the network's inward direction: the first rail, the others after it

/// "network-in"; of one of several rails "network-in eth1".
inline std::string network_lane_name(const std::vector<std::string>& rails, std::size_t rail) {
  return rails.size() == 1 ? "network-in" : "network-in " + rails[rail];
}

}  // namespace cardea::engine
