// SPDX-License-Identifier: Apache-2.0
// The core's half that deals in credits, transfers and lanes.
#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"
#include "lib/telemetry/recorder.h"

namespace cardea::core {

// ---------------------------------------------------------------- credits

/// `aimed`: its source was chosen just now.
void Core::starve(Fetch& of, std::size_t index, Clock::time_point now, bool aimed) {
  of.move(of.wants[index], Want::State::kStarved);
  if (of.spec.gang) return;  // queues whole, by queue_gang
  Slab& slab = *slabs_.at(*of.spec.slab);
  const auto place = static_cast<std::size_t>(of.spec.urgency);
  auto& queue = slab.starved[place];
  if (!slab.feeding && !slab.anybody_waits(of.spec.urgency)) {
    slab.feeding = true;  // it is the first, and need not queue for that
    const bool fed = aimed ? feed_aimed(slab, of, index, now) : feed_want(slab, of, index, now);
    slab.feeding = false;
    if (fed) return feed(slab, now);
    return queue.push_front({of.number, index});
  }
  // Before those of the same fetch that come later in its order: their sources may have published earlier.
  auto at = queue.end();
  while (at != queue.begin() && std::prev(at)->fetch == of.number && std::prev(at)->want != WantRef::kGang &&
         std::prev(at)->want > index) {
    --at;
  }
  const bool in_front = at == queue.begin();
  queue.insert(at, {of.number, index});
  if (in_front) feed(slab, now);  // else those before it wait, and so does it
}

void Core::queue_gang(Fetch& of, Clock::time_point now) {
  // A gang is reserved whole, so it waits until no want of it is parked any more.
  if (!of.spec.gang || of.gang_queued || of.count(Want::State::kStarved) == 0) return;
  if (of.count(Want::State::kNew) + of.count(Want::State::kParked) != 0) return;
  // Nor while some of it is still on its way into the node cache, to be copied from there.
  const bool being_cached = of.spec.into_slots && std::any_of(of.wants.begin(), of.wants.end(), [&](const Want& want) {
                              return want.state == Want::State::kMoving && transfers_.at(want.transfer).cached();
                            });
  if (being_cached) return;
  Slab& slab = *slabs_.at(*of.spec.slab);
  if (of.count(Want::State::kStarved) > slab.slots.count()) {
    const auto too_large = Status::error(CARDEA_ERR_LIMIT, "a gang of {} slots; the slab has {}",
                                         of.count(Want::State::kStarved), slab.slots.count());
    return fail_open(of, too_large, now);
  }
  of.gang_queued = true;
  auto& queue = slab.starved[static_cast<std::size_t>(of.spec.urgency)];
  queue.insert(std::exchange(of.gang_first, false) ? queue.begin() : queue.end(), {of.number, WantRef::kGang});
  feed(slab, now);
}

void Core::feed(Slab& slab, Clock::time_point now) {
  if (slab.feeding) return;  // whoever feeds it goes on until nothing more can be fed
  if (slab.gateable.empty() && !slab.anybody_waits(Class::kPlacement)) return;
  slab.feeding = true;
  while (feed_front(slab, now) || gate_front(slab, now)) {
  }
  slab.feeding = false;
}

bool Core::feed_front(Slab& slab, Clock::time_point now) {
  for (auto& queue : slab.starved) {
    if (queue.empty()) continue;
    // Taken out first: while it is fed, others may come to stand before it.
    const WantRef entry = queue.front();
    queue.pop_front();
    bool fed = true;  // also when there is nobody to feed any more
    if (Fetch* const found = fetches_.find(entry.fetch); found != nullptr) {
      Fetch& of = *found;
      if (entry.want == WantRef::kGang) {
        fed = feed_gang(slab, of, now);
      } else if (of.wants[entry.want].state == Want::State::kStarved) {
        fed = feed_want(slab, of, entry.want, now);
      }
    }
    if (!fed) queue.push_front(entry);
    return fed;  // in order: nobody overtakes one who waits
  }
  return false;
}

bool Core::feed_want(Slab& slab, Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  if (want.cached != 0) {
    want.source.path = transfers_.at(want.cached).cached() ? CARDEA_PATH_CACHE : CARDEA_PATH_NETWORK;
    want.source.lane = slab.copies.value_or(options_.copy_lane);
    want.source.rails = 1;
  } else if (want.in_slots) {
    want.source.path = CARDEA_PATH_CACHE;
    want.source.lane = options_.swap.lane;
    want.source.rails = 1;
  } else {
    // While it waited, its source may have gone, or a better one come.
    const Choice choice = choose(layer(of.spec.layer), want.expert, of.spec);
    if (choice.kind != Choice::Kind::kUse || !needs_slot(choice.source->path, of.spec.into_slots)) {
      advance(of, index, now);  // parks it, fails it, or makes it ready where it lies
      return true;
    }
    aim(want, *choice.source, of.spec);
    if (!of.spec.gang && (take_from_cache(of, index, now) || take_landing(of, index, now))) return true;
  }
  return feed_aimed(slab, of, index, now);
}

/// False if there is no credit for it.
bool Core::feed_aimed(Slab& slab, Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  const Slab::Key key{of.spec.layer, want.expert, of.spec.version};
  if (const TransferNumber* const held = slab.index.find(key); held != nullptr) {
    if (join(of, index, transfers_.at(*held), now)) return true;
    slab.index.erase(key);  // lacks segments that its source can no longer send; its readers keep it
  }
  if (!make_room(slab, 1, of.spec.urgency, now)) return false;
  if (want.in_slots) return pull_from_slots(slab, of, index, now);
  if (layer(of.spec.layer).cacheable && want.source.path == CARDEA_PATH_NETWORK) ++counters_.cache_bypassed;
  Transfer& opened = open_transfer(slab, of, want);
  share(opened, of, want);
  return join(of, index, opened, now);
}

bool Core::feed_gang(Slab& slab, Fetch& of, Clock::time_point now) {
  // Experts that are in slots already are pinned first, so that making room cannot take them.
  for (std::size_t i = 0; i < of.wants.size(); ++i) {
    if (of.wants[i].state != Want::State::kStarved) continue;
    const TransferNumber* const held = slab.index.find({of.spec.layer, of.wants[i].expert, of.spec.version});
    if (held != nullptr) join(of, i, transfers_.at(*held), now);
  }
  // What was in a slot when it was asked for, and is no more, comes through the node cache like the rest.
  for (std::size_t i = 0; i < of.wants.size(); ++i) {
    Want& want = of.wants[i];
    if (want.state == Want::State::kStarved && want.cached == 0 && !want.in_slots && take_from_cache(of, i, now))
      of.gang_first = true;
  }
  if (of.gang_first) {
    of.gang_queued = false;
    queue_gang(of, now);
    return true;
  }
  if (!make_room(slab, of.count(Want::State::kStarved), of.spec.urgency, now)) return false;
  for (std::size_t i = 0; i < of.wants.size(); ++i) {
    if (of.wants[i].state == Want::State::kStarved) feed_want(slab, of, i, now);
  }
  of.gang_queued = false;
  queue_gang(of, now);  // what was to be pulled, and could not be
  return true;
}

bool Core::make_room(Slab& slab, std::uint32_t slots, Class urgency, Clock::time_point now) {
  while (slab.slots.empty() < slots) {
    // A prefetch drops what was read before what is still to be read; only when nothing else is left does it replace an
    // older prefetch, since the newer one knows better what comes next.
    const auto& spares = slab.slots.spares();
    if (spares.empty()) break;
    auto spare = spares.first();
    if (urgency != Class::kDemand) {
      while (spare != spares.kEnd && !transfers_.at(slab.transfer_in[spares[spare]]).read) spare = spares.next(spare);
      if (spare == spares.kEnd) spare = spares.first();
    }
    drop_spare(slab, spares[spare], now);
  }
  if (urgency != Class::kDemand || slab.yielding.empty()) return slab.slots.empty() >= slots;
  // A demand takes back what prefetches have begun to fill. Slots with chunks in flight come back when those are drained.
  std::uint32_t coming = 0;
  for (const TransferNumber number : slab.transfer_in) {
    if (number == 0) continue;
    const Transfer& held = transfers_.at(number);
    if (held.leaving || (held.abandoned && held.pins == 0)) ++coming;
  }
  // Those first that can go at once.
  std::vector<TransferNumber> yielding(slab.yielding.begin(), slab.yielding.end());
  std::stable_partition(yielding.begin(), yielding.end(),
                        [&](TransferNumber number) { return transfers_.at(number).in_flight == 0; });
  for (const TransferNumber number : yielding) {
    if (slab.slots.empty() + coming >= slots) break;
    Transfer& transfer = transfers_.at(number);
    if (transfer.read) continue;
    if (transfer.in_flight != 0) ++coming;
    abandon(transfer, Status(CARDEA_ERR_CANCELED, "its slot was taken back for a demand"), now);
  }
  return slab.slots.empty() >= slots;
}

void Core::drop_spare(Slab& slab, SlotIndex slot, Clock::time_point now) {
  Transfer& spare = transfers_.at(slab.transfer_in[slot]);
  if (!spare.read) count_waste(spare);
  slab.index.erase({spare.layer, spare.expert, spare.version});
  slab.slots.reuse(slot);
  spare.spare = false;
  vacate(spare, now);
}

/// What has come of it was prefetched for nothing. Padding between segments does not count: it was never moved.
void Core::count_waste(const Transfer& transfer) {
  const SegmentLayout& layout = layer(transfer.layer).layout;
  for (const Transfer::Chunk& chunk : transfer.chunks) {
    if (chunk.done) counters_.prefetch_bytes_wasted += layout.payload_bytes(chunk.range);
  }
}

/// Nobody here needs the slot any more.
void Core::vacate(Transfer& transfer, Clock::time_point now) {
  if (!may_leave(transfer, now) || !take_offer_back(transfer, now)) {
    transfer.leaving = true;  // until other ranks have pulled what they began to
    return;
  }
  Slab& slab = *slabs_.at(transfer.slab);
  slab.transfer_in[transfer.slot] = 0;
  slab.slots.give_back(transfer.slot);
  transfers_.erase(transfer.number);
}

void Core::drop_spares(LayerNumber of, Version up_to, Clock::time_point now) {
  slabs_.for_each([&](SlabNumber, const std::unique_ptr<Slab>& slab) {
    for (SlotIndex slot = 0; slot < slab->transfer_in.size(); ++slot) {
      if (slab->transfer_in[slot] == 0) continue;
      const Transfer& transfer = transfers_.at(slab->transfer_in[slot]);
      if ((transfer.offered || transfer.kept) && up_to != kNoVersion) continue;  // others of the node have not finished it
      if (transfer.spare && transfer.layer == of && transfer.version <= up_to) drop_spare(*slab, slot, now);
    }
  });
}

bool Core::would_deadlock(FetchNumber number, const std::set<FetchNumber>& waited_for, Clock::time_point now) {
  Fetch& of = fetch_of(number);
  if (!of.spec.slab) return false;
  Slab& slab = *slabs_.at(*of.spec.slab);
  // A gang may need several slots, and one that nobody can use yet would wake nobody. What is taken back from a more urgent
  // fetch goes back to it at once, so there is an end to it.
  for (std::uint32_t taken = 0;; ++taken) {
    if (!of.finished.empty() || of.count(Want::State::kStarved) == 0 || of.outstanding() != of.count(Want::State::kStarved))
      return false;
    for (const TransferNumber held : slab.transfer_in) {
      if (held == 0 || transfers_.at(held).spare) continue;
      const Transfer& transfer = transfers_.at(held);
      // Ready or free in time.
      if (!transfer.waiting.empty() || transfer.in_flight != 0 || transfer.leaving || gate_shut(transfer)) return false;
    }
    if (taken == slab.slots.count()) return false;
    if (!take_back_undelivered(slab, waited_for, now)) break;
  }
  return std::none_of(waited_for.begin(), waited_for.end(), [&](FetchNumber other) {
    const Fetch* const fetch = fetches_.find(other);
    return fetch != nullptr && other != number && fetch->spec.slab == of.spec.slab && !fetch->finished.empty();
  });
}

bool Core::take_back_undelivered(Slab& slab, const std::set<FetchNumber>& waited_for, Clock::time_point now) {
  for (const TransferNumber held : slab.transfer_in) {
    if (held == 0 || transfers_.at(held).spare || transfers_.at(held).pins != 1) continue;
    bool taken = false;
    fetches_.for_each([&](FetchNumber number, Fetch& fetch) {
      if (taken || waited_for.contains(number) || fetch.spec.gang) return;
      const auto ready = std::find_if(fetch.finished.begin(), fetch.finished.end(), [&](std::size_t i) {
        return fetch.wants[i].state == Want::State::kReady && fetch.wants[i].transfer == held;
      });
      if (ready == fetch.finished.end()) return;
      const std::size_t index = *ready;
      fetch.finished.erase(ready);
      Want& want = fetch.wants[index];
      --counters_.ready[want.source.path];
      want.transfer = 0;
      fetch.move(want, Want::State::kStarved);
      slab.starved[static_cast<std::size_t>(fetch.spec.urgency)].push_back({number, index});
      taken = true;
    });
    if (!taken) continue;
    unpin(transfers_.at(held), now);
    return true;
  }
  return false;
}

// ---------------------------------------------------------------- transfers

Core::Transfer& Core::new_transfer(const Fetch& of, const Want& want) {
  const TransferNumber number = next_transfer_++;
  Transfer& fresh = transfers_.add(number);
  fresh.number = number;
  fresh.layer = of.spec.layer;
  fresh.expert = want.expert;
  fresh.version = of.spec.version;
  fresh.source = want.source;
  fresh.urgency = of.spec.urgency;
  fresh.order = WantRef{of.number, static_cast<std::size_t>(&want - of.wants.data())}.order();
  return fresh;
}

Core::Transfer& Core::open_transfer(Slab& slab, Fetch& of, const Want& want) {
  Transfer& opened = new_transfer(of, want);
  opened.slab = slab.number;
  opened.slot = *slab.slots.take_empty();
  opened.by_gpu = want.source.path == CARDEA_PATH_NODE_GPU || (slab.copies == want.source.lane);
  if (opened.urgency != Class::kDemand) slab.yielding.insert(opened.number);
  slab.transfer_in[opened.slot] = opened.number;
  slab.index.set({opened.layer, opened.expert, opened.version}, opened.number);
  if (want.cached != 0) {
    opened.origin = want.cached;
    ++transfers_.at(want.cached).pins;
  }
  return opened;
}

bool Core::join(Fetch& of, std::size_t index, Transfer& transfer, Clock::time_point now) {
  Want& want = of.wants[index];
  const SegmentMask more = of.spec.segments & ~transfer.requested;
  if (more != 0 && transfer.source.path == CARDEA_PATH_CACHE) {
    // Only what this want has waited for is known to be in the cache, or in the landing.
    if (want.cached == 0 && transfer.pulled_entry == cache::kNoEntry) return false;
    if (want.cached != 0 && transfer.origin != 0 && transfer.origin != want.cached) return false;
    if (want.cached != 0 && transfer.origin == 0) {
      end_pulls(transfer);
      transfer.source.lane = want.source.lane;
      transfer.origin = want.cached;
      ++transfers_.at(want.cached).pins;
    }
  } else if (more != 0 && !transfer.by_gpu && !reachable(layer(of.spec.layer), want.expert, transfer.source.rank)) {
    return false;
  }
  if (transfer.spare) {
    slabs_.at(transfer.slab)->slots.reuse(transfer.slot);
    transfer.spare = false;
  }
  want.transfer = transfer.number;
  want.source = transfer.source;
  ++transfer.pins;
  drop_cached(want, now);
  want.in_slots = false;
  if (of.spec.wants_views) transfer.read = true;
  of.move(want, Want::State::kMoving);
  promote(transfer, of, index);
  if (more != 0) {
    request(transfer, more);
    if (transfer.urgency != Class::kDemand) slabs_.at(transfer.slab)->yielding.insert(transfer.number);
  }
  if (transfer.has(of.spec)) {
    make_ready(of, index, now);
  } else {
    transfer.waiting.push_back({of.number, index});
    pump_rails(transfer, now);
  }
  return true;
}

/// Over the network straight into its slot, in memory of the device.
bool Core::direct(const Transfer& transfer) const {
  if (transfer.slotless() || transfer.origin != 0 || transfer.pulled_entry != cache::kNoEntry) return false;
  return transfer.source.direct && transfer.source.path == CARDEA_PATH_NETWORK && slabs_.at(transfer.slab)->direct;
}

void Core::request(Transfer& transfer, SegmentMask segments) {
  Layer& of = layer(transfer.layer);
  const bool whole = transfer.chunks.empty() && segments == of.layout.all();
  const std::uint64_t of_lane = lanes_[transfer.source.lane].limits().chunk_bytes;
  const std::uint64_t chunk_bytes = of_lane != 0 ? of_lane : options_.chunk_bytes;
  const auto add = [&](SegmentMask some) {
    std::vector<ChunkRange>& ranges = of.ranges[{some, chunk_bytes}];
    if (ranges.empty()) ranges = of.layout.chunks(some, chunk_bytes);
    for (const ChunkRange& range : ranges) transfer.add_chunk(range);
  };
  if (direct(transfer)) {
    // A transport takes one piece of device memory at a time.
    for_each_segment(segments, [&](std::size_t i) { add(SegmentMask{1} << i); });
  } else {
    add(segments);
  }
  transfer.requested |= segments;
  if (whole && transfer.origin != 0) transfer.swaps = begin_swap(transfer);
  if (!goes_at_once(transfer)) put_on(transfer);
}

void Core::promote(Transfer& transfer, const Fetch& of, std::size_t want) {
  const Class urgency = of.spec.urgency;
  if (urgency >= transfer.urgency) return;
  const auto were = transfer.queued;
  take_off(transfer);
  if (urgency == Class::kDemand && !transfer.cached()) slabs_.at(transfer.slab)->yielding.erase(transfer.number);
  transfer.urgency = urgency;
  transfer.order = WantRef{of.number, want}.order();
  for (std::uint32_t i = 0; i < rails(transfer); ++i) {
    if (were[i]) put_on(transfer, i);
  }
}

void Core::unpin(Transfer& transfer, Clock::time_point now) {
  if (--transfer.pins != 0) return;
  if (transfer.abandoned) return retire_if_drained(transfer, now);
  if (!transfer.complete()) return abandon(transfer, Status(CARDEA_ERR_CANCELED, "nobody wants it any more"), now);
  if (transfer.cached()) return close_cached(transfer);
  if (transfer.slotless()) return close_landing(transfer);
  if (!gate_shut(transfer)) settle(transfer, now);
}

/// Nobody here reads its slot, which may go to others from now on.
void Core::settle(Transfer& transfer, Clock::time_point now) {
  Slab& slab = *slabs_.at(transfer.slab);
  slab.yielding.erase(transfer.number);
  const TransferNumber* const indexed = slab.index.find({transfer.layer, transfer.expert, transfer.version});
  if (indexed != nullptr && *indexed == transfer.number) {
    transfer.spare = true;
    slab.slots.make_spare(transfer.slot);
  } else {
    vacate(transfer, now);
  }
  feed(slab, now);
}

void Core::abandon(Transfer& transfer, const Status& why, Clock::time_point now) {
  if (transfer.abandoned) return;
  transfer.abandoned = true;
  take_off(transfer);
  if (transfer.cached()) {
    set_recheck(transfer, std::nullopt);
    cached_.erase({transfer.layer, transfer.expert, transfer.version});
    by_entry_.erase(transfer.entry);
    cache_->wait_for(transfer.entry, false);
  } else if (transfer.slotless()) {
    landings_.erase({transfer.layer, transfer.expert, transfer.version});
  } else {
    Slab& slab = *slabs_.at(transfer.slab);
    slab.yielding.erase(transfer.number);
    const Slab::Key key{transfer.layer, transfer.expert, transfer.version};
    if (const TransferNumber* const indexed = slab.index.find(key); indexed != nullptr && *indexed == transfer.number)
      slab.index.erase(key);
    if (!transfer.read) count_waste(transfer);
  }
  if (transfer.in_flight != 0) ++layer(transfer.layer).draining;

  ErrorDetail detail = why.detail();
  detail.peer = transfer.source.rank;
  detail.path = transfer.streams ? CARDEA_PATH_NETWORK : transfer.source.path;
  detail.bytes = transfer.bytes_done;
  const Status status = why.with_detail(detail);
  ++transfer.pins;  // it must outlive the wants that are about to leave it
  open_gates(transfer, status, now);
  if (transfer.gated) {
    const ChunkNumber token = Transfer::token(transfer.number, 0);
    open_gate(token, status, now);
    if (transfer.next_chunk == 0) close_gate(token, now);  // nothing will come to it
  }
  if (transfer.cached()) {
    // What is copied out of it as it comes ends with it.
    for (const TransferNumber number : streamed_from(transfer)) {
      if (Transfer* const streamed = transfers_.find(number); streamed != nullptr) abandon(*streamed, why, now);
    }
  }
  std::set<FetchNumber> gangs;
  for (const WantRef& ref : std::exchange(transfer.waiting, {})) {
    Fetch& of = fetch_of(ref.fetch);
    fail(of, ref.want, status, now);
    if (of.spec.gang && transfer.cached()) gangs.insert(ref.fetch);
  }
  for (const FetchNumber gang : gangs) queue_gang(fetch_of(gang), now);  // it may have waited for these alone
  --transfer.pins;
  retire_if_drained(transfer, now);
}

void Core::retire_if_drained(Transfer& transfer, Clock::time_point now) {
  if (!transfer.abandoned || transfer.in_flight != 0 || transfer.pins != 0) return;
  if (transfer.cached()) return close_cached(transfer);
  if (transfer.slotless()) return close_landing(transfer);
  if (!transfer.swaps) let_go_of_origin(transfer, now);
  end_pulls(transfer);
  slot_is_free(transfer, now);
}

void Core::slot_is_free(Transfer& transfer, Clock::time_point now) {
  Slab& slab = *slabs_.at(transfer.slab);
  vacate(transfer, now);
  feed(slab, now);
  // One slot may not do, as for a gang: who waits for it must ask again whether the others can be had.
  const auto waiting =
      std::find_if(slab.starved.begin(), slab.starved.end(), [](const auto& queue) { return !queue.empty(); });
  if (waiting == slab.starved.end()) return;
  if (Fetch* const first = fetches_.find(waiting->front().fetch); first != nullptr) progress(*first);
}

void Core::drained_one(Transfer& transfer, Clock::time_point now) {
  if (transfer.in_flight != 0) return;
  Layer& of = layer(transfer.layer);
  --of.draining;
  send_finish_if_drained(of, now);
  retire_if_drained(transfer, now);
}

Core::WantRefs Core::take_complete(Transfer& transfer) {
  WantRefs complete;
  std::erase_if(transfer.waiting, [&](const WantRef& ref) {
    const bool here = transfer.has(fetch_of(ref.fetch).spec);
    if (here) complete.push_back(ref);
    return here;
  });
  return complete;
}

// ---------------------------------------------------------------- lanes

LaneNumber Core::rail(const Transfer& transfer, std::uint32_t index) const {
  if (transfer.swaps) return index == 0 ? options_.copy_lane : options_.swap.lane;
  return transfer.source.lane + index;
}

std::uint32_t Core::rails(const Transfer& transfer) const {
  if (transfer.swaps) return 2;
  return options_.side_by_side ? std::min(transfer.source.rails, kMaxRails) : 1;
}

void Core::put_on(Transfer& transfer) {
  for (std::uint32_t i = 0; i < rails(transfer); ++i) {
    if (!transfer.queued[i]) put_on(transfer, i);
  }
}

void Core::put_on(Transfer& transfer, std::uint32_t of_rail) {
  Lane& lane = lanes_[queue_of(rail(transfer, of_rail))];
  transfer.queued[of_rail] = lane.add(transfer.number, transfer.urgency, transfer.order);
}

void Core::take_off(Transfer& transfer) {
  for (std::uint32_t i = 0; i < rails(transfer); ++i) take_off(transfer, rail(transfer, i));
}

void Core::take_off(Transfer& transfer, LaneNumber lane) {
  for (std::uint32_t i = 0; i < rails(transfer); ++i) {
    if (rail(transfer, i) != lane || !transfer.queued[i]) continue;
    lanes_[queue_of(lane)].remove(*transfer.queued[i], transfer.urgency);
    transfer.queued[i].reset();
  }
}

/// Its lane would choose it next, and all of it: it need not queue. Whoever asks for it then calls pump_rails.
bool Core::goes_at_once(const Transfer& transfer) const {
  if (transfer.urgency != Class::kDemand || transfer.abandoned || transfer.queued[0]) return false;
  const bool takes_turns = transfer.slotless() || transfer.swaps || transfer.shared_entry != cache::kNoEntry ||
                           transfer.pulled_entry != cache::kNoEntry || rails(transfer) != 1;
  if (takes_turns) return false;
  const Lane& lane = lanes_[queue_of(transfer.source.lane)];
  return lane.in_flight() + transfer.chunks.size() - transfer.next_chunk <= lane.limits().chunks && !lane.anybody_waits();
}

void Core::pump_rails(Transfer& transfer, Clock::time_point now) {
  if (transfer.next_chunk != transfer.chunks.size() && goes_at_once(transfer)) {
    while (transfer.next_chunk != transfer.chunks.size())
      start(transfer, transfer.next_chunk++, transfer.source.lane, Class::kDemand, now);
    return;
  }
  const TransferNumber number = transfer.number;
  for (std::uint32_t i = 0; i < kMaxRails; ++i) {
    // What one lane has started may have been the last of it.
    const Transfer* const found = transfers_.find(number);
    if (found == nullptr || i >= rails(*found)) return;
    pump(rail(*found, i), now);
  }
}

std::size_t Core::held_classes(LaneNumber number, Clock::time_point now) {
  // What is less urgent than what other ranks of the node have on the same NIC waits, but for aging's share: one of its
  // chunks for so many that the NIC carries.
  constexpr Nanoseconds kLookAgain = std::chrono::milliseconds(5);
  const Lane& lane = lanes_[number];
  HeldLane& held = held_lanes_[number];
  const std::uint32_t nic = lane.limits().nic;
  const bool waited = held.recheck.has_value();
  held.recheck.reset();
  if (cache_ == nullptr || nic == kNoNic) return kClasses;
  for (std::size_t c = 1; c < kClasses; ++c) {
    if (!lane.background_waits(c) || !cache_->others_more_urgent(nic, static_cast<std::uint32_t>(c))) continue;
    cache_->hold_back(nic);
    if (!cache_->others_more_urgent(nic, static_cast<std::uint32_t>(c))) continue;  // it ended just now, and told nobody
    const std::uint64_t carried = cache_->chunks_started(nic);
    if (!waited) held.chunks_then = carried;
    held.recheck = now + kLookAgain;
    if (lane.limits().aging != 0 && carried - held.chunks_then >= lane.limits().aging) {
      held.chunks_then = carried;
      return kClasses;
    }
    return c;
  }
  return kClasses;
}

void Core::pump(LaneNumber lane_number, Clock::time_point now) {
  const LaneNumber number = queue_of(lane_number);
  Lane& lane = lanes_[number];
  while (const auto choice = lane.next(held_classes(number, now))) {
    Transfer& transfer = transfers_.at(choice->transfer);
    // With one queue for all lanes the queue's number says nothing of the lane.
    const LaneNumber lane_of_it = options_.side_by_side ? number : transfer.source.lane;
    if (transfer.swaps) {
      const auto index = number == options_.swap.lane ? next_pull(transfer) : next_copy(transfer, true, now);
      if (index) {
        if (++transfer.next_chunk == transfer.chunks.size()) take_off(transfer);
        start(transfer, *index, number, choice->urgency, now);
      } else {
        take_off(transfer, number);  // until others have more of it, or leave some to us
        if (number != options_.swap.lane) pull_rest(transfer, now);
      }
      continue;
    }
    if (transfer.cached()) {
      const auto index = claim(transfer, now);
      if (index) {
        start(transfer, *index, lane_of_it, choice->urgency, now);
      } else {
        take_off(transfer);  // others are at what is left of it
        set_recheck(transfer, cache_->overdue_at(transfer.entry, now));
      }
      continue;
    }
    if (transfer.shared_entry != cache::kNoEntry) {
      const Turn turn = take_turn(transfer, now);
      if (turn == Turn::kNotNow) break;
      if (turn == Turn::kLater) continue;
    }
    if (transfer.pulled_entry != cache::kNoEntry && !begin_pull(transfer, now)) continue;
    const std::size_t index = transfer.next_chunk++;
    if (transfer.next_chunk == transfer.chunks.size()) take_off(transfer);
    start(transfer, index, lane_of_it, choice->urgency, now);
  }
  if (!swaps_.empty() && number == options_.copy_lane) help_others(now);
}

void Core::start(Transfer& transfer, std::size_t index, LaneNumber number, Class urgency, Clock::time_point now) {
  Transfer::Chunk& chunk = transfer.chunks[index];
  chunk.urgency = urgency;
  chunk.started = now;
  chunk.lane = number;
  chunk.flying = true;
  ++transfer.in_flight;
  ++chunks_in_flight_;
  ++counters_.chunks_started;
  lanes_[queue_of(number)].started(urgency);
  const std::uint32_t nic = lanes_[number].limits().nic;
  if (cache_ != nullptr && nic != kNoNic) cache_->start_on(nic, static_cast<std::uint32_t>(urgency), chunk.range.bytes);
  auto& action = std::get<StartChunk>(actions_.emplace_back(std::in_place_type<StartChunk>));
  action.chunk = Transfer::token(transfer.number, index);
  action.lane = number;
  action.layer = transfer.layer;
  action.expert = transfer.expert;
  action.version = transfer.version;
  action.source = transfer.source.rank;
  action.slab = transfer.slab;
  action.slot = transfer.slot;
  action.range = chunk.range;
  action.urgency = urgency;
  action.into = transfer.entry;
  action.direct = direct(transfer);
  if (transfer.landing != UINT32_MAX) action.lands = {transfer.slab, transfer.landing};
  if (transfer.origin != 0) {
    const Transfer& origin = transfers_.at(transfer.origin);
    action.from = origin.entry;
    if (!origin.cached()) action.landed = {origin.slab, origin.landing};
  }
  if (transfer.pulled_entry != cache::kNoEntry) {
    action.from = transfer.pulled_entry;
    action.landed = {};
  }
  const auto gate = transfer.gated ? gates_.find(action.chunk) : gates_.end();
  if (gate != gates_.end()) action.gated = gate->second.started = true;
  const cache::SlotCopy& pulled = transfer.pulled_entry != cache::kNoEntry ? transfer.pulled_from : chunk.pulled;
  if (pulled.state == cache::CopyState::kInSlot) {
    action.peer = options_.node_ranks[pulled.local];
    action.peer_slab = pulled.slab;
    action.peer_slot = pulled.slot;
    ++counters_.chunks_pulled;
  }
  if (options_.recorder != nullptr) options_.recorder->start(now, facts_of(transfer, index));
  if (!action.gated) return;
  if (gate->second.open) {
    actions_.push_back(OpenGate{action.chunk, {}});  // it had to wait for the lane
  } else if (Transfer* const origin = transfers_.find(transfer.origin); origin != nullptr) {
    advance_gate(action.chunk, *origin);
  }
}

telemetry::Chunk Core::facts_of(const Transfer& transfer, std::size_t index) {
  const Transfer::Chunk& chunk = transfer.chunks[index];
  return {.number = Transfer::token(transfer.number, index),
          .version = transfer.version,
          .offset = chunk.range.offset,
          .bytes = chunk.range.bytes,
          .layer = transfer.layer,
          .expert = transfer.expert,
          .source = transfer.source.rank,
          .lane = chunk.lane,
          .urgency = static_cast<std::uint8_t>(chunk.urgency),
          .path = static_cast<std::uint8_t>(transfer.source.path)};
}

void Core::chunk_queued(ChunkNumber token, Clock::time_point now) {
  // From here on the slot may be given to the next: who writes there waits for this chunk on the GPU.
  Transfer& transfer = transfers_.at(Transfer::transfer_of(token));
  Transfer::Chunk& chunk = transfer.chunks[Transfer::chunk_of(token)];
  chunk.queued = true;
  --transfer.in_flight;
  ++layer(transfer.layer).draining;
  ++slabs_.at(transfer.slab)->under_way;
  QueuedChunk& queued = queued_chunks_.add(token);
  queued.layer = transfer.layer;
  queued.lane = transfer.source.lane;
  queued.slab = transfer.slab;
  queued.urgency = chunk.urgency;
  queued.origin = transfer.origin;
  queued.started = chunk.started;
  if (options_.recorder != nullptr) queued.facts = facts_of(transfer, Transfer::chunk_of(token));
  if (transfer.origin != 0) ++transfers_.at(transfer.origin).pins;
  queued.version = transfer.version;
  queued.pulled_entry = std::exchange(transfer.pulled_entry, cache::kNoEntry);
  queued.pulled_from = std::exchange(transfer.pulled_from, {});
  if (transfer.claims) queued.claimed_bytes = chunk.range.bytes;
  for_each_segment(chunk.range.segments, [&](std::size_t i) { ++transfer.coming[i]; });
  if (transfer.abandoned) return drained_one(transfer, now);
  const WantRefs ready = take_complete(transfer);
  if (transfer.complete()) let_go_of_origin(transfer, now);
  for (const WantRef& ref : ready) make_ready(fetch_of(ref.fetch), ref.want, now);
}

void Core::await_queued(Fetch& of, const Transfer& transfer) {
  for (std::size_t i = 0; i < transfer.chunks.size(); ++i) {
    const Transfer::Chunk& chunk = transfer.chunks[i];
    if (!chunk.queued || chunk.done || (chunk.range.segments & of.spec.segments) == 0) continue;
    queued_chunks_.at(Transfer::token(transfer.number, i)).fetches.push_back(of.number);
    ++of.under_way;
  }
}

bool Core::queued_chunk_done(ChunkNumber token, const Status& status, Clock::time_point now) {
  std::unique_ptr<QueuedChunk> taken = queued_chunks_.take(token);
  if (!taken) return false;
  const QueuedChunk& queued = *taken;
  if (options_.recorder != nullptr) options_.recorder->done(now, queued.facts, now - queued.started, status.code());
  lanes_[queue_of(queued.lane)].finished(queued.urgency);
  --chunks_in_flight_;
  --slabs_.at(queued.slab)->under_way;
  if (queued.claimed_bytes != 0) {
    --claims_;
    claimed_bytes_ -= queued.claimed_bytes;
  }
  if (Transfer* const transfer = transfers_.find(Transfer::transfer_of(token)); transfer != nullptr) {
    Transfer::Chunk& chunk = transfer->chunks[Transfer::chunk_of(token)];
    for_each_segment(chunk.range.segments, [&](std::size_t i) { --transfer->coming[i]; });
    if (!status.ok() && transfer->spare) {
      drop_spare(*slabs_.at(transfer->slab), transfer->slot, now);
    } else if (!status.ok()) {
      abandon(*transfer, status, now);
    } else if (!transfer->abandoned) {
      transfer->arrived(chunk);
      if (queued.pulled_entry != cache::kNoEntry) {
        keep_offer(*transfer, queued.pulled_entry);
      } else if (transfer->gated) {
        offer_gated(*transfer, queued.origin);
      }
      for (const WantRef& ref : take_complete(*transfer)) make_ready(fetch_of(ref.fetch), ref.want, now);
    }
    Transfer* const still = transfers_.find(Transfer::transfer_of(token));
    if (still != nullptr && still->claims) share_done(*still, now);
  }
  if (queued.pulled_entry != cache::kNoEntry)
    end_pull(queued.pulled_entry, queued.pulled_from, layer(queued.layer), queued.version);
  for (const FetchNumber number : queued.fetches) {
    Fetch* const of = fetches_.find(number);
    if (of == nullptr) continue;
    --of->under_way;
    // What was delivered already cannot be taken back: whoever waits for the fetch hears of it.
    if (!status.ok() && of->first_failure.ok()) of->first_failure = status;
    if (of->under_way == 0 || !status.ok()) progress(*of);
  }
  if (queued.origin != 0) unpin(transfers_.at(queued.origin), now);
  let_go(queued.layer);
  close_gate(token, now);
  pump(queued.lane, now);
  queued_chunks_.keep(std::move(taken));
  return true;
}

void Core::chunk_done(ChunkNumber token, const Status& status, Clock::time_point now) {
  if (queued_chunk_done(token, status, now)) return;
  const TransferNumber number = Transfer::transfer_of(token);
  Transfer& transfer = transfers_.at(number);
  Transfer::Chunk& chunk = transfer.chunks[Transfer::chunk_of(token)];
  const LaneNumber lane = chunk.lane;
  chunk.flying = false;
  if (transfer.claims) {  // it could not be queued
    --claims_;
    claimed_bytes_ -= chunk.range.bytes;
    end_share(transfer);
  }
  if (options_.recorder != nullptr) {
    options_.recorder->done(now, facts_of(transfer, Transfer::chunk_of(token)), now - chunk.started, status.code());
  }
  lanes_[queue_of(lane)].finished(chunk.urgency);
  --chunks_in_flight_;
  --transfer.in_flight;
  const std::uint32_t nic = lanes_[lane].limits().nic;
  if (cache_ != nullptr && nic != kNoNic) {
    tell_node(cache_->finish_on(nic, static_cast<std::uint32_t>(chunk.urgency), chunk.range.bytes), cache::kNoEntry, nic);
  }
  if (transfer.cached()) {
    cached_chunk_done(transfer, Transfer::chunk_of(token), status, now);
  } else if (transfer.slotless()) {
    landed_chunk_done(transfer, Transfer::chunk_of(token), status, now);
  } else if (transfer.swaps && swap_chunk_done(transfer, Transfer::chunk_of(token), status)) {
    go_on_swap(transfer, now);  // it may come another way
  } else if (transfer.pulled_entry != cache::kNoEntry && !transfer.abandoned && !status.ok()) {
    pull_elsewhere(transfer, status, now);
  } else if (transfer.abandoned) {
    if (status.ok() && !transfer.read)
      counters_.prefetch_bytes_wasted += layer(transfer.layer).layout.payload_bytes(chunk.range);
    drained_one(transfer, now);
  } else if (!status.ok()) {
    abandon(transfer, status, now);
  } else {
    transfer.arrived(chunk);
    const WantRefs ready = take_complete(transfer);
    if (transfer.complete()) {
      if (transfer.swaps) {
        swap_complete(transfer, now);
      } else {
        let_go_of_origin(transfer, now);
      }
      if (transfer.pulled_entry != cache::kNoEntry) pull_complete(transfer);
    }
    for (const WantRef& ref : ready) make_ready(fetch_of(ref.fetch), ref.want, now);
  }
  close_gate(token, now);
  pump(lane, now);
}

}  // namespace cardea::core
