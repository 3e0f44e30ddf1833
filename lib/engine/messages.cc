// SPDX-License-Identifier: Apache-2.0
#include "lib/engine/messages.h"

#include "lib/base/wire.h"

namespace cardea::engine {
namespace {

constexpr auto kMaxErrorCode = static_cast<std::uint32_t>(-CARDEA_ERR_INTERNAL);

enum class Opcode : std::uint8_t {
  kLayerAnnounce = 1,
  kLayerNotice = 2,
  kLayerLeft = 3,
  kRegionsGone = 4,
  kGoodbye = 5,
  kNodeNotice = 6,
  kHeartbeat = 7,
  kLossNotice = 8,
  kRegionsUnmapped = 9
};

void put(WireWriter& out, const LayerKey& key) {
  out.number(key.group).number(key.layer);
}

LayerKey get_key(WireReader& in) {
  LayerKey key;
  key.group = in.number<std::uint64_t>();
  key.layer = in.number<std::uint32_t>();
  return key;
}

void put(WireWriter& out, const SegmentPlace::Spot& spot) {
  out.number(spot.region).number(spot.offset);
}

SegmentPlace::Spot get_spot(WireReader& in) {
  SegmentPlace::Spot spot;
  spot.region = in.number<std::uint32_t>();
  spot.offset = in.number<std::uint64_t>();
  return spot;
}

void put(WireWriter& out, const LayerAnnounce& announce) {
  put(out, announce.layer);
  out.number(announce.num_experts);
  announce.layout.encode(out);
  out.number(static_cast<std::uint32_t>(announce.experts.size()));
  for (std::size_t i = 0; i < announce.experts.size(); ++i) out.number(announce.experts[i]).number(announce.is_home[i]);
  for (const SegmentPlace& place : announce.places) {
    out.number(static_cast<std::uint8_t>(place.strided));
    if (place.strided) {
      put(out, place.first);
      out.number(place.stride);
    } else {
      for (const SegmentPlace::Spot& spot : place.spots) put(out, spot);
    }
  }
  out.number(static_cast<std::uint32_t>(announce.regions.size()));
  for (const RegionOffer& offer : announce.regions) out.number(offer.region).number(offer.bytes).blob(offer.descriptor);
  out.number(announce.stamp_region).number(announce.stamp_offset);
  out.number(static_cast<std::uint8_t>(announce.slab.has_value()));
  if (!announce.slab) return;
  out.number(announce.slab->number).number(announce.slab->slots);
  for (const SegmentPlace& place : announce.slab->places) {
    put(out, place.first);
    out.number(place.stride);
  }
}

SegmentPlace get_place(WireReader& in, std::size_t experts) {
  SegmentPlace place;
  place.strided = in.number_in<std::uint8_t>(0, 1) == 1;
  if (place.strided) {
    place.first = get_spot(in);
    place.stride = in.number<std::uint64_t>();
  } else {
    for (std::size_t i = 0; i < experts && !in.failed(); ++i) place.spots.push_back(get_spot(in));
  }
  return place;
}

Result<Message> get_announce(WireReader& in) {
  LayerAnnounce announce;
  announce.layer = get_key(in);
  announce.num_experts = in.number_in<std::uint32_t>(1, kMaxExperts);
  Result<core::SegmentLayout> layout = core::SegmentLayout::decode(in);
  if (!layout.ok()) return Status(CARDEA_ERR_PROTOCOL, layout.status().message()).within("layer announcement");
  announce.layout = std::move(*layout);
  const auto experts = in.number_in<std::uint32_t>(0, announce.num_experts);
  std::vector<bool> seen(announce.num_experts, false);
  for (std::uint32_t i = 0; i < experts && !in.failed(); ++i) {
    const auto expert = in.number_in<std::uint32_t>(0, announce.num_experts - 1);
    const auto home = in.number_in<std::uint8_t>(0, 1);
    if (in.failed()) break;
    if (seen[expert]) return Status::error(CARDEA_ERR_PROTOCOL, "layer announcement names expert {} twice", expert);
    seen[expert] = true;
    announce.experts.push_back(expert);
    announce.is_home.push_back(home);
  }
  for (std::size_t i = 0; experts != 0 && i < announce.layout.count() && !in.failed(); ++i) {
    announce.places.push_back(get_place(in, experts));
  }
  const auto regions = in.number_in<std::uint32_t>(0, kMaxRegions);
  for (std::uint32_t i = 0; i < regions && !in.failed(); ++i) {
    RegionOffer offer;
    offer.region = in.number<std::uint32_t>();
    offer.bytes = in.number<std::uint64_t>();
    const ByteView descriptor = in.blob(kMaxDescriptor);
    offer.descriptor.assign(descriptor.begin(), descriptor.end());
    announce.regions.push_back(std::move(offer));
  }
  announce.stamp_region = in.number<std::uint32_t>();
  announce.stamp_offset = in.number<std::uint64_t>();
  if (in.number_in<std::uint8_t>(0, 1) == 1) {
    SlabPlace& slab = announce.slab.emplace();
    slab.number = in.number<std::uint32_t>();
    slab.slots = in.number_in<std::uint32_t>(1, INT32_MAX);
    for (std::size_t i = 0; i < announce.layout.count() && !in.failed(); ++i) {
      SegmentPlace& place = slab.places.emplace_back();
      place.strided = true;
      place.first = get_spot(in);
      place.stride = in.number<std::uint64_t>();
    }
  }
  if (const Status status = in.finish("layer announcement"); !status.ok()) return status;
  return Message(std::move(announce));
}

Result<Message> get_notice(WireReader& in) {
  LayerNotice message;
  message.layer = get_key(in);
  message.notice.kind = static_cast<core::Notice::Kind>(in.number_in<std::uint8_t>(1, 3));
  message.notice.node = in.number<std::uint32_t>();
  message.notice.version = in.number<std::uint64_t>();
  if (const Status status = in.finish("layer notice"); !status.ok()) return status;
  return Message(message);
}

void put(WireWriter& out, const Status& why) {
  out.number(static_cast<std::uint32_t>(-static_cast<std::int32_t>(why.code())));
  if (why.ok()) return;
  out.number(why.detail().peer).number(why.detail().expert);
  out.text(std::string_view(why.message()).substr(0, kMaxReason));
}

void put_regions(WireWriter& out, Opcode opcode, const std::vector<std::uint32_t>& regions) {
  out.number(static_cast<std::uint8_t>(opcode)).number(static_cast<std::uint32_t>(regions.size()));
  for (const std::uint32_t region : regions) out.number(region);
}

template <typename Regions>
Result<Message> get_regions(WireReader& in) {
  Regions message;
  const auto count = in.number_in<std::uint32_t>(0, kMaxRegions);
  for (std::uint32_t i = 0; i < count && !in.failed(); ++i) message.regions.push_back(in.number<std::uint32_t>());
  if (const Status status = in.finish("list of regions"); !status.ok()) return status;
  return Message(std::move(message));
}

std::string get_text(WireReader& in) {
  std::string text = in.text(kMaxReason);
  // It may end up in a log or on a terminal.
  for (char& letter : text) {
    if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f) letter = '?';
  }
  return text;
}

void put(WireWriter& out, const std::vector<Rank>& ranks) {
  out.number(static_cast<std::uint32_t>(ranks.size()));
  for (const Rank rank : ranks) out.number(rank);
}

std::vector<Rank> get_ranks(WireReader& in) {
  std::vector<Rank> ranks;
  const auto count = in.number_in<std::uint32_t>(0, kMaxRanks);
  for (std::uint32_t i = 0; i < count && !in.failed(); ++i) ranks.push_back(in.number<std::uint32_t>());
  return ranks;
}

Status get_reason(WireReader& in) {
  const auto code = in.number_in<std::uint32_t>(0, kMaxErrorCode);
  if (code == 0) return {};
  ErrorDetail detail;
  detail.peer = in.number<std::uint32_t>();
  detail.expert = in.number<std::uint32_t>();
  std::string message = get_text(in);
  return {static_cast<cardea_status_t>(-static_cast<std::int32_t>(code)), std::move(message), detail};
}

}  // namespace

