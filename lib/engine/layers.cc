// SPDX-License-Identifier: Apache-2.0
// The runtime's half that forms layers: where the members' experts are.
#include <xxhash.h>

#include <algorithm>

#include "lib/base/log.h"
#include "lib/engine/lanes.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {
namespace {

// Which incarnation of a layer id is meant is part of the key, so that late messages of one that ended are not taken for
// its successor's. Members begin and end layers in the same order, so they count alike.
LayerKey key_of(std::uint64_t group, std::uint32_t layer_id, std::uint32_t instance) {
  const std::uint64_t words[3] = {group, layer_id, instance};
  return {XXH3_64bits(words, sizeof words), layer_id};
}

}  // namespace

void Runtime::place_local(const LayerRequest& request, LayerRecord& layer) {
  const std::size_t experts = request.experts.size();
  for (std::size_t s = 0; s < request.places.size(); ++s) {
    const std::uint64_t bytes = layer.layout.segments()[s].bytes;
    const Placement& place = request.places[s];
    std::vector<std::byte*>& pointers = layer.local.emplace_back();
    for (std::size_t i = 0; i < experts; ++i) {
      pointers.push_back(place.pointers.empty() ? place.base + place.stride * i : place.pointers[i]);
    }
    SegmentPlace& told = layer.announce.places.emplace_back();
    const bool stacked = place.pointers.empty();
    if (stacked) {
      const std::uint64_t span = place.stride * (experts - 1) + bytes;
      auto spot = regions_.find(place.base, span);
      if (!spot) spot = SegmentPlace::Spot{regions_.add_private(place.base, span, true), 0};
      told.strided = true;
      told.first = *spot;
      told.stride = place.stride;
      layer.regions.insert(spot->region);
    } else {
      for (std::byte* const pointer : pointers) {
        auto spot = regions_.find(pointer, bytes);
        if (!spot) spot = SegmentPlace::Spot{regions_.add_private(pointer, bytes, true), 0};
        told.spots.push_back(*spot);
        layer.regions.insert(spot->region);
      }
    }
  }
  for (const RegionNumber region : layer.regions) ++regions_.at(region).users;
}

void Runtime::drop_local(LayerRecord& layer) {
  stamps_.remove(regions_, layer.stamp);
  for (const RegionNumber number : layer.regions) {
    Regions::Region& region = regions_.at(number);
    if (--region.users == 0 && region.implicit) {
      [[maybe_unused]] const Status freed = free_region(number);  // cannot be busy: nobody uses it
    }
  }
}

void Runtime::set_local_slots(LayerRecord& layer) const {
  layer.local_slot.assign(layer.announce.experts.size(), CARDEA_NO_SLOT);
  if (!layer.slab) return;
  const SlabRecord& slab = *layer.slab;
  for (std::size_t i = 0; i < layer.local_slot.size(); ++i) {
    // A home expert has a row if all of its segments lie in the same row of the registered arrays.
    std::int32_t row = CARDEA_NO_SLOT;
    for (std::size_t s = 0; s < layer.layout.count(); ++s) {
      const std::ptrdiff_t distance = layer.local[s][i] - slab.base[s];
      const auto stride = static_cast<std::ptrdiff_t>(slab.stride[s]);
      const bool on_grid = distance >= 0 && distance % stride == 0 && distance / stride < slab.first_slot;
      const auto here = on_grid ? static_cast<std::int32_t>(distance / stride) : CARDEA_NO_SLOT;
      row = s == 0 || row == here ? here : CARDEA_NO_SLOT;
    }
    layer.local_slot[i] = row;
  }
}

