// SPDX-License-Identifier: Apache-2.0
// The core's half that fills the node cache. A cached transfer is this rank's part in filling an entry: it claims chunks
// that nobody else of the node has claimed, moves them, and hears of the others' (TellNode). It has no slot; it pins the
// entry.
#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {
namespace {

// Where entries begin.
constexpr std::uint64_t kEntryAlignment = 4096;

}  // namespace

void Core::plan_cache(Layer& of) const {
  if (cache_ == nullptr) return;
  const Membership& members = of.versions.members();
  if (members.ranks_of(members.own_node()).size() < 2) return;  // nobody to share with
  const auto& segments = of.layout.segments();
  of.cacheable =
      of.layout.packed_bytes() <= cache_->capacity() &&
      (of.layout.packed_bytes() + cache_->chunk_bytes() - 1) / cache_->chunk_bytes() <= cache::kMaxChunks &&
      std::all_of(segments.begin(), segments.end(), [](const Segment& s) { return s.alignment <= kEntryAlignment; });
  if (of.cacheable) of.cache_ranges = of.layout.chunks(of.layout.all(), cache_->chunk_bytes());
}

bool Core::take_from_cache(Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  Layer& in = layer(of.spec.layer);
  if (!in.cacheable || want.diverted || want.source.path != CARDEA_PATH_NETWORK) return false;
  if (of.spec.slab && of.spec.wants_views) {
    // In a slot of this rank's own already, whole.
    const Slab& slab = *slabs_.at(*of.spec.slab);
    const TransferNumber* const held = slab.index.find({of.spec.layer, want.expert, of.spec.version});
    if (held != nullptr && (of.spec.segments & ~transfers_.at(*held).requested) == 0) return false;
  }
  Transfer* transfer = nullptr;
  if (const auto found = cached_.find({of.spec.layer, want.expert, of.spec.version}); found != cached_.end()) {
    transfer = &transfers_.at(found->second);
  } else {
    cache::Refusal why{};
    transfer = open_cached(of, want, why);
    if (why == cache::Refusal::kInSlots) {
      take_from_slots(of, index, now);
      return true;
    }
    if (transfer == nullptr) {
      if (of.spec.wants_views || why == cache::Refusal::kLockNotHad) return false;
      const char* const reason = why == cache::Refusal::kPrefetchBudget
                                     ? "prefetches that nobody has read fill their part of the node cache"
                                     : "everything in the node cache is being read";
      fail(of, index, Status(CARDEA_ERR_LIMIT, reason), now);
      return true;
    }
  }

  join_cached(of, index, *transfer, now);
  return true;
}

void Core::join_cached(Fetch& of, std::size_t index, Transfer& transfer, Clock::time_point now) {
  Want& want = of.wants[index];
  want.transfer = transfer.number;
  ++transfer.pins;
  of.move(want, Want::State::kMoving);
  if (of.spec.wants_views) transfer.read = true;
  promote(transfer, of, index);
  cache_->want(transfer.entry, static_cast<std::uint32_t>(of.spec.urgency), of.spec.wants_views);
  if (options_.swap.peers != 0 && of.spec.into_slots && of.spec.wants_views &&
      of.spec.segments == layer(of.spec.layer).layout.all()) {
    cache_->want_in_slot(transfer.entry, true);
  }
  transfer.requested |= of.spec.segments;
  transfer.waiting.push_back({of.number, index});
  const bool gateable = may_gate(of, true);
  if (gateable) slabs_.at(*of.spec.slab)->gateable.push_back({of.number, index});
  refresh(transfer, now);
  if (gateable) feed(*slabs_.at(*of.spec.slab), now);
}

