// SPDX-License-Identifier: Apache-2.0
// One rank's hand on the node cache (directory.h): finds and makes entries, pins them, claims chunks to fill, tells whom to
// tell. Decides nothing about lanes and moves no bytes: that is the core's and the runtime's.
//
// What it promises, whatever the other ranks of the node do, dying and stopping included:
//   - an entry that this rank has pinned keeps its bytes and its place until release();
//   - of one key there is at most one live entry, so what one rank of the node has fetched, no other needs to fetch;
//   - a chunk is handed to one claimant at a time, unless the claim is overdue;
//   - what others write into the directory, nonsense included, costs it the use of the cache at worst;
//   - nothing waits longer than Lock's patience: where the lock is not to be had, acquire() says so and the rank goes
//     without the cache.
//
// Threads: one at a time (the core's mutex guards it). Several ranks of one process may each have one.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "lib/cache/directory.h"
#include "lib/cache/lock.h"

namespace cardea::cache {

/// Ranks of the node, by local number.
using LocalMask = std::uint64_t;

/// Where a test may let this rank die or stop: the name of a transition that has just been made.
enum class Step : std::uint8_t {
  kLocked,
  kVictimErased,   // acquire: an entry was evicted, the new one is not there yet
  kEntryFilledIn,  // acquire: its fields are written, it is not live yet
  kEntryLive,      // acquire: it is live and pinned, the lock still held
  kAcquired,
  kClaimed,
  kChunkDone,
  kChunkGivenBack,
  kUnpinned,  // release: the lock still held
  kReleased,
  kRetired,  // retire: half of it
  kRepaired,
  kLeftInSlots,  // acquire: an entry gave its payload up, for it lies in slots; the lock still held
  kHoused,       // acquire: an entry that lay in slots has a payload again; the lock still held
  kPlaced,       // offer: this rank says that it has an entry in a slot
  kPullBegun,
  kPullEnded,
  kWithdrawn,
  kIndexMade,  // acquire_index: an entry without a payload is there and pinned; the lock still held
  kWholeClaimed,
  kWholeClaimEnded,
  kCount
};

struct NodeCacheOptions {
  std::uint32_t local = 0;   // this rank's number on the node
  std::uint32_t locals = 1;  // ranks on the node; at most kMaxLocalRanks
  /// A claim this old may be taken over; see give_time.
  Nanoseconds overdue = std::chrono::seconds(1);
  /// At most so many bytes of prefetches that nobody has read.
  std::uint64_t prefetch_bytes = UINT64_MAX;
  /// Whether the process of another rank of the node has ended. Unset: none has.
  std::function<bool(std::uint32_t local)> process_ended;
  std::function<void(Step)> at_step;  // for tests
};

/// kInSlots is none: it can be pulled (acquire_in_slots).
enum class Refusal : std::uint8_t { kNone, kNoRoom, kPrefetchBudget, kLockNotHad, kInSlots };

struct CacheCounters {
  std::uint64_t hits = 0;                   // acquired an entry that was there, filled or not
  std::uint64_t misses = 0;                 // made one
  std::uint64_t evicted = 0;                // to make room
  std::uint64_t retired = 0;                // for their version was over
  std::uint64_t no_room = 0;                // refused: everything is pinned
  std::uint64_t no_lock = 0;                // refused: a holder of the lock does not go on
  std::uint64_t overdue = 0;                // chunks taken over from a silent rank
  std::uint64_t repairs = 0;                // after the death of a holder of the lock
  std::uint64_t prefetch_bytes_wasted = 0;  // evicted or retired by this rank, without anybody having read them
  std::uint64_t left_in_slots = 0;          // payloads given up to make room, of experts that lie in ranks' slots
  std::uint64_t hits_in_slots = 0;          // experts found in slots alone, of which they can be pulled
  std::uint64_t housed_again = 0;           // experts that lay in slots alone, and were wanted by who cannot pull them
  std::uint64_t gone = 0;                   // experts that lay in slots alone, until the last of these was needed
};

/// Ranks' saying that they have all of an entry in a slot: what is needed to take it back without a pin.
struct Offer {
  EntryIndex entry = kNoEntry;
  Extent extent;  // of its chunk words, some of which may name the slot; nothing if there are none
  std::uint32_t slab = 0, slot = 0;
};

/// Who has a chunk of an entry in a slot, or is about to.
struct SlotCopy {
  CopyState state = CopyState::kNobody;
  std::uint32_t local = 0, slab = 0, slot = 0;  // slab and slot as that rank numbers them
};

class NodeCache {
 public:
  NodeCache(Directory directory, Lock& lock, NodeCacheOptions options);

  std::uint64_t chunk_bytes() const { return directory_.shape().chunk_bytes; }
  std::uint64_t capacity() const { return directory_.shape().capacity; }
  std::uint32_t local() const { return options_.local; }
  /// Where the payload of all entries lies: `capacity` bytes.
  std::byte* memory() const { return directory_.payload(); }
  /// Ticks of the directory's clock of uses; for acquire's `since`.
  std::uint64_t tick() const;

