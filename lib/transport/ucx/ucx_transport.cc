// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/ucx_transport.h"

#include <algorithm>

#include "lib/base/crypto.h"
#include "lib/base/log.h"

namespace cardea::transport::ucx {
namespace {

// UCX parses addresses and rkeys without being told their length: what it reads beyond the end must at least be ours.
constexpr std::size_t kParsePadding = 32 << 10;
constexpr int kEventsPerTurn = 64;
constexpr int kLastProgress = 100000;  // calls, a few milliseconds: closing by force needs no answer from the peer

}  // namespace

Result<std::unique_ptr<Transport>> UcxTransport::make(boost::asio::io_context& io, Listener& listener,
                                                      const UcxOptions& options) {
  if (options.self == kNoRank) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "ucx transport without a rank");
  Nonce nonce{};
  crypto::random(nonce);
  auto worker = Worker::make(io, options, caller_id(options.secret, options.job_id, {options.self, nonce}));
  if (!worker.ok()) return worker.status();
  auto transport = std::make_unique<UcxTransport>(io, listener, options, nonce, std::move(*worker));
  if (auto status = transport->listen(); !status.ok()) return status;
  return std::unique_ptr<Transport>(std::move(transport));
}

UcxTransport::UcxTransport(boost::asio::io_context& io, Listener& listener, UcxOptions options, const Nonce& nonce,
                           std::shared_ptr<Worker> worker)
    : io_(io),
      listener_(listener),
      options_(std::move(options)),
      who_(std::to_string(options_.self)),
      worker_(std::move(worker)),
      timer_(io),
      nonce_(nonce) {}

// Without close(): nobody is told anything, and what UCX had under way ends with the worker.
UcxTransport::~UcxTransport() {
  *alive_ = false;
  destroy();
}

Status UcxTransport::listen() {
  auto worker_address = worker_->address();
  if (!worker_address.ok()) return worker_address.status();
  if (worker_address->size() > kMaxWorkerAddress) {
    return Status::error(CARDEA_ERR_TRANSPORT, "UCX worker address of {} bytes", worker_address->size());
  }
  address_ = encode_address({options_.self, nonce_, std::move(*worker_address)});
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = 0;
  handler.arg = this;
  handler.cb = [](void* self, const void* header, std::size_t header_length, void* data, std::size_t length,
                  const ucp_am_recv_param_t* param) {
    const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    return static_cast<UcxTransport*>(self)->receive({static_cast<const std::byte*>(header), header_length}, data, length,
                                                     rendezvous);
  };
  if (const auto status = ucp_worker_set_am_recv_handler(worker_->handle(), &handler); status != UCS_OK) {
    return ucx_error(status, "ucp_worker_set_am_recv_handler");
  }
  ask_of_device_memory();
  worker_->on_turn([this] { return turn(); });
  worker_->kick();
  return {};
}

bool UcxTransport::turn() {
  bool acted = false;
  const std::shared_ptr<bool> alive = alive_;
  for (int i = 0; i < kEventsPerTurn && !events_.empty(); ++i) {
    const auto event = std::move(events_.front());
    events_.pop_front();
    event();
    if (!*alive) return false;
    acted = true;
  }
  if (phase_ != Phase::kOpen) advance_close();
  return *alive && (acted || !events_.empty());
}

void UcxTransport::queue(std::function<void()> event) {
  events_.push_back(std::move(event));
  worker_->kick();
}

Peer* UcxTransport::find(Rank rank) {
  const auto it = peers_.find(rank);
  return it == peers_.end() ? nullptr : &it->second;
}

Status UcxTransport::connect(std::span<const std::pair<Rank, Bytes>> peers) {
  if (phase_ != Phase::kOpen) return Status::error(CARDEA_ERR_CANCELED, "ucx transport is closed");
  for (const auto& [rank, bytes] : peers) {
    if (rank == options_.self) continue;
    auto address = decode_address(bytes, rank);
    if (!address.ok()) return address.status().with_peer(rank);
    if (peers_.contains(rank)) {
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} is connected already", rank).with_peer(rank);
    }
    Peer& peer = peers_[rank];
    peer.owner = this;
    peer.rank = rank;
    peer.worker_address = std::move(address->worker);
    peer.worker_address.resize(peer.worker_address.size() + kParsePadding);
    const Member here{options_.self, nonce_};
    const Member there{rank, address->nonce};
    peer.pass_out = make_pass(options_.secret, options_.job_id, here, there);
    peer.pass_in = make_pass(options_.secret, options_.job_id, there, here);
    peer.caller = caller_id(options_.secret, options_.job_id, there);
    peer.inbound_stream.peer = peer.outbound_stream.peer = &peer;
  }
  return {};
}