Result<std::shared_ptr<LayerRecord>> Runtime::begin_layer(LayerRequest request) {
  for (const auto& [key, other] : layers_) {
    if (other->layer_id == request.layer_id && other->group == request.group) {
      return Status(CARDEA_ERR_BUSY, fmt::format("the group has a layer {} already", request.layer_id),
                    {.layer = request.layer_id});
    }
  }
  auto layer = std::make_shared<LayerRecord>();
  layer->group = request.group;
  layer->key = key_of(request.group, request.layer_id, instances_[{request.group, request.layer_id}]);
  layer->layer_id = request.layer_id;
  layer->layout = std::move(request.layout);
  layer->num_experts = request.num_experts;
  layer->slab = request.slab;
  for (const Rank rank : request.ranks) {
    if (rank != options_.self) layer->others.push_back(rank);
  }
  LayerAnnounce& announce = layer->announce;
  announce.layer = layer->key;
  announce.num_experts = request.num_experts;
  announce.layout = layer->layout;
  announce.experts = request.experts;
  announce.is_home = request.is_home;
  // Who cannot begin a layer tells the others, who would wait for it, and counts it like them.
  const auto give_up = [&](Status why) {
    for (const Rank rank : layer->others) send(rank, LayerLeft{layer->key, why});
    ++instances_[{request.group, request.layer_id}];
    note_ended(layer->key);
    return why;
  };
  Result<SegmentPlace::Spot> stamp = stamps_.add(regions_);
  if (!stamp.ok()) return give_up(stamp.status().within("version stamp"));
  layer->stamp = *stamp;
  announce.stamp_region = stamp->region;
  announce.stamp_offset = stamp->offset;
  if (!request.experts.empty()) place_local(request, *layer);
  tell_slab(*layer);
  if (encode(announce).size() + layer->regions.size() * 256 > transport::Transport::kMaxMessage) {
    drop_local(*layer);
    return give_up(Status(CARDEA_ERR_LIMIT,
                          fmt::format("the places of {} experts do not fit into one message; stack them with a stride",
                                      request.experts.size())));
  }
  for (std::size_t i = 0; i < announce.experts.size(); ++i) layer->local_of.set(announce.experts[i], i);
  set_local_slots(*layer);

  const std::size_t segments = layer->layout.count();
  layer->table_segments.assign(segments * layer->num_experts, nullptr);
  layer->table_views.assign(layer->num_experts, 0);
  for (std::uint32_t e = 0; e < layer->num_experts; ++e) {
    layer->table.push_back({kNoVersion, CARDEA_NO_SLOT, 0, layer->table_segments.data() + e * segments});
  }
  layer->local_of.for_each([&](ExpertIndex expert, std::size_t local) {
    layer->table[expert].slot = layer->local_slot[local];
    for (std::size_t s = 0; s < segments; ++s) layer->table_segments[expert * segments + s] = layer->local[s][local];
  });

  ++instances_[{request.group, request.layer_id}];
  layer->number = core_.add_layer(
      {layer->layer_id, core::Membership(options_.self, request.ranks, options_.node_of), layer->layout, layer->key});
  layers_.emplace(layer->key, layer);
  by_number_.set(layer->number, layer);
  if (layer->slab) ++layer->slab->layers;
  for (const Rank rank : layer->others) {
    if (const auto lost = lost_.find(rank); lost != lost_.end() && layer->failure.ok()) layer->failure = lost->second;
  }
  form_if_complete(*layer);  // a group of one is complete at once
  announce_to_others(layer);
  replay_early(layer);
  dispatch();
  return layer;
}

