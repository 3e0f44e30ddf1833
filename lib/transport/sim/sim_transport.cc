// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/sim/sim_transport.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "lib/base/log.h"
#include "lib/base/wire.h"

namespace cardea::sim {
namespace {

using transport::ChunkOrder;
using transport::ExpertAddress;
using transport::Lease;
using transport::RegionKey;
using transport::RemotePiece;

constexpr std::uint32_t kAddressMagic = 0x6d697361;     // "asim"
constexpr std::uint32_t kDescriptorMagic = 0x6d697364;  // "dsim"
constexpr std::uint64_t kRequestBytes = 64;
constexpr Nanoseconds kClosePoll{10'000};

std::uint64_t total(const std::vector<iovec>& pieces) {
  std::uint64_t sum = 0;
  for (const iovec& piece : pieces) sum += piece.iov_len;
  return sum;
}

/// Writes contiguous bytes into pieces, one after the other.
class Scatter {
 public:
  explicit Scatter(const std::vector<iovec>& pieces) : pieces_(pieces) {}
  void write(const std::byte* from, std::uint64_t bytes) {
    while (bytes > 0) {
      const iovec& piece = pieces_[index_];
      const std::uint64_t now = std::min<std::uint64_t>(bytes, piece.iov_len - offset_);
      if (now > 0) std::memcpy(static_cast<std::byte*>(piece.iov_base) + offset_, from, now);
      from += now;
      bytes -= now;
      offset_ += now;
      if (offset_ == piece.iov_len) {
        ++index_;
        offset_ = 0;
      }
    }
  }

 private:
  const std::vector<iovec>& pieces_;
  std::size_t index_ = 0;
  std::uint64_t offset_ = 0;
};

Status lost(Rank peer, std::string_view how) {
  return Status::error(CARDEA_ERR_PEER_LOST, "rank {} {}", peer, how).with_peer(peer);
}

}  // namespace

std::unique_ptr<transport::Transport> make_sim_transport(SimNetwork& network, transport::Listener& listener, Rank rank) {
  return std::make_unique<SimTransport>(network, listener, rank);
}

SimTransport::SimTransport(SimNetwork& network, transport::Listener& listener, Rank rank)
    : network_(network), listener_(listener), rank_(rank) {
  network_.attach(rank, this);
}

SimTransport::~SimTransport() {
  if (state_ != State::kClosed) network_.kill(rank_);
  network_.attach(rank_, nullptr);
}

// ---- peers and messages

Bytes SimTransport::address() const {
  return WireWriter().number(kAddressMagic).number(rank_).take();
}

Status SimTransport::connect(std::span<const std::pair<Rank, Bytes>> peers) {
  for (const auto& [peer, address] : peers) {
    WireReader reader(address);
    const auto magic = reader.number<std::uint32_t>();
    const auto claimed = reader.number<Rank>();
    if (const Status status = reader.finish("address"); !status.ok()) return status.with_peer(peer);
    if (magic != kAddressMagic || claimed != peer || peer >= network_.rank_count() || peer == rank_) {
      return Status::error(CARDEA_ERR_PROTOCOL, "this is no address of rank {} in a simulation", peer).with_peer(peer);
    }
    connected_.insert(peer);
  }
  return {};
}

void SimTransport::send(Rank peer, Bytes message) {
  if (state_ != State::kOpen || gone(peer)) return;
  if (message.size() > kMaxMessage || !connected_.contains(peer)) {
    log::print(log::Level::kError, fmt::to_string(rank_), "sim", "a message of {} bytes to rank {} was dropped: {}",
               message.size(), peer, message.size() > kMaxMessage ? "over the limit" : "not connected");
    return;
  }
  const std::uint64_t bytes = message.size();
  network_.send_parcel(rank_, peer, bytes, [from = rank_, message = std::move(message)](SimTransport& at) {
    if (at.state_ == State::kOpen && !at.gone(from)) at.listener_.on_message(from, message);
  });
}

// ---- regions

Result<Bytes> SimTransport::offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                                  std::span<const Rank> peers) {
  if (bytes == 0 || (base == nullptr && network_.options().move_bytes)) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} has no memory", region);
  }
  auto [found, fresh] = offered_.try_emplace(region, Offered{static_cast<std::byte*>(base), bytes, memfd >= 0, {}});
  Offered& offered = found->second;
  if (offered.base != base || offered.bytes != bytes || offered.mappable != (memfd >= 0)) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} was offered before, as other memory", region);
  }
  offered.peers.insert(peers.begin(), peers.end());
  return WireWriter()
      .number(kDescriptorMagic)
      .number(rank_)
      .number(region)
      .number(bytes)
      .number(std::uint8_t{memfd >= 0})
      .take();
}

