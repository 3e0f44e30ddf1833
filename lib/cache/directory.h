// SPDX-License-Identifier: Apache-2.0
// The node cache's memory as the ranks of a node share it: which experts lie in it, at which version, how far each is
// filled and by whom, and who holds it. Offsets and indices, never pointers.
//
//   header │ entries │ buckets │ block map │ chunk words │ payload, in blocks
//
// An entry holds one expert, packed, in neighbouring blocks of the payload, or lies in ranks' slots alone:
//
//   empty ── inserted, under the lock ──► live ── nobody pins it, and its room is needed or its version retired ──► empty
//                                         │  ▲                                                                        ▲
//            its room is needed, and some │  │ somebody wants it who                                                  │
//            rank has all of it in a slot ▼  │ cannot pull from there                                                 │
//                                      in slots ── no rank has it in a slot any more, or as above ────────────────────┘
//
// What decides is few words, each written by one atomic store: an entry's state, the bits of the ranks that pin it, its
// places (below), and one word for each chunk. Everything else (buckets, block map, counts) follows from them and is made
// anew when a rank died while it held the lock. So a process may die between any two instructions.
//
//   chunk:  free ──claim (CAS)──► claimed by a rank at a time ──► done        a claim is given back when its copy failed or
//             ▲                        │ overdue: another rank claims it      its rank's process has ended
//             └────────────────────────┘
//
// Where ranks land experts in GPU slots, they share the copying out of host memory too: a done chunk's word says who has it
// in a slot of its own, from which the others pull it instead of copying it once more.
//
//   done:   nobody ──claim (CAS)──► being copied by a rank ──► in that rank's slot ──withdrawn, before the slot is reused──►
//   nobody
//
// Who has all of an entry in a slot says so in one of its *places*, whether it lies in the payload or not; an entry in slots
// has no blocks and no chunk words, only places. A rank offers and withdraws its place without the lock, and without a pin.
//
//   place:  nobody ──offered (CAS)──► in that rank's slot ──withdrawn, before the slot is reused──► nobody
//
// What lies in host memory of the node in any case, be it the payload or a rank's own weights, a rank may copy into a slot
// for all of them: it *claims* the copying, and offers the slot when it is done. Who wants the same waits for that, unless
// the claim is overdue. An entry in slots may have no place yet, but such a claim.
//
//   claim:  nobody ──CAS──► copied by a rank, since a time ──offered, or failed──► nobody
//
// A puller first sets its bit among the entry's pullers, then looks at the word (chunk's or place) again; an owner first
// withdraws, then waits until no bit is set. So a slot is never reused under a puller. And a puller has pinned the entry, so
// the entry is none other meanwhile.
//
// Any rank of the node can write anything into this memory, by mistake or malice. So what is read here is read once,
// checked, and used as it was when it was checked: indices, extents, counts and chains of the index. Nonsense costs entries
// (repair()) or the use of the cache, never an access outside of the memory, and no loop is longer than there are entries.
// What cannot be checked is the payload, and the lock, which is the C library's (lock.h).
//
// Bytes of a chunk that two ranks fill are the same bytes, so an overdue writer that goes on does no harm while the entry
// is what it was; and since a writer pins what it fills, an entry whose writer fell silent is not reused until that process
// is gone: that is its quarantine.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::cache {

using EntryIndex = std::uint32_t;
inline constexpr EntryIndex kNoEntry = UINT32_MAX;

inline constexpr std::uint32_t kMaxLocalRanks = 64;  // of one node, that one directory can serve: bits of a word
inline constexpr std::uint32_t kMaxNics = 16;
inline constexpr std::uint32_t kUrgencies = 4;      // core::Class
inline constexpr std::uint32_t kMaxChunks = 65536;  // of one entry
inline constexpr std::uint32_t kPlaces = 8;         // ranks that can say of one entry that they have all of it in a slot

/// What a cached expert is. The job is the directory's.
struct Key {
  LayerKey layer;
  ExpertIndex expert = 0;
  Version version = 0;
  friend bool operator==(const Key&, const Key&) = default;
};

/// How a capacity is divided; a function of capacity and chunk size, so that all ranks compute the same.
struct Shape {
  std::uint64_t capacity = 0;     // payload bytes, whole blocks
  std::uint64_t chunk_bytes = 0;  // in which entries are filled
  std::uint64_t block_bytes = 0;  // power of 2, 4 KiB to 1 MiB, unless the capacity is beyond 2^16 of these
  std::uint32_t blocks = 0;
  std::uint32_t entries = 0;
  std::uint32_t words_per_block = 0;  // chunk words