bool Core::take_whole_from_cache(Fetch& of, std::size_t index, Clock::time_point now) {
  // What a rank had published when it was lost is as good as ever where all of it has come to the node before.
  Want& want = of.wants[index];
  const Layer& in = layer(of.spec.layer);
  if (!in.cacheable) return false;
  const auto& options = in.experts[want.expert].options;
  const auto source = std::find_if(options.begin(), options.end(), [&](const SourceOption& option) {
    return option.path == CARDEA_PATH_NETWORK && !in.left.contains(option.rank) &&
           in.versions.published(option.rank) == of.spec.version;
  });
  if (source == options.end()) return false;
  // A fetch into slots must say which.
  if (of.spec.into_slots && !of.spec.slab) return false;
  Transfer* transfer = nullptr;
  if (const auto found = cached_.find({of.spec.layer, want.expert, of.spec.version}); found != cached_.end()) {
    transfer = &transfers_.at(found->second);
    note_done(*transfer);
    if ((of.spec.segments & ~transfer->present) != 0) return false;
    want.source = *source;
  } else {
    const auto entry = cache_->acquire_whole({in.key, want.expert, of.spec.version}, in.layout.packed_bytes(),
                                             static_cast<std::uint32_t>(in.cache_ranges.size()));
    if (!entry && cache_->lies_in_slots({in.key, want.expert, of.spec.version}, pullable(of, want))) {
      want.source = *source;
      take_from_slots(of, index, now);
      return true;
    }
    if (!entry) return false;
    want.source = *source;
    transfer = &open_entry(of, want, *entry);
  }
  join_cached(of, index, *transfer, now);
  return true;
}

Core::Transfer* Core::open_cached(Fetch& of, const Want& want, cache::Refusal& why) {
  const Layer& in = layer(of.spec.layer);
  if (!of.cache_tick) of.cache_tick = cache_->tick();
  const auto entry = cache_->acquire(
      {in.key, want.expert, of.spec.version}, in.layout.packed_bytes(), static_cast<std::uint32_t>(in.cache_ranges.size()),
      static_cast<std::uint32_t>(of.spec.urgency), !of.spec.wants_views, *of.cache_tick, why, pullable(of, want));
  if (!entry) return nullptr;
  Transfer& opened = open_entry(of, want, *entry);
  // Before the first look at its chunks, so that nothing done after that look goes untold.
  cache_->wait_for(*entry, true);
  return &opened;
}

Core::Transfer& Core::open_entry(const Fetch& of, const Want& want, cache::EntryIndex entry) {
  Transfer& opened = new_transfer(of, want);
  opened.entry = entry;
  for (const ChunkRange& range : layer(of.spec.layer).cache_ranges) opened.add_chunk(range);
  cached_.emplace(std::tuple(opened.layer, opened.expert, opened.version), opened.number);
  by_entry_.emplace(entry, opened.number);
  return opened;
}

bool Core::note_done(Transfer& transfer) {
  if (!transfer.cached()) return false;
  const SegmentMask before = transfer.present;
  for (std::size_t i = transfer.first_open; i < transfer.chunks.size(); ++i) {
    Transfer::Chunk& chunk = transfer.chunks[i];
    if (!chunk.done && cache_->done(transfer.entry, static_cast<std::uint32_t>(i))) {
      transfer.arrived(chunk);
    }
    if (chunk.done && i == transfer.first_open) ++transfer.first_open;
  }
  return transfer.present != before;
}

void Core::refresh(Transfer& transfer, Clock::time_point now) {
  note_done(transfer);
  go_on(transfer, now);
}

void Core::go_on(Transfer& transfer, Clock::time_point now) {
  if ((transfer.requested & ~transfer.present) == 0) {
    open_gates(transfer, {}, now);
  } else {
    advance_gates(transfer);
  }
  ++transfer.pins;  // what becomes ready may be the last that held it
  deliver_cached(transfer, now);
  if (!transfer.abandoned) look_for_chunks(transfer, now);
  unpin(transfer, now);
}

