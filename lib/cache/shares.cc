// SPDX-License-Identifier: Apache-2.0
// The node cache's half that knows who copies an expert out of host memory into a slot, for all ranks of the node that want
// it in slots.
#include <algorithm>

#include "lib/cache/node_cache.h"

namespace cardea::cache {
namespace {

std::uint64_t microseconds(Nanoseconds time) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

}  // namespace

std::optional<EntryIndex> NodeCache::acquire_index(const Key& key) {
  const Held held(*this);
  if (!held) {
    ++counters_.no_lock;
    return std::nullopt;
  }
  EntryIndex index = directory_.find(key);
  if (index == kNoEntry) {
    index = directory_.empty_entry();
    if (index == kNoEntry) {
      // Of those without a payload, the one used longest ago: who has it in a slot keeps it.
      for (EntryIndex i = 0; i < directory_.used_entries(); ++i) {
        const Entry& entry = directory_.entry(i);
        if (entry.state.load() != Entry::kInSlots || !may_evict(entry)) continue;
        if (index == kNoEntry || entry.last_used < directory_.entry(index).last_used) index = i;
      }
      if (index == kNoEntry) return std::nullopt;
      directory_.erase(index);
    }
    if (mine_[index].pins != 0) return std::nullopt;  // somebody has emptied what is pinned here
    Entry& entry = directory_.entry(index);
    entry.group = key.layer.group;
    entry.layer = key.layer.layer;
    entry.expert = key.expert;
    entry.version = key.version;
    entry.urgency.store(0);
    entry.pins.store(bit());
    entry.waiters.store(0);
    entry.wanted.store(0);
    entry.pullers.store(0);
    for (std::atomic<std::uint64_t>& place : entry.places) place.store(0);
    entry.claim.store(0);
    directory_.insert_in_slots(index);
  }
  pin(index, std::nullopt);
  Entry& entry = directory_.entry(index);
  entry.last_used = directory_.header().tick.fetch_add(1) + 1;
  entry.read.store(1);
  step(Step::kIndexMade);
  return index;
}

std::optional<NodeCache::Claim> NodeCache::whole_claim(EntryIndex entry, Clock::time_point now) const {
  const std::uint64_t is = directory_.entry(entry).claim.load();
  if (copy_state_of(is) != CopyState::kClaimed || copy_holder_of(is) == options_.local) return std::nullopt;
  const std::uint64_t time = microseconds(now.time_since_epoch()), since = copy_claim_time_of(is);
  if (since > time + microseconds(overdue_) || time > since + microseconds(overdue_)) return std::nullopt;
  return Claim{copy_holder_of(is), Clock::time_point(std::chrono::microseconds(since))};
}

bool NodeCache::try_claim_whole(EntryIndex entry, Clock::time_point now) {
  std::atomic<std::uint64_t>& claim = directory_.entry(entry).claim;
  std::uint64_t is = claim.load();
  if (whole_claim(entry, now)) return false;
  if (!claim.compare_exchange_strong(is, copy_claim_word(options_.local, microseconds(now.time_since_epoch()))))
    return false;
  step(Step::kWholeClaimed);
  return true;
}

void NodeCache::end_claim_whole(EntryIndex entry) {
  std::atomic<std::uint64_t>& claim = directory_.entry(entry).claim;
  std::uint64_t is = claim.load();
  // Unless it was taken over meanwhile.
  if (copy_state_of(is) == CopyState::kClaimed && copy_holder_of(is) == options_.local) claim.compare_exchange_strong(is, 0);
  step(Step::kWholeClaimEnded);
}

}  // namespace cardea::cache
