// SPDX-License-Identifier: Apache-2.0
#include "lib/cache/node_cache.h"

#include <algorithm>

namespace cardea::cache {
namespace {

constexpr std::uint32_t kNone = UINT32_MAX;
// Ranks of a node share a clock. A claim that is later than now by more than a glance is nonsense.
constexpr std::uint64_t kGlance = 1'000'000;  // microseconds
// What a time point can hold.
constexpr std::uint64_t kEndOfTime = std::uint64_t{1} << 52;  // microseconds

std::uint64_t microseconds(Clock::time_point time) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count());
}

}  // namespace

NodeCache::Held::Held(NodeCache& cache) : cache_(cache), taken_(cache.lock_.lock()) {
  if (taken_ == Lock::Taken::kOwnerDied) {
    cache.directory_.repair();
    ++cache.counters_.repairs;
    cache.step(Step::kRepaired);
  }
  if (*this) cache.step(Step::kLocked);
}

NodeCache::NodeCache(Directory directory, Lock& lock, NodeCacheOptions options)
    : directory_(directory),
      lock_(lock),
      options_(std::move(options)),
      overdue_(options_.overdue),
      mine_(directory.shape().entries) {}

std::uint64_t NodeCache::tick() const {
  return directory_.header().tick.load();
}

// ---------------------------------------------------------------- entries

std::optional<EntryIndex> NodeCache::acquire(const Key& key, std::uint64_t bytes, std::uint32_t chunks,
                                             std::uint32_t urgency, bool unread, std::uint64_t since, Refusal& why,
                                             LocalMask pullable) {
  const Shape& shape = directory_.shape();
  why = Refusal::kNoRoom;
  if (bytes == 0 || bytes > shape.capacity || chunks == 0 || chunks > kMaxChunks) {
    ++counters_.no_room;
    return std::nullopt;
  }
  const auto blocks = static_cast<std::uint32_t>((bytes + shape.block_bytes - 1) / shape.block_bytes);
  std::optional<EntryIndex> found;
  {
    const Held held(*this);
    if (!held) {
      why = Refusal::kLockNotHad;
      ++counters_.no_lock;
      return std::nullopt;
    }
    std::optional<Extent> extent;
    const EntryIndex index = directory_.find(key);
    const bool in_slots = index != kNoEntry && directory_.entry(index).state.load() == Entry::kInSlots;
    if (index != kNoEntry && (placed_with(directory_.entry(index)) & pullable) != 0 && (in_slots || !whole(index))) {
      why = Refusal::kInSlots;
      return std::nullopt;
    }
    if (index != kNoEntry && !in_slots) {
      extent = directory_.extent(directory_.entry(index));
      // Ranks that disagree share nothing; and what is pinned here does not move.
      const bool known = mine_[index].housed();
      if (!extent || extent->blocks != blocks || extent->chunks != chunks || (known && mine_[index].extent() != *extent)) {
        ++counters_.no_room;
        return std::nullopt;
      }
      found = index;
      ++counters_.hits;
    } else {
      if (!in_slots) {
        found = make(key, blocks, chunks, urgency, unread, since, why);
      } else if (house(index, blocks, chunks, unread, since, why)) {
        found = index;
      }
      if (!found) {
        ++counters_.no_room;
        return std::nullopt;
      }
      extent = directory_.extent(directory_.entry(*found));
      const bool known = in_slots ? mine_[*found].housed() : mine_[*found].pins != 0;
      if (!extent || extent->blocks != blocks || extent->chunks != chunks || known) {
        // Somebody wrote there meanwhile, or emptied what is pinned here.
        if (mine_[*found].pins == 0) directory_.entry(*found).pins.fetch_and(~bit());
        ++counters_.no_room;
        return std::nullopt;
      }
      ++counters_.misses;
    }
    Entry& entry = directory_.entry(*found);
    pin(*found, *extent);
    entry.last_used = directory_.header().tick.fetch_add(1) + 1;
    if (!unread) entry.read.store(1);
    if (urgency < entry.urgency.load()) entry.urgency.store(urgency);
    step(Step::kEntryLive);
  }
  step(Step::kAcquired);
  why = Refusal::kNone;
  return found;
}

