// SPDX-License-Identifier: Apache-2.0
// The core's half that deals in credits, transfers and lanes.
#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {

// ---------------------------------------------------------------- credits

void Core::starve(Fetch& of, std::size_t index, Clock::time_point now) {
  of.move(of.wants[index], Want::State::kStarved);
  if (of.spec.gang) return;  // queues whole, by queue_gang
  Slab& slab = *slabs_.at(*of.spec.slab);
  const auto place = static_cast<std::size_t>(of.spec.urgency);
  const bool first = std::all_of(slab.starved.begin(), slab.starved.begin() + static_cast<std::ptrdiff_t>(place) + 1,
                                 [](const auto& queue) { return queue.empty(); });
  slab.starved[place].push_back({of.number, index});
  if (first) feed(slab, now);  // else those before it wait, and so does it
}

void Core::queue_gang(Fetch& of, Clock::time_point now) {
  // A gang is reserved whole, so it waits until no want of it is parked any more.
  if (!of.spec.gang || of.gang_queued || of.count(Want::State::kStarved) == 0) return;
  if (of.count(Want::State::kNew) + of.count(Want::State::kParked) != 0) return;
  Slab& slab = *slabs_.at(*of.spec.slab);
  if (of.count(Want::State::kStarved) > slab.slots.count()) {
    const auto too_large = Status::error(CARDEA_ERR_LIMIT, "a gang of {} slots; the slab has {}",
                                         of.count(Want::State::kStarved), slab.slots.count());
    return fail_open(of, too_large, now);
  }
  of.gang_queued = true;
  slab.starved[static_cast<std::size_t>(of.spec.urgency)].push_back({of.number, WantRef::kGang});
  feed(slab, now);
}

void Core::feed(Slab& slab, Clock::time_point now) {
  if (slab.feeding) return;  // whoever feeds it goes on until nothing more can be fed
  slab.feeding = true;
  while (feed_front(slab, now)) {
  }
  slab.feeding = false;
}

bool Core::feed_front(Slab& slab, Clock::time_point now) {
  for (auto& queue : slab.starved) {
    if (queue.empty()) continue;
    const WantRef entry = queue.front();
    const auto found = fetches_.find(entry.fetch);
    bool fed = true;  // also when there is nobody to feed any more
    if (found != fetches_.end()) {
      Fetch& of = *found->second;
      if (entry.want == WantRef::kGang) {
        fed = feed_gang(slab, of, now);
      } else if (of.wants[entry.want].state == Want::State::kStarved) {
        fed = feed_want(slab, of, entry.want, now);
      }
    }
    if (fed) queue.pop_front();
    return fed;  // in order: nobody overtakes one who waits
  }
  return false;
}

bool Core::feed_want(Slab& slab, Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  // While it waited, its source may have gone, or a better one come.
  const Choice choice = choose(layer(of.spec.layer), want.expert, of.spec);
  if (choice.kind != Choice::Kind::kUse || !needs_slot(choice.source->path, of.spec.into_slots)) {
    advance(of, index, now);  // parks it, fails it, or makes it ready where it lies
    return true;
  }
  aim(want, *choice.source, of.spec.into_slots);
  const Slab::Key key{of.spec.layer, want.expert, of.spec.version};
  if (const auto held = slab.index.find(key); held != slab.index.end()) {
    if (join(of, index, *transfers_.at(held->second), now)) return true;
    slab.index.erase(key);  // lacks segments that its source can no longer send; its readers keep it
  }
  if (!make_room(slab, 1, of.spec.urgency, now)) return false;
  return join(of, index, open_transfer(slab, of, want), now);
}

bool Core::feed_gang(Slab& slab, Fetch& of, Clock::time_point now) {
  // Experts that are in slots already are pinned first, so that making room cannot take them.
  for (std::size_t i = 0; i < of.wants.size(); ++i) {
    if (of.wants[i].state != Want::State::kStarved) continue;
    const auto held = slab.index.find({of.spec.layer, of.wants[i].expert, of.spec.version});
    if (held != slab.index.end()) join(of, i, *transfers_.at(held->second), now);
  }
  if (!make_room(slab, of.count(Want::State::kStarved), of.spec.urgency, now)) return false;
  for (std::size_t i = 0; i < of.wants.size(); ++i) {
    if (of.wants[i].state == Want::State::kStarved) feed_want(slab, of, i, now);
  }
  of.gang_queued = false;
  return true;
}

