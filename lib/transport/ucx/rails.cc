// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/rails.h"

#include <algorithm>

#include "lib/base/log.h"
#include "lib/transport/ucx/stream_address.h"

namespace cardea::transport::ucx {
namespace {

constexpr auto kWarningInterval = std::chrono::seconds(10);
constexpr std::size_t kMaxDescriptors = 8192;  // what an announcement takes (engine/messages.h)
constexpr int kLooksPerSilence = 5;
// An error often comes because the peer leaves or dies, of which the main rail tells in its own way. If it tells nothing for
// so long, the rail is what broke.
constexpr auto kGrace = std::chrono::seconds(1);

/// What a broken NIC makes of chunks; anything else is the source's answer.
bool of_the_rail(const Status& status) {
  return status.code() == CARDEA_ERR_PEER_LOST || status.code() == CARDEA_ERR_TRANSPORT;
}

}  // namespace

Result<std::unique_ptr<Transport>> Rails::make(boost::asio::io_context& io, Listener& listener, const UcxOptions& options,
                                               const std::vector<std::string>& devices, Nanoseconds silence) {
  if (devices.empty() || devices.size() > kMaxUcxRails)
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} rails; 1 to {} are possible", devices.size(), kMaxUcxRails);
  auto rails = std::make_unique<Rails>(io, listener, options.self, silence);
  for (const std::string& device : devices) {
    if (device.size() > kMaxRailText) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "no NIC has the name {}", device);
    // UCX itself would go on without any; an RDMA device's port ("mlx5_0:1") has no address.
    if (!device.empty() && device.find(':') == std::string::npos) {
      if (const auto at = address_of_device(device); !at.ok()) return at.status().within("NIC " + device);
    }
    auto rail = std::make_unique<Rail>(*rails, static_cast<std::uint32_t>(rails->rails_.size()));
    rail->name = device.empty() ? "of UCX's choice" : device;
    UcxOptions own = options;
    own.device = device;
    // A connection to a NIC that does not answer is waited for by the kernel, for minutes; not by the engine.
    if (devices.size() > 1) own.defaults.emplace_back("TCP_CONN_NB", "y");
    auto made = UcxTransport::make(io, *rail, own);
    if (!made.ok()) return made.status().within(device.empty() ? "UCX" : "NIC " + device);
    rail->transport.reset(static_cast<UcxTransport*>(made->release()));
    rail->transport->on_rail_out(
        [rail = rail.get()](Rank peer, std::uint32_t theirs) { return rail->owner.told_out(*rail, peer, theirs); });
    rails->addresses_.push_back(
        {device, device.empty() ? std::string() : network_of_device(device), rail->transport->address()});
    rails->rails_.push_back(std::move(rail));
  }
  if (devices.size() > 1) {
    rails->links_.emplace(io, devices,
                          [rails = rails.get()](std::size_t rail) { rails->link_down(static_cast<std::uint32_t>(rail)); });
  }
  return std::unique_ptr<Transport>(std::move(rails));
}

Rails::Rails(boost::asio::io_context& io, Listener& listener, Rank self, Nanoseconds silence)
    : io_(io), listener_(listener), self_(self), who_(std::to_string(self)), silence_(silence), look_(io) {}

Rails::~Rails() {
  *alive_ = false;
}

Status Rails::connect(std::span<const std::pair<Rank, Bytes>> peers) {
  for (const auto& [rank, bytes] : peers) {
    if (rank == self_) continue;
    Result<std::vector<RailAddress>> theirs = decode_rails(bytes, rank);
    if (!theirs.ok()) return theirs.status().with_peer(rank);
    if (peers_.contains(rank))
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} is connected already", rank).with_peer(rank);
    std::vector<RailPair> pairs = pair_rails(self_, addresses_, rank, *theirs);
    for (const RailPair& pair : pairs) {
      const std::pair<Rank, Bytes> other(rank, (*theirs)[pair.theirs].address);
      if (const Status status = rails_[pair.mine]->transport->connect({&other, 1}); !status.ok()) return status;
    }
    Peer& peer = peers_[rank];
    peer.rank = rank;
    peer.pairs = std::move(pairs);
    peer.their_rails = theirs->size();
  }
  return {};
}

