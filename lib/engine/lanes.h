// SPDX-License-Identifier: Apache-2.0
// The lanes of a rank's core, by number.
#pragma once

#include "lib/core/actions.h"

namespace cardea::engine {

inline constexpr core::LaneNumber kNetworkIn = 0;  // the network's inward direction
inline constexpr core::LaneNumber kNodeCopy = 1;   // copies within the node's host memory, by the engine
inline constexpr core::LaneNumber kGpuPull = 2;    // from other GPUs of the node, by this GPU's copy engine
inline constexpr core::LaneNumber kGpuUpload = 3;  // from the node's host memory, by this GPU's copy engine

}  // namespace cardea::engine
