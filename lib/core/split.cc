// SPDX-License-Identifier: Apache-2.0
// The core's half that splits and swaps (split.h). A transfer out of the node cache that swaps is queued on two lanes: on
// one it copies chunks out of host memory that nobody of the node has in a slot yet, on the other it pulls those that
// somebody has. What it has copied is *offered*: others may pull it until its slot is needed; then the offer is taken back,
// and the slot is free when nobody pulls any more.
#include "lib/core/split.h"

#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {
namespace {

// News of others come by entry_changed; this is for those that got lost with their sender.
constexpr Nanoseconds kLookAgain = std::chrono::milliseconds(5);
}  // namespace

bool Core::may_swap(const Slab& slab, const Layer& of) const {
  if (options_.swap.on_device || !may_pull(slab, of)) return false;
  const std::uint64_t of_lane = lanes_[options_.copy_lane].limits().chunk_bytes;
  return (of_lane != 0 ? of_lane : options_.chunk_bytes) == cache_->chunk_bytes();
}

bool Core::begin_swap(Transfer& transfer) {
  const Layer& of = layer(transfer.layer);
  if (!may_swap(*slabs_.at(transfer.slab), of) || transfer.chunks.size() != of.cache_ranges.size()) return false;
  const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
  transfer.shared = (cache_->want_in_slot(entry, true) & options_.swap.peers) != 0;
  swaps_.emplace(entry, transfer.number);
  return true;
}

bool Core::can_pull_from(const Transfer& transfer, std::uint32_t local) const {
  return local < cache::kMaxLocalRanks && (pullable_by(transfer) >> local & 1) != 0;
}

cache::LocalMask Core::pullable_by(const Transfer& transfer) const {
  return living_peers(layer(transfer.layer)) & ~transfer.avoided;
}

std::optional<std::size_t> Core::next_copy(Transfer& transfer, bool own_share, Clock::time_point now) {
  const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
  const std::uint64_t self = std::uint64_t{1} << cache_->local();
  const std::uint64_t others = cache_->wanted_in_slots(entry) & options_.swap.peers;
  const std::size_t count = transfer.chunks.size();
  const Share share = share_of(others | self, cache_->local(), options_.swap.uplink_of, transfer.expert);
  // Who brought a chunk into the node copies it, for it lies near; what nobody has brought who wants it is dealt.
  const auto is_own = [&](std::size_t i) {
    const std::uint32_t brought = cache_->brought_by(entry, static_cast<std::uint32_t>(i));
    return ((others | self) >> brought & 1) != 0 ? brought == cache_->local() : share.has(i);
  };
  if (cache_->can_pull(entry, pullable_by(transfer))) return std::nullopt;  // all of it, from one who has all of it
  const auto take = [&](std::size_t i) {
    const Transfer::Chunk& chunk = transfer.chunks[i];
    return !chunk.done && !chunk.flying && cache_->try_claim_copy(entry, static_cast<std::uint32_t>(i), now);
  };
  if (own_share) {
    for (std::size_t i = 0; i < count; ++i) {
      if (is_own(i) && take(i)) return i;
    }
    return std::nullopt;
  }
  // From the one after its own first round: helpers do not all begin with the same.
  for (std::size_t n = 1; n <= count; ++n) {
    const std::size_t i = (share.first + n) % count;
    if (take(i)) return i;
    const Transfer::Chunk& chunk = transfer.chunks[i];
    if (chunk.done || chunk.flying) continue;
    const cache::SlotCopy copy = cache_->slot_copy(entry, static_cast<std::uint32_t>(i));
    // In the slot of somebody from whom this rank cannot pull, or of its own in another slab: copied without a word.
    if (copy.state == cache::CopyState::kInSlot && !can_pull_from(transfer, copy.local)) return i;
  }
  return std::nullopt;
}

std::optional<std::size_t> Core::next_pull(Transfer& transfer) {
  const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
  // From the rank after the one that it pulled from last, round: so no two ranks begin with the same one, and none draws
  // all it can from one while others have something for it.
  const auto distance = [&](std::uint32_t local) { return (local + 64 - last_pulled_ - 1) % 64; };
  std::optional<std::size_t> best, any;
  cache::SlotCopy from;
  for (std::size_t i = 0; i < transfer.chunks.size(); ++i) {
    const Transfer::Chunk& chunk = transfer.chunks[i];
    if (chunk.done || chunk.flying) continue;
    if (!any) any = i;
    const cache::SlotCopy copy = cache_->slot_copy(entry, static_cast<std::uint32_t>(i));
    if (copy.state != cache::CopyState::kInSlot || !can_pull_from(transfer, copy.local)) continue;
    if (best && distance(copy.local) >= distance(from.local)) continue;
    best = i;
    from = copy;
  }
  if (best && cache_->start_pull(entry, static_cast<std::uint32_t>(*best), from)) {
    transfer.chunks[*best].pulled = from;
  } else if (const auto whole = any ? cache_->start_pull(entry, pullable_by(transfer), last_pulled_) : std::nullopt) {
    best = any;
    transfer.chunks[*best].pulled = from = *whole;
  } else {
    return std::nullopt;
  }
  last_pulled_ = from.local;
  return best;
}

/// It copies nothing, perhaps because somebody has come to have all of it meanwhile.
void Core::pull_rest(Transfer& transfer, Clock::time_point now) {
  constexpr std::uint32_t kPulls = 1;  // rail
  if (transfer.queued[kPulls] || !cache_->can_pull(transfers_.at(transfer.origin).entry, pullable_by(transfer))) return;
  put_on(transfer, kPulls);
  pump(options_.swap.lane, now);
}

