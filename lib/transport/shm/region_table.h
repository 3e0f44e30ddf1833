// SPDX-License-Identifier: Apache-2.0
// Regions of peers: those whose memory came over the link and waits to be accepted, and those accepted. What a peer sends
// can only ever concern its own regions. Used on the engine thread.
#pragma once

#include <map>

#include "lib/base/shared_memory.h"
#include "lib/base/unique_fd.h"
#include "lib/transport/shm/frames.h"

namespace cardea::shm {

class RegionTable {
 public:
  /// Descriptors that one peer may have waiting here.
  static constexpr std::size_t kMaxUnclaimed = 256;

  struct Region {
    std::uint64_t bytes = 0;
    SharedMapping mapping;      // if it was mappable
    std::uint64_t address = 0;  // in the owner's process, else
    UniqueFd descriptor;        // of the mapping, until all of it is brought in
  };

  /// Memory has come from its owner. PROTOCOL: a number used before, or too many that nobody claims.
  Status arrived(transport::RegionKey key, std::uint64_t bytes, UniqueFd descriptor);
  /// The owner takes it back; what is accepted stays.
  void withdrawn(transport::RegionKey key) { unclaimed_.erase(key); }

  /// A descriptor that is none of a memfd, for whoever knows what it is.
  UniqueFd take(transport::RegionKey key, std::uint64_t bytes);

  /// As Transport::accept.
  Status accept(transport::RegionKey key, std::uint64_t bytes, ByteView descriptor);
  /// As Transport::bring_in.
  Result<bool> bring_in(transport::RegionKey key, std::uint64_t bytes);
  void forget(transport::RegionKey key);
  /// Null if it was not accepted.
  const Region* find(transport::RegionKey key) const;
  void clear();

 private:
  struct Unclaimed {
    std::uint64_t bytes;
    UniqueFd descriptor;
  };
  std::map<transport::RegionKey, Unclaimed> unclaimed_;
  std::map<transport::RegionKey, Region> accepted_;
};

}  // namespace cardea::shm