Bytes encode(const Message& message) {
  WireWriter out;
  if (const auto* announce = std::get_if<LayerAnnounce>(&message)) {
    out.number(static_cast<std::uint8_t>(Opcode::kLayerAnnounce));
    put(out, *announce);
  } else if (const auto* notice = std::get_if<LayerNotice>(&message)) {
    out.number(static_cast<std::uint8_t>(Opcode::kLayerNotice));
    put(out, notice->layer);
    out.number(static_cast<std::uint8_t>(notice->notice.kind)).number(notice->notice.node).number(notice->notice.version);
  } else if (const auto* left = std::get_if<LayerLeft>(&message)) {
    out.number(static_cast<std::uint8_t>(Opcode::kLayerLeft));
    put(out, left->layer);
    put(out, left->why);
  } else if (const auto* gone = std::get_if<RegionsGone>(&message)) {
    put_regions(out, Opcode::kRegionsGone, gone->regions);
  } else if (const auto* unmapped = std::get_if<RegionsUnmapped>(&message)) {
    put_regions(out, Opcode::kRegionsUnmapped, unmapped->regions);
  } else if (const auto* node = std::get_if<NodeNotice>(&message)) {
    out.number(static_cast<std::uint8_t>(Opcode::kNodeNotice)).number(node->entry).number(node->nic);
  } else if (const auto* heartbeat = std::get_if<Heartbeat>(&message)) {
    out.number(static_cast<std::uint8_t>(Opcode::kHeartbeat)).number(heartbeat->flags);
    put(out, heartbeat->silent);
  } else if (const auto* loss = std::get_if<LossNotice>(&message)) {
    out.number(static_cast<std::uint8_t>(Opcode::kLossNotice)).number(static_cast<std::uint8_t>(loss->how));
    put(out, loss->ranks);
    out.text(std::string_view(loss->why).substr(0, kMaxReason));
  } else {
    out.number(static_cast<std::uint8_t>(Opcode::kGoodbye));
  }
  return out.take();
}