  // ---- entries
  /// Pins the key's entry, made if there is none: `bytes` long, to be filled in `chunks`. `unread` (a prefetch) may push out
  /// unread prefetches made before tick `since` to stay within the budget, and nothing that is still to be read. A demand
  /// pushes out unread prefetches first, then what was used longest ago. Pins count: one release for each.
  /// What lies in the slot of one of `pullable` alone is refused (kInSlots); in others', it gets a payload to be filled
  /// anew.
  std::optional<EntryIndex> acquire(const Key& key, std::uint64_t bytes, std::uint32_t chunks, std::uint32_t urgency,
                                    bool unread, std::uint64_t since, Refusal& why, LocalMask pullable = 0);
  /// The same for an entry that is there and filled; nothing otherwise, and nothing is made.
  std::optional<EntryIndex> acquire_whole(const Key& key, std::uint64_t bytes, std::uint32_t chunks);
  /// `stale`: nobody will ask for its version again; it goes when nobody else has it pinned.
  void release(EntryIndex entry, bool stale);
  /// Drops unpinned entries of the layer up to a version.
  void retire(const LayerKey& layer, Version up_to);
  /// Pinned here: where its payload begins in the directory's.
  std::uint64_t offset(EntryIndex entry) const { return mine_[entry].offset; }
  std::byte* payload(EntryIndex entry) const { return directory_.payload() + offset(entry); }

  // ---- chunks of pinned entries
  bool done(EntryIndex entry, std::uint32_t chunk) const;
  /// Free, or overdue: try_claim may succeed.
  bool claimable(EntryIndex entry, std::uint32_t chunk, Clock::time_point now) const;
  bool try_claim(EntryIndex entry, std::uint32_t chunk, Clock::time_point now);
  /// The bytes of a chunk claimed here have come, or will not.
  void finish_chunk(EntryIndex entry, std::uint32_t chunk, bool ok);
  /// The oldest claim of another rank on the entry becomes overdue then; nothing if there is none.
  std::optional<Clock::time_point> overdue_at(EntryIndex entry, Clock::time_point now) const;
  /// The oldest claim of another rank on the entry: whose it is, which may be nobody's number, and since when.
  struct Claim {
    std::uint32_t local = 0;
    Clock::time_point since;
  };
  std::optional<Claim> oldest_claim(EntryIndex entry) const;
  /// A rank that sees chunks take long gives others that long, too, and never less than the options say.
  void give_time(Nanoseconds age) { overdue_ = std::max(options_.overdue, age); }

  // ---- slot_copies.cc: chunks of pinned entries that ranks copy into slots once for all and pull from one another
  /// This rank wants the entry in a slot, or no longer. Returns those of the others that still do.
  LocalMask want_in_slot(EntryIndex entry, bool wants);
  LocalMask wanted_in_slots(EntryIndex entry) const;  // others
  SlotCopy slot_copy(EntryIndex entry, std::uint32_t chunk) const;
  /// Of a chunk that is done and that nobody copies or has in a slot: who brought it, or had it in a slot last.
  std::uint32_t brought_by(EntryIndex entry, std::uint32_t chunk) const;
  /// Of a chunk that is done and that nobody copies or has, or whose copying is overdue.
  bool try_claim_copy(EntryIndex entry, std::uint32_t chunk, Clock::time_point now);
  /// A chunk claimed here lies in a slot from now on, or does not. False if another has taken it over.
  bool finish_copy(EntryIndex entry, std::uint32_t chunk, bool ok, std::uint32_t slab, std::uint32_t slot);
  /// From now until end_pull its holder keeps the slot; false if it is not there any more. Pulls of an entry count.
  bool start_pull(EntryIndex entry, std::uint32_t chunk, const SlotCopy& from);
  /// True if it was the last one: its holders may have waited for that.
  bool end_pull(EntryIndex entry);
  /// What lies in a slot of this rank is not offered any more; those who pull already go on until end_pull.
  void withdraw_copies(EntryIndex entry);
  LocalMask pullers(EntryIndex entry) const;  // others
  /// The oldest claim of another rank on a copy becomes overdue then.
  std::optional<Clock::time_point> copy_overdue_at(EntryIndex entry) const;

  // ---- places.cc: entries that ranks have whole in slots
  bool lies_in_slots(const Key& key, LocalMask pullable);
  /// Pins an entry that lies whole in the slot of one of `pullable`, for start_pull(entry, pullable); its payload and its
  /// chunks are not this rank's business then. Nothing if there is none.
  std::optional<EntryIndex> acquire_in_slots(const Key& key, LocalMask pullable);
  /// Says of a pinned entry that this rank has all of it in a slot. Nothing if enough others have it. Stays when the pin
  /// goes, and while the payload comes and goes.
  std::optional<Offer> offer(EntryIndex entry, std::uint32_t slab, std::uint32_t slot);
  /// Takes back an offer, and what chunk words say of the same slot.
  struct Withdrawn {
    bool pulled = false;    // somebody may still pull from it: the slot must stay what it is until pullers(entry) is empty
    LocalMask wanting = 0;  // the others that want the entry in their slots
  };
  Withdrawn withdraw(const Offer& offer);
  bool can_pull(EntryIndex entry, LocalMask pullable) const {
    return (placed_with(directory_.entry(entry)) & pullable) != 0;
  }
  /// Like start_pull of a chunk, of all of it, from one of `pullable`: the one from local rank `after` on, round.
  std::optional<SlotCopy> start_pull(EntryIndex entry, LocalMask pullable, std::uint32_t after);

