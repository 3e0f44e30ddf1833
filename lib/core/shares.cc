// SPDX-License-Identifier: Apache-2.0
// The core's half that splits and swaps on devices. Several GPUs of a node that want the same experts out of host memory
// (the node cache's, or weights that are mapped) copy each one once: who comes to it first claims it, copies it over its own
// PCIe link and offers its slot; the others wait for that, and pull it from there (placed.cc). Parts are whole experts here:
// the copy engine takes an expert in one, on a stream that others of the same fetch follow, so a rank claims only a few at a
// time, and what is left is the others'.
//
//   on the lane ── claimed here ──► copied ──► offered, the claim ended
//        │  ▲  └── claimed by a peer ──► waits ── offered ──► pulled
//        │  └───────────────────────────────┘ its claim failed, or is overdue
//        └── already on offer ──► pulled
//
// A copy that is queued on a stream is in its slot when it is done, not before; so that is when it is offered. What a peer
// offers is done, so a pull may be queued at once, and what is queued on this GPU never waits for what another GPU has still
// to do.
#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {
namespace {

// Enough to keep a PCIe link busy until the host has heard of what is done, and not more: the last claims of a fetch are
// waited for. What is claimed at once is copied as one batch, of 16 MiB at first (cuda/copier.cc), and heard of as one: so
// more than two of those.
constexpr std::uint64_t kClaimedBytes = std::uint64_t{40} << 20;
constexpr std::uint32_t kClaims = 2;  // may be larger together
// News of peers come by entry_changed; this is for those that got lost with their sender.
constexpr Nanoseconds kLookAgain = std::chrono::milliseconds(5);
// For which a slot that is needed stays on offer to those who have waited for it: so long the start of a pull may take.
constexpr Nanoseconds kLinger = std::chrono::milliseconds(10);

}  // namespace

/// A transfer that has just been opened, and has no chunks yet.
void Core::share(Transfer& transfer, const Fetch& of, const Want& want) {
  if (!options_.swap.on_device || want.not_pulled) return;
  const Layer& in = layer(transfer.layer);
  const Slab& slab = *slabs_.at(transfer.slab);
  if (slab.copies != transfer.source.lane || of.spec.segments != in.layout.all() || !may_pull(slab, in)) return;
  const auto entry = cache_->acquire_index({in.key, transfer.expert, transfer.version});
  if (!entry) return;
  transfer.shared_entry = *entry;
  shared_.emplace(*entry, transfer.number);
}

/// Whether it may start on its lane now. kLater: it is not on that lane any more. kNotNow: nor may those behind it.
Core::Turn Core::take_turn(Transfer& transfer, Clock::time_point now) {
  const cache::EntryIndex entry = transfer.shared_entry;
  if (pull_shared(transfer, now)) return Turn::kLater;
  const std::uint64_t bytes = layer(transfer.layer).layout.packed_bytes();
  if (claims_ >= kClaims && claimed_bytes_ + bytes > kClaimedBytes) return Turn::kNotNow;
  if (cache_->try_claim_whole(entry, now)) {
    transfer.claims = true;
    ++claims_;
    claimed_bytes_ += bytes;
    return Turn::kGo;
  }
  const auto claim = cache_->whole_claim(entry, now);
  if (claim && !can_pull_from(transfer, claim->local)) {
    end_share(transfer);
    return Turn::kGo;  // for itself alone
  }
  // First it says that it waits, then it looks again, so that no news is missed.
  cache_->wait_for(entry, true);
  if (pull_shared(transfer, now)) return Turn::kLater;
  take_off(transfer);
  set_recheck(transfer, now + kLookAgain);
  return Turn::kLater;
}

