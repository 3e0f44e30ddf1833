// SPDX-License-Identifier: Apache-2.0
// The runtime's half that listens to others.
#include <algorithm>

#include "lib/base/log.h"
#include "lib/engine/lanes.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {
namespace {

// Messages for layers that this rank has not begun yet. A member may be ahead by a few layers, not by a memory's worth.
constexpr std::size_t kMaxEarlyBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxEarlyLayers = 65536;

}  // namespace

void Runtime::send(Rank to, const Message& message) {
  if (lost_.contains(to)) return;
  spoken_to_.insert(to);
  enqueue([transport = route_[to], to, bytes = encode(message)]() mutable { transport->send(to, std::move(bytes)); });
}

void Runtime::say_goodbye(std::function<void()> then) {
  left_ = true;
  for (const Rank peer : std::set<Rank>(spoken_to_)) send(peer, Goodbye{});
  if (then) enqueue(std::move(then));
}

void Runtime::on_message(Rank from, ByteView bytes) {
  Status status;
  {
    const auto held = lock();
    if (lost_.contains(from)) return;
    heard(from);
    status = receive(from, bytes);
    if (!status.ok()) lose(from, status);
    dispatch();
  }
  if (status.ok()) return;
  log::print(log::Level::kWarn, name_, "engine", "rank {} is disconnected: {}", from, status.message());
  route_[from]->disconnect(from);
}

Status Runtime::receive(Rank from, ByteView bytes) {
  Result<Message> message = decode(bytes);
  if (!message.ok()) return message.status().within(fmt::format("message of rank {}", from));
  if (std::holds_alternative<Goodbye>(*message)) {
    departed_.insert(from);
    lose(from, Status::error(CARDEA_ERR_PEER_LOST, "rank {} has left the job", from));
    return {};
  }
  if (const auto* gone = std::get_if<RegionsGone>(&*message)) {
    receive_gone(from, *gone);
    return {};
  }
  if (const auto* unmapped = std::get_if<RegionsUnmapped>(&*message)) return receive_unmapped(from, *unmapped);

  if (const auto* heartbeat = std::get_if<Heartbeat>(&*message)) {
    if (watch_) watch_->liveness.receive(from, *heartbeat, now());
    if (watch_) carry_out_watch();
    return {};
  }
  if (const auto* loss = std::get_if<LossNotice>(&*message)) {
    if (watch_) watch_->liveness.receive(from, *loss, now());
    if (watch_) carry_out_watch();
    return {};
  }
  if (const auto* notice = std::get_if<NodeNotice>(&*message)) {
    if (!on_this_node(from))
      return Status::error(CARDEA_ERR_PROTOCOL, "rank {} of another node speaks of this node's cache", from);
    if (notice->entry != cache::kNoEntry) core_.entry_changed(notice->entry, now());
    if (notice->nic != core::kNoNic) core_.nic_free(notice->nic, now());
    return {};
  }

  const LayerKey key = *layer_of(*message);
  const auto found = layers_.find(key);
  if (found == layers_.end() || early_.contains(key)) {
    if (std::find(ended_.begin(), ended_.end(), key) != ended_.end()) return {};  // it was late
    if (early_bytes_ + bytes.size() > kMaxEarlyBytes || (early_.size() >= kMaxEarlyLayers && !early_.contains(key))) {
      return Status::error(CARDEA_ERR_PROTOCOL, "rank {} speaks of too many layers that do not exist here", from);
    }
    early_[key].messages.emplace_back(from, Bytes(bytes.begin(), bytes.end()));
    early_bytes_ += bytes.size();
    note_early_offer(from, *message);
    return {};
  }
  LayerRecord& layer = *found->second;
  if (auto* announce = std::get_if<LayerAnnounce>(&*message)) return receive_announce(from, layer, std::move(*announce));
  // Who ends a layer as soon as he has begun it, for it failed, has not announced himself.
  const bool leaves = std::holds_alternative<LayerLeft>(*message) &&
                      std::find(layer.others.begin(), layer.others.end(), from) != layer.others.end();
  if (!leaves && !layer.sources.contains(from))
    return Status::error(CARDEA_ERR_PROTOCOL, "rank {} speaks of layer {} before announcing itself", from, layer.layer_id);
  if (const auto* notice = std::get_if<LayerNotice>(&*message)) {
    if (recorder_) {
      recorder_->told(now(), from, static_cast<std::uint32_t>(notice->notice.kind), layer.number, notice->notice.version);
    }
    return core_.receive(layer.number, from, notice->notice, now());
  }
  const Status& why = std::get<LayerLeft>(*message).why;
  if (layer.formed) {
    core_.peer_left_layer(layer.number, from, now());
  } else if (why.ok() && layer.sources.contains(from)) {
    layer.left.insert(from);  // it has heard of every member already; this rank is about to
  } else if (layer.failure.ok()) {
    layer.failure = given_up(from, layer, why);
    observer_.on_change();
  }
  return {};
}

