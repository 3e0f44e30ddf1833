// SPDX-License-Identifier: Apache-2.0
// Finds out which ranks of a job share memory. Proposed by equal node identity, host name, boot and network namespace;
// proven by passing a memfd over an authenticated Unix socket (handshake.h). Ranks that propose the same node and cannot
// prove it end up on different nodes, which is no error but is logged: a fast path is lost.
//
// Collective and blocking; run by every rank before its engine starts. The result is the same on all ranks, but for the
// links, which are this rank's own.
#pragma once

#include <string>
#include <vector>

#include "lib/base/shared_memory.h"
#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/base/unique_fd.h"
#include "lib/bootstrap/exchange.h"
#include "lib/transport/shm/handshake.h"

namespace cardea::shm {

/// One other rank of this rank's node.
struct NodeLink {
  Rank rank = kNoRank;
  UniqueFd socket;  // connected, non-blocking SOCK_STREAM, authenticated, nothing read or written beyond the handshake
  ProcessIdentity process;  // for pidfd and process_vm_readv
  SharedMapping segment;    // its rank segment (rank_segment.h)
};

struct Membership {
  std::vector<Node> node_of;            // by rank; nodes are numbered by their lowest rank
  std::vector<std::string> host_names;  // by rank, as each gave it
  std::vector<Rank> node_ranks;         // of this rank's node, itself included, ascending
  std::vector<NodeLink> links;          // to the others of node_ranks, ascending
  SharedMemory segment;                 // this rank's, which the others have mapped; its life lock lasts as long as this
};

struct MembershipOptions {
  std::chrono::milliseconds handshake_timeout{5000};  // for a proposed peer to prove itself, and for a stranger to go away
  /// Pretends another host; empty: gethostname().
  std::string host_name;
  bool pidfds = true;  // false: as in a container that does not see the others' processes
};

/// `node_id` comes from the configuration (CARDEA_NODE_ID); empty is an identity like any other.
/// Errors: those of the exchange; NO_MEMORY and SYSTEM (own segment or socket); PROTOCOL (a rank's proposal is malformed);
/// INVALID_ARGUMENT (node_id longer than 255 bytes). Other ranks' failure to prove themselves is none.
Result<Membership> prove_membership(bootstrap::Exchange& exchange, const std::string& node_id, Clock::time_point deadline,
                                    const MembershipOptions& options = {});

}  // namespace cardea::shm
