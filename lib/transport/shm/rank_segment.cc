// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/rank_segment.h"

#include <xxhash.h>

#include <cstddef>
#include <cstring>

#include "lib/base/crypto.h"
#include "lib/transport/shm/life_lock.h"

namespace cardea::shm {

std::uint64_t segment_layout_hash() {
  using H = RankSegmentHeader;
  const std::string layout =
      fmt::format("magic {} layout {} bytes {} rank {} nonce {} size {}", offsetof(H, magic), offsetof(H, layout),
                  offsetof(H, bytes), offsetof(H, rank), offsetof(H, nonce), sizeof(H));
  return XXH64(layout.data(), layout.size(), kSegmentMagic);
}

Result<SharedMemory> make_rank_segment(Rank rank) {
  Result<SharedMemory> memory = SharedMemory::create("cardea-rank", kSegmentBytes);
  if (!memory.ok()) return memory.status().within("rank segment");
  RankSegmentHeader header;
  header.layout = segment_layout_hash();
  header.rank = rank;
  crypto::random(header.nonce);
  std::memcpy(memory->data(), &header, sizeof header);
  if (const Status status = hold_life_lock(memory->descriptor()); !status.ok()) return status;
  return memory;
}

RankSegmentHeader read_header(const SharedMapping& segment) {
  RankSegmentHeader header;
  std::memcpy(&header, segment.data(), sizeof header);
  return header;
}

Result<SharedMapping> open_rank_segment(int descriptor, Rank owner) {
  Result<SharedMapping> segment = SharedMapping::open(descriptor, kSegmentBytes);
  if (!segment.ok()) return segment.status().within("rank segment");
  const RankSegmentHeader header = read_header(*segment);
  const auto wrong = [](const char* field, std::uint64_t got, std::uint64_t want) {
    return Status::error(CARDEA_ERR_PROTOCOL, "rank segment: {} is {:#x}, not {:#x}", field, got, want);
  };
  if (header.magic != kSegmentMagic) return wrong("magic", header.magic, kSegmentMagic);
  if (header.layout != segment_layout_hash()) return wrong("layout hash", header.layout, segment_layout_hash());
  if (header.bytes != kSegmentBytes) return wrong("size", header.bytes, kSegmentBytes);
  if (header.rank != owner) return wrong("rank", header.rank, owner);
  return segment;
}

}  // namespace cardea::shm
