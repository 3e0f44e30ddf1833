// SPDX-License-Identifier: Apache-2.0
// Receiving active messages: who sent it, whether it makes sense, and what it changes. Runs inside UCX's progress.
#include <cstring>

#include "lib/base/crypto.h"
#include "lib/base/log.h"
#include "lib/transport/ucx/ucx_transport.h"

namespace cardea::transport::ucx {
namespace {

constexpr std::size_t kMaxServing = 1024;  // chunks that one peer may have asked for and not yet received
constexpr auto kWarningInterval = std::chrono::seconds(10);

void scatter(const void* data, const std::vector<iovec>& destination) {
  const auto* from = static_cast<const std::byte*>(data);
  for (const iovec& piece : destination) {
    if (piece.iov_len == 0) continue;
    std::memcpy(piece.iov_base, from, piece.iov_len);
    from += piece.iov_len;
  }
}

}  // namespace

ucs_status_t UcxTransport::receive(ByteView header, void* data, std::size_t length, bool rendezvous) {
  const auto envelope = decode_envelope(header);
  if (!envelope.ok()) return stranger(envelope.status().message()), UCS_OK;
  Peer* peer = find(envelope->from);
  if (peer == nullptr || !crypto::equal(envelope->pass, peer->pass_in)) return stranger("wrong pass"), UCS_OK;
  if (peer->condemned || phase_ != Phase::kOpen) return UCS_OK;
  auto body = decode_header(header);
  if (!body.ok()) return condemn(*peer, body.status()), UCS_OK;

  if (const auto* chunk = std::get_if<ChunkData>(&*body)) {
    const Status taken = take_data(*peer, *chunk, data, length, rendezvous);
    if (!taken.ok()) return condemn(*peer, taken), UCS_OK;
    return rendezvous ? UCS_INPROGRESS : UCS_OK;
  }
  if (rendezvous) {
    condemn(*peer, Status::error(CARDEA_ERR_PROTOCOL, "rendezvous of {} bytes that is not a chunk", length));
    return UCS_OK;
  }
  const ByteView payload(static_cast<const std::byte*>(data), length);
  Status taken;
  if (const auto* message = std::get_if<MessageHeader>(&*body)) taken = take(*peer, *message, payload);
  if (const auto* request = std::get_if<ChunkRequest>(&*body)) taken = take(*peer, *request, payload);
  if (const auto* error = std::get_if<ChunkError>(&*body)) taken = take(*peer, *error, payload);
  if (const auto* offer = std::get_if<StreamOffer>(&*body)) taken = take(*peer, *offer, payload);
  if (const auto* out = std::get_if<RailOut>(&*body)) taken = take(*peer, *out, payload);
  if (!taken.ok()) condemn(*peer, taken);
  return UCS_OK;
}

void UcxTransport::stranger(std::string_view what) {
  ++strangers_;
  const auto now = Clock::now();
  if (now < next_warning_) return;
  next_warning_ = now + kWarningInterval;
  log::print(log::Level::kWarn, who_, "ucx", "dropped a message that is not of this job ({}); {} so far", what, strangers_);
}

void UcxTransport::condemn(Peer& peer, Status why) {
  if (peer.condemned) return;
  peer.condemned = true;
  queue([this, &peer, why = std::move(why)] { lose(peer, why, true); });
}

Status UcxTransport::take(Peer& peer, const MessageHeader& header, ByteView payload) {
  if (payload.size() > kMaxMessage) return Status::error(CARDEA_ERR_PROTOCOL, "message of {} bytes", payload.size());
  return peer.inbound.add(header.sequence, Bytes(payload.begin(), payload.end()), [&](Bytes message) {
    queue([this, &peer, message = std::move(message)] {
      if (!peer.disconnected && phase_ == Phase::kOpen) listener_.on_message(peer.rank, message);
    });
  });
}

Status UcxTransport::take(Peer& peer, const ChunkRequest& header, ByteView payload) {
  if (!payload.empty()) return Status::error(CARDEA_ERR_PROTOCOL, "chunk request with {} bytes of payload", payload.size());
  if (peer.serving == kMaxServing) return Status::error(CARDEA_ERR_PROTOCOL, "more than {} chunks asked for", kMaxServing);
  ++peer.serving;
  queue([this, &peer, header] {
    peer.unanswered.push_back(header);
    answer_next(peer);
  });
  return {};
}

Status UcxTransport::take(Peer& peer, const ChunkError& header, ByteView payload) {
  if (!payload.empty()) return Status::error(CARDEA_ERR_PROTOCOL, "chunk error with {} bytes of payload", payload.size());
  const auto pull = pulls_.find(header.token);
  if (pull == pulls_.end() || pull->second->peer != &peer || pull->second->state != Pull::State::kAsked) {
    return Status::error(CARDEA_ERR_PROTOCOL, "answer to a request that is not open");
  }
  finish(*pull->second, Status(header.code, header.text));
  return {};
}

Status UcxTransport::take(Peer& peer, const RailOut& header, ByteView payload) {
  if (!payload.empty()) return Status::error(CARDEA_ERR_PROTOCOL, "rail notice with {} bytes of payload", payload.size());
  if (!rail_out_) return Status(CARDEA_ERR_PROTOCOL, "rail notice where there are no rails");
  queue([this, &peer, rail = header.rail] {
    if (peer.state != Peer::State::kOpen || phase_ != Phase::kOpen) return;
    if (const Status status = rail_out_(peer.rank, rail); !status.ok()) lose(peer, status, true);
  });
  return {};
}

Status UcxTransport::take_data(Peer& peer, const ChunkData& header, void* data, std::size_t length, bool rendezvous) {
  const auto found = pulls_.find(header.token);
  if (found == pulls_.end() || found->second->peer != &peer || found->second->state != Pull::State::kAsked) {
    return Status::error(CARDEA_ERR_PROTOCOL, "{} bytes for a request that is not open", length);
  }
  Pull& pull = *found->second;
  if (length != pull.payload)
    return Status::error(CARDEA_ERR_PROTOCOL, "{} bytes came, {} were asked for", length, pull.payload);
  if (!rendezvous && pull.order.onto_device()) return land(pull, {static_cast<const std::byte*>(data), length}), Status();
  if (!rendezvous) {
    scatter(data, pull.order.destination);
    finish(pull, {});
    return {};
  }
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  describe_destination(pull.order, param);
  param.cb.recv_am = [](void* request, ucs_status_t status, std::size_t, void* arg) {
    auto& done = *static_cast<Pull*>(arg);
    ucp_request_free(request);
    Status result = done.failure;
    if (status != UCS_OK && result.ok()) {
      result = error_of(done.order, status, "ucp_am_recv_data_nbx");
      if (result.code() != CARDEA_ERR_UNSUPPORTED)
        result = Status::error(CARDEA_ERR_PEER_LOST, "UCX: {}", ucs_status_string(status));
    }
    done.owner->finish(done, result);
  };
  param.user_data = &pull;
  for (const iovec& piece : pull.order.destination) {
    if (piece.iov_len > 0) pull.iov.push_back({piece.iov_base, piece.iov_len});
  }
  const bool scattered = pull.iov.size() > 1;
  param.datatype = scattered ? static_cast<ucp_datatype_t>(UCP_DATATYPE_IOV) : ucp_dt_make_contig(1);
  void* buffer = scattered ? static_cast<void*>(pull.iov.data()) : pull.iov.empty() ? nullptr : pull.iov[0].buffer;
  const std::size_t count = scattered ? pull.iov.size() : pull.iov.empty() ? 0 : pull.iov[0].length;
  pull.state = Pull::State::kMoving;
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker_->handle(), data, buffer, count, &param);
  if (UCS_PTR_IS_ERR(request)) {
    finish(pull, error_of(pull.order, UCS_PTR_STATUS(request), "ucp_am_recv_data_nbx"));
  } else if (request == nullptr) {
    finish(pull, {});
  }
  return {};
}

}  // namespace cardea::transport::ucx