bool Core::make_room(Slab& slab, std::uint32_t slots, Class urgency, Clock::time_point now) {
  while (slab.slots.empty() < slots) {
    // A prefetch drops what was read before what is still to be read; only when nothing else is left does it replace an
    // older prefetch, since the newer one knows better what comes next.
    const auto& spares = slab.slots.spares();
    auto spare = spares.begin();
    if (urgency != Class::kDemand) {
      spare = std::find_if(spares.begin(), spares.end(),
                           [&](SlotIndex slot) { return transfers_.at(slab.transfer_in[slot])->read; });
      if (spare == spares.end()) spare = spares.begin();
    }
    if (spare == spares.end()) break;
    drop_spare(slab, *spare);
  }
  if (urgency != Class::kDemand || slab.yielding.empty()) return slab.slots.empty() >= slots;
  // A demand takes back what prefetches have begun to fill. Slots with chunks in flight come back when those are drained.
  std::uint32_t coming = 0;
  for (const TransferNumber number : slab.transfer_in) {
    if (number != 0 && transfers_.at(number)->abandoned && transfers_.at(number)->pins == 0) ++coming;
  }
  // Those first that can go at once.
  std::vector<TransferNumber> yielding(slab.yielding.begin(), slab.yielding.end());
  std::stable_partition(yielding.begin(), yielding.end(),
                        [&](TransferNumber number) { return transfers_.at(number)->in_flight == 0; });
  for (const TransferNumber number : yielding) {
    if (slab.slots.empty() + coming >= slots) break;
    Transfer& transfer = *transfers_.at(number);
    if (transfer.read) continue;
    if (transfer.in_flight != 0) ++coming;
    abandon(transfer, Status(CARDEA_ERR_CANCELED, "its slot was taken back for a demand"), now);
  }
  return slab.slots.empty() >= slots;
}

void Core::drop_spare(Slab& slab, SlotIndex slot) {
  const auto found = transfers_.find(std::exchange(slab.transfer_in[slot], 0));
  const Transfer& spare = *found->second;
  if (!spare.read) counters_.prefetch_bytes_wasted += spare.bytes_done;
  slab.index.erase({spare.layer, spare.expert, spare.version});
  slab.slots.reuse(slot);
  slab.slots.give_back(slot);
  transfers_.erase(found);
}

void Core::drop_spares(LayerNumber of, Version up_to) {
  for (const auto& [number, slab] : slabs_) {
    for (SlotIndex slot = 0; slot < slab->transfer_in.size(); ++slot) {
      if (slab->transfer_in[slot] == 0) continue;
      const Transfer& transfer = *transfers_.at(slab->transfer_in[slot]);
      if (transfer.spare && transfer.layer == of && transfer.version <= up_to) drop_spare(*slab, slot);
    }
  }
}

bool Core::would_deadlock(FetchNumber number, const std::set<FetchNumber>& waited_for, Clock::time_point now) {
  Fetch& of = fetch_of(number);
  if (!of.finished.empty() || of.count(Want::State::kStarved) == 0 || of.outstanding() != of.count(Want::State::kStarved))
    return false;
  Slab& slab = *slabs_.at(*of.spec.slab);
  for (const TransferNumber held : slab.transfer_in) {
    if (held == 0 || transfers_.at(held)->spare) continue;
    const Transfer& transfer = *transfers_.at(held);
    if (!transfer.waiting.empty() || transfer.in_flight != 0) return false;  // will be ready or free in time
  }
  if (take_back_undelivered(slab, waited_for, now)) return false;
  for (const auto& [other, fetch] : fetches_) {
    if (other != number && waited_for.contains(other) && fetch->spec.slab == of.spec.slab && !fetch->finished.empty())
      return false;
  }
  return true;
}