Status SimTransport::accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) {
  WireReader reader(descriptor);
  const auto magic = reader.number<std::uint32_t>();
  const auto owner = reader.number<Rank>();
  const auto number = reader.number<std::uint32_t>();
  const auto length = reader.number<std::uint64_t>();
  const auto mappable = reader.number_in<std::uint8_t>(0, 1);
  if (const Status status = reader.finish("region descriptor"); !status.ok()) return status.with_peer(region.owner);
  if (magic != kDescriptorMagic || owner != region.owner || number != region.region || length != bytes ||
      !connected_.contains(owner)) {
    return Status::error(CARDEA_ERR_PROTOCOL, "this does not describe region {} of rank {}", region.region, region.owner)
        .with_peer(region.owner);
  }
  // A simulation can see what a real transport's link would refuse.
  if (const SimTransport* source = network_.transport(owner)) {
    const auto offered = source->offered_.find(number);
    if (offered != source->offered_.end() && !offered->second.peers.contains(rank_)) {
      return Status::error(CARDEA_ERR_PROTOCOL, "region {} of rank {} was not offered to this rank", number, owner)
          .with_peer(owner);
    }
  }
  accepted_.insert_or_assign(region, Accepted{bytes, mappable != 0});
  return {};
}

void SimTransport::forget(RegionKey region) {
  accepted_.erase(region);
}

const std::byte* SimTransport::mapped(RegionKey region) const {
  const auto accepted = accepted_.find(region);
  if (accepted == accepted_.end() || !accepted->second.mappable || !network_.same_node(rank_, region.owner)) return nullptr;
  return look_up({.region = region, .offset = 0, .bytes = 0});
}

/// Where a piece of an accepted region lies, null if its owner or the region is gone.
const std::byte* SimTransport::look_up(const RemotePiece& piece) const {
  const SimTransport* owner = network_.transport(piece.region.owner);
  if (!owner) return nullptr;
  const auto offered = owner->offered_.find(piece.region.region);
  return offered == owner->offered_.end() || !offered->second.base ? nullptr : offered->second.base + piece.offset;
}

// ---- chunks, at the asker

void SimTransport::start(ChunkOrder order) {
  const ChunkToken token = order.token;
  const auto [found, fresh] = in_flight_.emplace(token, std::move(order));
  if (!fresh) {
    log::print(log::Level::kError, fmt::to_string(rank_), "sim", "chunk {} is in flight already", token);
    return;
  }
  const ChunkOrder& kept = found->second;
  if (kept.onto_device()) {
    complete_later(token, Status(CARDEA_ERR_UNSUPPORTED, "no device memory in the simulation"));
  } else if (Status status = check(kept); !status.ok()) {
    complete_later(token, std::move(status));
  } else if (network_.same_node(rank_, kept.source)) {
    read(kept, total(kept.destination));
  } else {
    ask(kept);
  }
}

Status SimTransport::check(const ChunkOrder& order) const {
  if (state_ != State::kOpen) return Status(CARDEA_ERR_CANCELED, "the transport is closed");
  if (gone(order.source)) return lost(order.source, "is gone");
  if (!connected_.contains(order.source)) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} is not connected", order.source).with_peer(order.source);
  }
  return network_.same_node(rank_, order.source) ? check_pieces(order, total(order.destination)) : Status();
}

Status SimTransport::check_pieces(const ChunkOrder& order, std::uint64_t payload) const {
  const auto check_piece = [&](const RemotePiece& piece) -> Status {
    const auto accepted = accepted_.find(piece.region);
    if (accepted == accepted_.end() || piece.region.owner != order.source) {
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} of rank {} was not accepted", piece.region.region,
                           piece.region.owner)
          .with_peer(order.source);
    }
    if (piece.offset > accepted->second.bytes || piece.bytes > accepted->second.bytes - piece.offset) {
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} bytes at {} are beyond region {} of rank {}, which has {}",
                           piece.bytes, piece.offset, piece.region.region, piece.region.owner, accepted->second.bytes)
          .with_peer(order.source);
    }
    return {};
  };
  std::uint64_t sum = 0;
  for (const RemotePiece& piece : order.source_pieces) {
    if (Status status = check_piece(piece); !status.ok()) return status;
    sum += piece.bytes;
  }
  if (sum != payload) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "the chunk's source has {} bytes, its destination {}", sum, payload);
  }
  if (order.stamp.bytes == 0) return {};
  if (order.stamp.bytes != sizeof(Version)) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "a stamp of {} bytes", order.stamp.bytes);
  }
  return check_piece(order.stamp);
}

