// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/shm_transport.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "lib/base/log.h"
#include "lib/base/wire.h"

namespace cardea::shm {

namespace asio = boost::asio;
using transport::ChunkOrder;
using transport::RegionKey;

namespace {

// One that the link may close when it has been passed on.
Result<UniqueFd> duplicate(int descriptor, Rank peer) {
  UniqueFd own(fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
  if (!own) return Status::from_errno(errno, "fcntl(F_DUPFD_CLOEXEC)", fmt::format("memory for rank {}", peer));
  return own;
}

}  // namespace

std::unique_ptr<transport::Transport> make_shm_transport(asio::io_context& io, transport::Listener& listener, Rank self,
                                                         std::vector<NodeLink> links, const ShmOptions& options) {
  return std::make_unique<ShmTransport>(io, listener, self, std::move(links), options);
}

ShmTransport::ShmTransport(asio::io_context& io, transport::Listener& listener, Rank self, std::vector<NodeLink> links,
                           const ShmOptions& options)
    : io_(io), listener_(listener), self_(self), options_(options), flush_timer_(io) {
  for (NodeLink& link : links) {
    Peer& peer = peers_[link.rank];
    peer.pid = link.process.pid;
    peer.read_memory = options.allow_process_vm_readv && peer.pid > 0;
    peer.link = std::make_shared<Link>(io, link.rank, std::move(link.socket), std::move(link.process.descriptor),
                                       std::move(link.process.lock), static_cast<LinkUser&>(*this));
    peer.lender = std::make_shared<Lender>(listener, link.rank);
  }
}

ShmTransport::~ShmTransport() {
  for (auto& [rank, peer] : peers_) peer.link->close();
}

// Runs `action` in a turn of its own, unless this transport is gone by then.
template <typename F>
void ShmTransport::post(F action) {
  asio::post(io_, [alive = std::weak_ptr(alive_), action = std::move(action)]() mutable {
    if (const auto held = alive.lock()) action();
  });
}

ShmTransport::Peer* ShmTransport::living(Rank rank) {
  const auto found = peers_.find(rank);
  return found == peers_.end() || found->second.lost ? nullptr : &found->second;
}

Status ShmTransport::connect(std::span<const std::pair<Rank, Bytes>> peers) {
  for (const auto& [rank, address] : peers) {
    if (!peers_.contains(rank))
      return Status(CARDEA_ERR_INVALID_ARGUMENT, fmt::format("rank {} is not on this node", rank), {.peer = rank});
  }
  if (!std::exchange(started_, true)) {
    for (auto& [rank, peer] : peers_) peer.link->start();
  }
  return {};
}

void ShmTransport::send(Rank rank, Bytes message) {
  Peer* const peer = living(rank);
  if (peer == nullptr || closing_) return;
  if (message.size() > kMaxMessage) {
    return log::print(log::Level::kError, std::to_string(self_), "shm",
                      "message of {} bytes to rank {} dropped; at most {} are allowed", message.size(), rank, kMaxMessage);
  }
  peer->link->send(FrameType::kMessage, std::move(message));
}

Result<Bytes> ShmTransport::offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                                  std::span<const Rank> peers) {
  const bool mappable = memfd >= 0;
  const auto wrong = [&](std::string_view text) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} of {} bytes: {}", region, bytes, text);
  };
  if (bytes == 0 || base == nullptr) return wrong("it is empty");
  if (mappable) {
    if (Status status = check_shareable(memfd, bytes); !status.ok()) return wrong(status.message());
  }
  for (const Rank rank : peers) {
    if (!peers_.contains(rank)) return wrong(fmt::format("rank {} is not on this node", rank));
  }
  const auto [found, added] = offered_.try_emplace(region, Offered{base, bytes, mappable, {}});
  Offered& offered = found->second;
  if (offered.base != base || offered.bytes != bytes || offered.mappable != mappable)
    return wrong("it was offered before as another");
  for (const Rank rank : peers) {
    Peer* const peer = living(rank);
    if (offered.peers.contains(rank)) continue;
    if (peer != nullptr && mappable) {
      Result<UniqueFd> own = duplicate(memfd, rank);
      if (!own.ok()) return own.status();
      peer->link->send(FrameType::kRegion, encode(RegionFrame{region, bytes}), std::move(*own));
    }
    offered.peers.insert(rank);
  }
  return encode(RegionDescriptor{mappable, mappable ? 0 : reinterpret_cast<std::uintptr_t>(base)});
}

