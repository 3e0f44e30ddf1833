// SPDX-License-Identifier: Apache-2.0
// Gives the ranks of a node one node cache: the lowest of them makes it and passes its descriptor over the node's links,
// before those carry anything else. Blocking; run by every rank after prove_membership and before the transport.
#pragma once

#include <optional>

#include "lib/cache/arena.h"
#include "lib/transport/shm/membership.h"

namespace cardea::shm {

/// `capacity` in bytes, 0 for none; the lowest rank's counts, and its chunk_bytes. Nothing where this rank is alone on its
/// node, where the lowest rank has none, and for ranks beyond the directory's number. A failure costs the cache and not the
/// job: the caller says so and goes on. NO_MEMORY, SYSTEM, PROTOCOL, TIMEOUT, PEER_LOST.
Result<std::optional<cache::Arena>> share_arena(const Membership& membership, Rank self, std::uint64_t capacity,
                                                std::uint64_t chunk_bytes, Clock::time_point deadline);

}  // namespace cardea::shm