Status Runtime::given_up(Rank from, const LayerRecord& layer, const Status& why) const {
  // What stopped it stops this rank too, and who is to blame there is to blame here, unless it is this rank itself.
  ErrorDetail detail{.peer = why.detail().peer, .layer = layer.layer_id, .expert = why.detail().expert};
  if (detail.peer >= options_.node_of.size() || detail.peer == options_.self) detail.peer = from;
  if (detail.expert >= layer.num_experts) detail.expert = kNoExpert;
  const bool shared = why.code() == CARDEA_ERR_MISMATCH || why.code() == CARDEA_ERR_TIMEOUT;
  if (!shared && why.code() != CARDEA_ERR_PEER_LOST) detail.peer = from;
  return Status(shared ? why.code() : CARDEA_ERR_PEER_LOST,
                fmt::format("rank {} gave up layer {}: {}", from, layer.layer_id,
                            why.ok() ? "it left before it had announced itself" : why.message()),
                detail);
}

void Runtime::lose(Rank peer, const Status& why) {
  if (!lost_.emplace(peer, why.with_peer(peer)).second) return;
  if (recorder_) recorder_->lost(now(), peer, departed_.contains(peer));
  for (const auto& [key, layer] : layers_) {
    if (layer->formed || !layer->failure.ok()) continue;
    if (std::find(layer->others.begin(), layer->others.end(), peer) != layer->others.end())
      layer->failure = why.with_peer(peer);
  }
  forget_importer(peer);
  fail_held(peer, why);
  core_.peer_lost(peer, departed_.contains(peer), why, now());
  observer_.on_change();
  if (!watch_) return;
  const bool left = departed_.contains(peer);
  const bool proven = left || on_this_node(peer);
  watch_->liveness.noticed(peer, left ? Loss::kLeft : Loss::kDied, proven, why.message(), now());
  carry_out_watch();
}

void Runtime::on_peer_lost(Rank peer, const Status& why) {
  const auto held = lock();
  const bool known = lost_.contains(peer);
  const Status lost = Status::error(CARDEA_ERR_PEER_LOST, "rank {} was lost: {}", peer, why.message()).with_peer(peer);
  lose(peer, lost);
  dispatch();
  if (!known) log::print(log::Level::kWarn, name_, "engine", "{}", lost.message());
}

void Runtime::on_rails_changed(Rank peer, const transport::RailRun& rails) {
  const auto held = lock();
  rails_[peer] = rails;
  core_.set_rails(peer, kNetworkIn + rails.first, rails.count);
}

// ---------------------------------------------------------------- this rank as a source

Result<transport::Lease> Runtime::lend(Rank asker, const transport::ExpertAddress& expert, std::uint64_t offset,
                                       std::uint64_t bytes) {
  const auto held = lock();
  heard(asker);
  const auto refuse = [&](cardea_status_t code, std::string what) {
    return Status(code,
                  fmt::format("rank {} asks rank {} for expert {} of layer {}: {}", asker, options_.self, expert.expert,
                              expert.layer.layer, what),
                  {.layer = expert.layer.layer, .expert = expert.expert});
  };
  const auto found = layers_.find(expert.layer);
  if (found == layers_.end() || found->second->closing) return refuse(CARDEA_ERR_STALE, "the layer has ended here");
  const LayerRecord& layer = *found->second;
  const std::size_t* const known = layer.local_of.find(expert.expert);
  if (known == nullptr) return refuse(CARDEA_ERR_INVALID_ARGUMENT, "the expert is not here");
  const std::size_t local = *known;
  if (!layer.sources.contains(asker)) return refuse(CARDEA_ERR_INVALID_ARGUMENT, "the asker is no member");
  const std::uint64_t packed = layer.layout.packed_bytes();
  if (bytes == 0 || offset > packed || bytes > packed - offset) {
    return refuse(CARDEA_ERR_INVALID_ARGUMENT, fmt::format("bytes {} + {} of {}", offset, bytes, packed));
  }
  if (const Status status = core_.lend(layer.number, expert.version); !status.ok())
    return refuse(status.code(), status.message());
  std::shared_ptr<std::byte> staged;  // what device memory was copied to
  if (in_device_memory(layer, local)) {
    Result<std::shared_ptr<std::byte>> copied = stage(layer, expert, offset + bytes);
    if (!copied.ok()) {
      core_.give_back(layer.number);
      dispatch();
      return copied.status();
    }
    staged = std::move(*copied);
  }
  transport::Lease lease{next_lease_++, {}};
  layer.layout.for_each_piece(offset, bytes, [&](std::size_t segment, std::uint64_t at, std::uint64_t length) {
    std::byte* const base = staged ? staged.get() + layer.layout.offset(segment) : layer.local[segment][local];
    lease.pieces.push_back({base + at, length});
  });
  leases_.emplace(lease.id, Lent{layer.number, asker, expert.expert, now(), std::move(staged)});
  if (recorder_) {
    const telemetry::Chunk chunk{
        .version = expert.version, .offset = offset, .bytes = bytes, .layer = layer.number, .expert = expert.expert};
    recorder_->lend(now(), lease.id, chunk, asker);
  }
  return lease;
}

void Runtime::give_back(std::uint64_t lease, std::uint64_t bytes_sent) {
  const auto held = lock();
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return;
  const core::LayerNumber layer = found->second.layer;
  leases_.erase(found);
  if (recorder_) recorder_->give_back(now(), lease, bytes_sent);
  bytes_.network_sent += bytes_sent;
  core_.give_back(layer);
  dispatch();
}

}  // namespace cardea::engine