bool Core::take_back_undelivered(Slab& slab, const std::set<FetchNumber>& waited_for, Clock::time_point now) {
  for (const TransferNumber held : slab.transfer_in) {
    if (held == 0 || transfers_.at(held)->spare || transfers_.at(held)->pins != 1) continue;
    for (const auto& [number, fetch] : fetches_) {
      if (waited_for.contains(number) || fetch->spec.gang) continue;
      const auto ready = std::find_if(fetch->finished.begin(), fetch->finished.end(), [&](std::size_t i) {
        return fetch->wants[i].state == Want::State::kReady && fetch->wants[i].transfer == held;
      });
      if (ready == fetch->finished.end()) continue;
      const std::size_t index = *ready;
      fetch->finished.erase(ready);
      Want& want = fetch->wants[index];
      --counters_.ready[want.source.path];
      want.transfer = 0;
      fetch->move(want, Want::State::kStarved);
      slab.starved[static_cast<std::size_t>(fetch->spec.urgency)].push_back({number, index});
      unpin(*transfers_.at(held), now);
      return true;
    }
  }
  return false;
}

// ---------------------------------------------------------------- transfers

Core::Transfer& Core::open_transfer(Slab& slab, Fetch& of, const Want& want) {
  const TransferNumber number = next_transfer_++;
  Transfer& opened = *transfers_.emplace(number, std::make_unique<Transfer>()).first->second;
  opened.number = number;
  opened.slab = slab.number;
  opened.slot = *slab.slots.take_empty();
  opened.layer = of.spec.layer;
  opened.expert = want.expert;
  opened.version = of.spec.version;
  opened.source = want.source;
  opened.urgency = of.spec.urgency;
  if (opened.urgency != Class::kDemand) slab.yielding.insert(number);
  slab.transfer_in[opened.slot] = number;
  slab.index[{opened.layer, opened.expert, opened.version}] = number;
  return opened;
}

bool Core::join(Fetch& of, std::size_t index, Transfer& transfer, Clock::time_point now) {
  const SegmentMask more = of.spec.segments & ~transfer.requested;
  if (more != 0 && lost_.contains(transfer.source.rank)) return false;
  if (transfer.spare) {
    slabs_.at(transfer.slab)->slots.reuse(transfer.slot);
    transfer.spare = false;
  }
  Want& want = of.wants[index];
  want.transfer = transfer.number;
  want.source = transfer.source;
  ++transfer.pins;
  if (of.spec.wants_views) transfer.read = true;
  of.move(want, Want::State::kMoving);
  promote(transfer, of.spec.urgency);
  if (more != 0) {
    request(transfer, more);
    if (transfer.urgency != Class::kDemand) slabs_.at(transfer.slab)->yielding.insert(transfer.number);
  }
  if ((of.spec.segments & ~transfer.present) == 0) {
    make_ready(of, index, now);
  } else {
    transfer.waiting.push_back({of.number, index});
    pump(transfer.source.lane);
  }
  return true;
}

void Core::request(Transfer& transfer, SegmentMask segments) {
  for (const ChunkRange& range : layer(transfer.layer).layout.chunks(segments, options_.chunk_bytes)) {
    transfer.chunks.push_back({range});
    for (std::size_t i = 0; i < CARDEA_MAX_SEGMENTS; ++i) {
      if (range.segments >> i & 1) ++transfer.missing[i];
    }
  }
  transfer.requested |= segments;
  if (!transfer.queued) transfer.queued = lanes_[transfer.source.lane].add(transfer.number, transfer.urgency);
}

void Core::promote(Transfer& transfer, Class urgency) {
  if (urgency >= transfer.urgency) return;
  Lane& lane = lanes_[transfer.source.lane];
  if (transfer.queued) {
    lane.remove(*transfer.queued, transfer.urgency);
    transfer.queued = lane.add(transfer.number, urgency);
  }
  if (urgency == Class::kDemand) slabs_.at(transfer.slab)->yielding.erase(transfer.number);
  transfer.urgency = urgency;
}

void Core::unpin(Transfer& transfer, Clock::time_point now) {
  if (--transfer.pins != 0) return;
  if (transfer.abandoned) return retire_if_drained(transfer, now);
  if (!transfer.complete()) return abandon(transfer, Status(CARDEA_ERR_CANCELED, "nobody wants it any more"), now);
  Slab& slab = *slabs_.at(transfer.slab);
  slab.yielding.erase(transfer.number);
  const auto indexed = slab.index.find({transfer.layer, transfer.expert, transfer.version});
  if (indexed != slab.index.end() && indexed->second == transfer.number) {
    transfer.spare = true;
    slab.slots.make_spare(transfer.slot);
  } else {
    slab.transfer_in[transfer.slot] = 0;
    slab.slots.give_back(transfer.slot);
    transfers_.erase(transfer.number);
  }
  feed(slab, now);
}