Rails::Peer* Rails::find(Rank rank) {
  const auto found = peers_.find(rank);
  return found == peers_.end() ? nullptr : &found->second;
}

RailRun Rails::rails(Rank rank) const {
  const auto found = peers_.find(rank);
  return found == peers_.end() ? RailRun{} : left(found->second);
}

RailRun Rails::left(const Peer& peer) const {
  std::vector<RailPair> pairs = peer.pairs;
  std::erase_if(pairs, [&](const RailPair& pair) { return peer.out[pair.mine]; });
  return run_of(pairs);
}

void Rails::send(Rank rank, Bytes message) {
  if (Peer* const peer = find(rank); peer != nullptr) main_of(*peer).send(rank, std::move(message));
}

// ---------------------------------------------------------------- memory

Result<Bytes> Rails::offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd, std::span<const Rank> peers) {
  std::vector<Bytes> offered;
  for (const auto& rail : rails_) {
    Result<Bytes> made = rail->transport->offer(region, base, bytes, memfd, peers);
    if (!made.ok()) return made.status();
    offered.push_back(std::move(*made));
  }
  Bytes all = encode_descriptors(offered);
  if (all.size() <= kMaxDescriptors) return all;
  // Without their keys, chunks are asked for on the others.
  for (std::size_t i = 1; i < offered.size(); ++i) {
    const Result<Region> described = decode_region(offered[i]);
    if (described.ok()) offered[i] = encode_region({described->base, {}});
  }
  return encode_descriptors(offered);
}

void Rails::withdraw(std::uint32_t region) {
  for (const auto& rail : rails_) rail->transport->withdraw(region);
}

Status Rails::accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) {
  const Peer* const peer = find(region.owner);
  if (peer == nullptr) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region of rank {}, which is not connected", region.owner)
        .with_peer(region.owner);
  }
  const Result<std::vector<Bytes>> each = decode_descriptors(descriptor, peer->their_rails);
  if (!each.ok()) return each.status().with_peer(region.owner);
  for (const RailPair& pair : peer->pairs) {
    const Status status = rails_[pair.mine]->transport->accept(region, bytes, (*each)[pair.theirs]);
    if (!status.ok()) return status;
  }
  return {};
}

void Rails::forget(RegionKey region) {
  for (const auto& rail : rails_) rail->transport->forget(region);
}

void Rails::lend_again() {
  for (const auto& rail : rails_) rail->transport->lend_again();
}

// A chunk may come by any of them.
DeviceMemory Rails::device_memory() const {
  DeviceMemory least = DeviceMemory::kWritten;
  for (const auto& rail : rails_) least = std::min(least, rail->transport->device_memory());
  return least;
}

DeviceMemory Rails::device_memory(Rank rank) {
  const Peer* const peer = find(rank);
  if (peer == nullptr) return DeviceMemory::kNone;
  DeviceMemory least = DeviceMemory::kWritten;
  for (const RailPair& pair : peer->pairs) {
    if (!peer->out[pair.mine]) least = std::min(least, rails_[pair.mine]->transport->device_memory(rank));
  }
  return least;
}

void Rails::forget_device(void* base) {
  for (const auto& rail : rails_) rail->transport->forget_device(base);
}

// ---------------------------------------------------------------- chunks

std::uint32_t Rails::rail_for(const Peer& peer, std::uint32_t wanted) const {
  std::uint32_t chosen = peer.main();
  for (const RailPair& pair : peer.pairs) {
    if (peer.out[pair.mine]) continue;
    if (pair.mine == wanted) return wanted;
    if (peer.waiting[pair.mine] < peer.waiting[chosen]) chosen = pair.mine;
  }
  return chosen;
}

void Rails::start(ChunkOrder order) {
  Peer* const peer = find(order.source);
  if (peer == nullptr) return rails_.front()->transport->start(std::move(order));  // which refuses it
  if (peer->pairs.size() == 1) return main_of(*peer).start(std::move(order));
  const std::uint32_t rail = rail_for(*peer, order.rail);
  Flight& flight = flights_[order.token];
  flight.peer = peer;
  flight.rail = rail;
  if (rail != peer->main()) {
    flight.order = std::make_unique<ChunkOrder>(order);
    ++restartable_;
    if (!looking_) await_silence();
  }
  if (peer->waiting[rail]++ == 0) peer->moved[rail] = Clock::now();
  rails_[rail]->transport->start(std::move(order));
}