void Runtime::announce_to_others(std::shared_ptr<LayerRecord> layer) {
  std::set<RegionNumber> regions = layer->regions;
  regions.insert(layer->stamp.region);
  spoken_to_.insert(layer->others.begin(), layer->others.end());
  enqueue([this, layer, regions = std::move(regions)] {
    struct Memory {
      RegionNumber number;
      std::byte* base;
      std::uint64_t bytes;
      int descriptor;
      std::shared_ptr<DeviceBacking> device;
    };
    std::vector<Memory> memory;
    LayerAnnounce announce;
    {
      const auto held = lock();
      if (!layers_.contains(layer->key)) return;  // ended meanwhile; its regions may be gone
      announce = layer->announce;
      for (const RegionNumber number : regions) {
        const Regions::Region& region = regions_.at(number);
        memory.push_back({number, region.base, region.bytes, region.descriptor(), region.device});
        if (region.device) note_exported(number, region.base, region.bytes, layer->others);
      }
    }
    for (const Rank peer : layer->others) {
      transport::Transport& transport = *route_[peer];
      announce.regions.clear();
      for (const Memory& region : memory) {
        Result<Bytes> descriptor = region.device ? offer_device(region.number, region.bytes, *region.device, peer)
                                                 : transport.offer(region.number, region.base, region.bytes,
                                                                   region.descriptor, std::span(&peer, 1));
        if (!descriptor.ok()) {
          const auto held = lock();
          layer->announced = true;
          layer->failure = descriptor.status().within(fmt::format("offering {} bytes to rank {}", region.bytes, peer));
          observer_.on_change();
          return;
        }
        announce.regions.push_back({region.number, region.bytes, std::move(*descriptor)});
      }
      transport.send(peer, encode(announce));
    }
    const auto held = lock();
    layer->announced = true;
    observer_.on_change();
  });
}

Result<Bytes> Runtime::offer_device(std::uint32_t number, std::uint64_t bytes, const DeviceBacking& device, Rank peer) {
  cuda::Export told = device.told();
  if (!on_this_node(peer)) {
    // Nothing that another node could use; it asks.
    cuda::Export none;
    none.allocation = bytes;
    return none.encode();
  }
  if (told.kind == cuda::Export::Kind::kDescriptor) {
    const Status passed = route_[peer]->pass_descriptor(number, bytes, device.descriptor(), peer);
    if (!passed.ok()) return passed;
  }
  return told.encode();
}

void Runtime::replay_early(std::shared_ptr<LayerRecord> layer) {
  if (!early_.contains(layer->key)) return;
  // On the executor, where the transports may be asked for mappings. What comes until then queues up behind.
  enqueue([this, key = layer->key] {
    Early early;
    {
      const auto held = lock();
      const auto found = early_.find(key);
      if (found == early_.end()) return;
      early = std::move(found->second);
      early_.erase(found);
      for (const auto& [from, bytes] : early.messages) early_bytes_ -= bytes.size();
    }
    for (const auto& [from, bytes] : early.messages) on_message(from, bytes);
    const auto held = lock();
    forget_early_offers(early.messages);
  });
}

