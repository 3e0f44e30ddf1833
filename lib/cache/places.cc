// SPDX-License-Identifier: Apache-2.0
// The node cache's half that knows of experts which ranks have whole in slots: those need no payload, for the others pull
// them from there.
#include <algorithm>

#include "lib/cache/node_cache.h"

namespace cardea::cache {

LocalMask NodeCache::placed_with(const Entry& entry) const {
  LocalMask with = 0;
  for (const std::atomic<std::uint64_t>& place : entry.places) {
    const std::uint64_t is = place.load();
    if (copy_state_of(is) == CopyState::kInSlot && copy_holder_of(is) < options_.locals)
      with |= std::uint64_t{1} << copy_holder_of(is);
  }
  return with & ~bit();
}

bool NodeCache::lies_in_slots(const Key& key, LocalMask pullable) {
  if (pullable == 0) return false;
  const Held held(*this);
  const EntryIndex index = held ? directory_.find(key) : kNoEntry;
  return index != kNoEntry && can_pull(index, pullable);
}

std::optional<EntryIndex> NodeCache::acquire_in_slots(const Key& key, LocalMask pullable) {
  const Held held(*this);
  if (!held) {
    ++counters_.no_lock;
    return std::nullopt;
  }
  const EntryIndex index = directory_.find(key);
  if (index == kNoEntry || (placed_with(directory_.entry(index)) & pullable) == 0) return std::nullopt;
  pin(index, std::nullopt);
  Entry& entry = directory_.entry(index);
  entry.last_used = directory_.header().tick.fetch_add(1) + 1;
  entry.read.store(1);
  ++counters_.hits;
  ++counters_.hits_in_slots;
  return index;
}

/// An entry that lies in slots gets a payload, whose chunks nobody has filled; whoever pulls goes on.
bool NodeCache::house(EntryIndex index, std::uint32_t blocks, std::uint32_t chunks, bool unread, std::uint64_t since,
                      Refusal& why) {
  if (unread && !keep_budget(blocks * directory_.shape().block_bytes, since)) {
    why = Refusal::kPrefetchBudget;
    return false;
  }
  Entry& entry = directory_.entry(index);
  entry.pins.fetch_or(bit());  // so that making room does not take it
  const auto block = find_room(blocks, unread, since, nullptr);
  // Making room may have found the directory in need of repair, and this entry nonsense.
  if (!block || entry.state.load() != Entry::kInSlots) {
    if (mine_[index].pins == 0) entry.pins.fetch_and(~bit());
    return false;
  }
  entry.first_block = *block;
  entry.blocks = blocks;
  entry.chunks = chunks;
  if (unread) entry.read.store(0);
  for (std::uint32_t i = 0; i < chunks; ++i) directory_.chunk_word(*block, i).store(0);
  directory_.give_payload(index);
  ++counters_.housed_again;
  step(Step::kHoused);
  return true;
}

std::optional<Offer> NodeCache::offer(EntryIndex entry, std::uint32_t slab, std::uint32_t slot) {
  if (slab > kMaxCopySlot || slot > kMaxCopySlot) return std::nullopt;
  for (std::atomic<std::uint64_t>& place : directory_.entry(entry).places) {
    std::uint64_t is = place.load();
    if (copy_state_of(is) == CopyState::kInSlot) continue;
    if (!place.compare_exchange_strong(is, in_slot_word(options_.local, slab, slot))) continue;
    step(Step::kPlaced);
    return Offer{entry, mine_[entry].housed() ? mine_[entry].extent() : Extent{}, slab, slot};
  }
  return std::nullopt;
}

NodeCache::Withdrawn NodeCache::withdraw(const Offer& offer) {
  // Without a pin the entry may be another's by now, or its words: but no word of another's names this slot, and who pulls
  // from it has a pin.
  const std::uint64_t here = in_slot_word(options_.local, offer.slab, offer.slot);
  bool still_there = false;
  for (std::uint32_t chunk = 0; chunk < offer.extent.chunks; ++chunk) {
    std::uint64_t is = here;
    std::atomic<std::uint64_t>& word = directory_.chunk_word(offer.extent.first_block, chunk);
    still_there |= word.compare_exchange_strong(is, done_word(options_.local));
  }
  Entry& entry = directory_.entry(offer.entry);
  for (std::atomic<std::uint64_t>& place : entry.places) {
    std::uint64_t is = here;
    if (!place.compare_exchange_strong(is, 0)) continue;
    still_there = true;
    if (entry.state.load() == Entry::kInSlots && !Directory::placed(entry)) ++counters_.gone;
  }
  step(Step::kWithdrawn);
  if (!still_there) return {};
  return {pullers(offer.entry) != 0, wanted_in_slots(offer.entry)};
}

std::optional<SlotCopy> NodeCache::start_pull(EntryIndex entry, LocalMask pullable, std::uint32_t after) {
  Entry& of = directory_.entry(entry);
  // Each from another one first.
  const auto distance = [&](std::uint32_t local) { return (local + kMaxLocalRanks - after - 1) % kMaxLocalRanks; };
  for (LocalMask left = pullable & placed_with(of); left != 0;) {
    const std::atomic<std::uint64_t>* best = nullptr;
    std::uint64_t word = 0;
    for (const std::atomic<std::uint64_t>& place : of.places) {
      const std::uint64_t is = place.load();
      if (copy_state_of(is) != CopyState::kInSlot || (left >> copy_holder_of(is) & 1) == 0) continue;
      if (best != nullptr && distance(copy_holder_of(is)) >= distance(copy_holder_of(word))) continue;
      best = &place;
      word = is;
    }
    if (best == nullptr) return std::nullopt;
    of.pullers.fetch_or(bit());
    ++mine_[entry].pulls;
    step(Step::kPullBegun);
    if (best->load() == word)
      return SlotCopy{CopyState::kInSlot, copy_holder_of(word), copy_slab_of(word), copy_slot_of(word)};
    end_pull(entry);
    left &= ~(std::uint64_t{1} << copy_holder_of(word));
  }
  return std::nullopt;
}

}  // namespace cardea::cache
