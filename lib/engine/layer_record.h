// SPDX-License-Identifier: Apache-2.0
// What a rank knows of a layer beside what the core decides: addresses, here and at the other sources. Guarded by the
// runtime's mutex.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "lib/core/core.h"
#include "lib/cuda/device_table.h"
#include "lib/cuda/gate.h"
#include "lib/engine/landing_memory.h"
#include "lib/engine/messages.h"
#include "lib/engine/regions.h"

namespace cardea::engine {

/// Landing memory and where its rows lie.
struct SlabRecord {
  core::SlabNumber number = 0;
  core::SegmentLayout layout;
  std::uint32_t slots = 0;
  std::uint32_t first_slot = 0;
  std::vector<std::byte*> base;  // row 0, by segment
  std::vector<std::uint64_t> stride;
  std::uint32_t layers = 0;           // that name it
  std::vector<RegionNumber> regions;  // that registered rows lie in
  LandingMemory memory;               // empty if the rows are the framework's
  bool on_device = false;
  bool direct = false;                   // what comes over the network may be written there by its transport
  bool may_be_registered = false;        // or might have been
  bool mappable = false;                 // on the device, in regions that others of the node can map
  std::shared_ptr<cuda::GateSet> gates;  // null: nothing is queued before it has come over the network

  std::byte* row(std::size_t segment, core::SlotIndex slot) const {
    return base[segment] + stride[segment] * (first_slot + slot);
  }
};

/// Where a slab is to lie; with the memory made for it beforehand, unless the rows are the framework's.
struct SlabMemory {
  bool on_device = false;
  std::shared_ptr<DeviceBacking> own;
  std::vector<RegionNumber> found;  // regions made for the framework's rows on the device, to be dropped with the slab
  std::shared_ptr<cuda::GateSet> gates;
  LandingMemory landing;  // in host memory
  bool direct = false;
};

/// Another rank as a source of the layer.
struct SourceRecord {
  LayerAnnounce announce;
  FlatMap<ExpertIndex, std::size_t> local_of;
  bool direct = false;                                                       // its transport writes into device memory here
  std::set<std::uint32_t> on_device;                                         // regions of device memory
  std::map<std::uint32_t, const std::byte*> mapped;                          // regions that are mapped here
  std::map<std::uint32_t, std::shared_ptr<const cuda::PeerMapping>> device;  // those of device memory that are
};

/// A view's memory and place.
struct Spot {
  std::array<const void*, CARDEA_MAX_SEGMENTS> segments{};
  std::int32_t slot = CARDEA_NO_SLOT;
};

struct LayerRecord {
  LayerKey key;
  std::uint64_t group = 0;  // its key
  std::uint32_t layer_id = 0;
  core::LayerNumber number = 0;
  core::SegmentLayout layout;
  std::vector<Rank> others;  // members but this rank
  std::uint32_t num_experts = 0;
  std::shared_ptr<SlabRecord> slab;

  // this rank as a source
  LayerAnnounce announce;  // without regions, whose descriptors differ from peer to peer
  FlatMap<ExpertIndex, std::size_t> local_of;
  std::vector<std::vector<std::byte*>> local;  // by segment, by local expert
  std::vector<std::int32_t> local_slot;        // row of the slab in which a home expert lies, or CARDEA_NO_SLOT
  std::set<RegionNumber> regions;
  SegmentPlace::Spot stamp;

  std::map<Rank, SourceRecord> sources;  // the other members, as they announced themselves
  std::set<Rank> left;        // of the sources, those that have ended their part before this rank knew all members
  std::uint32_t mapping = 0;  // regions of others that are being mapped, or brought in
  bool announced = false;     // the others have been told this rank's part
  bool formed = false;
  bool closing = false;               // lends nothing any more
  std::optional<Version> publishing;  // will be published when a stream gets there
  Status failure;                     // why it will never be formed

  // cardea_expert_table_t; sized once, so that its addresses stay
  std::vector<cardea_expert_entry_t> table;
  std::vector<const void*> table_segments;
  std::vector<std::uint32_t> table_views;           // open views of each expert
  std::shared_ptr<cuda::DeviceTable> device_table;  // null unless somebody has asked for it
};

}  // namespace cardea::engine