Status Runtime::receive_announce(Rank from, LayerRecord& layer, LayerAnnounce announce) {
  const auto refuse = [&](std::string_view what) {
    return Status::error(CARDEA_ERR_PROTOCOL, "rank {} announces layer {}: {}", from, layer.layer_id, what).with_peer(from);
  };
  if (std::find(layer.others.begin(), layer.others.end(), from) == layer.others.end()) return refuse("it is no member");
  if (layer.sources.contains(from)) return refuse("a second time");

  // Ranks that disagree are no attack but a mistake of the caller's: the layer fails, the job goes on.
  const auto mismatch = [&](std::string what) {
    if (layer.failure.ok()) {
      layer.failure = Status(CARDEA_ERR_MISMATCH,
                             fmt::format("layer {}, rank {} against rank {}: {}", layer.layer_id, options_.self, from, what),
                             {.peer = from, .layer = layer.layer_id});
    }
  };
  if (announce.num_experts != layer.num_experts)
    mismatch(fmt::format("{} experts against {}", layer.num_experts, announce.num_experts));
  if (const std::string what = layer.layout.difference(announce.layout); !what.empty()) mismatch(what);

  SourceRecord source;
  source.direct = !on_this_node(from) && source_goes_direct(from);
  std::map<std::uint32_t, std::uint64_t> sizes;
  for (const RegionOffer& offer : announce.regions) {
    const transport::RegionKey key{from, offer.region};
    if (!sizes.emplace(offer.region, offer.bytes).second) return refuse("a region twice");
    // Several layers may lie in one region; its transport hears of it once.
    const auto [known, fresh] = peer_regions_.try_emplace(key, PeerRegion{0, false, offer.bytes});
    if (cuda::Export::is_one(offer.descriptor)) {
      // What its owner has freed before this rank came to it is never mapped.
      const bool too_late = freed_early(key);
      if (!fresh && (known->second.bytes != offer.bytes || (known->second.gone && !too_late)))
        return refuse(fmt::format("region {} is not what it was", offer.region));
      source.on_device.insert(offer.region);
      known->second.on_device = true;
      known->second.gone = known->second.gone || too_late;
      if (too_late) continue;
      if (const Status status = map_device_region(from, layer, offer, source); !status.ok()) return status.with_peer(from);
      continue;
    }
    if (fresh) {
      if (const Status status = route_[from]->accept(key, offer.bytes, offer.descriptor); !status.ok()) {
        peer_regions_.erase(known);
        return status.with_peer(from);
      }
    } else if (known->second.bytes != offer.bytes || known->second.gone) {
      return refuse(fmt::format("region {} is not what it was", offer.region));
    }
    if (const std::byte* const base = route_[from]->mapped(key); base != nullptr) {
      source.mapped[offer.region] = known->second.base = base;
      if (fresh || known->second.opening) bring_in(key, layer, known->second);
    }
  }
  const auto inside = [&](const SegmentPlace::Spot& spot, std::uint64_t bytes) {
    const auto size = sizes.find(spot.region);
    return size != sizes.end() && bytes <= size->second && spot.offset <= size->second - bytes;
  };
  if (!inside({announce.stamp_region, announce.stamp_offset}, sizeof(Version)))
    return refuse("its stamp lies outside of its regions");
  if (layer.failure.ok()) {
    for (std::size_t s = 0; s < announce.places.size(); ++s) {
      const SegmentPlace& place = announce.places[s];
      const std::uint64_t bytes = layer.layout.segments()[s].bytes;
      const std::size_t last = announce.experts.size() - 1;
      std::uint64_t span = 0;
      if (place.strided &&
          (__builtin_mul_overflow(place.stride, last, &span) || __builtin_add_overflow(span, bytes, &span))) {
        return refuse("its strides overflow");
      }
      const bool fits = place.strided ? place.stride >= bytes && inside(place.first, span)
                                      : std::all_of(place.spots.begin(), place.spots.end(),
                                                    [&](const auto& spot) { return inside(spot, bytes); });
      if (!fits) return refuse(fmt::format("segment {} lies outside of its regions", s));
    }
  }
  if (layer.failure.ok()) {
    if (const Status status = check_slab(announce, sizes); !status.ok()) return refuse(status.message());
  }
  for (std::size_t i = 0; i < announce.experts.size(); ++i) source.local_of.set(announce.experts[i], i);
  for (const auto& [region, bytes] : sizes) ++peer_regions_[{from, region}].layers;
  source.announce = std::move(announce);
  layer.sources.emplace(from, std::move(source));
  form_if_complete(layer);
  observer_.on_change();
  return {};
}

// The layer is formed when all of it is there. The mutex is free meanwhile, and between two parts the executor does whatever
// else there is to do: peers must not take a rank for lost that maps many gigabytes, or little on a busy machine.
void Runtime::bring_in(const transport::RegionKey& key, LayerRecord& layer, PeerRegion& region) {
  ++layer.mapping;
  region.waiting.push_back(layer.key);
  if (std::exchange(region.opening, true)) return;
  bringing_in_.push_back(key);
  if (bringing_in_.size() == 1) enqueue([this] { bring_in_more(); });
}

