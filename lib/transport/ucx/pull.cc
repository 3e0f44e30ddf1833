// SPDX-License-Identifier: Apache-2.0
// Pulling chunks: by asking the source, or by reading its memory where the hardware does that.
#include <algorithm>
#include <bit>
#include <cstring>

#include "lib/transport/ucx/lanes.h"
#include "lib/transport/ucx/ucx_transport.h"

namespace cardea::transport::ucx {
namespace {

constexpr std::uint64_t kLeastStreamed = 64 << 10;  // from here on a connection of its own pays
constexpr std::size_t kParsePadding = 32 << 10;     // as for addresses: UCX is not told the length of an rkey

std::uint64_t payload_of(const ChunkOrder& order) {
  std::uint64_t bytes = 0;
  for (const iovec& piece : order.destination) bytes += piece.iov_len;
  return bytes;
}

std::uint64_t source_payload_of(const ChunkOrder& order) {
  std::uint64_t bytes = 0;
  for (const RemotePiece& piece : order.source_pieces) bytes += piece.bytes;
  return bytes;
}

}  // namespace

void UcxTransport::start(ChunkOrder order) {
  const ChunkToken token = order.token;
  const auto refuse_order = [&](Status why) {
    queue([this, token, why = std::move(why)] { listener_.on_chunk_done(token, why); });
  };
  if (phase_ == Phase::kClosed) return;
  if (phase_ != Phase::kOpen) return refuse_order(Status(CARDEA_ERR_CANCELED, "the transport was closed"));
  Peer* peer = find(order.source);
  const std::uint64_t payload = payload_of(order);
  if (peer == nullptr)
    return refuse_order(Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} is not connected", order.source));
  if (peer->state != Peer::State::kOpen) {
    return refuse_order(Status(CARDEA_ERR_PEER_LOST, peer->why.message()).with_peer(peer->rank));
  }
  if (pulls_.contains(token)) return refuse_order(Status::error(CARDEA_ERR_INTERNAL, "chunk {} was started twice", token));
  if (payload > order.bytes || order.bytes > kMaxChunk || order.offset > kMaxChunk) {
    return refuse_order(Status::error(CARDEA_ERR_INVALID_ARGUMENT, "chunk at {} of {} bytes with a payload of {}",
                                      order.offset, order.bytes, payload));
  }
  if (order.onto_device()) {
    if (Status status = prepare_device(order); !status.ok()) return refuse_order(std::move(status));
    if (peer->state != Peer::State::kOpen)
      return refuse_order(Status(CARDEA_ERR_PEER_LOST, peer->why.message()).with_peer(peer->rank));
  }
  auto& pull = *(pulls_[token] = std::make_unique<Pull>());
  pull.owner = this;
  pull.peer = peer;
  pull.order = std::move(order);
  pull.payload = payload;
  ++peer->chunks;
  if (can_read(*peer, pull.order)) {
    read(pull);
  } else if (peer->state == Peer::State::kOpen) {
    ask(pull);
  }
}

void UcxTransport::ask(Pull& pull) {
  const ChunkOrder& order = pull.order;
  Send out;
  out.header = encode_header(options_.self, pull.peer->pass_out,
                             ChunkRequest{order.token, order.expert, order.offset, order.bytes, pull.payload});
  Peer& peer = *pull.peer;
  const bool large = pull.payload >= kLeastStreamed;
  post(peer, std::move(out), false);  // where that fails, the pull is gone
  if (large) offer_stream(peer);
}

bool UcxTransport::can_read(Peer& peer, const ChunkOrder& order) {
  if (options_.get == GetPolicy::kNever || order.source_pieces.empty()) return false;
  const auto readable = [&](const RemotePiece& piece) {
    const auto it = accepted_.find(piece.region);
    return piece.region.owner == peer.rank && it != accepted_.end() && !it->second.region.rkey.empty() &&
           piece.offset <= it->second.bytes && piece.bytes <= it->second.bytes - piece.offset;
  };
  if (!std::all_of(order.source_pieces.begin(), order.source_pieces.end(), readable)) return false;
  if (order.stamp.bytes != 0 && (order.stamp.bytes != sizeof(std::uint64_t) || !readable(order.stamp))) return false;
  if (source_payload_of(order) != payload_of(order)) return false;
  const ucp_ep_h ep = endpoint(peer);
  if (ep == nullptr) return false;
  if (options_.get == GetPolicy::kAuto) {
    if (!hardware_get(peer, ep)) return false;
  }
  const auto unpacked = [&](const RemotePiece& piece) { return rkey(peer, piece.region) != nullptr; };
  return std::all_of(order.source_pieces.begin(), order.source_pieces.end(), unpacked) &&
         (order.stamp.bytes == 0 || unpacked(order.stamp));
}

bool UcxTransport::hardware_get(Peer& peer, ucp_ep_h endpoint) {
  if (!peer.hardware_get) peer.hardware_get = has_hardware_get(endpoint, options_.peer_errors);
  return *peer.hardware_get;
}

ucp_rkey_h UcxTransport::rkey(Peer& peer, const RegionKey& region) {
  if (const auto it = peer.rkeys.find(region); it != peer.rkeys.end()) return it->second;
  Bytes packed = accepted_.at(region).region.rkey;
  packed.resize(packed.size() + kParsePadding);
  ucp_rkey_h unpacked = nullptr;
  if (ucp_ep_rkey_unpack(peer.endpoint, packed.data(), &unpacked) != UCS_OK) return nullptr;
  peer.rkeys.emplace(region, unpacked);
  return unpacked;
}

// Both lists describe the same bytes, cut differently: every stretch contiguous in both is one ucp_get.
void UcxTransport::read(Pull& pull) {
  pull.state = Pull::State::kReading;
  ++pull.gets;  // keeps it from completing while it is being issued
  std::size_t at = 0;
  std::uint64_t used = 0;  // of source_pieces[at]
  for (const iovec& into : pull.order.destination) {
    std::uint64_t filled = 0;
    while (filled < into.iov_len && pull.failure.ok()) {
      const RemotePiece& piece = pull.order.source_pieces[at];
      const std::uint64_t bytes = std::min<std::uint64_t>(into.iov_len - filled, piece.bytes - used);
      if (bytes > 0) read_piece(pull, piece, used, static_cast<std::byte*>(into.iov_base) + filled, bytes);
      filled += bytes;
      used += bytes;
      if (used == piece.bytes) {
        ++at;
        used = 0;
      }
    }
  }
  --pull.gets;
  advance_read(pull);
}

void UcxTransport::read_piece(Pull& pull, const RemotePiece& piece, std::uint64_t skip, void* into, std::uint64_t bytes) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  if (into != &pull.stamp) describe_destination(pull.order, param);
  param.cb.send = [](void* request, ucs_status_t status, void* arg) {
    auto& done = *static_cast<Pull*>(arg);
    ucp_request_free(request);
    done.owner->read_done(done, status);
  };
  param.user_data = &pull;
  const std::uint64_t remote = accepted_.at(piece.region).region.base + piece.offset + skip;
  ++pull.gets;
  ++pull.peer->gets;
  const ucs_status_ptr_t request =
      ucp_get_nbx(pull.peer->endpoint, into, bytes, remote, rkey(*pull.peer, piece.region), &param);
  worker_->kick();
  if (UCS_PTR_IS_PTR(request)) return;
  --pull.gets;
  --pull.peer->gets;
  if (UCS_PTR_IS_ERR(request) && pull.failure.ok())
    pull.failure = error_of(pull.order, UCS_PTR_STATUS(request), "ucp_get_nbx");
}