void SimTransport::ask(const ChunkOrder& order) {
  network_.send_parcel(rank_, order.source, kRequestBytes,
                       [asker = rank_, token = order.token, expert = order.expert, offset = order.offset,
                        bytes = order.bytes](SimTransport& source) { source.serve(asker, token, expert, offset, bytes); });
}

void SimTransport::read(const ChunkOrder& order, std::uint64_t payload) {
  reads_[order.token] = network_.send_payload(order.source, rank_, payload, nullptr,
                                              [token = order.token](SimTransport& asker) { asker.finish_read(token); });
}

void SimTransport::finish_read(ChunkToken token) {
  reads_.erase(token);
  const auto found = in_flight_.find(token);
  if (found == in_flight_.end()) return;
  complete(token, network_.options().move_bytes ? copy_from_regions(found->second) : Status());
}

Status SimTransport::copy_from_regions(const ChunkOrder& order) {
  std::vector<const std::byte*> sources;
  for (const RemotePiece& piece : order.source_pieces) {
    sources.push_back(look_up(piece));
    if (!sources.back()) return lost(order.source, "is gone, and its memory with it");
  }
  Scatter scatter(order.destination);
  for (std::size_t i = 0; i < sources.size(); ++i) scatter.write(sources[i], order.source_pieces[i].bytes);
  if (order.stamp.bytes == 0) return {};
  const std::byte* stamp = look_up(order.stamp);
  if (!stamp) return lost(order.source, "is gone, and its memory with it");
  Version version = 0;
  std::memcpy(&version, stamp, sizeof(version));
  if (version == order.expert.version) return {};
  return Status(CARDEA_ERR_STALE, fmt::format("version {} was replaced by {}", order.expert.version, version),
                {.peer = order.source, .layer = order.expert.layer.layer, .expert = order.expert.expert});
}

void SimTransport::complete(ChunkToken token, const Status& status) {
  if (state_ == State::kClosed || in_flight_.erase(token) == 0) return;
  if (const auto read = reads_.find(token); read != reads_.end()) {
    network_.abort_payload(read->second);
    reads_.erase(read);
  }
  listener_.on_chunk_done(token, status);
}

void SimTransport::complete_later(ChunkToken token, Status status) {
  network_.post_as(rank_, [&network = network_, rank = rank_, token, status = std::move(status)] {
    if (SimTransport* self = network.transport(rank)) self->complete(token, status);
  });
}

std::vector<transport::ChunkToken> SimTransport::tokens_from(Rank source) const {
  std::vector<ChunkToken> tokens;
  for (const auto& [token, order] : in_flight_) {
    if (source == kNoRank || order.source == source) tokens.push_back(token);
  }
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

// ---- chunks, at the source

void SimTransport::serve(Rank asker, ChunkToken token, const ExpertAddress& expert, std::uint64_t offset,
                         std::uint64_t bytes) {
  if (state_ != State::kOpen || gone(asker)) return;
  Result<Lease> lease = listener_.lend(asker, expert, offset, bytes);
  if (!lease.ok()) {
    network_.send_parcel(rank_, asker, kRequestBytes, [token, status = lease.status().with_peer(rank_)](SimTransport& at) {
      at.complete(token, status);
    });
    return;
  }
  const std::uint64_t service = ++last_service_;
  const std::uint64_t payload = total(lease->pieces);
  Served& served = served_.emplace(service, Served{asker, token, std::move(*lease), payload, 0}).first->second;
  // The lease's memory is read when the payload leaves, even if this process is stopped by then.
  served.transfer = network_.send_payload(
      rank_, asker, payload,
      [&network = network_, rank = rank_, service] {
        if (SimTransport* self = network.transport(rank)) self->payload_left(service);
      },
      [token](SimTransport& at) { at.complete(token, {}); });
}

void SimTransport::payload_left(std::uint64_t service) {
  auto node = served_.extract(service);
  if (node.empty()) return;
  const Served& served = node.mapped();
  if (SimTransport* asker = network_.transport(served.asker)) asker->receive(served.token, served.lease.pieces);
  network_.run_as(rank_, [&network = network_, rank = rank_, lease = served.lease.id, bytes = served.bytes] {
    SimTransport* self = network.transport(rank);
    if (self && self->state_ != State::kClosed) self->listener_.give_back(lease, bytes);
  });
}

void SimTransport::receive(ChunkToken token, const std::vector<iovec>& pieces) {
  const auto found = in_flight_.find(token);
  if (found == in_flight_.end()) return;
  const std::uint64_t wanted = total(found->second.destination);
  if (wanted != total(pieces)) {
    complete_later(token,
                   Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} lends {} bytes, the chunk's destination has {}",
                                 found->second.source, total(pieces), wanted)
                       .with_peer(found->second.source));
    return;
  }
  if (!network_.options().move_bytes) return;
  Scatter scatter(found->second.destination);
  for (const iovec& piece : pieces) scatter.write(static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
}