void Runtime::bring_in_more() {
  const transport::RegionKey key = [&] {
    const auto held = lock();
    return bringing_in_.front();
  }();
  const Result<bool> whole = route_[key.owner]->bring_in(key, kPopulatePiece);
  const auto held = lock();
  if (!whole.ok() || *whole) {
    bringing_in_.pop_front();
    const auto found = peer_regions_.find(key);
    if (!whole.ok()) log::print(log::Level::kWarn, name_, "engine", "{}", whole.status().message());
    if (found != peer_regions_.end()) {
      found->second.opening = false;
      if (whole.ok()) pin_region(key);
      for (const LayerKey& waiting : std::exchange(found->second.waiting, {})) {
        const auto layer = layers_.find(waiting);
        if (layer == layers_.end()) continue;
        --layer->second->mapping;
        if (!whole.ok() && layer->second->failure.ok()) layer->second->failure = whole.status().with_peer(key.owner);
        form_if_complete(*layer->second);
      }
      observer_.on_change();
    }
  }
  if (!bringing_in_.empty()) enqueue([this] { bring_in_more(); });
  dispatch();
}

void Runtime::note_layer(const LayerRecord& layer, const std::vector<core::ExpertSources>& experts) {
  if (!recorder_) return;
  std::vector<Rank> homes;
  cardea_path_t node_path = CARDEA_PATH_NONE;
  for (const core::ExpertSources& expert : experts) {
    homes.push_back(expert.home);
    for (const core::SourceOption& option : expert.options) {
      if (option.path != CARDEA_PATH_HOME && option.path != CARDEA_PATH_NETWORK)
        node_path = std::max(node_path, option.path);
    }
  }
  recorder_->layer(now(),
                   {.layer = layer.number,
                    .layer_id = layer.layer_id,
                    .members = static_cast<std::uint32_t>(layer.others.size() + 1),
                    .segments = static_cast<std::uint32_t>(layer.layout.count()),
                    .expert_bytes = layer.layout.packed_bytes(),
                    .node_path = static_cast<std::uint8_t>(node_path)},
                   homes);
}

void Runtime::form_if_complete(LayerRecord& layer) {
  if (layer.formed || !layer.failure.ok() || layer.sources.size() != layer.others.size() || layer.mapping != 0) return;
  std::vector<core::ExpertSources> experts(layer.num_experts);
  const auto add = [&](Rank rank, const LayerAnnounce& announce) {
    for (std::size_t i = 0; i < announce.experts.size(); ++i) {
      core::ExpertSources& expert = experts[announce.experts[i]];
      if (announce.is_home[i] != 0) {
        if (expert.home != kNoRank && layer.failure.ok()) {
          layer.failure = Status(CARDEA_ERR_MISMATCH,
                                 fmt::format("expert {} of layer {} has two homes, ranks {} and {}", announce.experts[i],
                                             layer.layer_id, std::min(expert.home, rank), std::max(expert.home, rank)),
                                 {.peer = rank, .layer = layer.layer_id, .expert = announce.experts[i]});
        }
        expert.home = rank;
      }
      core::SourceOption option{rank, CARDEA_PATH_HOME, 0};
      if (rank != options_.self) {
        const bool same_node = on_this_node(rank);
        const SourceRecord& source = layer.sources.at(rank);
        const bool mapped = std::all_of(announce.places.begin(), announce.places.end(), [&](const SegmentPlace& place) {
          return source.mapped.contains(place.of(i).region);
        });
        const bool by_gpu = std::all_of(announce.places.begin(), announce.places.end(), [&](const SegmentPlace& place) {
          const std::uint32_t region = place.of(i).region;
          return source.device.contains(region) || source.mapped.contains(region);
        });
        option.path = !same_node ? CARDEA_PATH_NETWORK
                      : mapped   ? CARDEA_PATH_NODE_MAPPED
                      : by_gpu   ? CARDEA_PATH_NODE_GPU
                                 : CARDEA_PATH_NODE_COPY;
        option.lane = option.path == CARDEA_PATH_NODE_GPU ? kGpuPull : kNodeCopy;
        if (!same_node) {
          const transport::RailRun rails = rails_[rank];
          option.lane = kNetworkIn + rails.first;
          option.rails = rails.count;
          option.direct = source.direct;
        }
      }
      expert.options.push_back(option);
    }
  };
  add(options_.self, layer.announce);
  for (const auto& [rank, source] : layer.sources) add(rank, source.announce);
  for (ExpertIndex e = 0; e < layer.num_experts && layer.failure.ok(); ++e) {
    if (experts[e].home == kNoRank) {
      layer.failure = Status(CARDEA_ERR_MISMATCH, fmt::format("expert {} of layer {} has no home", e, layer.layer_id),
                             {.layer = layer.layer_id, .expert = e});
    }
  }
  if (!layer.failure.ok()) return;
  note_layer(layer, experts);
  core_.set_sources(layer.number, std::move(experts));
  name_swap_peers(layer);
  layer.formed = true;
  for (const Rank rank : layer.left) core_.peer_left_layer(layer.number, rank, now());
}