/// With nothing of its own to copy, a rank takes what others have not come to yet, one chunk at a time.
void Core::help_others(Clock::time_point now) {
  Lane& lane = lanes_[options_.copy_lane];
  if (lane.in_flight() != 0 || lane.most_urgent()) return;
  for (const auto& [entry, number] : swaps_) {
    Transfer& transfer = transfers_.at(number);
    if (transfer.abandoned || transfer.leaving || transfer.next_chunk == transfer.chunks.size()) continue;
    if (const auto index = next_copy(transfer, false, now)) {
      if (++transfer.next_chunk == transfer.chunks.size()) take_off(transfer);
      return start(transfer, *index, options_.copy_lane, transfer.urgency, now);
    }
  }
}

/// Something about its entry has changed, or may have.
void Core::go_on_swap(Transfer& transfer, Clock::time_point now) {
  if (!transfer.abandoned && transfer.next_chunk < transfer.chunks.size()) {
    const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
    // What is overdue already waits for this rank's lane, not for time.
    const auto overdue = cache_->copy_overdue_at(entry);
    set_recheck(transfer, overdue && *overdue > now ? std::min(*overdue, now + kLookAgain) : now + kLookAgain);
    put_on(transfer);
    return pump_rails(transfer, now);
  }
  if (transfer.leaving) {
    if (take_offer_back(transfer, now)) slot_is_free(transfer, now);
    return;
  }
  if (transfer.offered && transfer.complete() && !transfer.abandoned) swap_complete(transfer, now);
}

/// True if the chunk has failed and is to come another way.
bool Core::swap_chunk_done(Transfer& transfer, std::size_t index, const Status& status) {
  Transfer::Chunk& chunk = transfer.chunks[index];
  const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
  const auto place = static_cast<std::uint32_t>(index);
  if (chunk.pulled.state == cache::CopyState::kInSlot) {
    const cache::SlotCopy from = std::exchange(chunk.pulled, {});
    if (cache_->end_pull(entry)) tell_node(cache_->waiters(entry) | std::uint64_t{1} << from.local, entry, kNoNic);
    if (status.ok() || transfer.abandoned) return false;
    transfer.avoided |= std::uint64_t{1} << from.local;
    --transfer.next_chunk;
    return true;
  }
  const bool offered = status.ok() && !transfer.abandoned;
  if (cache_->finish_copy(entry, place, offered, transfer.slab, transfer.slot)) {
    transfer.offered |= offered;
    const cache::LocalMask wanting = cache_->wanted_in_slots(entry) & options_.swap.peers;
    transfer.shared |= wanting != 0;
    tell_node(wanting, entry, kNoNic);
  }
  return false;
}

/// All of it is here. Its slot stays on offer while others of the node want the expert, or may come to want it.
void Core::swap_complete(Transfer& transfer, Clock::time_point now) {
  const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
  const cache::LocalMask wanting = cache_->want_in_slot(entry, false) & options_.swap.peers;
  if (transfer.offered && wanting != 0) return set_recheck(transfer, now + kLookAgain);
  if (wanting == 0) {
    cache::LocalMask holders = 0;
    for (std::size_t i = 0; i < transfer.chunks.size(); ++i) {
      const cache::SlotCopy copy = cache_->slot_copy(entry, static_cast<std::uint32_t>(i));
      if (copy.state == cache::CopyState::kInSlot && copy.local != cache_->local())
        holders |= std::uint64_t{1} << copy.local;
    }
    tell_node(holders, entry, kNoNic);
  }
  if (!keep_offer(transfer, entry)) {
    take_offer_back(transfer, now);
    return;
  }
  end_swap(transfer, now);
}

/// Nothing of the entry is this transfer's business any more.
void Core::end_swap(Transfer& transfer, Clock::time_point now) {
  const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
  set_recheck(transfer, std::nullopt);
  swaps_.erase({entry, transfer.number});
  transfer.swaps = transfer.offered = false;
  cache_->want_in_slot(entry, false);
  let_go_of_origin(transfer, now);
}

/// False while somebody still pulls from the slot; else the transfer is like any other from now on.
bool Core::take_offer_back(Transfer& transfer, Clock::time_point now) {
  if (transfer.kept || transfer.withdrawn) return withdraw_offer(transfer, now);
  if (!transfer.swaps) return true;
  const cache::EntryIndex entry = transfers_.at(transfer.origin).entry;
  if (transfer.offered) {
    cache_->withdraw_copies(entry);
    tell_node(cache_->wanted_in_slots(entry) & options_.swap.peers, entry, kNoNic);
    cache_->wait_for(entry, true);  // who ends the last pull tells those who wait
    if (cache_->pullers(entry) != 0) {
      set_recheck(transfer, now + kLookAgain);
      return false;
    }
    cache_->wait_for(entry, false);
  }
  end_swap(transfer, now);
  return true;
}

void Core::swaps_changed(cache::EntryIndex entry, Clock::time_point now) {
  std::vector<TransferNumber> changed;
  for (auto at = entry == cache::kNoEntry ? swaps_.begin() : swaps_.lower_bound({entry, 0}); at != swaps_.end(); ++at) {
    if (entry != cache::kNoEntry && at->first != entry) break;
    changed.push_back(at->second);
  }
  for (const TransferNumber number : changed) {
    if (Transfer* const found = transfers_.find(number); found != nullptr && found->swaps) go_on_swap(*found, now);
  }
}

}  // namespace cardea::core
