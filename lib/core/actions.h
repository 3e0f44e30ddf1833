// SPDX-License-Identifier: Apache-2.0
// What the core wants done. Actions are carried out in the order in which the core gave them, outside of the mutex that
// guards it.
#pragma once

#include <cstdint>
#include <variant>

#include "lib/core/lane.h"
#include "lib/core/segment_layout.h"
#include "lib/core/slots.h"
#include "lib/core/versions.h"

namespace cardea::core {

using LayerNumber = std::uint32_t;
using SlabNumber = std::uint32_t;
using LaneNumber = std::uint32_t;
using FetchNumber = std::uint64_t;
using ViewNumber = std::uint64_t;
using ChunkNumber = std::uint64_t;  // the transports' ChunkToken

/// Pull a chunk of an expert into its slot; answer with Core::chunk_done.
struct StartChunk {
  ChunkNumber chunk = 0;
  LaneNumber lane = 0;
  LayerNumber layer = 0;
  ExpertIndex expert = 0;
  Version version = 0;
  Rank source = kNoRank;
  SlabNumber slab = 0;
  SlotIndex slot = 0;
  ChunkRange range;
};

/// Something became ready or failed in a fetch; `done` when nothing of it is outstanding any more.
struct Progress {
  FetchNumber fetch = 0;
  bool done = false;
};

struct Tell {
  LayerNumber layer = 0;
  Notice notice;
};

/// A collect of the layer may give another answer than before.
struct CollectChanged {
  LayerNumber layer = 0;
};

using Action = std::variant<StartChunk, Progress, Tell, CollectChanged>;

}  // namespace cardea::core