Status Runtime::formed(const LayerRecord& layer) const {
  if (!layer.failure.ok()) return layer.failure;
  return layer.formed ? Status() : Status(CARDEA_IN_PROGRESS, "members are missing");
}

std::vector<Rank> Runtime::missing(const LayerRecord& layer) const {
  std::vector<Rank> ranks;
  for (const Rank rank : layer.others) {
    if (!layer.sources.contains(rank)) ranks.push_back(rank);
  }
  return ranks;
}

Status Runtime::end_layer(LayerRecord& layer, const Status& why) {
  if (layer.formed && !layer.announced) {
    layer.closing = true;
    return Status::error(CARDEA_IN_PROGRESS, "layer {}: this rank's part of it is being announced", layer.layer_id);
  }
  if (layer.formed && core_.lent(layer.number)) {
    layer.closing = true;
    return Status::error(CARDEA_IN_PROGRESS, "layer {}: chunks are being sent to other ranks", layer.layer_id);
  }
  if (layer.formed && copier_ && core_.draining(layer.number) != 0)
    return Status::error(CARDEA_IN_PROGRESS, "layer {}: copies of it are under way", layer.layer_id);
  if (const Status status = core_.remove_layer(layer.number); !status.ok()) return status;
  const std::shared_ptr<LayerRecord> kept = layers_.at(layer.key);
  const Status reason = layer.formed ? Status() : layer.failure.ok() ? why : layer.failure;
  for (const Rank peer : layer.others) send(peer, LayerLeft{layer.key, reason});
  drop_local(layer);
  drop_staged(layer.number);
  drop_table(layer);
  for (auto& [rank, source] : layer.sources) {
    for (auto& [region, mapping] : source.device) destroy_on_copier(std::move(mapping));
    for (const RegionOffer& offer : source.announce.regions) let_go_of(rank, offer.region);
  }
  if (layer.slab) --layer.slab->layers;
  by_number_.erase(layer.number);
  layers_.erase(layer.key);
  note_ended(kept->key);
  dispatch();
  return {};
}

// Messages for it that are still on the way are of no interest.
void Runtime::note_ended(const LayerKey& key) {
  if (const auto early = early_.find(key); early != early_.end()) {
    for (const auto& [from, bytes] : early->second.messages) early_bytes_ -= bytes.size();
    forget_early_offers(early->second.messages);
    early_.erase(early);
  }
  ended_.push_back(key);
  if (ended_.size() > 4096) ended_.pop_front();
}

void Runtime::let_go_of(Rank owner, RegionNumber region) {
  const transport::RegionKey key{owner, region};
  const auto known = peer_regions_.find(key);
  if (known == peer_regions_.end()) return;
  if (known->second.layers != 0) --known->second.layers;
  if (known->second.layers != 0 || (!known->second.gone && !lost_.contains(owner))) return;
  const std::shared_ptr<cuda::Registration> pinned = std::move(known->second.pinned);
  region_unused(key, known->second);
  const bool accepted = !known->second.on_device;  // by its transport
  peer_regions_.erase(known);
  if (accepted) forget_region(key, pinned);
}

}  // namespace cardea::engine