  // ---- shares.cc: entries that one rank copies out of host memory into a slot, for others to pull
  /// Pins the key's entry, made without a payload if there is none; its payload and its chunks are not this rank's business
  /// then. Nothing where the lock is not to be had, or no entry.
  std::optional<EntryIndex> acquire_index(const Key& key);
  /// Of a pinned entry that nobody copies, or whose copying is overdue.
  bool try_claim_whole(EntryIndex entry, Clock::time_point now);
  void end_claim_whole(EntryIndex entry);
  /// Another rank's claim that is not overdue.
  std::optional<Claim> whole_claim(EntryIndex entry, Clock::time_point now) const;

  // ---- whom to tell
  /// Raises the entry's class; `reads`: a demand.
  void want(EntryIndex entry, std::uint32_t urgency, bool reads);
  /// This rank wants to hear of the entry, or no longer.
  void wait_for(EntryIndex entry, bool waits);
  LocalMask waiters(EntryIndex entry) const;  // others

  // ---- NICs that the node's ranks share
  void start_on(std::uint32_t nic, std::uint32_t urgency, std::uint64_t bytes);
  /// Returns the ranks that hold back for this, if this rank has nothing so urgent on the way any more.
  LocalMask finish_on(std::uint32_t nic, std::uint32_t urgency, std::uint64_t bytes);
  /// Whether other ranks have something more urgent on the way.
  bool others_more_urgent(std::uint32_t nic, std::uint32_t urgency) const;
  void hold_back(std::uint32_t nic);
  std::uint64_t chunks_started(std::uint32_t nic) const;

  // ---- faults
  /// Takes back what a rank held if its process has ended. Where it has not, its entries stay what they are, and its claims
  /// become overdue. Idempotent; any survivor may do it.
  void rank_lost(std::uint32_t local);
  /// Takes back what this rank itself holds, before it leaves. Nothing may be on the way any more.
  void leave();

  const CacheCounters& counters() const { return counters_; }
  std::uint64_t used_bytes() const;

 private:
  struct Mine {  // of an entry that this rank has pinned
    std::uint32_t pins = 0;
    std::uint32_t first_block = 0, blocks = 0, chunks = 0;  // no chunks: it was acquired in slots only
    std::uint64_t offset = 0;
    std::vector<bool> claimed;  // chunks that are on their way here
    Extent extent() const { return {first_block, blocks, chunks}; }
    bool housed() const { return pins != 0 && chunks != 0; }
    std::uint32_t pulls = 0;
  };
  /// The lock, as long as it is in scope; repaired where its last holder died.
  class Held {
   public:
    explicit Held(NodeCache& cache);
    ~Held() {
      if (*this) cache_.lock_.unlock();
    }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    explicit operator bool() const { return taken_ != Lock::Taken::kNot; }

   private:
    NodeCache& cache_;
    Lock::Taken taken_;
  };

  std::uint64_t bit() const { return std::uint64_t{1} << options_.local; }
  std::atomic<std::uint64_t>& word(EntryIndex entry, std::uint32_t chunk) const {
    return directory_.chunk_word(mine_[entry].first_block, chunk);
  }
  void step(Step at) const {
    if (options_.at_step) options_.at_step(at);
  }
  void pin(EntryIndex index, const std::optional<Extent>& extent);
  static bool may_evict(const Entry& entry);
  LocalMask placed_with(const Entry& entry) const;
  /// Of an entry with a payload.
  bool whole(EntryIndex index) const;
  bool is_overdue(std::uint64_t claim, Clock::time_point now) const;
  std::optional<EntryIndex> make(const Key& key, std::uint32_t blocks, std::uint32_t chunks, std::uint32_t urgency,
                                 bool unread, std::uint64_t since, Refusal& why);
  /// Blocks that are free, after `index` has been given one that is empty, if it is to be.
  std::optional<std::uint32_t> find_room(std::uint32_t blocks, bool unread, std::uint64_t since, EntryIndex* index);
  bool house(EntryIndex index, std::uint32_t blocks, std::uint32_t chunks, bool unread, std::uint64_t since, Refusal& why);
  bool evict_one(bool unread, std::uint64_t since, bool for_index);
  bool keep_budget(std::uint64_t bytes, std::uint64_t since);
  void drop(EntryIndex index);
  void take_back(std::uint32_t local);
  bool bury_the_dead();

  Directory directory_;
  Lock& lock_;
  NodeCacheOptions options_;
  Nanoseconds overdue_;
  CacheCounters counters_;
  std::vector<Mine> mine_;  // by entry
};

}  // namespace cardea::cache
