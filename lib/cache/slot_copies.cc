// SPDX-License-Identifier: Apache-2.0
// The node cache's half that knows of copies in slots: who takes which chunk of an entry out of host memory, and who pulls
// it from there.
#include <algorithm>

#include "lib/cache/node_cache.h"

namespace cardea::cache {
namespace {

std::uint64_t microseconds(Nanoseconds time) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

}  // namespace

LocalMask NodeCache::want_in_slot(EntryIndex index, bool wants) {
  std::atomic<std::uint64_t>& wanted = directory_.entry(index).wanted;
  return (wants ? wanted.fetch_or(bit()) : wanted.fetch_and(~bit())) & ~bit();
}

LocalMask NodeCache::wanted_in_slots(EntryIndex index) const {
  return directory_.entry(index).wanted.load() & ~bit();
}

SlotCopy NodeCache::slot_copy(EntryIndex entry, std::uint32_t chunk) const {
  const std::uint64_t is = word(entry, chunk).load();
  SlotCopy copy{.state = copy_state_of(is)};
  if (copy.state == CopyState::kNobody) return copy;
  copy.local = copy_holder_of(is);
  if (copy.state == CopyState::kInSlot) {
    copy.slab = copy_slab_of(is);
    copy.slot = copy_slot_of(is);
  }
  return copy;
}

std::uint32_t NodeCache::brought_by(EntryIndex entry, std::uint32_t chunk) const {
  return copy_holder_of(word(entry, chunk).load());
}

bool NodeCache::try_claim_copy(EntryIndex entry, std::uint32_t chunk, Clock::time_point now) {
  std::uint64_t is = word(entry, chunk).load();
  if (state_of(is) != ChunkState::kDone) return false;
  const std::uint64_t time = microseconds(now.time_since_epoch());
  const bool overdue = copy_state_of(is) == CopyState::kClaimed && copy_holder_of(is) != options_.local &&
                       time > copy_claim_time_of(is) + microseconds(overdue_);
  if (copy_state_of(is) != CopyState::kNobody && !overdue) return false;
  return word(entry, chunk).compare_exchange_strong(is, copy_claim_word(options_.local, time));
}

bool NodeCache::finish_copy(EntryIndex entry, std::uint32_t chunk, bool ok, std::uint32_t slab, std::uint32_t slot) {
  std::uint64_t is = word(entry, chunk).load();
  if (copy_state_of(is) != CopyState::kClaimed || copy_holder_of(is) != options_.local) return false;
  const bool named = slab <= kMaxCopySlot && slot <= kMaxCopySlot;
  const std::uint64_t to = ok && named ? in_slot_word(options_.local, slab, slot) : done_word(options_.local);
  return word(entry, chunk).compare_exchange_strong(is, to);
}

bool NodeCache::start_pull(EntryIndex entry, std::uint32_t chunk, const SlotCopy& from) {
  Mine& mine = mine_[entry];
  directory_.entry(entry).pullers.fetch_or(bit());
  ++mine.pulls;
  if (word(entry, chunk).load() == in_slot_word(from.local, from.slab, from.slot)) return true;
  end_pull(entry);
  return false;
}

bool NodeCache::end_pull(EntryIndex entry) {
  if (--mine_[entry].pulls != 0) return false;
  directory_.entry(entry).pullers.fetch_and(~bit());
  step(Step::kPullEnded);
  return true;
}

void NodeCache::withdraw_copies(EntryIndex entry) {
  for (std::uint32_t chunk = 0; chunk < mine_[entry].chunks; ++chunk) {
    std::uint64_t is = word(entry, chunk).load();
    if (copy_state_of(is) == CopyState::kInSlot && copy_holder_of(is) == options_.local)
      word(entry, chunk).compare_exchange_strong(is, done_word(options_.local));
  }
}

LocalMask NodeCache::pullers(EntryIndex entry) const {
  return directory_.entry(entry).pullers.load() & ~bit();
}

std::optional<Clock::time_point> NodeCache::copy_overdue_at(EntryIndex entry) const {
  std::uint64_t oldest = UINT64_MAX;
  for (std::uint32_t i = 0; i < mine_[entry].chunks; ++i) {
    const std::uint64_t is = word(entry, i).load();
    if (copy_state_of(is) == CopyState::kClaimed && copy_holder_of(is) != options_.local)
      oldest = std::min(oldest, copy_claim_time_of(is));
  }
  if (oldest == UINT64_MAX) return std::nullopt;
  return Clock::time_point(std::chrono::microseconds(oldest + 1)) + overdue_;
}

}  // namespace cardea::cache