  /// INVALID_ARGUMENT if the capacity is no block or more than 2^44, or chunk_bytes is not 64 to 2^32.
  static Result<Shape> of(std::uint64_t capacity, std::uint64_t chunk_bytes);
  std::uint64_t metadata_bytes() const;  // whole pages; the payload begins there
  std::uint64_t total_bytes() const { return metadata_bytes() + capacity; }
};

struct Entry {
  enum State : std::uint32_t { kEmpty = 0, kLive = 1, kInSlots = 2 };
  std::atomic<std::uint32_t> state;
  std::uint32_t next;  // in its bucket; kNoEntry ends
  std::uint64_t group;
  std::uint32_t layer;
  std::uint32_t expert;
  std::uint64_t version;
  std::uint32_t first_block, blocks, chunks;  // nothing if it lies in slots
  std::atomic<std::uint32_t> urgency;         // the most urgent class that has wanted it
  std::atomic<std::uint64_t> pins;            // by local rank: reads it, fills it, or waits for it
  std::atomic<std::uint64_t> waiters;         // by local rank: wants to hear when more of it is there
  std::atomic<std::uint32_t> read;            // a demand got it; else it is an unused prefetch
  std::uint32_t reserved;
  std::uint64_t last_used;                     // tick
  std::atomic<std::uint64_t> wanted;           // by local rank: wants it in a slot
  std::atomic<std::uint64_t> pullers;          // by local rank: pulls some of it out of another rank's slot
  std::atomic<std::uint64_t> places[kPlaces];  // in_slot_word of ranks that have all of it; else 0
  std::atomic<std::uint64_t> claim;            // copy_claim_word of the rank that copies all of it into a slot; else 0
};

/// Bytes on the way through one NIC of the node.
struct Nic {
  std::atomic<std::uint64_t> bytes[kUrgencies][kMaxLocalRanks];  // each written by its rank alone
  std::atomic<std::uint64_t> held;                               // by local rank: holds back for more urgent ones
  std::atomic<std::uint64_t> chunks;                             // started so far, by all
};

struct Header {
  static constexpr std::uint64_t kMagic = 0x3165686361437243;  // "CrCache1"
  std::uint64_t magic, layout, total_bytes;
  std::uint64_t capacity, chunk_bytes;
  alignas(64) unsigned char lock[64];  // a process-shared robust mutex, where a lock is needed
  std::atomic<std::uint64_t> tick;     // one more at each use
  std::uint32_t used_entries;          // entries from here on have never been used
  std::uint32_t reserved;
  std::atomic<std::uint64_t> used_blocks;
  std::uint64_t repairs;
  Nic nics[kMaxNics];
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(std::is_standard_layout_v<Header> && std::is_standard_layout_v<Entry>);

/// What an entry occupies, read once and found to be within the directory.
struct Extent {
  std::uint32_t first_block = 0, blocks = 0, chunks = 0;
  friend bool operator==(const Extent&, const Extent&) = default;
};

/// A view of the memory. Not owning; cheap to copy.
class Directory {
 public:
  /// Lays out zeroed memory of shape.total_bytes(), at an address aligned to a page. The payload is not touched.
  static Directory create(std::byte* memory, const Shape& shape);
  /// PROTOCOL names what does not fit: magic, layout, size, shape.
  static Result<Directory> attach(std::byte* memory, std::uint64_t bytes);

  const Shape& shape() const { return shape_; }
  Header& header() const { return *header_; }
  Entry& entry(EntryIndex index) const { return entries_[index]; }
  std::atomic<std::uint64_t>& chunk_word(std::uint32_t first_block, std::uint32_t chunk) const {
    return words_[static_cast<std::size_t>(first_block) * shape_.words_per_block + chunk];
  }
  std::byte* payload() const { return memory_ + shape_.metadata_bytes(); }
  std::uint64_t offset(std::uint32_t block) const { return block * shape_.block_bytes; }

  /// Nothing if it makes no sense.
  std::optional<Extent> extent(const Entry& entry) const;
  /// Entries from here on have never been used.
  EntryIndex used_entries() const;
  std::uint32_t used_blocks() const;

  /// Whether some rank says that it has all of the entry in a slot.
  static bool placed(const Entry& entry);

