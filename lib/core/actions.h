// SPDX-License-Identifier: Apache-2.0
// What the core wants done. Actions are carried out in the order in which the core gave them, outside of the mutex that
// guards it.
#pragma once

#include <cstdint>
#include <variant>

#include "lib/base/status.h"
#include "lib/cache/directory.h"
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

/// Host memory of this rank's own that takes one expert on its way from the network to the GPU: which of its slab's.
struct LandingPlace {
  SlabNumber slab = 0;
  std::uint32_t index = UINT32_MAX;
  explicit operator bool() const { return index != UINT32_MAX; }
};

/// Bring a chunk of an expert to where it goes: from its source into a slot or into an entry of the node cache, or from an
/// entry into a slot; with a peer, from the peer's slot, which holds the same bytes nearer. Answer with Core::chunk_done.
struct StartChunk {
  ChunkNumber chunk = 0;
  LaneNumber lane = 0;
  LayerNumber layer = 0;
  ExpertIndex expert = 0;
  Version version = 0;
  Rank source = kNoRank;
  SlabNumber slab = 0;
  SlotIndex slot = 0;  // unless it goes into an entry
  ChunkRange range;
  cache::EntryIndex into = cache::kNoEntry;
  cache::EntryIndex from = cache::kNoEntry;
  Class urgency = Class::kDemand;
  Rank peer = kNoRank;
  SlabNumber peer_slab = 0;  // as the peer numbers them
  SlotIndex peer_slot = 0;
  LandingPlace lands;   // it goes there instead of into a slot
  LandingPlace landed;  // it comes from there
  bool gated = false;   // what it is copied from is still being filled: behind a gate, until OpenGate
  bool direct = false;  // over the network straight into the slot, in memory of the device; it is of one segment
};

/// The gate of a chunk opens: what it is copied from is whole, or, with `why`, never will be, and what comes into the slot
/// must not be taken for weights. Its chunk_done follows, with `why` if that is not OK.
struct OpenGate {
  ChunkNumber chunk = 0;
  Status why;
};

/// The first so many bytes of what a gated chunk is copied from, as packed, are there, and more each time; OpenGate follows.
struct AdvanceGate {
  ChunkNumber chunk = 0;
  std::uint64_t bytes = 0;
};

/// Something became ready or failed in a fetch, or waits for a slot now, so that would_deadlock may answer otherwise; `done`
/// when nothing of it is outstanding any more.
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

/// Tell other ranks of the node, by local number: an entry of the node cache has changed (Core::entry_changed), or a NIC
/// carries nothing any more that they held back for (Core::nic_free).
struct TellNode {
  std::uint64_t to = 0;  // mask
  cache::EntryIndex entry = cache::kNoEntry;
  std::uint32_t nic = kNoNic;
};

using Action = std::variant<StartChunk, Progress, Tell, CollectChanged, TellNode, OpenGate, AdvanceGate>;

}  // namespace cardea::core