void SimTransport::end_services(const std::function<bool(const Served&)>& which) {
  for (auto at = served_.begin(); at != served_.end();) {
    if (!which(at->second)) {
      ++at;
      continue;
    }
    network_.abort_payload(at->second.transfer);
    network_.post_as(rank_, [&network = network_, rank = rank_, lease = at->second.lease.id] {
      SimTransport* self = network.transport(rank);
      if (self && self->state_ != State::kClosed) self->listener_.give_back(lease, 0);
    });
    at = served_.erase(at);
  }
}

// ---- losing peers, closing

void SimTransport::stop_serving(Rank asker) {
  end_services([asker](const Served& served) { return served.asker == asker; });
}

void SimTransport::abandon() {
  for (const auto& [service, served] : served_) network_.abort_payload(served.transfer);
  for (const auto& [token, transfer] : reads_) network_.abort_payload(transfer);
  served_.clear();
  reads_.clear();
}

void SimTransport::peer_gone(Rank peer, std::string_view how) {
  if (state_ != State::kOpen || !connected_.contains(peer) || !gone_.insert(peer).second) return;
  const Status why = lost(peer, how);
  stop_serving(peer);
  for (const ChunkToken token : tokens_from(peer)) complete(token, why);
  if (state_ == State::kOpen) listener_.on_peer_lost(peer, why);
}

void SimTransport::disconnect(Rank peer) {
  if (state_ != State::kOpen || !connected_.contains(peer) || !gone_.insert(peer).second) return;
  stop_serving(peer);
  for (const ChunkToken token : tokens_from(peer)) complete_later(token, lost(peer, "was disconnected"));
  network_.send_parcel(rank_, peer, kRequestBytes,
                       [from = rank_](SimTransport& at) { at.peer_gone(from, "has disconnected"); });
}

void SimTransport::close(std::function<void()> done) {
  if (state_ == State::kClosed) {
    if (done) network_.post_as(rank_, std::move(done));
    return;
  }
  if (done) done_.push_back(std::move(done));
  if (std::exchange(state_, State::kClosing) == State::kClosing) return;
  end_services([](const Served&) { return true; });
  for (const ChunkToken token : tokens_from(kNoRank))
    complete_later(token, Status(CARDEA_ERR_CANCELED, "the transport was closed"));
  await_messages(network_.time().now() + network_.options().close_patience);
}

/// Asks again and again, which costs nothing unless messages beyond small_parcel_bytes are waiting.
void SimTransport::await_messages(Clock::time_point deadline) {
  const bool waiting = network_.waiting_parcels(rank_) > 0 && network_.time().now() < deadline;
  const auto next = [&network = network_, rank = rank_, deadline, waiting] {
    SimTransport* self = network.transport(rank);
    if (!self) return;
    if (waiting) {
      self->await_messages(deadline);
    } else {
      self->leave();
    }
  };
  (void)network_.executor(rank_).after(waiting ? kClosePoll : Nanoseconds(0), next);
}

void SimTransport::leave() {
  std::vector<Rank> peers(connected_.begin(), connected_.end());
  std::sort(peers.begin(), peers.end());
  for (const Rank peer : peers) {
    if (gone(peer)) continue;
    network_.send_parcel(rank_, peer, kRequestBytes, [from = rank_](SimTransport& at) { at.peer_gone(from, "has left"); });
  }
  state_ = State::kClosed;
  offered_.clear();
  const auto done = std::exchange(done_, {});
  for (const auto& one : done) one();
}

}  // namespace cardea::sim