std::optional<EntryIndex> NodeCache::acquire_whole(const Key& key, std::uint64_t bytes, std::uint32_t chunks) {
  const Held held(*this);
  if (!held) {
    ++counters_.no_lock;
    return std::nullopt;
  }
  const EntryIndex index = directory_.find(key);
  if (index == kNoEntry || directory_.entry(index).state.load() != Entry::kLive) return std::nullopt;
  Entry& entry = directory_.entry(index);
  const std::optional<Extent> extent = directory_.extent(entry);
  const std::uint64_t blocks = (bytes + directory_.shape().block_bytes - 1) / directory_.shape().block_bytes;
  if (!extent || extent->chunks != chunks || extent->blocks != blocks) return std::nullopt;
  if (mine_[index].housed() && mine_[index].extent() != *extent) return std::nullopt;
  if (!whole(index)) return std::nullopt;
  ++counters_.hits;
  pin(index, *extent);
  entry.last_used = directory_.header().tick.fetch_add(1) + 1;
  entry.read.store(1);
  return index;
}

bool NodeCache::whole(EntryIndex index) const {
  const std::optional<Extent> extent = directory_.extent(directory_.entry(index));
  for (std::uint32_t i = 0; extent && i < extent->chunks; ++i) {
    if (state_of(directory_.chunk_word(extent->first_block, i).load()) != ChunkState::kDone) return false;
  }
  return extent.has_value();
}

void NodeCache::pin(EntryIndex index, const std::optional<Extent>& extent) {
  directory_.entry(index).pins.fetch_or(bit());
  Mine& mine = mine_[index];
  const bool known = mine.housed();
  ++mine.pins;
  if (known || !extent) return;
  mine.first_block = extent->first_block;
  mine.blocks = extent->blocks;
  mine.chunks = extent->chunks;
  mine.offset = directory_.offset(extent->first_block);
  mine.claimed.assign(extent->chunks, false);
}

std::optional<EntryIndex> NodeCache::make(const Key& key, std::uint32_t blocks, std::uint32_t chunks, std::uint32_t urgency,
                                          bool unread, std::uint64_t since, Refusal& why) {
  if (unread && !keep_budget(blocks * directory_.shape().block_bytes, since)) {
    why = Refusal::kPrefetchBudget;
    return std::nullopt;
  }
  EntryIndex index = kNoEntry;
  const auto block = find_room(blocks, unread, since, &index);
  if (!block) return std::nullopt;
  Entry& entry = directory_.entry(index);
  entry.group = key.layer.group;
  entry.layer = key.layer.layer;
  entry.expert = key.expert;
  entry.version = key.version;
  entry.first_block = *block;
  entry.blocks = blocks;
  entry.chunks = chunks;
  entry.urgency.store(urgency);
  entry.pins.store(bit());  // never live and unpinned before it is filled
  entry.waiters.store(0);
  entry.wanted.store(0);
  entry.pullers.store(0);
  entry.read.store(0);
  for (std::atomic<std::uint64_t>& place : entry.places) place.store(0);
  entry.claim.store(0);
  for (std::uint32_t i = 0; i < chunks; ++i) directory_.chunk_word(*block, i).store(0);
  step(Step::kEntryFilledIn);
  directory_.insert(index);
  return index;
}

std::optional<std::uint32_t> NodeCache::find_room(std::uint32_t blocks, bool unread, std::uint64_t since,
                                                  EntryIndex* index) {
  // Each rank from a part of its own on: what it fills first lies near it (NUMA), and so it stays when that is filled again.
  // In whole multiples, so that entries of one size leave no gaps.
  const std::uint64_t own = std::uint64_t{directory_.shape().blocks} * options_.local / options_.locals;
  const auto from = static_cast<std::uint32_t>(own / blocks * blocks);
  // Each round empties an entry or its payload, takes back a dead rank's or repairs, so it ends, unless somebody fills them
  // meanwhile.
  for (std::uint32_t rounds = 3 * directory_.shape().entries + kMaxLocalRanks;; --rounds) {
    const EntryIndex empty = index != nullptr ? directory_.empty_entry() : kNoEntry;
    const std::uint32_t free = directory_.shape().blocks - directory_.used_blocks();
    const std::uint32_t block = free >= blocks ? directory_.free_run(blocks, from) : kNone;
    const bool lacks_index = index != nullptr && empty == kNoEntry;
    if (!lacks_index && block != kNone) {
      if (index != nullptr) *index = empty;
      return block;
    }
    if (rounds == 0) return std::nullopt;
    if (!evict_one(unread, since, lacks_index) && !bury_the_dead()) {
      if (directory_.consistent()) return std::nullopt;
      directory_.repair();
      ++counters_.repairs;
    }
    step(Step::kVictimErased);
  }
}

bool NodeCache::may_evict(const Entry& entry) {
  return entry.state.load() != Entry::kEmpty && entry.pins.load() == 0;
}

