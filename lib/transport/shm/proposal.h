// SPDX-License-Identifier: Apache-2.0
// What each rank says of where it runs, for others to compare with theirs. Value types.
#pragma once

#include <cstdint>
#include <string>

#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::shm {

struct Proposal {
  std::string node_id;
  std::string host;
  std::string boot_id;                  // of the running kernel; empty where the system hides it
  std::uint64_t network_namespace = 0;  // abstract sockets exist per network namespace; 0 where unknown
  std::string socket;                   // abstract name, without the leading zero byte

  bool same_host(const Proposal& other) const {
    return node_id == other.node_id && host == other.host && boot_id == other.boot_id;
  }
};

/// Of this process. `host` empty: the system's host name.
Proposal propose(std::string node_id, std::string host);

Bytes encode(const Proposal& proposal);
/// PROTOCOL if it is malformed.
Result<Proposal> decode_proposal(ByteView bytes);

}  // namespace cardea::shm
