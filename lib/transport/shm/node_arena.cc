// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/node_arena.h"

#include <poll.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "lib/transport/shm/ancillary.h"

namespace cardea::shm {
namespace {

// Native byte order: it never leaves the machine.
struct Offer {
  static constexpr std::uint64_t kMagic = 0x3168636143724121;  // "!ArCach1"
  std::uint64_t magic = kMagic;
  std::uint64_t present = 0;  // 1: a descriptor comes with it
};

Result<std::optional<cache::Arena>> offer(const Membership& membership, std::uint64_t capacity, std::uint64_t chunk_bytes) {
  std::optional<cache::Arena> arena;
  Status failed;
  if (capacity != 0) {
    const Result<cache::Shape> shape = cache::Shape::of(capacity, chunk_bytes);
    failed = shape.status();
    if (shape.ok()) {
      Result<cache::Arena> made = cache::Arena::create(*shape);
      failed = made.status();
      if (made.ok()) arena.emplace(std::move(*made));
    }
  }
  Offer message{.present = arena ? 1U : 0U};
  for (std::size_t i = 0; i < membership.links.size(); ++i) {
    const iovec piece{&message, sizeof message};
    // Fits: nothing else has been sent since the handshake. A peer that is gone is the transport's business.
    send(membership.links[i].socket.get(), std::span(&piece, 1), arena ? arena->descriptor() : -1);
  }
  if (!failed.ok()) return failed;
  return arena;
}

Result<std::optional<cache::Arena>> accept(const NodeLink& leader, bool wanted, Clock::time_point deadline) {
  Offer message;
  std::array<std::byte, sizeof message> buffer{};
  std::size_t have = 0;
  UniqueFd descriptor;
  while (have < buffer.size()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0)
      return Status::error(CARDEA_ERR_TIMEOUT, "rank {} has not offered the node cache", leader.rank).with_peer(leader.rank);
    pollfd poll_for{leader.socket.get(), POLLIN, 0};
    if (poll(&poll_for, 1, static_cast<int>(std::min<std::int64_t>(left, 1000))) <= 0) continue;
    Received got = receive(leader.socket.get(), std::span(buffer).subspan(have), 1);
    if (got.error == EAGAIN) continue;
    if (got.error != 0) return Status::from_errno(got.error, "recvmsg", "offer of a node cache").with_peer(leader.rank);
    if (got.bytes == 0) {
      return Status::error(CARDEA_ERR_PEER_LOST, "rank {} went before it had offered the node cache", leader.rank)
          .with_peer(leader.rank);
    }
    have += got.bytes;
    if (!got.descriptors.empty()) descriptor = std::move(got.descriptors.front());
  }
  std::memcpy(&message, buffer.data(), sizeof message);
  if (message.magic != Offer::kMagic || message.present > 1 || (message.present == 1) != static_cast<bool>(descriptor))
    return Status::error(CARDEA_ERR_PROTOCOL, "rank {} offers no node cache", leader.rank).with_peer(leader.rank);
  if (message.present == 0 || !wanted) return std::optional<cache::Arena>();
  Result<cache::Arena> arena = cache::Arena::attach(descriptor.get());
  if (!arena.ok()) return arena.status().with_peer(leader.rank);
  return std::optional(std::move(*arena));
}

}  // namespace

Result<std::optional<cache::Arena>> share_arena(const Membership& membership, Rank self, std::uint64_t capacity,
                                                std::uint64_t chunk_bytes, Clock::time_point deadline) {
  if (membership.links.empty()) return std::optional<cache::Arena>();
  if (membership.node_ranks.front() == self) return offer(membership, capacity, chunk_bytes);
  const auto place = std::find(membership.node_ranks.begin(), membership.node_ranks.end(), self);
  const bool wanted = capacity != 0 && place - membership.node_ranks.begin() < cache::kMaxLocalRanks;
  return accept(membership.links.front(), wanted, deadline);
}

}  // namespace cardea::shm
