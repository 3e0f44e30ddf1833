// SPDX-License-Identifier: Apache-2.0
// How ranks exchange bytes before any transport is up. The one interface between bootstrap and the rest: whether a job
// forms through Cardea's own sockets or through a framework's store is not visible beyond it.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::bootstrap {

/// 32 random bytes that only the job's ranks know.
using Secret = std::array<std::byte, 32>;

/// Blocking, called by one thread at a time, by every rank the same number of times in the same order. Once a call has
/// failed, every later one fails with the same status.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual Rank rank() const = 0;
  virtual std::uint32_t world_size() const = 0;
  /// Equal on all ranks, different for every job of this user on this machine; [0-9a-f]{32}, fit for socket names.
  virtual const std::string& job_id() const = 0;
  /// Equal on all ranks; keys the HMACs between ranks (node links, heartbeats).
  virtual const Secret& secret() const = 0;

  /// Gives every rank what every rank gave, in rank order. At most kMaxBytes each, sizes may differ.
  /// TIMEOUT names the ranks that are missing, PEER_LOST the one that went away.
  virtual Result<std::vector<Bytes>> allgather(ByteView mine, Clock::time_point deadline) = 0;

  static constexpr std::size_t kMaxBytes = 1 << 20;
};

}  // namespace cardea::bootstrap
