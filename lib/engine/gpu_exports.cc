// SPDX-License-Identifier: Apache-2.0
// Who maps this rank's device memory, and what this rank says when it has let go of another's.
//
//   owner:  offered to the node's ranks ──► freed, RegionsGone ──► RegionsUnmapped of each ──► nobody maps it
//   others: offered ──► mapped, or not ──► RegionsGone, and no layer here uses it ──► closed ──► RegionsUnmapped
//
// Every rank that was offered a region answers once it hears that the region is gone, also one that never mapped it: it has
// no GPU, could not map it, has ended the layer, or never begun it (the offer then waits among the early messages, and is
// marked so that it is not taken up later). Who dies or leaves is taken off the list. Numbers of regions are never used
// again.
#include "lib/engine/runtime.h"

namespace cardea::engine {

// ---------------------------------------------------------------- as the owner

void Runtime::note_exported(RegionNumber number, const void* base, std::uint64_t bytes, const std::vector<Rank>& to) {
  Exported& exported = exported_[number];
  exported.base = reinterpret_cast<std::uintptr_t>(base);
  exported.bytes = bytes;
  for (const Rank rank : to) {
    if (on_this_node(rank) && !lost_.contains(rank)) exported.to.insert(rank);
  }
}

Status Runtime::receive_unmapped(Rank from, const RegionsUnmapped& message) {
  for (const std::uint32_t region : message.regions) {
    if (regions_.contains(region)) {
      return Status::error(CARDEA_ERR_PROTOCOL, "rank {} says that it has let go of region {}, which has not been freed",
                           from, region);
    }
    const auto exported = exported_.find(region);
    if (exported == exported_.end()) continue;
    exported->second.to.erase(from);
    if (exported->second.to.empty()) exported_.erase(exported);
  }
  observer_.on_change();
  return {};
}

void Runtime::forget_importer(Rank rank) {
  for (auto exported = exported_.begin(); exported != exported_.end();) {
    exported->second.to.erase(rank);
    exported = exported->second.to.empty() ? exported_.erase(exported) : std::next(exported);
  }
}

Status Runtime::unmapped(const void* address, std::uint64_t bytes) const {
  const auto first = reinterpret_cast<std::uintptr_t>(address);
  Status still;
  for (const auto& [number, exported] : exported_) {
    if (first >= exported.base + exported.bytes || exported.base >= first + bytes || exported.to.empty()) continue;
    if (regions_.contains(number)) {
      return Status(
          CARDEA_ERR_BUSY,
          fmt::format("layers or slabs lie in these {} bytes, or a cardea_memory_t does: others may map them", bytes),
          {.bytes = bytes});
    }
    if (!still.ok()) continue;
    still = Status(
        CARDEA_IN_PROGRESS,
        fmt::format("rank {} has not let go of device memory in these {} bytes at {}", *exported.to.begin(), bytes, address),
        {.peer = *exported.to.begin(), .bytes = bytes});
  }
  return still;
}

// ---------------------------------------------------------------- as one of the others

void Runtime::receive_gone(Rank from, const RegionsGone& message) {
  RegionsUnmapped nothing_here;
  for (const std::uint32_t region : message.regions) {
    const transport::RegionKey key{from, region};
    if (const auto offer = early_offers_.find(key); offer != early_offers_.end()) offer->second.gone = true;
    const auto known = peer_regions_.find(key);
    if (known == peer_regions_.end()) {
      nothing_here.regions.push_back(region);
      continue;
    }
    known->second.gone = true;
    if (known->second.layers == 0) let_go_of(from, region);
  }
  if (!nothing_here.regions.empty() && on_this_node(from) && !left_) send(from, nothing_here);
}

/// It is gone, and no layer here lies in it: what is mapped of it is closed, and the owner told.
void Runtime::region_unused(const transport::RegionKey& region, PeerRegion& known) {
  if (!known.on_device || known.opening) return;  // being mapped: device_region_mapped closes it
  if (!known.device) return tell_unmapped(region);
  // The layers' own references were left to the copier before this one, which is the last.
  copier_->post([this, region, mapping = std::move(known.device)]() mutable {
    mapping.reset();
    const auto held = lock();
    tell_unmapped(region);
  });
}

void Runtime::tell_unmapped(const transport::RegionKey& region) {
  if (!on_this_node(region.owner) || left_) return;
  send(region.owner, RegionsUnmapped{{region.region}});
}

// ---------------------------------------------------------------- offers that came too early

namespace {

template <typename Visit>
void each_device_offer(const Message& message, Visit visit) {
  const auto* const announce = std::get_if<LayerAnnounce>(&message);
  if (announce == nullptr) return;
  for (const RegionOffer& offer : announce->regions) {
    if (cuda::Export::is_one(offer.descriptor)) visit(offer.region);
  }
}

}  // namespace

void Runtime::note_early_offer(Rank from, const Message& message) {
  each_device_offer(message, [&](std::uint32_t region) { ++early_offers_[{from, region}].messages; });
}

void Runtime::forget_early_offers(const std::vector<std::pair<Rank, Bytes>>& messages) {
  for (const auto& [from, bytes] : messages) {
    const Result<Message> message = decode(bytes);
    if (!message.ok()) continue;
    each_device_offer(*message, [&, rank = from](std::uint32_t region) {
      const auto offer = early_offers_.find({rank, region});
      if (offer != early_offers_.end() && --offer->second.messages == 0) early_offers_.erase(offer);
    });
  }
}

bool Runtime::freed_early(const transport::RegionKey& region) const {
  const auto offer = early_offers_.find(region);
  return offer != early_offers_.end() && offer->second.gone;
}

}  // namespace cardea::engine