void Rails::chunk_landed(Rail& rail, ChunkToken token, Bytes bytes) {
  ++rail.arrived;
  const auto found = flights_.find(token);
  if (found == flights_.end()) return listener_.on_chunk_landed(token, std::move(bytes));
  Peer& peer = *found->second.peer;
  if (found->second.order) --restartable_;
  flights_.erase(found);
  --peer.waiting[rail.number];
  peer.moved[rail.number] = Clock::now();
  listener_.on_chunk_landed(token, std::move(bytes));
  settle(peer);
}

void Rails::chunk_done(Rail& rail, ChunkToken token, const Status& status) {
  if (status.ok()) ++rail.arrived;
  const auto found = flights_.find(token);
  if (found == flights_.end()) return listener_.on_chunk_done(token, status);
  Flight flight = std::move(found->second);
  flights_.erase(found);
  Peer& peer = *flight.peer;
  --peer.waiting[rail.number];
  if (status.ok()) peer.moved[rail.number] = Clock::now();
  if (flight.order) --restartable_;
  if (flight.order && of_the_rail(status) && !peer.lost && !closing_) {
    take_out(peer, rail.number, Cause::kError, true, status.message());
    return start(std::move(*flight.order));
  }
  const bool was_lost = flight.order && peer.lost && of_the_rail(status);
  listener_.on_chunk_done(
      token, was_lost ? Status(CARDEA_ERR_PEER_LOST, peer.lost->message()).with_detail(status.detail()) : status);
  settle(peer);
}

// ---------------------------------------------------------------- peers

void Rails::message_came(const Rail& rail, Rank from, ByteView message) {
  Peer* const peer = find(from);
  if (peer == nullptr || peer->lost) return;
  if (rail.number == peer->main()) return listener_.on_message(from, message);
  lose(*peer, Status::error(CARDEA_ERR_PROTOCOL, "a message by NIC {}, where only chunks go", rail.name), true);
}

void Rails::peer_lost(Rail& rail, Rank rank, const Status& why) {
  Peer* const peer = find(rank);
  if (peer == nullptr || peer->lost) return;
  // Nonsense is the peer's doing, whatever it came by.
  if (rail.number == peer->main() || why.code() == CARDEA_ERR_PROTOCOL) return lose(*peer, why, true);
  take_out(*peer, rail.number, Cause::kError, true, why.message());
}

void Rails::lose(Peer& peer, const Status& why, bool tell_listener) {
  if (peer.lost) return;
  peer.lost = why.with_peer(peer.rank);
  peer.tell_listener = tell_listener;
  for (const RailPair& pair : peer.pairs) rails_[pair.mine]->transport->disconnect(peer.rank);
  settle(peer);
}

void Rails::settle(Peer& peer) {
  if (!peer.tell_listener || closing_) return;
  if (std::any_of(peer.waiting.begin(), peer.waiting.end(), [](std::uint32_t count) { return count != 0; })) return;
  peer.tell_listener = false;
  listener_.on_peer_lost(peer.rank, *peer.lost);
}

void Rails::disconnect(Rank rank) {
  Peer* const peer = find(rank);
  if (peer == nullptr) return;
  peer->tell_listener = false;
  lose(*peer, Status::error(CARDEA_ERR_PEER_LOST, "rank {} was declared lost", rank), false);
}

// ---------------------------------------------------------------- rails that break

void Rails::take_out(Peer& peer, std::uint32_t number, Cause cause, bool tell_peer, const std::string& why) {
  if (number == peer.main() || peer.out[number] || peer.lost || closing_) return;
  peer.out[number] = true;
  if (cause == Cause::kKnown) {
    warn(peer, number, why);
  } else {
    const auto grace = std::make_shared<boost::asio::steady_timer>(io_, kGrace);
    grace->async_wait([this, grace, alive = alive_, &peer, number, why](const boost::system::error_code& error) {
      if (*alive && !error && !closing_ && !peer.lost) warn(peer, number, why);
    });
  }
  if (tell_peer) main_of(peer).tell_rail_out(peer.rank, number);
  listener_.on_rails_changed(peer.rank, left(peer));
  rails_[number]->transport->disconnect(peer.rank);  // its chunks come back by chunk_done
}