void Core::abandon(Transfer& transfer, const Status& why, Clock::time_point now) {
  if (transfer.abandoned) return;
  transfer.abandoned = true;
  if (transfer.queued) {
    lanes_[transfer.source.lane].remove(*transfer.queued, transfer.urgency);
    transfer.queued.reset();
  }
  Slab& slab = *slabs_.at(transfer.slab);
  slab.yielding.erase(transfer.number);
  const auto indexed = slab.index.find({transfer.layer, transfer.expert, transfer.version});
  if (indexed != slab.index.end() && indexed->second == transfer.number) slab.index.erase(indexed);
  if (transfer.in_flight != 0) ++layer(transfer.layer).draining;
  if (!transfer.read) counters_.prefetch_bytes_wasted += transfer.bytes_done;

  ErrorDetail detail = why.detail();
  detail.peer = transfer.source.rank;
  detail.path = transfer.source.path;
  detail.bytes = transfer.bytes_done;
  const Status status = why.with_detail(detail);
  ++transfer.pins;  // it must outlive the wants that are about to leave it
  for (const WantRef& ref : std::exchange(transfer.waiting, {})) fail(fetch_of(ref.fetch), ref.want, status, now);
  --transfer.pins;
  retire_if_drained(transfer, now);
}

void Core::retire_if_drained(Transfer& transfer, Clock::time_point now) {
  if (!transfer.abandoned || transfer.in_flight != 0 || transfer.pins != 0) return;
  Slab& slab = *slabs_.at(transfer.slab);
  slab.transfer_in[transfer.slot] = 0;
  slab.slots.give_back(transfer.slot);
  transfers_.erase(transfer.number);
  feed(slab, now);
}

// ---------------------------------------------------------------- lanes

void Core::pump(LaneNumber number) {
  Lane& lane = lanes_[number];
  while (const auto choice = lane.next()) {
    Transfer& transfer = *transfers_.at(choice->transfer);
    const std::size_t index = transfer.next_chunk++;
    Transfer::Chunk& chunk = transfer.chunks[index];
    chunk.urgency = choice->urgency;
    ++transfer.in_flight;
    ++chunks_in_flight_;
    lane.started(choice->urgency);
    if (transfer.next_chunk == transfer.chunks.size()) {
      lane.remove(*transfer.queued, transfer.urgency);
      transfer.queued.reset();
    }
    actions_.push_back(StartChunk{Transfer::token(transfer.number, index), number, transfer.layer, transfer.expert,
                                  transfer.version, transfer.source.rank, transfer.slab, transfer.slot, chunk.range});
  }
}

void Core::chunk_done(ChunkNumber token, const Status& status, Clock::time_point now) {
  const TransferNumber number = Transfer::transfer_of(token);
  Transfer& transfer = *transfers_.at(number);
  Transfer::Chunk& chunk = transfer.chunks[Transfer::chunk_of(token)];
  const LaneNumber lane = transfer.source.lane;
  lanes_[lane].finished(chunk.urgency);
  --chunks_in_flight_;
  --transfer.in_flight;
  if (transfer.abandoned) {
    if (status.ok() && !transfer.read) counters_.prefetch_bytes_wasted += chunk.range.bytes;
    if (transfer.in_flight == 0) {
      Layer& of = layer(transfer.layer);
      --of.draining;
      send_finish_if_drained(of);
      retire_if_drained(transfer, now);
    }
  } else if (!status.ok()) {
    abandon(transfer, status, now);
  } else {
    chunk.done = true;
    transfer.bytes_done += chunk.range.bytes;
    for (std::size_t i = 0; i < CARDEA_MAX_SEGMENTS; ++i) {
      if ((chunk.range.segments >> i & 1) && --transfer.missing[i] == 0) transfer.present |= SegmentMask{1} << i;
    }
    std::vector<WantRef> ready;
    std::erase_if(transfer.waiting, [&](const WantRef& ref) {
      const bool complete = (fetch_of(ref.fetch).spec.segments & ~transfer.present) == 0;
      if (complete) ready.push_back(ref);
      return complete;
    });
    for (const WantRef& ref : ready) make_ready(fetch_of(ref.fetch), ref.want, now);
  }
  pump(lane);
}

}  // namespace cardea::core