Result<Message> decode(ByteView bytes) {
  WireReader in(bytes);
  switch (static_cast<Opcode>(in.number<std::uint8_t>())) {
    case Opcode::kLayerAnnounce:
      return get_announce(in);
    case Opcode::kLayerNotice:
      return get_notice(in);
    case Opcode::kLayerLeft: {
      LayerLeft left;
      left.layer = get_key(in);
      left.why = get_reason(in);
      if (const Status status = in.finish("layer departure"); !status.ok()) return status;
      return Message(std::move(left));
    }
    case Opcode::kRegionsGone:
      return get_regions<RegionsGone>(in);
    case Opcode::kRegionsUnmapped:
      return get_regions<RegionsUnmapped>(in);
    case Opcode::kGoodbye:
      if (const Status status = in.finish("goodbye"); !status.ok()) return status;
      return Message(Goodbye{});
    case Opcode::kNodeNotice: {
      NodeNotice notice;
      notice.entry = in.number<std::uint32_t>();
      notice.nic = in.number<std::uint32_t>();
      if (const Status status = in.finish("node notice"); !status.ok()) return status;
      return Message(notice);
    }
    case Opcode::kHeartbeat: {
      Heartbeat heartbeat;
      heartbeat.flags = in.number_in<std::uint8_t>(0, 7);
      heartbeat.silent = get_ranks(in);
      if (const Status status = in.finish("heartbeat"); !status.ok()) return status;
      return Message(std::move(heartbeat));
    }
    case Opcode::kLossNotice: {
      LossNotice loss;
      loss.how = static_cast<Loss>(in.number_in<std::uint8_t>(1, 3));
      loss.ranks = get_ranks(in);
      loss.why = get_text(in);
      if (const Status status = in.finish("loss notice"); !status.ok()) return status;
      return Message(std::move(loss));
    }
  }
  if (bytes.empty()) return Status(CARDEA_ERR_PROTOCOL, "an empty message");
  return Status::error(CARDEA_ERR_PROTOCOL, "unknown opcode {}", std::to_integer<unsigned>(bytes[0]));
}

std::optional<LayerKey> layer_of(const Message& message) {
  if (const auto* announce = std::get_if<LayerAnnounce>(&message)) return announce->layer;
  if (const auto* notice = std::get_if<LayerNotice>(&message)) return notice->layer;
  if (const auto* left = std::get_if<LayerLeft>(&message)) return left->layer;
  return std::nullopt;
}

}  // namespace cardea::engine