void Rails::warn(const Peer& peer, std::uint32_t number, std::string_view why) {
  Rail& rail = *rails_[number];
  const auto now = Clock::now();
  const bool first = now >= rail.next_warning;
  if (first) rail.next_warning = now + kWarningInterval;
  std::string left;
  for (const RailPair& pair : peer.pairs) {
    if (!peer.out[pair.mine]) left += (left.empty() ? "" : ",") + rails_[pair.mine]->name;
  }
  log::print(first ? log::Level::kWarn : log::Level::kInfo, who_, "ucx",
             "NIC {} carries no more chunks from and to rank {}, which go by {} instead: {}", rail.name, peer.rank, left,
             why);
}

Status Rails::told_out(const Rail& by, Rank rank, std::uint32_t theirs) {
  Peer* const peer = find(rank);
  if (peer == nullptr || peer->lost) return {};
  const auto pair =
      std::find_if(peer->pairs.begin(), peer->pairs.end(), [&](const RailPair& entry) { return entry.theirs == theirs; });
  if (by.number != peer->main() || pair == peer->pairs.end() || pair == peer->pairs.begin())
    return Status::error(CARDEA_ERR_PROTOCOL, "rail {} is said to be out, by NIC {}", theirs, by.name);
  take_out(*peer, pair->mine, Cause::kKnown, false, "the other side has taken it out");
  return {};
}

void Rails::link_down(std::uint32_t number) {
  std::size_t without = 0;
  for (auto& [rank, peer] : peers_) {
    const auto pair =
        std::find_if(peer.pairs.begin(), peer.pairs.end(), [&](const RailPair& entry) { return entry.mine == number; });
    if (pair == peer.pairs.end() || peer.lost) continue;
    if (pair == peer.pairs.begin()) {
      ++without;
    } else {
      take_out(peer, number, Cause::kKnown, true, "its link is down");
    }
  }
  if (without == 0) return;
  log::print(log::Level::kWarn, who_, "ucx", "the link of NIC {} is down, by which messages go to {} ranks",
             rails_[number]->name, without);
}

// What is sent into a network that swallows it is sent again for minutes, and nobody would notice.
void Rails::look_for_silence() {
  const auto now = Clock::now();
  for (auto& [rank, peer] : peers_) {
    for (const RailPair& pair : peer.pairs) {
      const std::uint32_t number = pair.mine;
      if (number == peer.main() || peer.waiting[number] == 0 || now - peer.moved[number] < silence_) continue;
      take_out(peer, number, Cause::kKnown, true,
               fmt::format("nothing came by it for {:.1f} s, though chunks wait",
                           std::chrono::duration<double>(now - peer.moved[number]).count()));
    }
  }
  looking_ = false;
  if (restartable_ != 0 && !closing_) await_silence();
}

void Rails::await_silence() {
  looking_ = true;
  look_.expires_after(silence_ / kLooksPerSilence);
  look_.async_wait([this, alive = alive_](const boost::system::error_code& error) {
    if (*alive && !error) look_for_silence();
  });
}

void Rails::close(std::function<void()> done) {
  closing_ = true;
  links_.reset();
  look_.cancel();
  const auto left = std::make_shared<std::size_t>(rails_.size());
  const auto one_less = [left, done = std::move(done)] {
    if (--*left == 0) done();
  };
  for (const auto& rail : rails_) rail->transport->close(one_less);
}

}  // namespace cardea::transport::ucx

namespace cardea::transport {

Result<std::unique_ptr<Transport>> make_ucx_rails(boost::asio::io_context& io, Listener& listener, const UcxOptions& options,
                                                  const std::vector<std::string>& devices, Nanoseconds silence) {
  return ucx::Rails::make(io, listener, options, devices, silence);
}

Result<std::vector<std::string>> ucx_rail_devices(ByteView address, Rank rank) {
  const Result<std::vector<ucx::RailAddress>> rails = ucx::decode_rails(address, rank);
  if (!rails.ok()) return rails.status();
  std::vector<std::string> devices;
  for (const ucx::RailAddress& rail : *rails) devices.push_back(rail.device);
  return devices;
}

}  // namespace cardea::transport