void ShmTransport::withdraw(std::uint32_t region) {
  for (auto passed = passed_.lower_bound({region, 0}); passed != passed_.end() && passed->first == region;) {
    if (Peer* const peer = living(passed->second)) peer->link->send(FrameType::kWithdraw, encode_withdraw(region));
    passed = passed_.erase(passed);
  }
  const auto found = offered_.find(region);
  if (found == offered_.end()) return;
  for (const Rank rank : found->second.peers) {
    Peer* const peer = living(rank);
    if (peer != nullptr && found->second.mappable) peer->link->send(FrameType::kWithdraw, encode_withdraw(region));
  }
  offered_.erase(found);
}

Status ShmTransport::pass_descriptor(std::uint32_t region, std::uint64_t bytes, int descriptor, Rank rank) {
  if (!peers_.contains(rank)) {
    return Status(CARDEA_ERR_INVALID_ARGUMENT, fmt::format("rank {} is not on this node", rank), {.peer = rank});
  }
  // A peer keeps what it has: it would take the same number twice for nonsense.
  if (passed_.contains({region, rank})) return {};
  if (Peer* const peer = living(rank)) {
    Result<UniqueFd> own = duplicate(descriptor, rank);
    if (!own.ok()) return own.status();
    peer->link->send(FrameType::kRegion, encode(RegionFrame{region, bytes}), std::move(*own));
  }
  passed_.emplace(region, rank);
  return {};
}

UniqueFd ShmTransport::take_descriptor(RegionKey region, std::uint64_t bytes) {
  return regions_.take(region, bytes);
}

Status ShmTransport::accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) {
  if (!peers_.contains(region.owner)) {
    return Status(CARDEA_ERR_INVALID_ARGUMENT, fmt::format("rank {} is not on this node", region.owner),
                  {.peer = region.owner});
  }
  return regions_.accept(region, bytes, descriptor);
}

Result<bool> ShmTransport::bring_in(RegionKey region, std::uint64_t bytes) {
  return regions_.bring_in(region, bytes);
}

void ShmTransport::forget(RegionKey region) {
  regions_.forget(region);
}

const std::byte* ShmTransport::mapped(RegionKey region) const {
  const RegionTable::Region* found = regions_.find(region);
  return found == nullptr ? nullptr : found->mapping.data();
}

void ShmTransport::start(ChunkOrder order) {
  auto pull = std::make_unique<Pull>(std::move(order));
  const Rank source = pull->order().source;
  if (closing_) return finish_soon(*pull, Status::error(CARDEA_ERR_CANCELED, "the transport is closing"));
  if (pull->order().onto_device())
    return finish_soon(*pull, Status(CARDEA_ERR_UNSUPPORTED, "the node's transport writes no device memory"));
  if (!peers_.contains(source)) {
    return finish_soon(*pull, Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} is not on this node", source));
  }
  Peer* const peer = living(source);
  if (peer == nullptr) return finish_soon(*pull, Status::error(CARDEA_ERR_PEER_LOST, "rank {} was lost", source));
  // Without places of its own to read from, the owner knows where the expert lies.
  if (pull->order().source_pieces.empty() && pull->payload() > 0) return ask(*peer, std::move(pull));
  if (Status status = pull->check(regions_); !status.ok()) return finish_soon(*pull, status);
  if (!peer->read_memory && pull->needs_process_memory(regions_)) return ask(*peer, std::move(pull));
  reading_.push_back(std::move(pull));
  schedule_turn();
}

void ShmTransport::schedule_turn() {
  if (turn_scheduled_ || reading_.empty()) return;
  turn_scheduled_ = true;
  post([this] {
    turn_scheduled_ = false;
    turn();
    schedule_turn();
  });
}

void ShmTransport::turn() {
  if (reading_.empty()) return;
  PullPtr pull = std::move(reading_.front());
  reading_.pop_front();
  const Rank source = pull->order().source;
  Peer& peer = peers_.at(source);
  Result<Pull::Step> step = pull->step(regions_, peer.pid, kBytesPerTurn);
  // A process number may pass to another process only after its owner has ended, which the pidfd tells.
  if (pull->needs_process_memory(regions_) && peer.link->process_ended()) {
    step = Status::error(CARDEA_ERR_PEER_LOST, "rank {}: its process has ended", source);
  }
  if (!step.ok()) {
    finish_soon(*pull, step.status());
    return tell_finished();
  }
  switch (*step) {
    case Pull::Step::kMore:
      reading_.push_back(std::move(pull));
      break;
    case Pull::Step::kDone:
      finish_soon(*pull, {});
      tell_finished();
      break;
    case Pull::Step::kRefused:
      refuse(source, peer, std::move(pull));
  }
}

