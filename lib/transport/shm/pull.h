// SPDX-License-Identifier: Apache-2.0
// One chunk on its way into this rank's memory: knows how far it got, and writes nowhere but into the order's destination.
//
//   read by itself:       check() ─► step() … step() ─► kDone, or kRefused: then restart() and
//   asked of its owner:   append() … append() ─► finish_asked()
//
// Used on the engine thread.
#pragma once

#include <sys/types.h>

#include "lib/transport/shm/region_table.h"
#include "lib/transport/transport.h"

namespace cardea::shm {

class Pull {
 public:
  enum class Step {
    kMore,
    kDone,
    kRefused,  // the kernel does not let this process read the owner's memory
  };

  explicit Pull(transport::ChunkOrder order);

  const transport::ChunkOrder& order() const { return order_; }
  std::uint64_t payload() const { return payload_; }

  /// Whether the order makes sense: pieces in accepted regions of its source, as long as the destination, and an aligned
  /// stamp. INVALID_ARGUMENT.
  Status check(const RegionTable& regions) const;
  /// Whether any byte of it must be read from another process's memory.
  bool needs_process_memory(const RegionTable& regions) const;

  /// Moves up to `budget` bytes; with the last one also checks the version stamp. STALE; PEER_LOST (no such process);
  /// SYSTEM (unreadable memory); INVALID_ARGUMENT (a region was forgotten meanwhile).
  Result<Step> step(const RegionTable& regions, pid_t owner, std::uint64_t budget);

  void restart();
  /// PROTOCOL if there is no room for it.
  Status append(ByteView data);
  /// PROTOCOL if bytes are missing.
  Status finish_asked() const;

 private:
  Result<Step> check_stamp(const RegionTable& regions, pid_t owner) const;
  void advance(std::uint64_t bytes);

  transport::ChunkOrder order_;
  std::uint64_t payload_ = 0;
  std::uint64_t moved_ = 0;
  std::size_t to_ = 0, from_ = 0;                  // which piece
  std::uint64_t to_offset_ = 0, from_offset_ = 0;  // how far into it
};

}  // namespace cardea::shm
