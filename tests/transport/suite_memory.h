// SPDX-License-Identifier: Apache-2.0
// Memory for the transport suite: regions with known contents at the source, landings with guarded gaps at the asker, and
// experts described the same way on both sides, so that a scenario needs no exchange of metadata. Not thread-safe.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "lib/base/types.h"
#include "lib/base/unique_fd.h"
#include "lib/transport/transport.h"

namespace cardea::test {

enum class Memory { kMappable, kPrivate };  // behind a memfd, or this process's own

/// `bytes` bytes, from `position` on, of the endless random sequence that a seed stands for.
Bytes pattern_bytes(std::uint64_t seed, std::uint64_t position, std::uint64_t bytes);

/// Memory of one rank, filled with the sequence of seed(owner, id). Its first 8 bytes can serve as a layer's stamp.
class Region {
 public:
  Region(Rank owner, std::uint32_t id, std::uint64_t bytes, Memory kind);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::uint32_t id() const { return id_; }
  std::byte* base() const { return base_; }
  std::uint64_t bytes() const { return bytes_; }
  int memfd() const { return memfd_.get(); }  // -1 for private memory
  void set_stamp(Version version);

  static std::uint64_t seed(Rank owner, std::uint32_t id) { return id + 1000ull * owner; }

 private:
  std::uint32_t id_;
  std::uint64_t bytes_;
  UniqueFd memfd_;
  std::byte* base_;
};

/// Where an expert lies in one region of its source, cut into parts of its packed form; what no part covers is padding.
struct ExpertLayout {
  struct Part {
    std::uint64_t packed_offset = 0;
    std::uint64_t region_offset = 0;
    std::uint64_t bytes = 0;
  };
  Rank source = kNoRank;
  transport::ExpertAddress address;
  std::uint32_t region = 0;
  std::vector<Part> parts;  // by packed_offset, without overlap
  std::uint64_t packed_bytes = 0;
  bool stamped = true;  // the region's first 8 bytes are the layer's stamp

  /// An expert in one part at `region_offset` (at least 64, beyond the stamp).
  static ExpertLayout whole(Rank source, std::uint32_t region, ExpertIndex expert, Version version,
                            std::uint64_t region_offset, std::uint64_t bytes);
  /// The parts, or what of them lies in the range.
  std::vector<Part> cut(std::uint64_t offset, std::uint64_t bytes) const;
  std::uint64_t payload(std::uint64_t offset, std::uint64_t bytes) const;
  /// What the payload of the range must be.
  Bytes expected(std::uint64_t offset, std::uint64_t bytes) const;
};

/// Where a chunk lands: pieces of the given sizes between gaps of 64 bytes, all poisoned.
class Landing {
 public:
  explicit Landing(std::vector<std::uint64_t> pieces);
  explicit Landing(std::uint64_t bytes) : Landing(std::vector<std::uint64_t>{bytes}) {}

  std::vector<iovec> pieces();
  Bytes payload() const;
  bool untouched() const;        // nothing was written at all
  bool gaps_untouched() const;   // nothing was written beside the pieces
  void poison(std::byte value);  // pieces and gaps

 private:
  std::vector<std::uint64_t> sizes_;
  Bytes memory_;
  std::byte poison_{0xA5};
};

/// An order for [offset, offset + bytes) of the packed expert into `landing`, which must have room for exactly its payload.
transport::ChunkOrder make_order(transport::ChunkToken token, const ExpertLayout& expert, std::uint64_t offset,
                                 std::uint64_t bytes, Landing& landing);
inline transport::ChunkOrder make_order(transport::ChunkToken token, const ExpertLayout& expert, Landing& landing) {
  return make_order(token, expert, 0, expert.packed_bytes, landing);
}

}  // namespace cardea::test