/// False if nobody has it on offer.
bool Core::pull_shared(Transfer& transfer, Clock::time_point now) {
  const auto from = cache_->start_pull(transfer.shared_entry, pullable_by(transfer), last_pulled_);
  if (!from) return false;
  const TransferNumber number = transfer.number;
  last_pulled_ = from->local;
  take_off(transfer);
  set_recheck(transfer, std::nullopt);
  stop_waiting(transfer.shared_entry);
  shared_.erase({transfer.shared_entry, number});
  transfer.pulled_entry = std::exchange(transfer.shared_entry, cache::kNoEntry);
  transfer.pulled_from = *from;
  transfer.source.lane = options_.swap.lane;
  put_on(transfer);
  pump(options_.swap.lane, now);
  return true;
}

/// What this rank has copied for all is in its slot, or has failed.
void Core::share_done(Transfer& transfer, Clock::time_point now) {
  const cache::EntryIndex entry = transfer.shared_entry;
  const bool whole = !transfer.abandoned && (layer(transfer.layer).layout.all() & ~transfer.present) == 0;
  if (whole) keep_offer(transfer, entry);
  end_share(transfer);
  if (!transfer.leaving) return;
  transfer.leaves_at = now + kLinger;
  go_on_shared(transfer, now);
}

void Core::end_share(Transfer& transfer) {
  const cache::EntryIndex entry = std::exchange(transfer.shared_entry, cache::kNoEntry);
  if (entry == cache::kNoEntry) return;
  shared_.erase({entry, transfer.number});
  set_recheck(transfer, std::nullopt);
  if (std::exchange(transfer.claims, false)) {
    cache_->end_claim_whole(entry);
    tell_node(cache_->waiters(entry) & swap_peers(layer(transfer.layer)), entry, kNoNic);
  } else {
    stop_waiting(entry);
  }
  const Layer& of = layer(transfer.layer);
  cache_->release(entry, of.retired && transfer.version <= *of.retired);
}

/// It is known for the rank, not for each of its transfers: one that fills the entry may still wait for others' chunks.
void Core::stop_waiting(cache::EntryIndex entry) {
  if (const auto filling = by_entry_.find(entry); filling != by_entry_.end()) {
    const Transfer& transfer = transfers_.at(filling->second);
    if ((transfer.requested & ~transfer.present) != 0) return;
  }
  cache_->wait_for(entry, false);
}

/// Whether a slot that is needed may go: not while others wait for what this rank copies into it for all.
bool Core::may_leave(Transfer& transfer, Clock::time_point now) {
  const cache::LocalMask peers = swap_peers(layer(transfer.layer));
  if (transfer.shared_entry != cache::kNoEntry) {
    if (transfer.claims && !transfer.abandoned && (cache_->waiters(transfer.shared_entry) & peers) != 0) return false;
    end_share(transfer);
  }
  if (transfer.leaving && transfer.kept && now < transfer.leaves_at &&
      (cache_->waiters(transfer.offer.entry) & peers) != 0) {
    set_recheck(transfer, now + kLinger / 10);
    withdrawn_.emplace(transfer.offer.entry, transfer.number);  // nearly: who has pulled it tells
    return false;
  }
  return true;
}

/// News of its entry, or time has passed.
void Core::go_on_shared(Transfer& transfer, Clock::time_point now) {
  if (transfer.claims) return;
  if (transfer.leaving) {
    if (may_leave(transfer, now)) slot_is_free(transfer, now);
    return;
  }
  if (transfer.shared_entry == cache::kNoEntry || transfer.abandoned || transfer.is_queued()) return;
  if (pull_shared(transfer, now)) return;
  put_on(transfer);
  pump(transfer.source.lane, now);
}

void Core::shared_changed(cache::EntryIndex entry, Clock::time_point now) {
  std::vector<TransferNumber> changed;
  for (auto at = entry == cache::kNoEntry ? shared_.begin() : shared_.lower_bound({entry, 0}); at != shared_.end(); ++at) {
    if (entry != cache::kNoEntry && at->first != entry) break;
    changed.push_back(at->second);
  }
  for (const TransferNumber number : changed) {
    Transfer* const found = transfers_.find(number);
    if (found != nullptr && found->shared_entry != cache::kNoEntry) go_on_shared(*found, now);
  }
}

}  // namespace cardea::core
