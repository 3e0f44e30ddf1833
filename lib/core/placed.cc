// SPDX-License-Identifier: Apache-2.0
// The core's half that offers what is whole in a slot of this rank to the others of the node, and pulls what is whole in
// one of theirs. So the node cache may use the room of an expert's payload for others, and whoever comes late, or has fallen
// behind, neither fetches it over the network once more nor copies alone what the others copied together.
//
//   complete in a slot ──► kept (on offer) ── its slot is needed, or all of the node have finished the version ──►
//   withdrawn ── nobody pulls any more ──► like any other slot
//
// A want that lies in slots alone waits for a slot of its own, and then pins the entry and pulls. From the first chunk on
// the other's slot stays what it is. If that rank has needed it before, or a pull fails, the want comes another way.
#include <algorithm>
#include <bit>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {
namespace {

// News of the end of a pull come by entry_changed; this is for those that got lost with their sender.
constexpr Nanoseconds kLookAgain = std::chrono::milliseconds(5);

}  // namespace

bool Core::may_pull(const Slab& slab, const Layer& of) const {
  if (swap_peers(of) == 0 || !options_.side_by_side || !of.cacheable) return false;
  return options_.swap.on_device ? slab.copies && slab.number == of.swap_slab : !slab.copies;
}

cache::LocalMask Core::swap_peers(const Layer& of) const {
  return options_.swap.on_device ? of.swap_peers : options_.swap.peers;
}

cache::LocalMask Core::living_peers(const Layer& of) const {
  cache::LocalMask living = 0;
  for (std::uint64_t left = swap_peers(of); left != 0; left &= left - 1) {
    const auto local = static_cast<std::uint32_t>(std::countr_zero(left));
    if (local != cache_->local() && local < options_.node_ranks.size() && !lost_.contains(options_.node_ranks[local]))
      living |= std::uint64_t{1} << local;
  }
  return living;
}

/// From whose slots the want could be pulled; a prefetch needs not be, but lies well there.
cache::LocalMask Core::pullable(const Fetch& of, const Want& want) const {
  if (want.not_pulled || !of.spec.into_slots || !of.spec.slab) return 0;
  const Layer& in = layer(of.spec.layer);
  if (!may_pull(*slabs_.at(*of.spec.slab), in)) return 0;
  // The device's copy engine takes an expert in one.
  if (options_.swap.on_device && of.spec.segments != in.layout.all()) return 0;
  return living_peers(in);
}

void Core::take_from_slots(Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  want.source.path = CARDEA_PATH_CACHE;
  if (!of.spec.wants_views) return make_ready(of, index, now);  // it is in the node
  want.in_slots = true;
  starve(of, index, now);
}

/// There is room in the slab for what was seen to lie in slots of others.
bool Core::pull_from_slots(Slab& slab, Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  const auto entry = cache_->acquire_in_slots({layer(of.spec.layer).key, want.expert, of.spec.version}, pullable(of, want));
  if (!entry) {
    want.in_slots = false;
    want.not_pulled = true;
    return feed_want(slab, of, index, now);
  }
  Transfer& opened = open_transfer(slab, of, want);
  opened.pulled_entry = *entry;
  return join(of, index, opened, now);
}

/// False if it has nowhere to be pulled from; then it is no transfer any more.
bool Core::begin_pull(Transfer& transfer, Clock::time_point now) {
  if (transfer.pulled_from.state == cache::CopyState::kInSlot) return true;
  const auto from = cache_->start_pull(transfer.pulled_entry, pullable_by(transfer), last_pulled_);
  if (!from) {
    pull_elsewhere(transfer, Status(CARDEA_ERR_CANCELED, "the slots in which it lay were needed"), now);
    return false;
  }
  transfer.pulled_from = *from;
  last_pulled_ = from->local;
  return true;
}

void Core::pull_elsewhere(Transfer& transfer, const Status& why, Clock::time_point now) {
  const std::vector<WantRef> waiting = std::exchange(transfer.waiting, {});
  ++transfer.pins;
  for (const WantRef& ref : waiting) {
    Want& want = fetch_of(ref.fetch).wants[ref.want];
    want.transfer = 0;
    want.not_pulled = true;
    --transfer.pins;
  }
  const TransferNumber number = transfer.number;
  abandon(transfer, why, now);
  for (const WantRef& ref : waiting) {
    Fetch* const found = fetches_.find(ref.fetch);
    if (found == nullptr || found->wants[ref.want].state != Want::State::kMoving) continue;
    starve(*found, ref.want, now);
    queue_gang(*found, now);
    if (found->wants[ref.want].state == Want::State::kStarved) progress(*found);
  }
  unpin(transfers_.at(number), now);
}

