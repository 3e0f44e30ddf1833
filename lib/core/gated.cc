// SPDX-License-Identifier: Apache-2.0
// The core's half that queues copies on a stream before their bytes have come over the network: behind *gates*, which open
// when the bytes are here or will not come. A want on a stream waits, as any other, for an entry of the node cache or, where
// there is none, for a *landing*: host memory of this rank's own that takes one expert. As soon as a slot is free that
// nothing local needs, its copy is queued behind a gate, and it is ready.
//
//   landing or entry: being filled ──────────────► whole          slot: copy queued behind the gate ──► ready, delivered, …
//                            └─► abandoned          └── the gate opens: its bytes may be copied
//                                  └── the gate opens: the copy brings no weights (lib/cuda/gate.h), who depends on it hears
//
// While it is being filled the gate hears how much is there before the first gap, which may be copied already.
//
// A slot whose gate is shut is not given to anybody else: what came into it would wait on the GPU as long, and so would
// whatever is queued behind that. So there are at most as many gates as slots. Nor do they take more commands than a queue
// of the device holds: who queues more than that is held up by the driver until the first gate opens, and with him what
// others wait for.
//
// Where GPUs of the node share out what they copy up (shares.cc), a copy behind a gate is its rank's alone: nobody claims it
// for the others, and nobody waits for it, for its turn on the GPU may depend on gates before it, of other sources. Who
// finds its bytes in host memory meanwhile claims and copies them as ever. When the copy is done, and not before, its slot
// is on offer like any other (placed.cc); what a gate has brought no weights into never is.
#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {

bool Core::may_gate(const Fetch& of, bool from_cache) const {
  if (!of.spec.on_stream || !of.spec.into_slots || !of.spec.wants_views || of.spec.gang || !of.spec.slab) return false;
  const Slab& slab = *slabs_.at(*of.spec.slab);
  if (slab.gate_limits.gates == 0 || !slab.copies || (from_cache && !cache_pinned_)) return false;
  // It must be one chunk, for one gate.
  const SegmentLayout& layout = layer(of.spec.layer).layout;
  return of.spec.segments == layout.all() && lanes_[*slab.copies].limits().chunk_bytes >= layout.packed_bytes();
}

// ---------------------------------------------------------------- landings

bool Core::take_landing(Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  if (want.source.path != CARDEA_PATH_NETWORK || !may_gate(of, false)) return false;
  Slab& slab = *slabs_.at(*of.spec.slab);
  if (slab.direct && want.source.direct) return false;
  if (slab.index.find({of.spec.layer, want.expert, of.spec.version}) != nullptr) return false;  // in a slot, or on its way
  Layer& in = layer(of.spec.layer);
  Transfer* landing = nullptr;
  if (const auto found = landings_.find({of.spec.layer, want.expert, of.spec.version}); found != landings_.end()) {
    landing = &transfers_.at(found->second);
  } else {
    if (slab.landings.empty()) return false;
    landing = &new_transfer(of, want);
    landing->slab = slab.number;
    landing->landing = slab.landings.back();
    slab.landings.pop_back();
    landing->moved_here = true;
    landings_.emplace(std::tuple(landing->layer, landing->expert, landing->version), landing->number);
    request(*landing, in.layout.all());
    if (in.cacheable) ++counters_.cache_bypassed;
  }
  want.transfer = landing->number;
  ++landing->pins;
  landing->read = true;
  of.move(want, Want::State::kMoving);
  promote(*landing, of, index);
  landing->waiting.push_back({of.number, index});
  slab.gateable.push_back({of.number, index});
  refresh(*landing, now);
  feed(slab, now);
  return true;
}

void Core::landed_chunk_done(Transfer& transfer, std::size_t chunk, const Status& status, Clock::time_point now) {
  if (transfer.abandoned) return drained_one(transfer, now);
  if (!status.ok()) return abandon(transfer, status, now);
  transfer.arrived(transfer.chunks[chunk]);
  go_on(transfer, now);
}

void Core::close_landing(Transfer& transfer) {
  if (!transfer.abandoned) {
    take_off(transfer);
    landings_.erase({transfer.layer, transfer.expert, transfer.version});
  }
  slabs_.at(transfer.slab)->landings.push_back(transfer.landing);
  transfers_.erase(transfer.number);
}

// ---------------------------------------------------------------- gates

