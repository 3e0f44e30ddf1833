// SPDX-License-Identifier: Apache-2.0
// Sending active messages, and answering peers that ask for chunks.
#include <algorithm>
#include <numeric>

#include "lib/base/log.h"
#include "lib/transport/ucx/ucx_transport.h"

namespace cardea::transport::ucx {
void UcxTransport::send(Rank rank, Bytes message) {
  Peer* peer = find(rank);
  if (peer == nullptr || peer->state != Peer::State::kOpen || phase_ != Phase::kOpen) return;
  if (message.size() > kMaxMessage) {
    return log::print(log::Level::kError, std::to_string(options_.self), "ucx",
                      "message of {} bytes to rank {} dropped; at most {} are allowed", message.size(), rank, kMaxMessage);
  }
  Send out;
  out.header = encode_header(options_.self, peer->pass_out, MessageHeader{peer->next_sequence++});
  out.payload = std::move(message);
  out.bytes = out.payload.size();
  if (out.bytes > 0) out.iov.push_back({out.payload.data(), out.payload.size()});
  post(*peer, std::move(out), false);
}

void UcxTransport::tell_rail_out(Rank rank, std::uint32_t rail) {
  Peer* peer = find(rank);
  if (peer == nullptr || peer->state != Peer::State::kOpen || phase_ != Phase::kOpen) return;
  Send out;
  out.header = encode_header(options_.self, peer->pass_out, RailOut{static_cast<std::uint8_t>(rail)});
  post(*peer, std::move(out), false);
}

void UcxTransport::post(Peer& peer, Send out, bool rendezvous) {
  // By a stream only what UCX puts straight into place there. What is sent eagerly gains nothing by it.
  out.by_stream = rendezvous && peer.outbound_stream.state == Stream::State::kOpen;
  const ucp_ep_h ep = out.by_stream ? peer.outbound_stream.endpoint : endpoint(peer);
  if (ep == nullptr) {
    if (out.lease) queue([this, lease = *out.lease] { listener_.give_back(lease, 0); });
    return;
  }
  sends_.push_front(std::move(out));
  Send& send = sends_.front();
  send.owner = this;
  send.peer = &peer;
  send.self = sends_.begin();

  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                       UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.flags = rendezvous ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  param.cb.send = [](void* request, ucs_status_t status, void* arg) {
    auto& done = *static_cast<Send*>(arg);
    ucp_request_free(request);
    done.owner->sent(done, status);
  };
  param.user_data = &send;
  const bool scattered = send.iov.size() > 1;
  param.datatype = scattered ? static_cast<ucp_datatype_t>(UCP_DATATYPE_IOV) : ucp_dt_make_contig(1);
  const void* buffer = scattered          ? static_cast<const void*>(send.iov.data())
                       : send.iov.empty() ? nullptr
                                          : send.iov[0].buffer;
  const std::size_t count = scattered ? send.iov.size() : send.iov.empty() ? 0 : send.iov[0].length;
  const ucs_status_ptr_t request = ucp_am_send_nbx(ep, 0, send.header.data(), send.header.size(), buffer, count, &param);
  worker_->kick();
  if (!UCS_PTR_IS_PTR(request)) sent(send, UCS_PTR_STATUS(request));
}

void UcxTransport::sent(Send& send, ucs_status_t status) {
  Peer& peer = *send.peer;
  if (send.lease) {
    if (peer.serving > 0) --peer.serving;
    --peer.streaming;
    peer.pace.sent(Clock::now() - send.posted, send.place);
    const std::uint64_t bytes = status == UCS_OK ? send.bytes : 0;
    queue([this, &peer, lease = *send.lease, bytes] {
      listener_.give_back(lease, bytes);
      answer_next(peer);
    });
  }
  const bool by_stream = send.by_stream;
  sends_.erase(send.self);
  streamed_ += by_stream && status == UCS_OK;
  if (status == UCS_OK) return;
  if (by_stream) return chunk_lost_with_stream(peer, status);
  condemn(peer, ucx_error(status, "ucp_am_send_nbx"));
}

void UcxTransport::answer_next(Peer& peer) {
  while (peer.streaming < peer.pace.most_streaming(peer.outbound_stream.state == Stream::State::kOpen) &&
         !peer.unanswered.empty()) {
    const ChunkRequest request = peer.unanswered.front();
    peer.unanswered.pop_front();
    answer(peer, request);
  }
}

void UcxTransport::answer(Peer& peer, const ChunkRequest& request) {
  if (peer.state != Peer::State::kOpen || phase_ != Phase::kOpen) {
    --peer.serving;
    return;
  }
  auto lease = listener_.lend(peer.rank, request.expert, request.offset, request.bytes);
  if (lease.status().code() == CARDEA_IN_PROGRESS) {
    peer.not_yet.push_back(request);
    return;
  }
  if (!lease.ok()) return refuse(peer, request, lease.status());
  Send out;
  for (const iovec& piece : lease->pieces) {
    if (piece.iov_len > 0) out.iov.push_back({piece.iov_base, piece.iov_len});
    out.bytes += piece.iov_len;
  }
  if (out.bytes != request.payload) {
    queue([this, id = lease->id] { listener_.give_back(id, 0); });
    return refuse(peer, request,
                  Status::error(CARDEA_ERR_INVALID_ARGUMENT, "the range has {} bytes of payload, asked for with {}",
                                out.bytes, request.payload));
  }
  out.lease = lease->id;
  out.place = ++peer.streaming;
  out.posted = Clock::now();
  out.header = encode_header(options_.self, peer.pass_out, ChunkData{request.token});
  const bool by_stream = peer.outbound_stream.state == Stream::State::kOpen;
  const bool rendezvous = options_.stream == StreamProtocol::kRendezvous ||
                          (options_.stream == StreamProtocol::kByPace && peer.pace.rendezvous(by_stream));
  post(peer, std::move(out), rendezvous && request.payload > 0);
}

void UcxTransport::lend_again() {
  for (auto& [rank, peer] : peers_) {
    // They came before those that wait for their turn.
    peer.unanswered.insert(peer.unanswered.begin(), peer.not_yet.begin(), peer.not_yet.end());
    peer.not_yet.clear();
    answer_next(peer);
  }
}

void UcxTransport::refuse(Peer& peer, const ChunkRequest& request, const Status& why) {
  --peer.serving;
  Send out;
  out.header = encode_header(options_.self, peer.pass_out, ChunkError{request.token, why.code(), why.message()});
  post(peer, std::move(out), false);
}

}  // namespace cardea::transport::ucx
