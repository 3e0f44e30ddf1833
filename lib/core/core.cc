// SPDX-License-Identifier: Apache-2.0
#include "lib/core/core.h"

#include <algorithm>
#include <tuple>

#include "lib/core/core_state.h"
#include "lib/telemetry/recorder.h"

namespace cardea::core {

Core::Core(CoreOptions options, std::vector<LaneLimits> lanes, cache::NodeCache* cache)
    : options_(std::move(options)), cache_(cache), held_lanes_(lanes.size()) {
  for (const LaneLimits& limits : lanes) lanes_.emplace_back(limits);
  if (cache_ != nullptr) last_pulled_ = cache_->local();
}

Core::~Core() = default;

Core::Layer& Core::layer(LayerNumber number) const {
  return *layer_by_number_[number];
}
Core::Fetch& Core::fetch_of(FetchNumber number) const {
  return fetches_.at(number);
}

// ---------------------------------------------------------------- set-up

LayerNumber Core::add_layer(LayerSpec spec) {
  const LayerNumber number = next_layer_++;
  auto added = std::make_unique<Layer>(
      Layer{number, spec.layer_id, std::move(spec.layout), spec.key, Versions(std::move(spec.members))});
  for (const auto& [rank, why] : lost_) {
    std::vector<Notice> nothing_to_tell;  // nothing has been finished yet
    added->versions.lose(rank, departed_.contains(rank), nothing_to_tell);
  }
  plan_cache(*added);
  layer_by_number_.resize(number + 1, nullptr);
  layer_by_number_[number] = added.get();
  layers_.emplace(number, std::move(added));
  return number;
}

void Core::set_rails(Rank rank, LaneNumber first, std::uint32_t count) {
  for (auto& [number, of] : layers_) {
    for (ExpertSources& expert : of->experts) {
      for (SourceOption& option : expert.options) {
        if (option.rank != rank || option.path != CARDEA_PATH_NETWORK) continue;
        option.lane = first;
        option.rails = count;
      }
    }
  }
}

void Core::set_sources(LayerNumber number, std::vector<ExpertSources> experts) {
  Layer& of = layer(number);
  const Membership& members = of.versions.members();
  for (ExpertSources& expert : experts) {
    std::sort(expert.options.begin(), expert.options.end(), [&](const SourceOption& a, const SourceOption& b) {
      return std::tuple(a.path, members.stagger(a.rank), a.rank) < std::tuple(b.path, members.stagger(b.rank), b.rank);
    });
  }
  of.experts = std::move(experts);

  // Experts that come over the network start first, since they take longest; those already here are ready at once in any
  // case. Within each, sources go round from the one after this rank, nodes before ranks.
  using Place = std::tuple<int, std::pair<std::uint32_t, std::uint32_t>>;
  const auto place_of = [&](const ExpertSources& expert) {
    const SourceOption& source = expert.options.front();
    const auto stagger = options_.stagger ? members.stagger(source.rank) : std::pair(0u, source.rank);
    return Place(options_.network_first ? -static_cast<int>(source.path) : 0, stagger);
  };
  std::map<Place, std::uint32_t> places;
  for (const ExpertSources& expert : of.experts) places.emplace(place_of(expert), 0);
  of.turns.clear();
  for (auto at = places.begin(); at != places.end(); ++at) {
    const auto& [path, stagger] = at->first;
    Layer::Turn turn;
    if (at != places.begin()) {
      const auto& [path_before, stagger_before] = std::prev(at)->first;
      const Layer::Turn& before = of.turns.back();
      turn.path = before.path + (path == path_before ? 0 : 1);
      turn.node = path != path_before ? 0 : before.node + (stagger.first == stagger_before.first ? 0 : 1);
    }
    at->second = static_cast<std::uint32_t>(of.turns.size());
    of.turns.push_back(turn);
  }
  of.nodes_in_turn = std::any_of(of.turns.begin(), of.turns.end(), [](const Layer::Turn& turn) { return turn.node != 0; });
  of.places.clear();
  for (const ExpertSources& expert : of.experts) of.places.push_back(places.at(place_of(expert)));
}

Status Core::remove_layer(LayerNumber number) {
  Layer& of = layer(number);
  if (!of.open.empty()) {
    std::uint64_t open = 0;
    for (const auto& [version, count] : of.open) open += count;
    return Status::error(CARDEA_ERR_BUSY, "layer {} has {} open views or outstanding experts", of.layer_id, open);
  }
  if (of.draining != 0) {
    return Status::error(CARDEA_ERR_BUSY, "layer {} has {} canceled transfers that are not drained yet", of.layer_id,
                         of.draining);
  }
  if (of.lent != 0)
    return Status::error(CARDEA_ERR_BUSY, "layer {}: {} chunks are being sent to other ranks", of.layer_id, of.lent);
  drop_spares(number, kNoVersion, {});
  for (const auto* pulled : {&swaps_, &withdrawn_}) {
    for (const auto& [entry, transfer] : *pulled) {
      if (transfers_.at(transfer).layer == number)
        return Status::error(CARDEA_ERR_BUSY, "layer {}: other ranks still pull experts out of this rank's slots",
                             of.layer_id);
    }
  }
  if (cache_ != nullptr) cache_->retire(of.key, kNoVersion);
  layer_by_number_[number] = nullptr;
  layers_.erase(number);
  return {};
}

void Core::set_swap_peers(LayerNumber number, SlabNumber slab, cache::LocalMask peers) {
  layer(number).swap_slab = slab;
  layer(number).swap_peers = peers;
}

SlabNumber Core::add_slab(std::uint32_t slots, std::optional<LaneNumber> copies, GateLimits gates, bool direct) {
  const SlabNumber number = next_slab_++;
  auto added = std::make_unique<Slab>(Slab{number, Slots(slots), std::vector<TransferNumber>(slots, 0)});
  added->copies = copies;
  added->direct = direct;
  added->gate_limits = {std::min(gates.gates, slots), gates.landings, gates.commands};
  for (std::uint32_t i = gates.landings; i > 0; --i) added->landings.push_back(i - 1);
  slabs_.set(number, std::move(added));
  return number;
}

Status Core::remove_slab(SlabNumber number) {
  Slab& slab = *slabs_.at(number);
  const std::uint32_t used = slab.slots.count() - slab.slots.available();
  if (used != 0) return Status::error(CARDEA_ERR_BUSY, "{} slots of the slab are in use", used);
  bool waited_for = false;
  fetches_.for_each([&](FetchNumber, const Fetch& of) { waited_for |= of.spec.slab == number && of.outstanding() != 0; });
  if (waited_for) return Status(CARDEA_ERR_BUSY, "fetches wait for slots of the slab");
  if (slab.landings.size() != slab.gate_limits.landings)
    return Status(CARDEA_ERR_BUSY, "experts come over the network into memory of the slab's");
  if (slab.under_way != 0) return Status::error(CARDEA_IN_PROGRESS, "{} copies into the slab are not done", slab.under_way);
  while (!slab.slots.spares().empty()) drop_spare(slab, slab.slots.spares().front(), {});
  if (slab.slots.empty() != slab.slots.count())
    return Status(CARDEA_ERR_BUSY, "other ranks still pull experts out of its slots");
  slabs_.erase(number);
  return {};
}

std::uint32_t Core::slots(SlabNumber slab) const {
  return slabs_.at(slab)->slots.count();
}

std::uint32_t Core::available_slots(SlabNumber slab) const {
  return slabs_.at(slab)->slots.available();
}

// ---------------------------------------------------------------- fetches

Core::Choice Core::choose(const Layer& of, ExpertIndex expert, const FetchSpec& spec) const {
  const Version version = spec.version;
  Choice choice{.kind = Choice::Kind::kLost, .source = nullptr, .why = {}};
  for (const SourceOption& option : of.experts[expert].options) {
    const auto lost = lost_.find(option.rank);
    const bool gone = of.left.contains(option.rank);
    // What it has withdrawn is gone in any case.
    const bool readable = outlives_its_rank(option);
    if (gone || (lost != lost_.end() && !readable)) {
      if (choice.kind == Choice::Kind::kLost) {
        choice.why = gone ? Status::error(CARDEA_ERR_PEER_LOST, "rank {} has left layer {}", option.rank, of.layer_id)
                                .with_peer(option.rank)
                          : lost->second;
      }
      continue;
    }
    const Version published = of.versions.published(option.rank);
    if (published == version) return {Choice::Kind::kUse, &option, {}};
    const bool to_come = published == kNoVersion || published < version;
    if (to_come && lost != lost_.end()) {
      if (choice.kind == Choice::Kind::kLost) choice.why = lost->second;  // mapped, but this version will never be in it
    } else if (to_come) {
      if (choice.kind != Choice::Kind::kPark) choice = {Choice::Kind::kPark, &option, {}};
    } else if (choice.kind != Choice::Kind::kPark) {
      choice = {Choice::Kind::kStale, &option,
                Status::error(CARDEA_ERR_STALE, "version {} of layer {} was retired by rank {}, which has published {}",
                              version, of.layer_id, option.rank, published)
                    .with_peer(option.rank)};
    }
  }
  return choice;
}

bool Core::outlives_its_rank(const SourceOption& option) const {
  // What is mapped stays readable where it lies when its rank has died, also for a GPU, and can be copied from there. Other
  // copies go by the rank's transport, which has lost it.
  if (option.path == CARDEA_PATH_NODE_GPU) return !departed_.contains(option.rank);
  return option.path == CARDEA_PATH_NODE_MAPPED;
}

bool Core::reachable(const Layer& of, ExpertIndex expert, Rank source) const {
  if (!lost_.contains(source)) return true;
  const auto& options = of.experts[expert].options;
  return std::any_of(options.begin(), options.end(),
                     [&](const SourceOption& option) { return option.rank == source && outlives_its_rank(option); });
}

Status Core::check(const FetchSpec& spec, const Layer& of) {
  if (of.finished(spec.version)) {
    return Status::error(CARDEA_ERR_STALE, "this rank has finished version {} of layer {}", spec.version, of.layer_id);
  }
  if (checked_.size() < of.experts.size()) checked_.resize(of.experts.size(), 0);
  const std::uint64_t check = ++checks_;
  std::uint32_t slots = 0;
  for (const ExpertIndex expert : spec.experts) {
    const auto wrong = [&](std::string what) {
      return Status(CARDEA_ERR_INVALID_ARGUMENT, std::move(what), {.layer = of.layer_id, .expert = expert});
    };
    if (expert >= of.experts.size()) {
      return wrong(fmt::format("expert {} of layer {}, which has {}", expert, of.layer_id, of.experts.size()));
    }
    if (std::exchange(checked_[expert], check) == check) return wrong(fmt::format("expert {} is asked for twice", expert));
    const cardea_path_t path = of.experts[expert].options.front().path;
    if (!needs_slot(path, spec.into_slots)) continue;
    // What the node cache takes needs a slot only to be copied into, or when the cache has no room.
    if ((spec.into_slots && spec.wants_views) || !of.cacheable || path != CARDEA_PATH_NETWORK) ++slots;
    if (!spec.slab)
      return wrong(fmt::format("expert {} of layer {} must be copied, and neither fetch nor layer names a slab", expert,
                               of.layer_id));
  }
  if ((spec.gang || !spec.wants_views) && spec.slab) {
    const std::uint32_t have = slabs_.at(*spec.slab)->slots.count();
    if (slots > have) {
      return Status::error(CARDEA_ERR_LIMIT, "a {} of {} slots; the slab has {}", spec.gang ? "gang" : "prefetch", slots,
                           have);
    }
  }
  return {};
}

void Core::add_wants(Fetch& fetch, const Layer& of) {
  // By the place of each in the layer's order, and as they were asked for where that is equal; then nodes in turn.
  const std::vector<ExpertIndex>& experts = fetch.spec.experts;
  order_.clear();
  for (std::size_t i = 0; i < experts.size(); ++i) order_.push_back(std::uint64_t{of.places[experts[i]]} << 32 | i);
  std::sort(order_.begin(), order_.end());
  if (of.nodes_in_turn) take_turns(of);
  fetch.wants.resize(experts.size());
  for (std::size_t i = 0; i < experts.size(); ++i) fetch.wants[i].expert = experts[order_[i] & UINT32_MAX];
  fetch.in_state[static_cast<std::size_t>(Want::State::kNew)] = static_cast<std::uint32_t>(fetch.wants.size());
}

void Core::take_turns(const Layer& of) {
  // Whoever reads one node after another meets the others at the same node as soon as they are out of step; then that node's
  // uplink is shared, another's idles, and they are further out of step. So all nodes are read from at once, each at the
  // same part of what it has to give, and all of it ends together.
  const auto turn_of = [&](std::size_t i) { return of.turns[order_[i] >> 32]; };
  due_.clear();
  for (std::size_t first = 0, end = 0; first < order_.size(); first = end) {
    const Layer::Turn turn = turn_of(first);
    while (end < order_.size() && turn_of(end) == turn) ++end;
    for (std::size_t i = first; i < end; ++i)
      due_.push_back({{turn.path, ((i - first) << 32) / (end - first), turn.node}, order_[i]});
  }
  std::sort(due_.begin(), due_.end());
  for (std::size_t i = 0; i < due_.size(); ++i) order_[i] = due_[i].second;
}

Result<FetchNumber> Core::fetch(const FetchSpec& spec, Clock::time_point now) {
  Layer& of = layer(spec.layer);
  if (const Status status = check(spec, of); !status.ok()) return status;

  const FetchNumber number = next_fetch_++;
  Fetch& created = fetches_.add(number);
  created.number = number;
  created.spec = spec;
  created.submitted = now;
  add_wants(created, of);
  created.spec.experts.clear();
  if (options_.recorder != nullptr) {
    const auto flags =
        static_cast<std::uint8_t>((spec.gang ? telemetry::kGang : 0) | (spec.into_slots ? telemetry::kIntoSlots : 0) |
                                  (spec.wants_views ? telemetry::kWantsViews : 0));
    const auto deadline = spec.deadline ? spec.deadline->time_since_epoch().count() : 0;
    options_.recorder->fetch(
        now,
        {.fetch = number, .version = spec.version, .layer = spec.layer, .urgency = static_cast<std::uint8_t>(spec.urgency)},
        flags, spec.segments, static_cast<std::uint64_t>(deadline), spec.experts);
  }
  of.open[spec.version] += static_cast<std::uint32_t>(created.wants.size());
  gating_held_ = true;
  for (std::size_t i = 0; i < created.wants.size(); ++i) advance(created, i, now);
  gating_held_ = false;
  queue_gang(created, now);
  gate_more(now);
  if (spec.deadline && created.outstanding() != 0) deadlines_.emplace(*spec.deadline, number);
  return number;
}

void Core::advance(Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  Layer& in = layer(of.spec.layer);
  const Choice choice = choose(in, want.expert, of.spec);
  switch (choice.kind) {
    case Choice::Kind::kLost:
      if (take_whole_from_cache(of, index, now)) return;
      return fail(of, index, choice.why, now);
    case Choice::Kind::kStale:
      return fail(of, index, choice.why, now);
    case Choice::Kind::kPark:
      of.move(want, Want::State::kParked);
      in.parked.push_back({of.number, index});
      return;
    case Choice::Kind::kUse:
      break;
  }
  aim(want, *choice.source, of.spec);
  if (!needs_slot(want.source.path, of.spec.into_slots)) return make_ready(of, index, now);
  if (take_from_cache(of, index, now) || take_landing(of, index, now)) return;
  if (!of.spec.slab) {
    // The source that needed none is gone, and the one that is left must be copied from.
    return fail(of, index,
                Status(CARDEA_ERR_INVALID_ARGUMENT, "the expert must be copied, and neither fetch nor layer names a slab"),
                now);
  }
  starve(of, index, now, true);
}

void Core::aim(Want& want, const SourceOption& source, const FetchSpec& spec) const {
  want.source = source;
  if (!spec.into_slots || source.path != CARDEA_PATH_NODE_MAPPED) return;
  want.source.path = CARDEA_PATH_NODE_COPY;
  if (!spec.slab) return;
  if (const auto& copies = slabs_.at(*spec.slab)->copies) want.source.lane = *copies;
}

telemetry::Outcome Core::outcome_of(const Fetch& of, const Want& want) {
  return {.fetch = of.number,
          .version = of.spec.version,
          .layer = of.spec.layer,
          .expert = want.expert,
          .peer = want.source.rank,
          .urgency = static_cast<std::uint8_t>(of.spec.urgency),
          .path = static_cast<std::uint8_t>(want.source.path)};
}

void Core::make_ready(Fetch& of, std::size_t index, Clock::time_point now) {
  Want& want = of.wants[index];
  want.ready_after = now - of.submitted;
  if (options_.recorder != nullptr) options_.recorder->ready(now, outcome_of(of, want), want.ready_after);
  if (of.spec.wants_views) {
    ++counters_.ready[want.source.path];
    of.move(want, Want::State::kReady);
    of.finished.push_back(index);
    if (of.spec.on_stream && want.transfer != 0) await_queued(of, transfers_.at(want.transfer));
  } else {
    of.move(want, Want::State::kDelivered);  // a prefetch delivers nothing: the slot is spare from now on
    close_want(layer(of.spec.layer), of.spec.version);
    if (want.transfer != 0) unpin(transfers_.at(want.transfer), now);
  }
  progress(of);
}

void Core::fail(Fetch& of, std::size_t index, const Status& status, Clock::time_point now) {
  Want& want = of.wants[index];
  Layer& in = layer(of.spec.layer);
  drop_cached(want, now);
  const TransferNumber transfer = std::exchange(want.transfer, 0);
  ErrorDetail detail = status.detail();
  detail.layer = in.layer_id;
  detail.expert = want.expert;
  if (detail.path == CARDEA_PATH_NONE) detail.path = want.source.path;
  want.status = status.with_detail(detail);
  of.move(want, Want::State::kFailed);
  of.finished.push_back(index);
  ++of.failed;
  ++counters_.failed;
  if (options_.recorder != nullptr) {
    telemetry::Outcome outcome = outcome_of(of, want);
    if (detail.peer != kNoRank) outcome.peer = detail.peer;
    options_.recorder->failed(now, outcome, status.code());
  }
  if (of.first_failure.ok()) of.first_failure = want.status;
  close_want(in, of.spec.version);
  progress(of);
  if (transfer == 0) return;
  Transfer& left = transfers_.at(transfer);
  std::erase_if(left.waiting, [&](const WantRef& ref) { return ref.fetch == of.number && ref.want == index; });
  unpin(left, now);
}

void Core::fail_open(Fetch& of, const Status& status, Clock::time_point now) {
  fail_waiting(of, status, now);
  fail_moving(of, status, now);
}

void Core::fail_waiting(Fetch& of, const Status& status, Clock::time_point now) {
  for (std::size_t i = 0; i < of.wants.size(); ++i) {
    const Want::State state = of.wants[i].state;
    if (state == Want::State::kParked || state == Want::State::kStarved) fail(of, i, status, now);
  }
}

void Core::fail_moving(Fetch& of, const Status& status, Clock::time_point now) {
  for (std::size_t i = 0; i < of.wants.size(); ++i) {
    if (of.wants[i].state == Want::State::kMoving) fail(of, i, status, now);
  }
  // Who waited behind this fetch may be first now.
  if (!of.spec.slab) return;
  if (const std::unique_ptr<Slab>* const slab = slabs_.find(*of.spec.slab); slab != nullptr) feed(**slab, now);
}

void Core::close_want(Layer& of, Version version) {
  const auto open = of.open.find(version);
  if (--open->second == 0) of.open.erase(open);
}

void Core::progress(Fetch& of) {
  const bool done = of.outstanding() == 0;
  // Several wants of one fetch often become ready together; one action tells of all.
  if (!actions_.empty()) {
    if (auto* last = std::get_if<Progress>(&actions_.back()); last != nullptr && last->fetch == of.number) {
      last->done = done;
      return;
    }
  }
  actions_.push_back(Progress{of.number, done});
}

std::vector<Delivery> Core::take(FetchNumber number, std::size_t max) {
  Fetch& of = fetch_of(number);
  std::vector<Delivery> deliveries;
  deliveries.reserve(std::min(max, of.finished.size()));
  while (!of.finished.empty() && deliveries.size() < max) {
    const std::size_t index = of.finished.front();
    of.finished.pop_front();
    Want& want = of.wants[index];
    Delivery delivery{.view = 0,
                      .status = want.status,
                      .expert = want.expert,
                      .path = want.source.path,
                      .source = want.source.rank,
                      .slot = std::nullopt,
                      .slab = 0,
                      .entry = cache::kNoEntry,
                      .segments = of.spec.segments,
                      .ready_after = want.ready_after};
    if (want.state == Want::State::kReady) {
      of.move(want, Want::State::kDelivered);
      delivery.view = next_view_++;
      if (want.transfer != 0) {
        const Transfer& from = transfers_.at(want.transfer);
        if (from.cached()) {
          delivery.entry = from.entry;
        } else {
          delivery.slot = from.slot;
          delivery.slab = from.slab;
        }
      }
      views_.add(delivery.view) = View{number, of.spec.layer, want.expert, of.spec.version, want.transfer};
    }
    deliveries.push_back(std::move(delivery));
  }
  return deliveries;
}

FetchCounts Core::counts(FetchNumber number) const {
  const Fetch& of = fetch_of(number);
  FetchCounts counts;
  counts.experts = static_cast<std::uint32_t>(of.wants.size());
  counts.ready = of.count(Want::State::kReady);
  counts.failed = of.failed;
  counts.delivered = counts.experts - of.outstanding() - static_cast<std::uint32_t>(of.finished.size());
  counts.parked = of.count(Want::State::kParked);
  counts.starved = of.count(Want::State::kStarved);
  counts.moving = of.count(Want::State::kMoving);
  counts.under_way = of.under_way;
  return counts;
}

Version Core::version_of(FetchNumber number) const {
  return fetch_of(number).spec.version;
}

Status Core::first_failure(FetchNumber number) const {
  return fetch_of(number).first_failure;
}

void Core::cancel(FetchNumber number, const Status& why, Clock::time_point now) {
  Fetch& of = fetch_of(number);
  fail_open(of, why, now);
  give_up_gated(of, why, now);
}

void Core::cancel_all(const Status& why, Clock::time_point now) {
  // What waits goes first, or credits that come free would start what is about to be canceled.
  fetches_.for_each([&](FetchNumber, Fetch& of) { fail_waiting(of, why, now); });
  fetches_.for_each([&](FetchNumber, Fetch& of) { fail_moving(of, why, now); });
  open_all_gates(why, now);
}

void Core::destroy(FetchNumber number, Clock::time_point now) {
  Fetch& of = fetch_of(number);
  fail_open(of, Status(CARDEA_ERR_CANCELED, "the fetch was destroyed"), now);
  for (const std::size_t index : of.finished) {
    Want& want = of.wants[index];
    if (want.state != Want::State::kReady) continue;
    close_want(layer(of.spec.layer), of.spec.version);
    const TransferNumber transfer = std::exchange(want.transfer, 0);
    if (transfer == 0) continue;
    leave_gate(of, transfer, now);
    unpin(transfers_.at(transfer), now);
  }
  if (of.spec.deadline) deadlines_.erase({*of.spec.deadline, number});
  fetches_.erase(number);
}

Result<ReleasedView> Core::release(ViewNumber number, Clock::time_point now) {
  const View* const found = views_.find(number);
  if (found == nullptr) return Status(CARDEA_ERR_INVALID_HANDLE, "the view was released already, or never delivered");
  const View view = *found;
  views_.erase(number);
  close_want(layer(view.layer), view.version);
  if (view.transfer != 0) unpin(transfers_.at(view.transfer), now);
  return ReleasedView{view.fetch, view.layer, view.expert};
}

// ---------------------------------------------------------------- versions

void Core::flush(Layer& of, const std::vector<Notice>& notices) {
  for (const Notice& notice : notices) actions_.push_back(Tell{of.number, notice});
}

Status Core::may_publish(LayerNumber number, Version version) const {
  return layer(number).versions.may_publish(version);
}

void Core::hold(LayerNumber number) {
  ++layer(number).draining;
}

void Core::let_go(LayerNumber number) {
  Layer& of = layer(number);
  --of.draining;
  send_finish_if_drained(of, {});
}

std::uint32_t Core::draining(LayerNumber number) const {
  return layer(number).draining;
}

std::uint32_t Core::under_way(SlabNumber slab) const {
  return slabs_.at(slab)->under_way;
}

Status Core::publish(LayerNumber number, Version version, Clock::time_point now) {
  Layer& of = layer(number);
  std::vector<Notice> notices;
  if (const Status status = of.versions.publish(version, notices); !status.ok()) return status;
  flush(of, notices);
  unpark(of, now);
  return {};
}

Status Core::finish(LayerNumber number, Version version, Clock::time_point now) {
  Layer& of = layer(number);
  if (of.finishing && version <= *of.finishing)
    return Status::error(CARDEA_ERR_STALE, "version {} was finished already", version);
  if (const Status status = of.versions.may_finish(version); !status.ok()) return status;
  std::uint64_t open = 0;
  for (auto at = of.open.begin(); at != of.open.end() && at->first <= version; ++at) open += at->second;
  if (open != 0) {
    return Status(
        CARDEA_ERR_BUSY,
        fmt::format("layer {} has {} open views or outstanding experts up to version {}", of.layer_id, open, version),
        {.layer = of.layer_id});
  }
  drop_spares(number, version, now);
  of.finishing = version;
  send_finish_if_drained(of, now);
  return {};
}

void Core::send_finish_if_drained(Layer& of, Clock::time_point now) {
  if (!of.finishing || of.draining != 0) return;
  std::vector<Notice> notices;
  of.versions.finish(*std::exchange(of.finishing, std::nullopt), notices);
  flush(of, notices);
  retire_cached(of, now);
  actions_.push_back(CollectChanged{of.number});
}

Status Core::collect(LayerNumber number, Version version) {
  Layer& of = layer(number);
  if (of.finishing && version <= *of.finishing)
    return Status(CARDEA_IN_PROGRESS, "canceled transfers of this rank are not drained yet");
  return of.versions.collect(version, of.lent != 0);
}

Status Core::lend(LayerNumber number, Version version) {
  Layer& of = layer(number);
  if (!of.versions.valid_here(version)) {
    return Status::error(CARDEA_ERR_STALE, "version {} of layer {} is not published here", version, of.layer_id);
  }
  ++of.lent;
  return {};
}

void Core::give_back(LayerNumber number) {
  Layer& of = layer(number);
  if (--of.lent == 0) actions_.push_back(CollectChanged{number});
}

bool Core::lent(LayerNumber number) const {
  return layer(number).lent != 0;
}

Status Core::receive(LayerNumber number, Rank from, const Notice& notice, Clock::time_point now) {
  Layer& of = layer(number);
  std::vector<Notice> notices;
  if (const Status status = of.versions.receive(from, notice, notices); !status.ok()) return status;
  flush(of, notices);
  if (notice.kind == Notice::Kind::kPublished) {
    unpark(of, now);
  } else {
    retire_cached(of, now);
    actions_.push_back(CollectChanged{number});
  }
  return {};
}

void Core::unpark(Layer& of, Clock::time_point now) {
  // The most urgent first, or a prefetch would start before a demand that has waited beside it.
  std::vector<WantRef> parked = std::exchange(of.parked, {});
  std::stable_sort(parked.begin(), parked.end(), [&](const WantRef& a, const WantRef& b) {
    const auto urgency = [&](const WantRef& ref) {
      const Fetch* const found = fetches_.find(ref.fetch);
      return found == nullptr ? Class::kPlacement : found->spec.urgency;
    };
    return urgency(a) < urgency(b);
  });
  gating_held_ = true;
  for (const WantRef& ref : parked) {
    Fetch* const found = fetches_.find(ref.fetch);
    if (found == nullptr || found->wants[ref.want].state != Want::State::kParked) continue;
    advance(*found, ref.want, now);
    queue_gang(*found, now);
    // Who waits for it must ask again whether a slot can come.
    if (found->wants[ref.want].state == Want::State::kStarved) progress(*found);
  }
  gating_held_ = false;
  gate_more(now);
}

// ---------------------------------------------------------------- peers and time

void Core::peer_lost(Rank rank, bool left, const Status& why, Clock::time_point now) {
  if (!lost_.emplace(rank, why.with_peer(rank)).second) return;
  if (left) departed_.insert(rank);
  for (const auto& [number, of] : layers_) {
    std::vector<Notice> notices;
    of->versions.lose(rank, left, notices);
    flush(*of, notices);
    retire_cached(*of, now);
    if (!of->versions.members().contains(rank)) continue;
    unpark(*of, now);
    actions_.push_back(CollectChanged{number});
  }
  // Chunks on the way are completed by their transport; what has not started never will.
  std::vector<TransferNumber> from;
  transfers_.for_each([&](TransferNumber number, const Transfer& transfer) {
    // What is copied out of the node cache is here already.
    if (transfer.source.rank != rank || transfer.source.path == CARDEA_PATH_CACHE || transfer.by_gpu) return;
    if (reachable(layer(transfer.layer), transfer.expert, rank)) return;
    if (!transfer.complete() && !transfer.abandoned) from.push_back(number);
  });
  for (const TransferNumber number : from) {
    if (Transfer* const found = transfers_.find(number); found != nullptr) abandon(*found, why.with_peer(rank), now);
  }
  node_rank_lost(rank, now);
}

void Core::peer_left_layer(LayerNumber number, Rank rank, Clock::time_point now) {
  Layer& of = layer(number);
  of.left.insert(rank);
  std::vector<Notice> notices;
  of.versions.lose(rank, true, notices);
  flush(of, notices);
  unpark(of, now);
  actions_.push_back(CollectChanged{number});
}

void Core::time_passed(Clock::time_point now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const FetchNumber number = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    cancel(number, Status(CARDEA_ERR_TIMEOUT, "the fetch's deadline has passed"), now);
  }
  while (!rechecks_.empty() && rechecks_.begin()->first <= now) {
    Transfer& transfer = transfers_.at(rechecks_.begin()->second);
    set_recheck(transfer, std::nullopt);
    if (transfer.shared_entry != cache::kNoEntry || (transfer.leaving && transfer.kept)) {
      go_on_shared(transfer, now);
    } else if (transfer.withdrawn) {
      go_on_withdrawn(transfer, now);
    } else if (transfer.swaps) {
      go_on_swap(transfer, now);
    } else {
      refresh(transfer, now);
    }
  }
  for (LaneNumber lane = 0; lane < held_lanes_.size(); ++lane) {
    if (held_lanes_[lane].recheck && *held_lanes_[lane].recheck <= now) pump(lane, now);
  }
}

std::optional<Clock::time_point> Core::next_deadline() const {
  std::optional<Clock::time_point> next;
  const auto consider = [&](Clock::time_point time) { next = std::min(next.value_or(time), time); };
  if (!deadlines_.empty()) consider(deadlines_.begin()->first);
  if (!rechecks_.empty()) consider(rechecks_.begin()->first);
  for (const HeldLane& held : held_lanes_) {
    if (held.recheck) consider(*held.recheck);
  }
  return next;
}

Version Core::published(LayerNumber number, Rank source) const {
  return layer(number).versions.published(source);
}

Rank Core::home(LayerNumber number, ExpertIndex expert) const {
  return layer(number).experts[expert].home;
}

const SourceOption* Core::preferred_source(LayerNumber number, ExpertIndex expert) const {
  const Layer& of = layer(number);
  for (const SourceOption& option : of.experts[expert].options) {
    if (!lost_.contains(option.rank) && !of.left.contains(option.rank)) return &option;
  }
  return &of.experts[expert].options.front();
}

}  // namespace cardea::core