/// With nobody starved, the first that may be gated is. False if there is none, no slot or no gate.
bool Core::gate_front(Slab& slab, Clock::time_point now) {
  if (gating_held_) return false;
  if (slab.anybody_waits(Class::kPlacement)) return false;
  const auto may_take = [&] {
    return slab.gates < slab.gate_limits.gates && gate_commands_ + slab.gate_limits.commands <= options_.gate_commands;
  };
  while (!slab.gateable.empty() && may_take()) {
    const WantRef ref = slab.gateable.front();
    Fetch* const of = fetches_.find(ref.fetch);
    Transfer* const origin = of == nullptr || of->wants[ref.want].state != Want::State::kMoving
                                 ? nullptr
                                 : transfers_.find(of->wants[ref.want].transfer);
    // It may be here, or about to be told that it is, or that it will not come.
    if (origin == nullptr || !origin->slotless() || origin->abandoned || (origin->requested & ~origin->present) == 0) {
      slab.gateable.pop_front();
      continue;
    }
    const Slab::Key key{origin->layer, origin->expert, origin->version};
    const TransferNumber* const held = slab.index.find(key);
    if (held == nullptr && !make_room(slab, 1, of->spec.urgency, now)) return false;
    slab.gateable.pop_front();
    Want& want = of->wants[ref.want];
    std::erase_if(origin->waiting, [&](const WantRef& w) { return w.fetch == ref.fetch && w.want == ref.want; });
    want.cached = std::exchange(want.transfer, 0);  // and its pin
    want.source.path = origin->cached() ? CARDEA_PATH_CACHE : CARDEA_PATH_NETWORK;
    want.source.lane = *slab.copies;
    want.source.rails = 1;
    if (held != nullptr) {
      // Segments that it does not bring are still to come into what it is copied from.
      Transfer& other = transfers_.at(*held);
      if ((of->spec.segments & ~other.requested) == 0 && join(*of, ref.want, other, now)) return true;
      want.transfer = std::exchange(want.cached, 0);  // it waits until all of it is here
      origin->waiting.push_back(ref);
      continue;
    }
    Transfer& opened = open_transfer(slab, *of, want);
    opened.streams = opened.gated = true;
    ++slab.gates;
    gate_commands_ += slab.gate_limits.commands;
    const ChunkNumber token = Transfer::token(opened.number, 0);
    gates_.emplace(token, Gate{.origin = origin->number, .slab = slab.number, .expert = opened.expert});
    origin->gates.push_back(token);
    join(*of, ref.want, opened, now);
    return true;
  }
  return false;
}

void Core::gate_more(Clock::time_point now) {
  slabs_.for_each([&](SlabNumber, const std::unique_ptr<Slab>& slab) {
    if (!slab->gateable.empty()) feed(*slab, now);
  });
}

bool Core::gate_shut(const Transfer& transfer) const {
  if (!transfer.gated) return false;
  const auto gate = gates_.find(Transfer::token(transfer.number, 0));
  return gate != gates_.end() && !gate->second.open;
}

/// Some of it is here: of that, what lies before the first gap.
void Core::advance_gates(Transfer& origin) {
  for (const ChunkNumber token : origin.gates) advance_gate(token, origin);
}

void Core::advance_gate(ChunkNumber token, Transfer& origin) {
  Gate& gate = gates_.at(token);
  const std::uint64_t bytes = bytes_before_a_gap(origin);
  if (!gate.started || bytes <= gate.passed) return;
  gate.passed = bytes;
  actions_.push_back(AdvanceGate{token, bytes});
}

std::uint64_t Core::bytes_before_a_gap(Transfer& origin) {
  std::size_t& at = origin.first_open;
  while (at < origin.chunks.size() && origin.chunks[at].done) ++at;
  return at < origin.chunks.size() ? origin.chunks[at].range.offset : 0;
}

/// All of it is here, or nothing more will come.
void Core::open_gates(Transfer& origin, const Status& why, Clock::time_point now) {
  for (const ChunkNumber token : std::exchange(origin.gates, {})) open_gate(token, why, now);
}

void Core::open_gate(ChunkNumber token, const Status& why, Clock::time_point now) {
  const auto found = gates_.find(token);
  if (found == gates_.end() || std::exchange(found->second.open, true)) return;
  const Gate gate = found->second;
  if (Transfer* const origin = transfers_.find(gate.origin); origin != nullptr) std::erase(origin->gates, token);
  if (gate.started) actions_.push_back(OpenGate{token, why});
  const TransferNumber number = Transfer::transfer_of(token);
  if (why.ok()) {
    if (Transfer* const opened = transfers_.find(number); opened != nullptr && opened->pins == 0) settle(*opened, now);
    return;
  }
  std::vector<FetchNumber> told;  // that it is ready
  const QueuedChunk* const queued = queued_chunks_.find(token);
  if (queued != nullptr) told = queued->fetches;
  ErrorDetail detail = why.detail();
  if (queued != nullptr) detail.layer = layer(queued->layer).layer_id;
  detail.expert = gate.expert;
  const Status status = why.with_detail(detail);
  if (Transfer* const opened = transfers_.find(number); opened != nullptr) abandon(*opened, status, now);
  for (const FetchNumber fetch : told) {
    Fetch* const of = fetches_.find(fetch);
    if (of == nullptr) continue;
    if (of->first_failure.ok()) of->first_failure = status;
    fail_ready(*of, number, status, now);
    progress(*of);
  }
}