ucp_ep_h UcxTransport::endpoint(Peer& peer) {
  if (peer.endpoint != nullptr || peer.state != Peer::State::kOpen) return peer.endpoint;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(peer.worker_address.data());
  params.err_mode = options_.peer_errors ? UCP_ERR_HANDLING_MODE_PEER : UCP_ERR_HANDLING_MODE_NONE;
  if (options_.peer_errors) {
    params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.err_handler.arg = &peer;
    params.err_handler.cb = [](void* arg, ucp_ep_h, ucs_status_t status) {
      auto& failed = *static_cast<Peer*>(arg);
      failed.owner->condemn(failed, Status::error(CARDEA_ERR_PEER_LOST, "UCX: {}", ucs_status_string(status)));
    };
  }
  ucp_ep_h made = nullptr;
  if (const auto status = ucp_ep_create(worker_->handle(), &params, &made); status != UCS_OK) {
    lose(peer, ucx_error(status, "ucp_ep_create"), true);
    return nullptr;
  }
  peer.endpoint = made;
  return made;
}

void UcxTransport::lose(Peer& peer, Status why, bool tell_listener) {
  if (peer.state != Peer::State::kOpen) return;
  peer.state = Peer::State::kLosing;
  peer.condemned = true;
  peer.tell_listener = tell_listener && phase_ == Phase::kOpen;
  peer.why = std::move(why).with_peer(peer.rank);
  peer.inbound = {};
  peer.unanswered.clear();
  peer.not_yet.clear();
  std::vector<Pull*> asked;
  for (const auto& [token, pull] : pulls_) {
    if (pull->peer != &peer) continue;
    const Status lost(CARDEA_ERR_PEER_LOST, peer.why.message());
    if (pull->state == Pull::State::kAsked) {
      asked.push_back(pull.get());
    } else if (pull->failure.ok()) {
      pull->failure = lost;
    }
  }
  peer.outbound_stream.grace.reset();
  close_endpoints(peer);
  for (Pull* pull : asked) finish(*pull, Status(CARDEA_ERR_PEER_LOST, peer.why.message()));
  settle(peer);
}

void UcxTransport::settle(Peer& peer) {
  if (peer.state != Peer::State::kLosing || peer.chunks != 0 || peer.closing()) return;
  peer.state = Peer::State::kLost;
  release_rkeys(peer);
  if (peer.tell_listener) {
    queue([this, &peer] {
      if (!peer.disconnected && phase_ != Phase::kClosed) listener_.on_peer_lost(peer.rank, peer.why);
    });
  }
}

void UcxTransport::close_endpoints(Peer& peer) {
  close_stream(peer.inbound_stream);
  close_stream(peer.outbound_stream);
  close_endpoint(peer);
}

void UcxTransport::close_endpoint(Peer& peer) {
  if (peer.endpoint == nullptr) return;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.flags = options_.peer_errors ? UCP_EP_CLOSE_FLAG_FORCE : 0;  // force is defined in that mode only
  param.cb.send = [](void* request, ucs_status_t, void* arg) {
    auto& closed = *static_cast<Peer*>(arg);
    closed.endpoint_closing = false;
    ucp_request_free(request);
    closed.owner->end_sends(closed, false);
    closed.owner->settle(closed);
    closed.owner->worker_->kick();
  };
  param.user_data = &peer;
  const ucp_ep_h endpoint = std::exchange(peer.endpoint, nullptr);
  peer.endpoint_closing = true;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &param);
  if (UCS_PTR_IS_ERR(request)) {
    log::print(log::Level::kWarn, who_, "ucx", "closing the endpoint to rank {}: {}", peer.rank,
               ucs_status_string(UCS_PTR_STATUS(request)));
  }
  if (!UCS_PTR_IS_PTR(request)) {
    peer.endpoint_closing = false;
    end_sends(peer, false);
  }
  worker_->kick();
}

void UcxTransport::disconnect(Rank rank) {
  Peer* peer = find(rank);
  if (peer == nullptr) return;
  peer->disconnected = true;
  lose(*peer, Status::error(CARDEA_ERR_PEER_LOST, "rank {} was declared lost", rank), false);
}