bool NodeCache::evict_one(bool unread, std::uint64_t since, bool for_index) {
  // A demand takes unread prefetches first; a prefetch what was read, since what was not is still to be, and only then a
  // prefetch older than its own request, since the newer one knows better what comes next.
  EntryIndex victim = kNoEntry;
  bool victim_read = false, victim_placed = false;
  for (EntryIndex i = 0; i < directory_.used_entries(); ++i) {
    const Entry& entry = directory_.entry(i);
    if (!may_evict(entry)) continue;
    const bool placed = Directory::placed(entry), in_slots = entry.state.load() == Entry::kInSlots;
    if (in_slots && !placed) {  // nobody has it any more
      directory_.erase(i);
      if (for_index) return true;
      continue;
    }
    if (in_slots && !for_index) continue;  // it has no blocks
    const bool read = entry.read.load() != 0;
    if (unread && !read && entry.last_used > since) continue;
    // Of those read, first what stays in slots.
    const bool better = victim == kNoEntry        ? true
                        : read != victim_read     ? read == unread
                        : placed != victim_placed ? placed
                                                  : entry.last_used < directory_.entry(victim).last_used;
    if (!better) continue;
    victim = i;
    victim_read = read;
    victim_placed = placed;
  }
  if (victim == kNoEntry) return false;
  if (victim_placed && directory_.entry(victim).state.load() == Entry::kLive) {
    ++counters_.left_in_slots;
    directory_.let_payload_go(victim);
    step(Step::kLeftInSlots);
    return true;
  }
  ++counters_.evicted;
  drop(victim);
  return true;
}

bool NodeCache::keep_budget(std::uint64_t bytes, std::uint64_t since) {
  if (options_.prefetch_bytes == UINT64_MAX) return true;
  if (bytes > options_.prefetch_bytes) return false;
  for (std::uint32_t rounds = 0; rounds <= directory_.shape().entries; ++rounds) {
    std::uint64_t unread = 0;
    EntryIndex oldest = kNoEntry;
    for (EntryIndex i = 0; i < directory_.used_entries(); ++i) {
      const Entry& entry = directory_.entry(i);
      if (entry.state.load() != Entry::kLive || entry.read.load() != 0) continue;  // what lies in slots takes no room
      if (const auto held = directory_.extent(entry)) unread += held->blocks * directory_.shape().block_bytes;
      if (!may_evict(entry) || entry.last_used > since) continue;
      if (oldest == kNoEntry || entry.last_used < directory_.entry(oldest).last_used) oldest = i;
    }
    if (unread + bytes <= options_.prefetch_bytes) return true;
    if (oldest == kNoEntry) return false;
    ++counters_.evicted;
    drop(oldest);
    step(Step::kVictimErased);
  }
  return false;
}

void NodeCache::drop(EntryIndex index) {
  const Entry& entry = directory_.entry(index);
  const auto held = directory_.extent(entry);
  if (held && entry.read.load() == 0 && entry.state.load() == Entry::kLive) {
    std::uint32_t filled = 0;
    for (std::uint32_t i = 0; i < held->chunks; ++i) {
      if (state_of(directory_.chunk_word(held->first_block, i).load()) == ChunkState::kDone) ++filled;
    }
    counters_.prefetch_bytes_wasted += std::min(filled * chunk_bytes(), held->blocks * directory_.shape().block_bytes);
  }
  directory_.erase(index);
}

void NodeCache::release(EntryIndex index, bool stale) {
  Mine& mine = mine_[index];
  if (--mine.pins != 0) return;
  mine.chunks = 0;
  mine.offset = 0;
  Entry& entry = directory_.entry(index);
  {
    // Also where the lock is not to be had: whoever holds it decides by the pin, and a bit too many for a moment keeps an
    // entry a moment longer.
    const Held held(*this);
    entry.waiters.fetch_and(~bit());
    entry.wanted.fetch_and(~bit());
    const bool last = entry.pins.fetch_and(~bit()) == bit();
    step(Step::kUnpinned);
    const std::uint32_t state = entry.state.load();
    if (held && last && state == Entry::kInSlots && !Directory::placed(entry)) {
      directory_.erase(index);
    } else if (held && stale && last && state != Entry::kEmpty) {
      ++counters_.retired;
      drop(index);
    }
  }
  step(Step::kReleased);
}

