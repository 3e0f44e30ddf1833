// SPDX-License-Identifier: Apache-2.0
// The small piece of shared memory that every rank passes to the ranks of its node: the proof that they share memory.
// Written once by its owner, before it is passed; read by peers, who check everything they use. Value and resource types.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "lib/base/shared_memory.h"
#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::shm {

inline constexpr std::uint64_t kSegmentMagic = 0x3167655361656472;  // "rdeaSeg1" in memory
inline constexpr std::uint64_t kSegmentBytes = 4096;

/// At offset 0. Native byte order: it never leaves the machine.
struct RankSegmentHeader {
  std::uint64_t magic = kSegmentMagic;
  std::uint64_t layout = 0;  // segment_layout_hash() of whoever wrote it
  std::uint64_t bytes = kSegmentBytes;
  Rank rank = kNoRank;
  std::uint32_t reserved = 0;
  std::array<std::byte, 32> nonce{};  // random: only who can read the memory knows it
};
static_assert(std::is_trivially_copyable_v<RankSegmentHeader> && sizeof(RankSegmentHeader) == 64);

/// Of field names, offsets and sizes: two builds that lay the header out differently never share it.
std::uint64_t segment_layout_hash();

/// This rank's segment, filled in, and locked (life_lock.h) for as long as it exists. NO_MEMORY, SYSTEM.
Result<SharedMemory> make_rank_segment(Rank rank);

/// Maps what a peer passed and checks its header. PROTOCOL names the field that is wrong.
Result<SharedMapping> open_rank_segment(int descriptor, Rank owner);

/// A copy of the header, taken once.
RankSegmentHeader read_header(const SharedMapping& segment);

}  // namespace cardea::shm