void Core::deliver_cached(Transfer& transfer, Clock::time_point now) {
  if (transfer.cached() && transfer.bytes_done != 0 && options_.swap.peers != 0) stream(transfer, now);
  for (const WantRef& ref : take_complete(transfer)) {
    Fetch& of = fetch_of(ref.fetch);
    Want& want = of.wants[ref.want];
    if (want.state != Want::State::kMoving) continue;  // failed meanwhile, with its gang
    want.source.path = transfer.moved_here ? CARDEA_PATH_NETWORK : CARDEA_PATH_CACHE;
    if (!of.spec.into_slots || !of.spec.wants_views) {
      make_ready(of, ref.want, now);
      queue_gang(of, now);  // a prefetch's, which has waited for this
      continue;
    }
    want.cached = std::exchange(want.transfer, 0);  // and its pin
    starve(of, ref.want, now);
    queue_gang(of, now);
    if (want.state == Want::State::kStarved) progress(of);  // who waits for it must ask again whether it can come
  }
}

void Core::look_for_chunks(Transfer& transfer, Clock::time_point now) {
  if (!transfer.cached()) return pump_rails(transfer, now);
  if ((transfer.requested & ~transfer.present) == 0) {
    take_off(transfer);
    set_recheck(transfer, std::nullopt);
    cache_->wait_for(transfer.entry, false);
    return;
  }
  if (transfer.is_queued()) return pump_rails(transfer, now);
  cache_->wait_for(transfer.entry, true);
  bool open = false;
  for (std::size_t i = transfer.first_open; i < transfer.chunks.size() && !open; ++i) {
    open = !transfer.chunks[i].done && (transfer.chunks[i].range.segments & transfer.requested) != 0 &&
           cache_->claimable(transfer.entry, static_cast<std::uint32_t>(i), now);
  }
  if (!open) return set_recheck(transfer, cache_->overdue_at(transfer.entry, now));
  set_recheck(transfer, std::nullopt);
  put_on(transfer);
  pump_rails(transfer, now);
}

std::optional<std::size_t> Core::claim(Transfer& transfer, Clock::time_point now) {
  for (std::size_t i = transfer.first_open; i < transfer.chunks.size(); ++i) {
    if (transfer.chunks[i].done || (transfer.chunks[i].range.segments & transfer.requested) == 0) continue;
    if (cache_->try_claim(transfer.entry, static_cast<std::uint32_t>(i), now)) return i;
  }
  return std::nullopt;
}

void Core::cached_chunk_done(Transfer& transfer, std::size_t index, const Status& status, Clock::time_point now) {
  const auto took = now - transfer.chunks[index].started;
  chunk_time_ = chunk_time_.count() == 0 ? took : (chunk_time_ * 7 + took) / 8;
  cache_->give_time(chunk_time_ * 4);
  cache_->finish_chunk(transfer.entry, static_cast<std::uint32_t>(index), status.ok());
  transfer.moved_here |= status.ok();
  const cache::LocalMask waiters = cache_->waiters(transfer.entry);
  // Told when a segment is whole, which is what wants become ready by, or when there is something to claim again.
  const bool whole = note_done(transfer);
  if (whole || !status.ok() || transfer.abandoned) tell_node(waiters, transfer.entry, kNoNic);
  if (transfer.abandoned) {
    entry_changed(transfer.entry, now);  // another transfer of this rank's may be at the same entry
    return drained_one(transfer, now);
  }
  if (status.ok()) {
    ++transfer.pins;  // a slot that lets go of it may be the last that held it
    if (options_.swap.peers != 0) tell_whose_chunk(transfer, index, now);
    go_on(transfer, now);
    return unpin(transfer, now);
  }
  if (status.code() == CARDEA_ERR_NO_MEMORY) return divert(transfer, status, now);
  abandon(transfer, status, now);
}