  // ---- under the lock
  EntryIndex find(const Key& key) const;
  /// An empty entry, or kNoEntry.
  EntryIndex empty_entry() const;
  /// First of `count` neighbouring free blocks, looked for from block `from` on and then from the first; or UINT32_MAX.
  std::uint32_t free_run(std::uint32_t count, std::uint32_t from = 0) const;
  /// Makes an entry live whose fields have been filled in.
  void insert(EntryIndex index);
  /// The same without a payload.
  void insert_in_slots(EntryIndex index);
  void erase(EntryIndex index);
  /// A live entry lies in slots from now on, and its blocks are free.
  void let_payload_go(EntryIndex index);
  /// An entry in slots lies in the payload, too, where its fields say.
  void give_payload(EntryIndex index);
  /// Makes what follows from entries anew. Entries that make no sense become empty, and those that overlap another one;
  /// a pinned one wins.
  void repair();
  /// Whether the entries, the count of used blocks and their map agree.
  bool consistent() const;

 private:
  Directory(std::byte* memory, const Shape& shape);
  std::uint32_t& bucket_of(const Entry& entry) const;
  void link(EntryIndex index);
  void occupy(const Extent& extent);
  bool overlaps(const Extent& extent) const;
  void mark(const Extent& extent, bool taken);
  std::uint32_t free_run_within(std::uint32_t count, std::uint32_t first, std::uint32_t end) const;

  std::byte* memory_ = nullptr;
  Shape shape_;
  Header* header_ = nullptr;
  Entry* entries_ = nullptr;
  std::uint32_t* buckets_ = nullptr;
  std::uint64_t* map_ = nullptr;  // a bit for each block, 1: taken
  std::atomic<std::uint64_t>* words_ = nullptr;
};

/// Chunk words.
enum class ChunkState : std::uint64_t { kFree = 0, kClaimed = 1, kDone = 2 };
constexpr std::uint64_t claim_word(std::uint32_t local, std::uint64_t microseconds) {
  return microseconds << 8 | static_cast<std::uint64_t>(local) << 2 | static_cast<std::uint64_t>(ChunkState::kClaimed);
}
constexpr ChunkState state_of(std::uint64_t word) {
  return static_cast<ChunkState>(word & 3);
}
constexpr std::uint32_t claimant_of(std::uint64_t word) {
  return static_cast<std::uint32_t>(word >> 2 & 63);
}
constexpr std::uint64_t claim_time_of(std::uint64_t word) {
  return word >> 8;
}

/// Of a done chunk: who has a copy of it in a slot, for others to pull. In a word: 2 bits done, 2 bits of this state, 6 bits
/// of the rank (with kNobody: who brought it, or had it in a slot last); then 24 bits each of slot and slab, or the
/// microseconds at which it was claimed.
enum class CopyState : std::uint64_t { kNobody = 0, kClaimed = 1, kInSlot = 2 };
inline constexpr std::uint32_t kMaxCopySlot = (1u << 24) - 1;  // of slots and slabs that a word can name
constexpr CopyState copy_state_of(std::uint64_t word) {
  return state_of(word) == ChunkState::kDone ? static_cast<CopyState>(word >> 2 & 3) : CopyState::kNobody;
}
constexpr std::uint64_t done_word(std::uint32_t local) {
  return static_cast<std::uint64_t>(local) << 4 | static_cast<std::uint64_t>(ChunkState::kDone);
}
constexpr std::uint32_t copy_holder_of(std::uint64_t word) {
  return static_cast<std::uint32_t>(word >> 4 & 63);
}
constexpr std::uint64_t copy_claim_word(std::uint32_t local, std::uint64_t microseconds) {
  return microseconds << 10 | static_cast<std::uint64_t>(local) << 4 | static_cast<std::uint64_t>(CopyState::kClaimed) << 2 |
         static_cast<std::uint64_t>(ChunkState::kDone);
}
constexpr std::uint64_t copy_claim_time_of(std::uint64_t word) {
  return word >> 10;
}
constexpr std::uint64_t in_slot_word(std::uint32_t local, std::uint32_t slab, std::uint32_t slot) {
  return static_cast<std::uint64_t>(slab) << 34 | static_cast<std::uint64_t>(slot) << 10 |
         static_cast<std::uint64_t>(local) << 4 | static_cast<std::uint64_t>(CopyState::kInSlot) << 2 |
         static_cast<std::uint64_t>(ChunkState::kDone);
}
constexpr std::uint32_t copy_slot_of(std::uint64_t word) {
  return static_cast<std::uint32_t>(word >> 10) & kMaxCopySlot;
}
constexpr std::uint32_t copy_slab_of(std::uint64_t word) {
  return static_cast<std::uint32_t>(word >> 34) & kMaxCopySlot;
}

}  // namespace cardea::cache
