// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/membership.h"

#include <algorithm>
#include <map>

#include "lib/base/crypto.h"
#include "lib/base/log.h"
#include "lib/base/wire.h"
#include "lib/transport/shm/node_meeting.h"
#include "lib/transport/shm/node_table.h"
#include "lib/transport/shm/proposal.h"
#include "lib/transport/shm/rank_segment.h"

namespace cardea::shm {
namespace {

// Holds the job and the rank, for those who look at /proc/net/unix, and chance, so that nobody can take the name before.
std::string socket_name(const bootstrap::Exchange& exchange) {
  std::array<std::byte, 8> chance{};
  crypto::random(chance);
  return fmt::format("cardea/{}/{}/{}", exchange.job_id(), exchange.rank(), crypto::hex(chance));
}

Result<std::vector<Proposal>> exchange_proposals(bootstrap::Exchange& exchange, const Proposal& mine,
                                                 Clock::time_point deadline) {
  Result<std::vector<Bytes>> all = exchange.allgather(encode(mine), deadline);
  if (!all.ok()) return all.status();
  std::vector<Proposal> proposals;
  for (Rank rank = 0; rank < all->size(); ++rank) {
    Result<Proposal> proposal = decode_proposal((*all)[rank]);
    if (!proposal.ok()) return proposal.status().with_peer(rank).within(fmt::format("rank {}", rank));
    proposals.push_back(std::move(*proposal));
  }
  return proposals;
}

// Which ranks each rank proved, as bits.
Result<std::vector<std::vector<bool>>> exchange_proofs(bootstrap::Exchange& exchange, const Meeting& meeting,
                                                       Clock::time_point deadline) {
  Bytes mine((exchange.world_size() + 7) / 8);
  for (const auto& [rank, handshake] : meeting.proved) mine[rank / 8] |= std::byte{1} << rank % 8;
  Result<std::vector<Bytes>> all = exchange.allgather(mine, deadline);
  if (!all.ok()) return all.status();
  std::vector<std::vector<bool>> proved;
  for (Rank rank = 0; rank < all->size(); ++rank) {
    const Bytes& bits = (*all)[rank];
    if (bits.size() != mine.size()) {
      return Status::error(CARDEA_ERR_PROTOCOL, "rank {}: proofs of {} bytes where {} are due", rank, bits.size(),
                           mine.size())
          .with_peer(rank);
    }
    std::vector<bool>& row = proved.emplace_back(exchange.world_size());
    for (Rank other = 0; other < row.size(); ++other)
      row[other] = (bits[other / 8] >> other % 8 & std::byte{1}) != std::byte{};
  }
  return proved;
}

std::vector<std::uint32_t> number_proposals(const std::vector<Proposal>& proposals) {
  std::vector<std::uint32_t> numbers;
  for (const Proposal& proposal : proposals) {
    const auto same =
        std::find_if(proposals.begin(), proposals.end(), [&](const Proposal& other) { return other.same_host(proposal); });
    numbers.push_back(static_cast<std::uint32_t>(same - proposals.begin()));
  }
  return numbers;
}

}  // namespace

Result<Membership> prove_membership(bootstrap::Exchange& exchange, const std::string& node_id, Clock::time_point deadline,
                                    const MembershipOptions& options) {
  if (node_id.size() > 255)
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "node identity of {} bytes; at most 255", node_id.size());
  const Rank self = exchange.rank();
  // Everybody listens before anybody knows a name to connect to.
  Result<MeetingPoint> point = MeetingPoint::open(socket_name(exchange));
  if (!point.ok()) return point.status();
  Result<SharedMemory> segment = make_rank_segment(self);
  if (!segment.ok()) return segment.status();
  Proposal mine = propose(node_id, options.host_name);
  mine.socket = point->name();
  Result<std::vector<Proposal>> proposals = exchange_proposals(exchange, mine, deadline);
  if (!proposals.ok()) return proposals.status();

  // Sockets of another network namespace cannot be reached: known at once, without waiting for nobody to come.
  std::map<Rank, std::string> expected;
  std::map<Rank, Status> out_of_reach;
  for (Rank rank = 0; rank < proposals->size(); ++rank) {
    const Proposal& other = (*proposals)[rank];
    if (rank == self || !other.same_host(mine)) continue;
    if (other.network_namespace == mine.network_namespace) {
      expected.emplace(rank, other.socket);
    } else {
      out_of_reach.emplace(rank, Status(CARDEA_ERR_SYSTEM, "they are in different network namespaces"));
    }
  }
  const HandshakeContext context{exchange.secret(), exchange.job_id(), exchange.world_size(), self,
                                 &*segment,         options.pidfds};
  Meeting meeting = meet(*point, context, expected, options.handshake_timeout,
                         std::min(deadline, Clock::now() + options.handshake_timeout));
  Result<std::vector<std::vector<bool>>> proved = exchange_proofs(exchange, meeting, deadline);
  if (!proved.ok()) return proved.status();

  const Proofs proofs{number_proposals(*proposals), std::move(*proved)};
  Membership membership;
  membership.node_of = make_node_table(proofs);
  membership.segment = std::move(*segment);
  meeting.failed.merge(out_of_reach);
  for (Rank rank = 0; rank < proposals->size(); ++rank) {
    membership.host_names.push_back((*proposals)[rank].host);
    if (membership.node_of[rank] == membership.node_of[self]) membership.node_ranks.push_back(rank);
    if (rank == self || !(*proposals)[rank].same_host(mine)) continue;
    const auto link = meeting.proved.find(rank);
    if (membership.node_of[rank] == membership.node_of[self]) {
      Handshake& handshake = *link->second;
      membership.links.push_back({rank, handshake.take_socket(), handshake.take_process(), handshake.take_segment()});
      continue;
    }
    const auto why = meeting.failed.find(rank);
    log::print(log::Level::kWarn, std::to_string(self), "shm",
               "ranks {} and {} claim the same host but cannot share memory: {}", std::min(self, rank), std::max(self, rank),
               why != meeting.failed.end() ? why->second.message()
               : proofs.proved[rank][self] ? "one of them cannot share memory with all of the other's node"
                                           : "the other side could not prove it");
  }
  return membership;
}

}  // namespace cardea::shm