/// All that was asked for is here.
void Core::pull_complete(Transfer& transfer) {
  if ((layer(transfer.layer).layout.all() & ~transfer.present) == 0) keep_offer(transfer, transfer.pulled_entry);
  end_pulls(transfer);
}

void Core::end_pulls(Transfer& transfer) {
  const cache::EntryIndex entry = std::exchange(transfer.pulled_entry, cache::kNoEntry);
  if (entry == cache::kNoEntry) return;
  end_pull(entry, std::exchange(transfer.pulled_from, {}), layer(transfer.layer), transfer.version);
}

void Core::end_pull(cache::EntryIndex entry, const cache::SlotCopy& from, const Layer& of, Version version) {
  if (from.state == cache::CopyState::kInSlot && cache_->end_pull(entry))
    tell_node(cache_->waiters(entry) | std::uint64_t{1} << from.local, entry, kNoNic);
  cache_->release(entry, of.retired && version <= *of.retired);
}

/// A rank that has fallen behind the others of its node would have to copy alone what they copied together, and fall behind
/// further and further. So what is whole here stays on offer until all of the node have finished the version, or the slot is
/// needed.
bool Core::keep_offer(Transfer& transfer, cache::EntryIndex entry) {
  const auto finished = layer(transfer.layer).versions.finished_by_node();
  if (transfer.kept || transfer.withdrawn || (finished && transfer.version <= *finished)) return false;
  const auto offer = cache_->offer(entry, transfer.slab, transfer.slot);
  if (!offer) return false;
  transfer.offer = *offer;
  transfer.kept = true;
  kept_offers_.emplace(transfer.layer, transfer.number);
  return true;
}

/// False while somebody still pulls from the slot.
bool Core::withdraw_offer(Transfer& transfer, Clock::time_point now) {
  if (std::exchange(transfer.kept, false)) {
    kept_offers_.erase({transfer.layer, transfer.number});
    const auto [pulled, wanting] = cache_->withdraw(transfer.offer);
    tell_node(wanting & swap_peers(layer(transfer.layer)), transfer.offer.entry, kNoNic);
    if (!pulled) {
      set_recheck(transfer, std::nullopt);
      withdrawn_.erase({transfer.offer.entry, transfer.number});
      return true;
    }
    transfer.withdrawn = true;
    withdrawn_.emplace(transfer.offer.entry, transfer.number);
  }
  if (cache_->pullers(transfer.offer.entry) != 0) {
    set_recheck(transfer, now + kLookAgain);
    return false;
  }
  set_recheck(transfer, std::nullopt);
  withdrawn_.erase({transfer.offer.entry, transfer.number});
  transfer.withdrawn = false;
  return true;
}

void Core::drop_kept_offers(const Layer& of, Version up_to, Clock::time_point now) {
  std::vector<TransferNumber> over;
  for (auto at = kept_offers_.lower_bound({of.number, 0}); at != kept_offers_.end() && at->first == of.number; ++at) {
    if (transfers_.at(at->second).version <= up_to) over.push_back(at->second);
  }
  for (const TransferNumber number : over) {
    Transfer& transfer = transfers_.at(number);
    if (transfer.leaving) {  // it has stayed for those who wait for it: who else has not finished the version
      transfer.leaves_at = now;
      go_on_shared(transfer, now);
      continue;
    }
    if (!withdraw_offer(transfer, now) || !transfer.spare) continue;
    Slab& slab = *slabs_.at(transfer.slab);
    drop_spare(slab, transfer.slot, now);
    feed(slab, now);
  }
}

void Core::go_on_withdrawn(Transfer& transfer, Clock::time_point now) {
  if (withdraw_offer(transfer, now) && transfer.leaving) slot_is_free(transfer, now);
}

void Core::withdrawn_changed(cache::EntryIndex entry, Clock::time_point now) {
  std::vector<TransferNumber> changed;
  for (const auto& [of, number] : withdrawn_) {
    if (entry == cache::kNoEntry || of == entry) changed.push_back(number);
  }
  for (const TransferNumber number : changed) {
    Transfer* const found = transfers_.find(number);
    if (found == nullptr) continue;
    if (found->withdrawn) {
      go_on_withdrawn(*found, now);
    } else if (found->leaving) {
      go_on_shared(*found, now);
    }
  }
}

}  // namespace cardea::core