void Core::divert(Transfer& transfer, const Status& why, Clock::time_point now) {
  // The cache's memory is not to be had: those who can land elsewhere do.
  ++transfer.pins;
  for (const TransferNumber number : streamed_from(transfer)) {
    // Its slots' part of it is given up, and what waits for that waits for the entry once more, to be diverted with the
    // rest.
    Transfer& streamed = transfers_.at(number);
    for (const WantRef& ref : std::exchange(streamed.waiting, {})) {
      fetch_of(ref.fetch).wants[ref.want].transfer = transfer.number;
      transfer.waiting.push_back(ref);
      --streamed.pins;
      ++transfer.pins;
    }
    abandon(streamed, why, now);
  }
  for (const WantRef& ref : std::exchange(transfer.waiting, {})) {
    Fetch& of = fetch_of(ref.fetch);
    Want& want = of.wants[ref.want];
    if (want.state != Want::State::kMoving) continue;
    if (!of.spec.slab || !of.spec.wants_views) {
      fail(of, ref.want, why, now);
      continue;
    }
    want.transfer = 0;
    want.diverted = true;
    --transfer.pins;
    starve(of, ref.want, now);
    queue_gang(of, now);
  }
  --transfer.pins;
  abandon(transfer, why, now);
}

void Core::close_cached(Transfer& transfer) {
  if (!transfer.abandoned) {
    take_off(transfer);
    set_recheck(transfer, std::nullopt);
    cached_.erase({transfer.layer, transfer.expert, transfer.version});
    by_entry_.erase(transfer.entry);
  }
  const Layer& of = layer(transfer.layer);
  cache_->release(transfer.entry, of.retired && transfer.version <= *of.retired);
  transfers_.erase(transfer.number);
}

void Core::set_recheck(Transfer& transfer, std::optional<Clock::time_point> when) {
  if (transfer.recheck) rechecks_.erase({*transfer.recheck, transfer.number});
  transfer.recheck = when;
  if (when) rechecks_.emplace(*when, transfer.number);
}

void Core::drop_cached(Want& want, Clock::time_point now) {
  if (const TransferNumber held = std::exchange(want.cached, 0); held != 0) unpin(transfers_.at(held), now);
}

void Core::let_go_of_origin(Transfer& transfer, Clock::time_point now) {
  if (const TransferNumber origin = std::exchange(transfer.origin, 0); origin != 0) unpin(transfers_.at(origin), now);
}

void Core::retire_cached(Layer& of, Clock::time_point now) {
  const auto version = of.versions.finished_by_node();
  if (cache_ == nullptr || !version || (of.retired && *of.retired >= *version)) return;
  of.retired = version;
  drop_kept_offers(of, *version, now);
  cache_->retire(of.key, *version);
}

void Core::tell_node(cache::LocalMask to, cache::EntryIndex entry, std::uint32_t nic) {
  if (to != 0) actions_.push_back(TellNode{to, entry, nic});
}

// ---------------------------------------------------------------- what other ranks of the node tell

void Core::entry_changed(cache::EntryIndex entry, Clock::time_point now) {
  if (const auto found = by_entry_.find(entry); found != by_entry_.end()) refresh(transfers_.at(found->second), now);
  swaps_changed(entry, now);
  withdrawn_changed(entry, now);
  shared_changed(entry, now);
}

void Core::nic_free(std::uint32_t nic, Clock::time_point now) {
  for (LaneNumber lane = 0; lane < lanes_.size(); ++lane) {
    if (lanes_[lane].limits().nic == nic) pump(lane, now);
  }
}

void Core::node_rank_lost(Rank rank, Clock::time_point now) {
  const auto found = std::find(options_.node_ranks.begin(), options_.node_ranks.end(), rank);
  if (cache_ == nullptr || found == options_.node_ranks.end()) return;
  cache_->rank_lost(static_cast<std::uint32_t>(found - options_.node_ranks.begin()));
  std::vector<TransferNumber> open;
  for (const auto& [key, number] : cached_) open.push_back(number);
  for (const TransferNumber number : open) {
    if (Transfer* const held = transfers_.find(number); held != nullptr && !held->abandoned) refresh(*held, now);
  }
  swaps_changed(cache::kNoEntry, now);
  withdrawn_changed(cache::kNoEntry, now);
  shared_changed(cache::kNoEntry, now);
  for (LaneNumber lane = 0; lane < lanes_.size(); ++lane) pump(lane, now);
}

}  // namespace cardea::core