void UcxTransport::close(std::function<void()> done) {
  if (phase_ == Phase::kClosed) {
    boost::asio::post(io_, std::move(done));
    return;
  }
  when_closed_.push_back(std::move(done));
  if (phase_ != Phase::kOpen) return;
  phase_ = Phase::kFlushing;
  std::vector<Pull*> asked;
  for (const auto& [token, pull] : pulls_) {
    if (pull->state == Pull::State::kAsked) {
      asked.push_back(pull.get());
    } else if (pull->failure.ok()) {
      pull->failure = Status(CARDEA_ERR_CANCELED, "the transport was closed");
    }
  }
  for (Pull* pull : asked) finish(*pull, Status(CARDEA_ERR_CANCELED, "the transport was closed"));
  for (auto& [rank, peer] : peers_) {
    if (peer.endpoint == nullptr) continue;
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    param.cb.send = [](void* request, ucs_status_t, void* arg) {
      static_cast<Peer*>(arg)->flushing = false;
      ucp_request_free(request);
      static_cast<Peer*>(arg)->owner->worker_->kick();
    };
    param.user_data = &peer;
    peer.flushing = UCS_PTR_IS_PTR(ucp_ep_flush_nbx(peer.endpoint, &param));
  }
  arm_timer(options_.flush_timeout);
  worker_->kick();
}

void UcxTransport::arm_timer(Nanoseconds after) {
  overdue_ = false;
  timer_.expires_after(after);
  timer_.async_wait([this, alive = alive_](const boost::system::error_code& error) {
    if (!*alive || error) return;
    overdue_ = true;
    worker_->kick();
  });
}

void UcxTransport::advance_close() {
  if (phase_ == Phase::kFlushing) {
    const bool flushing = std::any_of(peers_.begin(), peers_.end(), [](const auto& entry) { return entry.second.flushing; });
    if (!overdue_ && (flushing || sending() || !pulls_.empty())) return;
    begin_draining();
  }
  if (phase_ != Phase::kDraining) return;
  const bool closing = std::any_of(peers_.begin(), peers_.end(), [](const auto& entry) { return entry.second.closing(); });
  if (!overdue_ && (closing || sending() || !pulls_.empty())) return;
  timer_.cancel();
  destroy();
  while (!pulls_.empty()) finish(*pulls_.begin()->second, Status(CARDEA_ERR_CANCELED, "the transport was closed"));
  for (Send& send : sends_) {
    if (send.lease) events_.push_back([this, lease = *send.lease] { listener_.give_back(lease, 0); });
  }
  sends_.clear();
  // What is queued now is chunks' completions and leases; deliver them, then say that it is over.
  const std::shared_ptr<bool> alive = alive_;
  while (*alive && !events_.empty()) {
    const auto event = std::move(events_.front());
    events_.pop_front();
    event();
  }
  if (!*alive) return;
  phase_ = Phase::kClosed;
  for (const auto& done : std::exchange(when_closed_, {})) done();
}

void UcxTransport::begin_draining() {
  phase_ = Phase::kDraining;
  for (auto& [rank, peer] : peers_) close_endpoints(peer);
  arm_timer(options_.drain_timeout);
}

// Endpoints, then rkeys, memory, worker and context: each is freed through the next. UCX aborts when a worker is destroyed
// while an endpoint of it has a rendezvous under way, so endpoints go first, by force, even from the destructor.
void UcxTransport::destroy() {
  if (worker_->handle() == nullptr) return;
  const auto closing = [](const auto& entry) { return entry.second.closing(); };
  answers_callers_ = false;
  for (const auto& [listener, caller] : std::exchange(callers_, {})) ucp_listener_reject(listener, caller);
  for (auto& [rank, peer] : peers_) close_endpoints(peer);
  for (int i = 0; i < kLastProgress && std::any_of(peers_.begin(), peers_.end(), closing); ++i) {
    ucp_worker_progress(worker_->handle());
  }
  for (auto& [rank, peer] : peers_) release_rkeys(peer);
  while (!offered_.empty()) withdraw(offered_.begin()->first);
  forget_all_device_memory();
  worker_->stop();
}

}  // namespace cardea::transport::ucx

namespace cardea::transport {

Result<std::unique_ptr<Transport>> make_ucx_transport(boost::asio::io_context& io, Listener& listener,
                                                      const UcxOptions& options) {
  return ucx::UcxTransport::make(io, listener, options);
}

std::string ucx_version() {
  return ucp_get_version_string();
}

}  // namespace cardea::transport