void ShmTransport::refuse(Rank source, Peer& peer, PullPtr pull) {
  if (std::exchange(peer.read_memory, false)) {
    log::print(log::Level::kWarn, std::to_string(self_), "shm",
               "the system forbids reading the memory of rank {} (process_vm_readv): its experts are copied by its engine, "
               "which is "
               "slower",
               source);
  }
  pull->restart();
  ask(peer, std::move(pull));
}

void ShmTransport::ask(Peer& peer, PullPtr pull) {
  if (peer.asked.size() >= Lender::kMaxOpen) {
    peer.to_ask.push_back(std::move(pull));
    return;
  }
  const ChunkOrder& order = pull->order();
  const AskFrame frame{++last_request_, order.expert, order.offset, order.bytes};
  peer.asked.emplace(frame.request, std::move(pull));
  peer.link->send(FrameType::kAsk, encode(frame));
}

Status ShmTransport::on_frame(Rank from, FrameType type, ByteView body, UniqueFd descriptor) {
  Peer* const peer = living(from);
  if (peer == nullptr || closing_) return {};
  switch (type) {
    case FrameType::kMessage:
      listener_.on_message(from, body);
      return {};
    case FrameType::kRegion: {
      Result<RegionFrame> frame = decode_region(body);
      return frame.ok() ? regions_.arrived({from, frame->region}, frame->bytes, std::move(descriptor)) : frame.status();
    }
    case FrameType::kWithdraw: {
      Result<std::uint32_t> region = decode_withdraw(body);
      if (region.ok()) regions_.withdrawn({from, *region});
      return region.status();
    }
    case FrameType::kAsk:
      return on_ask(from, *peer, body);
    case FrameType::kData:
      return on_data(*peer, body);
    case FrameType::kEnd:
      return on_end(*peer, body);
  }
  return Status::error(CARDEA_ERR_PROTOCOL, "frame of unknown type");
}

Status ShmTransport::on_ask(Rank from, Peer& peer, ByteView body) {
  Result<AskFrame> frame = decode_ask(body);
  if (!frame.ok()) return frame.status();
  const std::shared_ptr<Lender> lender = peer.lender;  // the listener may disconnect the peer meanwhile
  Result<std::optional<EndFrame>> end = lender->ask(*frame);
  if (!end.ok()) return end.status();
  if (living(from) == nullptr || closing_) {
    lender->stop();
  } else if (*end) {
    peer.link->send(FrameType::kEnd, encode(**end));
  } else {
    peer.link->wake();
  }
  return {};
}

void ShmTransport::lend_again() {
  for (auto& [rank, peer] : peers_) {
    if (peer.lost || closing_) continue;
    for (const EndFrame& end : peer.lender->ask_again()) peer.link->send(FrameType::kEnd, encode(end));
    peer.link->wake();
  }
}

Status ShmTransport::on_data(Peer& peer, ByteView body) {
  WireReader in(body.first(kDataPrefix));
  const auto asked = peer.asked.find(in.number<std::uint64_t>());
  if (asked == peer.asked.end()) return Status::error(CARDEA_ERR_PROTOCOL, "data for a request that was not made");
  return asked->second->append(body.subspan(kDataPrefix));
}

Status ShmTransport::on_end(Peer& peer, ByteView body) {
  Result<EndFrame> frame = decode_end(body);
  if (!frame.ok()) return frame.status();
  const auto asked = peer.asked.find(frame->request);
  if (asked == peer.asked.end()) return Status::error(CARDEA_ERR_PROTOCOL, "the end of a request that was not made");
  if (frame->status.ok()) {
    if (Status status = asked->second->finish_asked(); !status.ok()) return status;
  }
  const PullPtr pull = std::move(asked->second);
  peer.asked.erase(asked);
  if (!peer.to_ask.empty()) {
    PullPtr next = std::move(peer.to_ask.front());
    peer.to_ask.pop_front();
    ask(peer, std::move(next));
  }
  finish_soon(*pull, frame->status);
  tell_finished();
  return {};
}