void NodeCache::retire(const LayerKey& layer, Version up_to) {
  const Held held(*this);
  if (!held) return;  // they are pushed out in time
  for (EntryIndex i = 0; i < directory_.used_entries(); ++i) {
    const Entry& entry = directory_.entry(i);
    if (!may_evict(entry) || entry.group != layer.group || entry.layer != layer.layer || entry.version > up_to) continue;
    ++counters_.retired;
    drop(i);
    step(Step::kRetired);
  }
}

// ---------------------------------------------------------------- chunks

bool NodeCache::done(EntryIndex entry, std::uint32_t chunk) const {
  return state_of(word(entry, chunk).load()) == ChunkState::kDone;
}

bool NodeCache::is_overdue(std::uint64_t claim, Clock::time_point now) const {
  const std::uint64_t time = microseconds(now);
  if (claim > time) return claim - time > kGlance;
  return time - claim > microseconds(Clock::time_point(overdue_));
}

bool NodeCache::claimable(EntryIndex entry, std::uint32_t chunk, Clock::time_point now) const {
  if (mine_[entry].claimed[chunk]) return false;  // it is on its way here, whoever the word says has it
  const std::uint64_t is = word(entry, chunk).load();
  if (state_of(is) == ChunkState::kDone) return false;
  if (state_of(is) != ChunkState::kClaimed) return true;
  // A claim in this rank's name that it has not made is nonsense.
  return claimant_of(is) == options_.local || is_overdue(claim_time_of(is), now);
}

bool NodeCache::try_claim(EntryIndex entry, std::uint32_t chunk, Clock::time_point now) {
  std::uint64_t is = word(entry, chunk).load();
  if (!claimable(entry, chunk, now)) return false;
  if (!word(entry, chunk).compare_exchange_strong(is, claim_word(options_.local, microseconds(now)))) return false;
  if (state_of(is) == ChunkState::kClaimed) ++counters_.overdue;
  mine_[entry].claimed[chunk] = true;
  step(Step::kClaimed);
  return true;
}

void NodeCache::finish_chunk(EntryIndex entry, std::uint32_t chunk, bool ok) {
  mine_[entry].claimed[chunk] = false;
  // Unless it was taken over meanwhile: then it is the other's, and its bytes are the same.
  std::uint64_t is = word(entry, chunk).load();
  const bool mine = state_of(is) == ChunkState::kClaimed && claimant_of(is) == options_.local;
  const std::uint64_t to = ok ? done_word(options_.local) : static_cast<std::uint64_t>(ChunkState::kFree);
  if (mine) word(entry, chunk).compare_exchange_strong(is, to);
  step(ok ? Step::kChunkDone : Step::kChunkGivenBack);
}

std::optional<NodeCache::Claim> NodeCache::oldest_claim(EntryIndex entry) const {
  std::optional<Claim> oldest;
  for (std::uint32_t i = 0; i < mine_[entry].chunks; ++i) {
    const std::uint64_t is = word(entry, i).load();
    if (state_of(is) != ChunkState::kClaimed || claimant_of(is) == options_.local) continue;
    const std::uint64_t time = std::min(claim_time_of(is), kEndOfTime);
    const Clock::time_point since{std::chrono::microseconds(time)};
    if (!oldest || since < oldest->since) oldest = Claim{claimant_of(is), since};
  }
  return oldest;
}

std::optional<Clock::time_point> NodeCache::overdue_at(EntryIndex entry, Clock::time_point now) const {
  const auto oldest = oldest_claim(entry);
  if (!oldest) return std::nullopt;
  const auto when =
      std::min(oldest->since, now + std::chrono::microseconds(kGlance)) + std::chrono::microseconds(1) + overdue_;
  // Overdue already and still not to be had: the chunk is on its way here, too. Looked at again later, not at once for ever.
  return when > now ? when : now + overdue_;
}

// ---------------------------------------------------------------- whom to tell

void NodeCache::want(EntryIndex index, std::uint32_t urgency, bool reads) {
  Entry& entry = directory_.entry(index);
  if (reads) entry.read.store(1);
  for (std::uint32_t is = entry.urgency.load(); urgency < is && !entry.urgency.compare_exchange_weak(is, urgency);) {
  }
}

void NodeCache::wait_for(EntryIndex entry, bool waits) {
  std::atomic<std::uint64_t>& waiters = directory_.entry(entry).waiters;
  if (waits) {
    waiters.fetch_or(bit());
  } else {
    waiters.fetch_and(~bit());
  }
}

LocalMask NodeCache::waiters(EntryIndex entry) const {
  return directory_.entry(entry).waiters.load() & ~bit();
}

// ---------------------------------------------------------------- NICs

