// SPDX-License-Identifier: Apache-2.0
// The runtime's half that lets GPUs of a node pull experts out of one another's slots (core/shares.cc, core/placed.cc): a
// rank tells where its slab for a layer lies, maps the others', and turns what the core orders into addresses.
#include <algorithm>

#include "lib/base/log.h"
#include "lib/engine/lanes.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {

/// Regions of the framework's rows that are none yet. Where some of them cannot be shared, nobody pulls from the slab.
std::vector<RegionNumber> Runtime::share_rows(const core::SegmentLayout& layout, std::uint32_t rows,
                                              const std::vector<Placement>& places) {
  std::vector<RegionNumber> found;
  for (std::size_t s = 0; s < places.size(); ++s) {
    const std::uint64_t span = places[s].stride * (rows - 1) + layout.segments()[s].bytes;
    if (const Status status = share_allocation(places[s].base, span, found); !status.ok()) {
      log::print(log::Level::kInfo, name_, "cuda", "no other GPU pulls experts out of the slab: segment {}: {}", s,
                 status.message());
      break;
    }
  }
  return found;
}

void Runtime::tell_slab(LayerRecord& layer) {
  const bool has_peers =
      std::any_of(layer.others.begin(), layer.others.end(), [&](Rank rank) { return on_this_node(rank); });
  if (!layer.slab || !layer.slab->mappable || !has_peers || options_.cache == nullptr) return;
  const SlabRecord& slab = *layer.slab;
  SlabPlace told{slab.number, slab.slots, {}};
  std::set<RegionNumber> regions;
  for (std::size_t s = 0; s < layer.layout.count(); ++s) {
    const std::uint64_t span = slab.stride[s] * (slab.slots - 1) + layer.layout.segments()[s].bytes;
    const auto spot = regions_.find(slab.row(s, 0), span);
    if (!spot || regions_.at(spot->region).device == nullptr) return;
    told.places.push_back({true, *spot, slab.stride[s], {}});
    regions.insert(spot->region);
  }
  layer.announce.slab = std::move(told);
  for (const RegionNumber region : regions) {
    if (layer.regions.insert(region).second) ++regions_.at(region).users;
  }
}

Status Runtime::check_slab(const LayerAnnounce& announce, const std::map<std::uint32_t, std::uint64_t>& regions) {
  if (!announce.slab) return {};
  const Status outside(CARDEA_ERR_PROTOCOL, "its slab lies outside of its regions");
  for (std::size_t s = 0; s < announce.slab->places.size(); ++s) {
    const SegmentPlace& place = announce.slab->places[s];
    const std::uint64_t bytes = announce.layout.segments()[s].bytes;
    std::uint64_t span = 0;
    const auto region = regions.find(place.first.region);
    if (__builtin_mul_overflow(place.stride, std::uint64_t{announce.slab->slots - 1}, &span) ||
        __builtin_add_overflow(span, bytes, &span) || region == regions.end() || span > region->second ||
        place.first.offset > region->second - span) {
      return outside;
    }
  }
  return {};
}

/// Who has told of a slab that is mapped here. Whoever has not mapped this rank's just does not pull.
void Runtime::name_swap_peers(const LayerRecord& layer) {
  if (!layer.announce.slab || !copier_) return;
  cache::LocalMask peers = 0;
  for (std::size_t local = 0; local < options_.node_ranks.size() && local < cache::kMaxLocalRanks; ++local) {
    const auto found = layer.sources.find(options_.node_ranks[local]);
    if (found == layer.sources.end() || !found->second.announce.slab) continue;
    const auto& places = found->second.announce.slab->places;
    const bool mapped = std::all_of(places.begin(), places.end(), [&](const SegmentPlace& place) {
      return found->second.device.contains(place.first.region);
    });
    if (mapped) peers |= std::uint64_t{1} << local;
  }
  core_.set_swap_peers(layer.number, layer.slab->number, peers);
}

/// What stands in the node cache about the slot was written by the peer, and is checked.
Result<cuda::CopyOrder> Runtime::pull_order(const core::StartChunk& start) const {
  const LayerRecord& layer = *by_number_.at(start.layer);
  const auto found = layer.sources.find(start.peer);
  if (found == layer.sources.end() || !found->second.announce.slab)
    return Status(CARDEA_ERR_PROTOCOL, "its slab is not known here");
  const SlabPlace& from = *found->second.announce.slab;
  if (start.peer_slab != from.number || start.peer_slot >= from.slots)
    return Status::error(CARDEA_ERR_PROTOCOL, "slot {} of slab {} of rank {} is none of the layer's", start.peer_slot,
                         start.peer_slab, start.peer);
  const SlabRecord& slab = *slabs_.at(start.slab);
  cuda::CopyOrder order;
  order.token = start.chunk;
  order.slot = slot_key(start.slab, start.slot);
  order.queue = cuda::Queue::kPull;
  bool mapped = true;
  layer.layout.for_each_piece(
      start.range.offset, start.range.bytes, [&](std::size_t segment, std::uint64_t offset, std::uint64_t bytes) {
        const SegmentPlace::Spot at = from.places[segment].of(start.peer_slot);
        const auto device = found->second.device.find(at.region);
        if (device == found->second.device.end()) {
          mapped = false;
          return;
        }
        order.pieces.push_back({reinterpret_cast<cuda::Pointer>(slab.row(segment, start.slot)) + offset,
                                device->second->address() + at.offset + offset, bytes});
      });
  if (!mapped) return Status(CARDEA_ERR_UNSUPPORTED, "its slab is not mapped here");
  return order;
}

void Runtime::pull_from_peer(const core::StartChunk& start) {
  Result<cuda::CopyOrder> order = pull_order(start);
  InFlight& flight = in_flight_.add(start.chunk);
  flight.path = CARDEA_PATH_NODE_GPU;
  flight.ordered = order.ok();
  if (!order.ok()) {
    enqueue([this, token = start.chunk, status = order.status()] { on_chunk_done(token, status); });
    return;
  }
  for (const cuda::CopyPiece& piece : order->pieces) flight.payload += piece.bytes;
  order_copy(std::move(*order));
}

}  // namespace cardea::engine