void UcxTransport::read_done(Pull& pull, ucs_status_t status) {
  --pull.gets;
  --pull.peer->gets;
  if (status != UCS_OK && pull.failure.ok()) pull.failure = error_of(pull.order, status, "ucp_get_nbx");
  if (pull.gets != 0) return;
  // Out of UCX's callback before the stamp is asked for; the token finds the chunk if it is still there.
  queue([this, token = pull.order.token] {
    if (const auto it = pulls_.find(token); it != pulls_.end()) advance_read(*it->second);
  });
}

void UcxTransport::advance_read(Pull& pull) {
  if (pull.gets != 0) return;
  if (!pull.failure.ok()) return finish(pull, pull.failure);
  if (pull.order.stamp.bytes != 0 && !std::exchange(pull.stamp_read, true)) {
    if (pull.peer->endpoint == nullptr || !accepted_.contains(pull.order.stamp.region)) {
      return finish(pull, Status(CARDEA_ERR_STALE, "the source's memory was withdrawn"));
    }
    read_piece(pull, pull.order.stamp, 0, &pull.stamp, sizeof(pull.stamp));
    if (pull.gets == 0) advance_read(pull);
    return;
  }
  if (pull.order.stamp.bytes != 0 && pull.stamp != pull.order.expert.version) {
    return finish(
        pull, Status::error(CARDEA_ERR_STALE, "version {} was wanted, {} was read", pull.order.expert.version, pull.stamp));
  }
  finish(pull, {});
}