void NodeCache::start_on(std::uint32_t nic, std::uint32_t urgency, std::uint64_t bytes) {
  Nic& at = directory_.header().nics[nic];
  at.bytes[urgency][options_.local].fetch_add(bytes);
  at.chunks.fetch_add(1, std::memory_order_relaxed);
}

LocalMask NodeCache::finish_on(std::uint32_t nic, std::uint32_t urgency, std::uint64_t bytes) {
  Nic& at = directory_.header().nics[nic];
  if (at.bytes[urgency][options_.local].fetch_sub(bytes) != bytes) return 0;
  return at.held.load() == 0 ? 0 : at.held.exchange(0) & ~bit();
}

bool NodeCache::others_more_urgent(std::uint32_t nic, std::uint32_t urgency) const {
  const Nic& at = directory_.header().nics[nic];
  for (std::uint32_t u = 0; u < urgency; ++u) {
    for (std::uint32_t local = 0; local < options_.locals; ++local) {
      if (local != options_.local && at.bytes[u][local].load() != 0) return true;
    }
  }
  return false;
}

void NodeCache::hold_back(std::uint32_t nic) {
  directory_.header().nics[nic].held.fetch_or(bit());
}

std::uint64_t NodeCache::chunks_started(std::uint32_t nic) const {
  return directory_.header().nics[nic].chunks.load(std::memory_order_relaxed);
}

// ---------------------------------------------------------------- faults

void NodeCache::rank_lost(std::uint32_t local) {
  if (!options_.process_ended || !options_.process_ended(local)) return;
  const Held held(*this);
  take_back(local);  // all of it by atomic words, so also without the lock
}

void NodeCache::leave() {
  const Held held(*this);
  take_back(options_.local);
  std::fill(mine_.begin(), mine_.end(), Mine{});
}

void NodeCache::take_back(std::uint32_t local) {
  const std::uint64_t theirs = std::uint64_t{1} << local;
  for (EntryIndex i = 0; i < directory_.shape().entries; ++i) {
    Entry& entry = directory_.entry(i);
    const std::uint32_t state = entry.state.load();
    if (state == Entry::kEmpty) continue;
    // Offers stay without a pin.
    for (std::atomic<std::uint64_t>& place : entry.places) {
      std::uint64_t is = place.load();
      if (copy_state_of(is) != CopyState::kInSlot || copy_holder_of(is) != local) continue;
      if (place.compare_exchange_strong(is, 0) && state == Entry::kInSlots && !Directory::placed(entry)) ++counters_.gone;
    }
    if (std::uint64_t is = entry.claim.load(); copy_state_of(is) == CopyState::kClaimed && copy_holder_of(is) == local)
      entry.claim.compare_exchange_strong(is, 0);
    const auto held = directory_.extent(entry);
    for (std::uint32_t chunk = 0; state == Entry::kLive && held && chunk < held->chunks; ++chunk) {
      std::atomic<std::uint64_t>& at = directory_.chunk_word(held->first_block, chunk);
      std::uint64_t is = at.load();
      if (state_of(is) == ChunkState::kClaimed && claimant_of(is) == local) at.compare_exchange_strong(is, 0);
      if (copy_state_of(is) != CopyState::kNobody && copy_holder_of(is) == local)
        at.compare_exchange_strong(is, done_word(local));
    }
    if ((entry.pins.load() & theirs) == 0) continue;
    entry.waiters.fetch_and(~theirs);
    entry.wanted.fetch_and(~theirs);
    entry.pullers.fetch_and(~theirs);
    entry.pins.fetch_and(~theirs);
  }
  for (Nic& nic : directory_.header().nics) {
    for (auto& of_class : nic.bytes) of_class[local].store(0);
    nic.held.fetch_and(~theirs);
  }
}

bool NodeCache::bury_the_dead() {
  if (!options_.process_ended) return false;
  std::uint64_t pinning = 0;
  for (EntryIndex i = 0; i < directory_.used_entries(); ++i) {
    if (directory_.entry(i).state.load() != Entry::kEmpty) pinning |= directory_.entry(i).pins.load();
  }
  bool any = false;
  for (std::uint32_t local = 0; local < options_.locals; ++local) {
    if (local == options_.local || (pinning >> local & 1) == 0 || !options_.process_ended(local)) continue;
    take_back(local);
    any = true;
  }
  return any;
}

std::uint64_t NodeCache::used_bytes() const {
  return directory_.used_blocks() * directory_.shape().block_bytes;
}

}  // namespace cardea::cache