std::optional<BulkFrame> ShmTransport::next_bulk(Rank to) {
  Peer* const peer = living(to);
  return peer == nullptr || closing_ ? std::nullopt : peer->lender->next();
}

void ShmTransport::bulk_sent(Rank to) {
  Peer* const peer = living(to);
  if (peer == nullptr) return;
  const std::shared_ptr<Lender> lender = peer->lender;
  const std::shared_ptr<Link> link = peer->link;
  if (const std::optional<EndFrame> end = lender->sent()) link->send(FrameType::kEnd, encode(*end));
}

// Everything not yet done with this source: being read, asked, or waiting to be asked.
std::vector<ShmTransport::PullPtr> ShmTransport::take_pulls(Rank source) {
  std::vector<PullPtr> taken;
  for (PullPtr& pull : reading_) {
    if (pull->order().source == source) taken.push_back(std::move(pull));
  }
  std::erase(reading_, nullptr);
  Peer& peer = peers_.at(source);
  for (auto& [request, pull] : std::exchange(peer.asked, {})) taken.push_back(std::move(pull));
  for (PullPtr& pull : std::exchange(peer.to_ask, {})) taken.push_back(std::move(pull));
  return taken;
}

void ShmTransport::on_broken(Rank from, const Status& why) {
  Peer& peer = peers_.at(from);
  if (std::exchange(peer.lost, true)) return;
  if (closing_) return on_drained(from);
  for (const PullPtr& pull : take_pulls(from)) {
    finish_soon(*pull, Status::error(CARDEA_ERR_PEER_LOST, "{}", why.message()));
  }
  peer.lender->stop();
  tell_finished();
  listener_.on_peer_lost(from, why);
}

void ShmTransport::disconnect(Rank rank) {
  Peer* const peer = living(rank);
  if (peer == nullptr) return;
  peer->lost = true;
  peer->link->close_when_drained();  // what it was told last may tell it why
  for (const PullPtr& pull : take_pulls(rank))
    finish_soon(*pull, Status::error(CARDEA_ERR_PEER_LOST, "rank {} was disconnected", rank));
  post([lender = peer->lender] { lender->stop(); });
}

void ShmTransport::finish_soon(const Pull& pull, const Status& status) {
  const ChunkOrder& order = pull.order();
  Status full = status;
  if (!status.ok()) {
    full = status.with_detail({.peer = order.source,
                               .layer = order.expert.layer.layer,
                               .expert = order.expert.expert,
                               .path = CARDEA_PATH_NODE_COPY,
                               .bytes = order.bytes});
  }
  finished_.push_back({order.source, order.token, full});
  if (finished_.size() == 1) post([this] { tell_finished(); });
}

void ShmTransport::tell_finished() {
  while (!finished_.empty()) {
    const Finished next = std::move(finished_.front());
    finished_.pop_front();
    listener_.on_chunk_done(next.token, next.status);
  }
}

void ShmTransport::close(std::function<void()> done) {
  if (closed_) return post(std::move(done));
  on_closed_.push_back(std::move(done));
  if (std::exchange(closing_, true)) return;
  for (auto& [rank, peer] : peers_) {
    for (const PullPtr& pull : take_pulls(rank))
      finish_soon(*pull, Status::error(CARDEA_ERR_CANCELED, "the transport was closed"));
  }
  flush_timer_.expires_after(kFlushTime);
  flush_timer_.async_wait([alive = std::weak_ptr(alive_), this](const boost::system::error_code& error) {
    if (const auto held = alive.lock(); held && !error) finish_close();
  });
  post([this] { on_drained(kNoRank); });
}

void ShmTransport::on_drained(Rank) {
  if (!closing_ || closed_) return;
  const bool all = std::all_of(peers_.begin(), peers_.end(),
                               [](const auto& entry) { return entry.second.lost || entry.second.link->drained(); });
  // In a turn of its own: this may be called in the middle of a link's work.
  if (all) post([this] { finish_close(); });
}

void ShmTransport::finish_close() {
  if (std::exchange(closed_, true)) return;
  flush_timer_.cancel();
  for (auto& [rank, peer] : peers_) {
    peer.link->close();
    peer.lender->stop();
  }
  tell_finished();
  regions_.clear();
  offered_.clear();
  for (const auto& done : std::exchange(on_closed_, {})) done();
}

}  // namespace cardea::shm