/// The GPU has passed it, or never will come to it.
void Core::close_gate(ChunkNumber token, Clock::time_point now) {
  const auto found = gates_.find(token);
  if (found == gates_.end()) return;
  Slab& slab = *slabs_.at(found->second.slab);
  if (Transfer* const origin = transfers_.find(found->second.origin); origin != nullptr) std::erase(origin->gates, token);
  gates_.erase(found);
  --slab.gates;
  gate_commands_ -= slab.gate_limits.commands;
  feed(slab, now);
  gate_more(now);  // commands that another slab's may have waited for
}

/// The copy behind its gate is done: others of the node may pull it. `origin` is what it was copied from.
void Core::offer_gated(Transfer& transfer, TransferNumber origin) {
  const Layer& in = layer(transfer.layer);
  if (!options_.swap.on_device || !may_pull(*slabs_.at(transfer.slab), in)) return;
  const Transfer* const from = transfers_.find(origin);
  if (from != nullptr && from->cached()) {
    keep_offer(transfer, from->entry);
    return;
  }
  // Out of a landing: the node cache may know nothing of it.
  const auto entry = cache_->acquire_index({in.key, transfer.expert, transfer.version});
  if (!entry) return;
  keep_offer(transfer, *entry);
  cache_->release(*entry, in.retired && transfer.version <= *in.retired);
}

/// What is ready, and not delivered, turns out to have failed.
void Core::fail_ready(Fetch& of, TransferNumber transfer, const Status& why, Clock::time_point now) {
  for (const std::size_t index : of.finished) {
    Want& want = of.wants[index];
    if (want.state != Want::State::kReady || want.transfer != transfer) continue;
    want.transfer = 0;
    ErrorDetail detail = why.detail();
    detail.layer = layer(of.spec.layer).layer_id;
    detail.expert = want.expert;
    want.status = why.with_detail(detail);
    of.move(want, Want::State::kFailed);
    ++of.failed;
    ++counters_.failed;
    --counters_.ready[want.source.path];
    if (of.first_failure.ok()) of.first_failure = want.status;
    close_want(layer(of.spec.layer), of.spec.version);
    unpin(transfers_.at(transfer), now);
  }
}

/// The fetch does not wait for bytes any more that have been promised to it. What others depend on too goes on.
void Core::give_up_gated(Fetch& of, const Status& why, Clock::time_point now) {
  std::vector<ChunkNumber> alone;
  bool any = false;
  for (const auto& [token, gate] : gates_) {
    QueuedChunk* const queued = gate.open ? nullptr : queued_chunks_.find(token);
    if (queued == nullptr) continue;
    const std::size_t times = std::erase(queued->fetches, of.number);
    if (times == 0) continue;
    any = true;
    of.under_way -= static_cast<std::uint32_t>(times);
    alone.push_back(token);
  }
  for (const ChunkNumber token : alone) {
    if (of.first_failure.ok()) of.first_failure = why;
    fail_ready(of, Transfer::transfer_of(token), why, now);
    const QueuedChunk* const queued = queued_chunks_.find(token);
    if (queued != nullptr && queued->fetches.empty()) open_gate(token, why, now);
  }
  if (any) progress(of);
}

/// A view of it that was ready is dropped undelivered.
void Core::leave_gate(const Fetch& of, TransferNumber transfer, Clock::time_point now) {
  const ChunkNumber token = Transfer::token(transfer, 0);
  const auto gate = gates_.find(token);
  QueuedChunk* const queued = gate == gates_.end() || gate->second.open ? nullptr : queued_chunks_.find(token);
  if (queued == nullptr) return;
  const auto at = std::find(queued->fetches.begin(), queued->fetches.end(), of.number);
  if (at != queued->fetches.end()) queued->fetches.erase(at);
  if (queued->fetches.empty()) open_gate(token, Status(CARDEA_ERR_CANCELED, "the fetch was destroyed"), now);
}

void Core::open_all_gates(const Status& why, Clock::time_point now) {
  std::vector<ChunkNumber> shut;
  for (const auto& [token, gate] : gates_) {
    if (!gate.open) shut.push_back(token);
  }
  for (const ChunkNumber token : shut) open_gate(token, why, now);
}

}  // namespace cardea::core