void UcxTransport::finish(Pull& pull, const Status& status) {
  const ErrorDetail detail{pull.peer->rank, pull.order.expert.layer.layer, pull.order.expert.expert, CARDEA_PATH_NETWORK,
                           pull.payload};
  end(pull,
      [this, token = pull.order.token, status = status.with_detail(detail)] { listener_.on_chunk_done(token, status); });
}

void UcxTransport::end(Pull& pull, std::function<void()> tell) {
  Peer& peer = *pull.peer;
  queue(std::move(tell));
  pulls_.erase(pull.order.token);
  --peer.chunks;
  if (peer.gets == 0) {
    for (ucp_rkey_h retired : std::exchange(peer.retired_rkeys, {})) ucp_rkey_destroy(retired);
  }
  settle(peer);
}

Result<Bytes> UcxTransport::offer(std::uint32_t region, void* base, std::uint64_t bytes, int, std::span<const Rank>) {
  if (const auto it = offered_.find(region); it != offered_.end()) {
    if (it->second.base == base && it->second.bytes == bytes) return it->second.descriptor;
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} was offered with other bounds", region);
  }
  if (base == nullptr || bytes == 0) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} is empty", region);
  if (phase_ != Phase::kOpen) return Status(CARDEA_ERR_CANCELED, "the transport was closed");
  OfferedRegion made{nullptr, base, bytes, {}};
  Region described{reinterpret_cast<std::uintptr_t>(base), {}};
  if (options_.get != GetPolicy::kNever) {
    ucp_mem_map_params_t params{};
    params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_PROT |
                        UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
    params.address = base;
    params.length = bytes;
    params.prot = UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_REMOTE_READ;
    params.memory_type = UCS_MEMORY_TYPE_HOST;
    if (const auto status = ucp_mem_map(worker_->context(), &params, &made.memory); status != UCS_OK) {
      return ucx_error(status, "ucp_mem_map").with_detail({kNoRank, 0, kNoExpert, CARDEA_PATH_NETWORK, bytes});
    }
    void* packed = nullptr;
    std::size_t size = 0;
    if (const auto status = ucp_rkey_pack(worker_->context(), made.memory, &packed, &size); status != UCS_OK) {
      ucp_mem_unmap(worker_->context(), made.memory);
      return ucx_error(status, "ucp_rkey_pack");
    }
    const auto* first = static_cast<const std::byte*>(packed);
    if (size <= kMaxRkey) described.rkey.assign(first, first + size);
    ucp_rkey_buffer_release(packed);
  }
  made.descriptor = encode_region(described);
  return offered_.emplace(region, std::move(made)).first->second.descriptor;
}

void UcxTransport::withdraw(std::uint32_t region) {
  const auto it = offered_.find(region);
  if (it == offered_.end()) return;
  if (it->second.memory != nullptr) ucp_mem_unmap(worker_->context(), it->second.memory);
  offered_.erase(it);
}

Status UcxTransport::accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) {
  Peer* peer = find(region.owner);
  if (peer == nullptr) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region of rank {}, which is not connected", region.owner)
        .with_peer(region.owner);
  }
  auto decoded = decode_region(descriptor);
  if (!decoded.ok()) return decoded.status().with_peer(region.owner);
  if (bytes == 0 || decoded->base + bytes < decoded->base) {
    return Status::error(CARDEA_ERR_PROTOCOL, "region at {:#x} of {} bytes", decoded->base, bytes).with_peer(region.owner);
  }
  if (!accepted_.emplace(region, AcceptedRegion{bytes, std::move(*decoded)}).second) {
    return Status::error(CARDEA_ERR_PROTOCOL, "region {} came twice", region.region).with_peer(region.owner);
  }
  return {};
}

void UcxTransport::forget(RegionKey region) {
  accepted_.erase(region);
  Peer* peer = find(region.owner);
  if (peer == nullptr) return;
  const auto it = peer->rkeys.find(region);
  if (it == peer->rkeys.end()) return;
  if (peer->gets == 0) {
    ucp_rkey_destroy(it->second);
  } else {
    peer->retired_rkeys.push_back(it->second);
  }
  peer->rkeys.erase(it);
}

void UcxTransport::release_rkeys(Peer& peer) {
  for (const auto& [region, key] : peer.rkeys) ucp_rkey_destroy(key);
  for (ucp_rkey_h key : peer.retired_rkeys) ucp_rkey_destroy(key);
  peer.rkeys.clear();
  peer.retired_rkeys.clear();
}

}  // namespace cardea::transport::ucx
