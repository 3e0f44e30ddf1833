// SPDX-License-Identifier: Apache-2.0
// What ranks tell each other once a job has formed, and its bytes (docs/wire-format.md, "Control messages"). Decoding treats
// its input as hostile. Pure functions and values; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "lib/base/status.h"
#include "lib/cache/directory.h"
#include "lib/core/lane.h"
#include "lib/core/segment_layout.h"
#include "lib/core/versions.h"
#include "lib/engine/liveness.h"

namespace cardea::engine {

/// Memory of the sender that its experts lie in.
struct RegionOffer {
  std::uint32_t region = 0;
  std::uint64_t bytes = 0;
  Bytes descriptor;  // what the transport's offer returned for this receiver
};

/// Where one segment of the sender's experts lies: local expert i at offset + i * stride, or each at a place of its own.
struct SegmentPlace {
  struct Spot {
    std::uint32_t region = 0;
    std::uint64_t offset = 0;
  };
  bool strided = false;
  Spot first;                // strided
  std::uint64_t stride = 0;  // strided
  std::vector<Spot> spots;   // not strided: one for each local expert

  Spot of(std::size_t local) const { return strided ? Spot{first.region, first.offset + stride * local} : spots[local]; }
};

/// The sender's slab for the layer, in device memory of regions that it offers: others of its node pull experts out of its
/// slots. Slot i lies in each segment at first + i * stride.
struct SlabPlace {
  std::uint32_t number = 0;  // as the sender numbers its slabs
  std::uint32_t slots = 0;
  std::vector<SegmentPlace> places;  // by segment, strided
};

/// A member's part of a layer, told to every other member.
struct LayerAnnounce {
  LayerKey layer;
  std::uint32_t num_experts = 0;
  core::SegmentLayout layout;
  std::vector<ExpertIndex> experts;  // of which the sender is a source
  std::vector<std::uint8_t> is_home;
  std::vector<SegmentPlace> places;  // by segment; empty if there are no experts
  std::vector<RegionOffer> regions;
  std::uint32_t stamp_region = 0;  // where the layer's version stands, 8 bytes
  std::uint64_t stamp_offset = 0;
  std::optional<SlabPlace> slab;
};

struct LayerNotice {
  LayerKey layer;
  core::Notice notice;
};

/// The sender has ended its part in the layer; `why` says what made it give the layer up before it was formed.
struct LayerLeft {
  LayerKey layer;
  Status why;  // code, message (at most kMaxReason bytes of it), peer and expert travel
};

/// The sender frees these regions; who has them mapped lets go once no layer of its own uses them.
struct RegionsGone {
  std::vector<std::uint32_t> regions;
};

/// To their owner, a rank of the sender's node: the sender has let go of these regions of device memory, which the owner has
/// freed. The answer to RegionsGone, given when they are mapped no more.
struct RegionsUnmapped {
  std::vector<std::uint32_t> regions;
};

/// To a rank of the sender's node: core::TellNode.
struct NodeNotice {
  std::uint32_t entry = cache::kNoEntry;
  std::uint32_t nic = core::kNoNic;
};

/// The sender leaves the job of its own will.
struct Goodbye {};

using Message = std::variant<LayerAnnounce, LayerNotice, LayerLeft, RegionsGone, Goodbye, NodeNotice, Heartbeat, LossNotice,
                             RegionsUnmapped>;

/// Caps on what a peer may claim.
inline constexpr std::uint32_t kMaxExperts = 65536;
inline constexpr std::uint32_t kMaxRegions = 65536;
inline constexpr std::uint32_t kMaxRanks = 65536;
inline constexpr std::size_t kMaxReason = 1024;
inline constexpr std::size_t kMaxDescriptor = 8192;  // of the ucx transport: an rkey of up to 4 KiB and 12 bytes

Bytes encode(const Message& message);
/// PROTOCOL says what was malformed.
Result<Message> decode(ByteView bytes);
/// The layer that a message is about; nothing for those that are about none.
std::optional<LayerKey> layer_of(const Message& message);

}  // namespace cardea::engine
