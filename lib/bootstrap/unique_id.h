// SPDX-License-Identifier: Apache-2.0
// What the 128 bytes of a cardea_unique_id_t hold, and how they are read with suspicion. docs/wire-format.md specifies them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cardea/cardea.h"
#include "lib/bootstrap/bootstrap.h"
#include "lib/bootstrap/meeting_point.h"

namespace cardea::bootstrap {

struct UniqueId {
  static constexpr std::size_t kMaxAddresses = 3;
  std::vector<Endpoint> addresses;  // IPv4 or IPv6 literals, 1 to kMaxAddresses
  std::array<std::byte, 16> job{};
  Secret secret{};
};

cardea_unique_id_t encode(const UniqueId& id);
/// INVALID_ARGUMENT: not made by create_unique_id (magic, checksum), MISMATCH: by another version of the format.
Result<UniqueId> decode_unique_id(const cardea_unique_id_t& bytes);

struct CreatedId {
  cardea_unique_id_t id;
  std::unique_ptr<MeetingPoint> meeting_point;  // kept until it is finished(), or the process ends
};

/// Starts a meeting point, which waits at most `lifetime` for the job to form. `address` is as for
/// cardea_unique_id_create. INVALID_ARGUMENT (malformed, unresolvable, or not an address of this machine), CONFIGURATION
/// (the same of CARDEA_BOOTSTRAP_ADDRESS), SYSTEM (cannot listen). Any number of them may be open at once.
Result<CreatedId> create_unique_id(const char* address, Clock::duration lifetime = std::chrono::minutes(10));

/// What join() needs. INVALID_ARGUMENT, MISMATCH.
Result<Options> from_unique_id(const cardea_unique_id_t& id, Rank rank, std::uint32_t world_size);

}  // namespace cardea::bootstrap
