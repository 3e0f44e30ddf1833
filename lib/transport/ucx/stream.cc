// SPDX-License-Identifier: Apache-2.0
// Streams: connections of their own, one way each, for the payload of chunks between ranks that reach each other over TCP.
//
// UCX puts a rendezvous over TCP straight into the destination only on a connection whose two ends know each other, which
// is closed at both when one fails, so that nothing is written any more. One made from a worker's address is not of that
// kind: there it receives into a buffer and copies from it, which costs a quarter of the rate. One made by listener and
// socket address is. So who asks for its first large chunk listens, tells the source where, and the source connects. Until
// it has, and wherever that fails, chunks travel on the messages' connection: a stream is never waited for, and its end
// alone loses no peer. Nor is it the messages' business: heartbeats do not wait behind the chunks of a stream.
//
// Callers of a listener are told by UCX's client id (wire.h, caller_id), before UCX looks at what else they say; each chunk
// carries its pass, as everywhere. A caller that is not awaited is turned away.
#include <netinet/in.h>

#include <algorithm>

#include "lib/base/log.h"
#include "lib/transport/ucx/lanes.h"
#include "lib/transport/ucx/stream_address.h"
#include "lib/transport/ucx/ucx_transport.h"

namespace cardea::transport::ucx {
namespace {

// A stream often ends because its peer does, of which the messages' connection then tells in its own way. If it tells
// nothing for so long, a stream that could not be made is reported, and a chunk lost with one counts as the peer's loss.
constexpr auto kGrace = std::chrono::seconds(1);

}  // namespace

// Also a peer that then never connects costs nothing: the listener is there for all.
void UcxTransport::offer_stream(Peer& peer) {
  if (peer.inbound_stream.state != Stream::State::kNone || peer.endpoint == nullptr) return;
  peer.inbound_stream.state = Stream::State::kOver;
  if (!options_.stream_connections || !options_.peer_errors || cannot_listen_) return;
  const std::string device = tcp_device(peer.endpoint);
  if (device.empty()) return;
  auto offer = listen_on(device);
  if (!offer.ok()) {
    cannot_listen_ = true;
    return log::print(log::Level::kWarn, who_, "ucx", "chunks come with the messages, which is slower: {}",
                      offer.status().message());
  }
  peer.inbound_stream.state = Stream::State::kAwaited;
  Send out;
  out.header = encode_header(options_.self, peer.pass_out, *offer);
  post(peer, std::move(out), false);
}

Result<StreamOffer> UcxTransport::listen_on(const std::string& device) {
  if (const auto it = listeners_.find(device); it != listeners_.end()) return it->second.offer;
  auto at = address_of_device(device);
  if (!at.ok()) return at.status();
  StreamListener& entry = listeners_[device];
  entry.owner = this;
  const auto called = [](ucp_conn_request_h caller, void* arg) {
    const auto& listener = *static_cast<StreamListener*>(arg);
    listener.owner->called(listener, caller);
  };
  auto made = worker_->listen(*at, called, &entry);
  ucp_listener_attr_t attr{};
  attr.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  if (made.ok() && ucp_listener_query(*made, &attr) != UCS_OK) made = Status(CARDEA_ERR_TRANSPORT, "ucp_listener_query");
  if (!made.ok()) {
    listeners_.erase(device);
    return made.status();
  }
  entry.listener = *made;
  entry.offer = to_offer(attr.sockaddr);
  return entry.offer;
}

// In UCX's callback.
void UcxTransport::called(const StreamListener& listener, ucp_conn_request_h caller) {
  if (!answers_callers_) {
    ucp_listener_reject(listener.listener, caller);
    return;
  }
  callers_.emplace_back(listener.listener, caller);
  queue([this] {
    if (callers_.empty()) return;
    const auto [at, who] = callers_.front();
    callers_.pop_front();
    admit(at, who);
  });
}

void UcxTransport::admit(ucp_listener_h listener, ucp_conn_request_h caller) {
  ucp_conn_request_attr_t attr{};
  attr.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ID;
  const bool known = ucp_conn_request_query(caller, &attr) == UCS_OK;
  const auto is_caller = [&](const auto& entry) { return entry.second.caller == attr.client_id; };
  const auto found = known ? std::find_if(peers_.begin(), peers_.end(), is_caller) : peers_.end();
  if (found == peers_.end()) {
    ucp_listener_reject(listener, caller);
    return stranger("a call for its chunks");
  }
  if (found->second.inbound_stream.state != Stream::State::kAwaited || phase_ != Phase::kOpen) {
    ucp_listener_reject(listener, caller);
    return;
  }
  Stream& stream = found->second.inbound_stream;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = caller;
  if (const Status status = open_stream(stream, params); !status.ok()) {
    stream.state = Stream::State::kOver;
    return log::print(log::Level::kWarn, who_, "ucx", "chunks of rank {} come with the messages, which is slower: {}",
                      stream.peer->rank, status.message());
  }
  stream.state = Stream::State::kOpen;
}

Status UcxTransport::take(Peer& peer, const StreamOffer& offer, ByteView payload) {
  if (!payload.empty()) return Status::error(CARDEA_ERR_PROTOCOL, "stream offer with {} bytes of payload", payload.size());
  if (peer.outbound_stream.state != Stream::State::kNone) return Status(CARDEA_ERR_PROTOCOL, "second stream offer");
  if (!options_.stream_connections || !options_.peer_errors) {
    peer.outbound_stream.state = Stream::State::kOver;
    return {};
  }
  peer.outbound_stream.state = Stream::State::kConnecting;
  queue([this, &peer, offer] { connect_stream(peer.outbound_stream, offer); });
  return {};
}

void UcxTransport::connect_stream(Stream& stream, const StreamOffer& offer) {
  if (stream.peer->state != Peer::State::kOpen || phase_ != Phase::kOpen) return;
  const sockaddr_storage address = to_sockaddr(offer);
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER | UCP_EP_PARAMS_FLAGS_SEND_CLIENT_ID;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address);
  params.sockaddr.addrlen = offer.family == 6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  stream.where = to_string(offer);
  // From this rail's own device, where the kernel would not choose it by the way to the peer.
  const Result<sockaddr_storage> from = address_of_device(options_.device);
  if (!options_.device.empty() && from.ok() && from->ss_family == address.ss_family) {
    params.field_mask |= UCP_EP_PARAM_FIELD_LOCAL_SOCK_ADDR;
    params.local_sockaddr = {reinterpret_cast<const sockaddr*>(&*from), params.sockaddr.addrlen};
  }
  if (const Status status = open_stream(stream, params); !status.ok()) return no_stream(stream, status.message());
  // Nothing is flushed before the other end has let us in.
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = [](void* request, ucs_status_t status, void* arg) {
    auto& connected = *static_cast<Stream*>(arg);
    ucp_request_free(request);
    connected.peer->owner->connected(connected, status);
  };
  param.user_data = &stream;
  const ucs_status_ptr_t request = ucp_ep_flush_nbx(stream.endpoint, &param);
  worker_->kick();
  if (!UCS_PTR_IS_PTR(request)) connected(stream, UCS_PTR_STATUS(request));
}

void UcxTransport::connected(Stream& stream, ucs_status_t status) {
  if (stream.state != Stream::State::kConnecting) return;
  if (status != UCS_OK) return stream_failed(stream, status);
  stream.state = Stream::State::kOpen;
}

Status UcxTransport::open_stream(Stream& stream, ucp_ep_params_t& params) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.arg = &stream;
  params.err_handler.cb = [](void* arg, ucp_ep_h, ucs_status_t status) {
    auto& failed = *static_cast<Stream*>(arg);
    failed.peer->owner->stream_failed(failed, status);
  };
  if (const auto status = ucp_ep_create(worker_->handle(), &params, &stream.endpoint); status != UCS_OK) {
    stream.endpoint = nullptr;
    return ucx_error(status, "ucp_ep_create");
  }
  worker_->kick();
  return {};
}

// In UCX's callback, or about to call it.
void UcxTransport::stream_failed(Stream& stream, ucs_status_t status) {
  if (stream.state == Stream::State::kOver) return;
  if (stream.state == Stream::State::kConnecting) return no_stream(stream, ucs_status_string(status));
  stream.state = Stream::State::kOver;
  queue([this, &stream] { close_stream(stream); });
}

void UcxTransport::no_stream(Stream& stream, std::string_view why) {
  stream.state = Stream::State::kOver;
  queue([this, &stream] { close_stream(stream); });
  after_grace(stream, [this, &stream, why = std::string(why)] {
    log::print(log::Level::kWarn, who_, "ucx",
               "chunks for rank {} go with the messages, which is slower: no connection to {}: {}", stream.peer->rank,
               stream.where, why);
  });
}

void UcxTransport::chunk_lost_with_stream(Peer& peer, ucs_status_t status) {
  stream_failed(peer.outbound_stream, status);
  after_grace(peer.outbound_stream, [this, &peer, status] {
    condemn(peer, Status::error(CARDEA_ERR_PEER_LOST, "UCX: {}, on the chunks' connection", ucs_status_string(status)));
  });
}

void UcxTransport::after_grace(Stream& stream, std::function<void()> then) {
  if (stream.peer->condemned || stream.grace || phase_ != Phase::kOpen) return;
  stream.grace.emplace(io_, kGrace);
  stream.grace->async_wait([this, then = std::move(then), alive = alive_](const boost::system::error_code& error) {
    if (*alive && !error && phase_ == Phase::kOpen) then();
  });
}

void UcxTransport::close_stream(Stream& stream) {
  stream.state = Stream::State::kOver;
  if (stream.endpoint == nullptr) return;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = [](void* request, ucs_status_t, void* arg) {
    auto& closed = *static_cast<Stream*>(arg);
    closed.closing = false;
    ucp_request_free(request);
    closed.peer->owner->settle(*closed.peer);
    closed.peer->owner->worker_->kick();
  };
  param.user_data = &stream;
  stream.closing = true;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(std::exchange(stream.endpoint, nullptr), &param);
  if (!UCS_PTR_IS_PTR(request)) stream.closing = false;
  worker_->kick();
}

}  // namespace cardea::transport::ucx
