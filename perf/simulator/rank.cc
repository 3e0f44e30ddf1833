// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/rank.h"

#include <algorithm>
#include <numeric>

#include "perf/simulator/fabric.h"

namespace cardea::simulator {
namespace {

std::vector<core::LaneLimits> lane_limits(const World& world, Rank rank) {
  const CoreLanes lanes = world.cluster.core_lanes(rank);
  std::vector<core::LaneLimits> limits(lanes.rails + 2);
  for (std::uint32_t rail = 0; rail < lanes.rails; ++rail) {
    limits[rail].chunks = static_cast<std::uint32_t>(world.plan.network_chunks);
    if (rail < world.cluster.nics(rank).size()) limits[rail].nic = world.cluster.nics(rank)[rail];
  }
  limits[lanes.copy()].chunks = static_cast<std::uint32_t>(world.plan.copy_chunks);
  limits[lanes.pull()].chunks = static_cast<std::uint32_t>(world.plan.pull_chunks);
  return limits;
}

core::CoreOptions core_options(const World& world, Rank rank) {
  const Plan& plan = world.plan;
  core::CoreOptions options;
  options.chunk_bytes = plan.chunk_bytes;
  options.stagger = plan.stagger;
  options.network_first = plan.network_first;
  options.side_by_side = plan.side_by_side;
  options.copy_lane = world.cluster.core_lanes(rank).copy();
  options.swap = world.cluster.swap(rank);
  for (Rank other = 0; other < plan.ranks(); ++other) {
    if (plan.caches() && plan.node_of(other) == plan.node_of(rank)) options.node_ranks.push_back(other);
  }
  return options;
}

core::LayerNumber number_of(std::uint64_t layer) {
  return static_cast<core::LayerNumber>(layer + 1);  // every rank adds its layers in the same order
}

std::uint64_t code(const Status& status) {
  return static_cast<std::uint64_t>(-static_cast<std::int64_t>(status.code()));
}

std::optional<cache::NodeCache> make_cache(World& world, Rank rank) {
  const Plan& plan = world.plan;
  if (!plan.caches()) return std::nullopt;
  NodeMemory& memory = *world.nodes[plan.node_of(rank)];
  const Rank first = rank - static_cast<Rank>(rank % plan.ranks_per_node);
  cache::NodeCacheOptions options;
  options.local = rank - first;
  options.locals = static_cast<std::uint32_t>(plan.ranks_per_node);
  options.overdue = Nanoseconds(static_cast<std::int64_t>(plan.cache_overdue));
  options.prefetch_bytes = plan.cache_bytes / 2;
  options.process_ended = [&world, first](std::uint32_t local) { return world.ranks[first + local]->is_gone(); };
  return cache::NodeCache(memory.directory(), memory.lock(), std::move(options));
}

}  // namespace

SimulatedRank::SimulatedRank(World& world, Rank rank)
    : world_(world),
      rank_(rank),
      cache_(make_cache(world, rank)),
      core_(core_options(world, rank), lane_limits(world, rank), cache_ ? &*cache_ : nullptr),
      checks_(rank, world.plan.slots, lane_limits(world, rank), world.plan.side_by_side, world.report),
      memory_(world.plan, world.layout, world.first_expert_of(rank + 1) - world.first_expert_of(rank)) {
  const Plan& plan = world.plan;
  std::vector<Rank> ranks(plan.ranks());
  std::iota(ranks.begin(), ranks.end(), 0u);
  std::vector<Node> node_of;
  for (const Rank each : ranks) node_of.push_back(plan.node_of(each));
  for (std::uint64_t layer = 0; layer < plan.layers; ++layer) {
    const core::LayerNumber number = core_.add_layer({static_cast<std::uint32_t>(layer),
                                                      core::Membership(rank, ranks, node_of),
                                                      world.layout,
                                                      {0, static_cast<std::uint32_t>(layer)}});
    if (number != number_of(layer)) wrong("layers are numbered otherwise than the simulator thinks");
    core_.set_sources(number, sources());
  }
  slab_ = core_.add_slab(static_cast<std::uint32_t>(plan.slots));
}

std::vector<core::ExpertSources> SimulatedRank::sources() const {
  const Plan& plan = world_.plan;
  std::vector<core::ExpertSources> all;
  for (ExpertIndex expert = 0; expert < plan.experts; ++expert) {
    const Rank home = static_cast<Rank>(plan.home_of(expert));
    core::SourceOption option{home, CARDEA_PATH_NETWORK, 0, world_.cluster.core_lanes(rank_).rails};
    if (home == rank_) {
      option = {home, CARDEA_PATH_HOME, 0};
    } else if (plan.node_of(home) == plan.node_of(rank_)) {
      option = world_.cluster.within_node(rank_, home);
    }
    all.push_back({home, {option}});
  }
  return all;
}

bool SimulatedRank::takes_slot(ExpertIndex expert) const {
  const std::uint64_t home = world_.plan.home_of(expert);
  return home != rank_ && !(world_.plan.mapped && world_.plan.node_of(home) == world_.plan.node_of(rank_));
}

void SimulatedRank::start(std::unique_ptr<Script> script) {
  script_ = std::move(script);
  after(Nanoseconds(0), [this] { changed_ = true; });
}

// ---------------------------------------------------------------- events

void SimulatedRank::deliver(std::function<void()> event) {
  if (gone_) return;
  if (stopped_) {
    held_back_.push_back(std::move(event));
    return;
  }
  event();
  settle();
}

void SimulatedRank::after(Nanoseconds delay, std::function<void()> event) {
  world_.time.after(delay, [this, run = std::move(event)]() mutable { deliver(std::move(run)); });
}

/// Lets the script go on while anything changes.
void SimulatedRank::settle() {
  if (std::exchange(settling_, true)) return;
  carry_out();
  while (!gone_ && !stopped_ && script_ && std::exchange(changed_, false)) {
    script_->go_on();
    carry_out();
  }
  settling_ = false;
  if (gone_ || (script_ && script_->done())) end();
}

void SimulatedRank::end() {
  if (std::exchange(ended_, true)) return;
  ++world_.ended;
  world_.report.time = now().time_since_epoch();
}

void SimulatedRank::check_rest() {
  if (gone_) return;
  if (core_.chunks_in_flight() != 0) wrong(fmt::format("{} chunks never ended", core_.chunks_in_flight()));
  if (core_.available_slots(slab_) != core_.slots(slab_))
    wrong(fmt::format("{} of {} slots came back", core_.available_slots(slab_), core_.slots(slab_)));
}

void SimulatedRank::carry_out() {
  if (gone_) return;
  if (core_.has_actions()) carry_out_actions();
  arm_deadline();
}

void SimulatedRank::carry_out_actions() {
  std::array<std::optional<core::Class>, core::kMaxRails + 2> lowest;
  while (core_.has_actions()) {
    for (const core::Action& action : core_.take_actions()) {
      if (const auto* start = std::get_if<core::StartChunk>(&action)) {
        log("start", {{"chunk", start->chunk},
                      {"lane", start->lane},
                      {"layer", start->layer - 1},
                      {"expert", start->expert},
                      {"version", start->version},
                      {"source", start->source},
                      {"slot", start->slot},
                      {"into", start->into},
                      {"from", start->from},
                      {"peer", start->peer},
                      {"offset", start->range.offset},
                      {"bytes", start->range.bytes},
                      {"class", static_cast<std::uint64_t>(start->urgency)}});
        checks_.started(*start);
        if (start->into != cache::kNoEntry) node().writes(*start);
        if (start->from != cache::kNoEntry) node().reads(start->from, start->layer, start->expert, start->version);
        if (start->peer != kNoRank)
          world_.ranks[start->peer]->checks().pull_begins(start->peer_slot, start->layer, start->expert, start->version);
        auto& least = lowest[start->lane];
        least = std::max(least.value_or(start->urgency), start->urgency);
        world_.fabric->start(rank_, *start);
      } else if (std::holds_alternative<core::Progress>(action)) {
        changed_ = true;
      } else if (const auto* node_tell = std::get_if<core::TellNode>(&action)) {
        const Rank first = rank_ - static_cast<Rank>(rank_ % world_.plan.ranks_per_node);
        for (Rank local = 0; local < world_.plan.ranks_per_node; ++local) {
          if (node_tell->to >> local & 1) world_.fabric->tell_node(rank_, first + local, node_tell->entry, node_tell->nic);
        }
      } else if (const auto* tell = std::get_if<core::Tell>(&action)) {
        world_.fabric->send(rank_, tell->notice.to, tell->layer, tell->notice);
      } else {
        changed_ = true;
      }
    }
  }
  for (core::LaneNumber lane = 0; lane < lowest.size(); ++lane) {
    if (!lowest[lane]) continue;
    checks_.order(lane, *lowest[lane], core_.most_urgent_queued(lane));
  }
  checks_.settled(core_, slab_);
}

void SimulatedRank::arm_deadline() {
  const auto next = core_.next_deadline();
  if (next == armed_for_) return;
  world_.time.cancel(std::exchange(deadline_timer_, kNoTimer));
  armed_for_ = next;
  if (!next) return;
  deadline_timer_ = world_.time.at(*next, [this] {
    deadline_timer_ = kNoTimer;
    armed_for_.reset();
    deliver([this] {
      core_.time_passed(now());
      carry_out();
    });
  });
}

/// Of entries, by a chunk.
void SimulatedRank::end_use(const core::StartChunk& chunk) {
  if (chunk.into != cache::kNoEntry) node().ends(chunk.into);
  if (chunk.from != cache::kNoEntry) node().ends(chunk.from);
  if (chunk.peer != kNoRank) world_.ranks[chunk.peer]->checks().pull_ends(chunk.peer_slot);
}

void SimulatedRank::give_back(core::LayerNumber layer) {
  core_.give_back(layer);
}

void SimulatedRank::chunk_done(const core::StartChunk& chunk, const Status& status) {
  log("done", {{"chunk", chunk.chunk}, {"status", code(status)}});
  checks_.ended(chunk);
  core_.chunk_done(chunk.chunk, status, now());
}

void SimulatedRank::notice(Rank from, core::LayerNumber layer, const core::Notice& notice) {
  if (lost_.contains(from)) return;
  log("told",
      {{"by", from}, {"kind", static_cast<std::uint64_t>(notice.kind)}, {"layer", layer - 1}, {"version", notice.version}});
  if (const Status status = core_.receive(layer, from, notice, now()); !status.ok()) wrong(status.message());
}

void SimulatedRank::peer_lost(Rank peer, bool left, const Status& why) {
  lost_.insert(peer);
  log("lost", {{"peer", peer}, {"left", left}});
  core_.peer_lost(peer, left, why, now());
  changed_ = true;
}

// ---------------------------------------------------------------- requests

Status SimulatedRank::publish(std::uint64_t layer, Version version) {
  log("publish", {{"layer", layer}, {"version", version}});
  if (memory_.on()) {
    const std::uint64_t first = world_.first_expert_of(rank_);
    for (std::uint64_t e = first; e < world_.first_expert_of(rank_ + 1); ++e)
      memory_.write(memory_.own(layer, e - first), layer, static_cast<ExpertIndex>(e), version);
  }
  Status status = core_.publish(number_of(layer), version, now());
  if (!status.ok()) wrong(status.message());
  changed_ = true;
  carry_out();
  return status;
}

core::FetchNumber SimulatedRank::fetch(core::FetchSpec spec) {
  const std::uint64_t layer = spec.layer;
  spec.layer = number_of(layer);
  spec.slab = slab_;
  spec.into_slots = !world_.plan.mapped;
  const Result<core::FetchNumber> made = core_.fetch(spec, now());
  const core::FetchNumber id = made.ok() ? *made : 0;
  const auto deadline = spec.deadline ? static_cast<std::uint64_t>(spec.deadline->time_since_epoch().count()) : 0;
  log("fetch",
      {{"id", id},
       {"layer", layer},
       {"version", spec.version},
       {"class", static_cast<std::uint64_t>(spec.urgency)},
       {"gang", spec.gang},
       {"slots", spec.into_slots},
       {"views", spec.wants_views},
       {"segments", spec.segments},
       {"deadline", deadline}},
      spec.experts);
  if (!made.ok()) {
    if (made.status().code() != CARDEA_ERR_LIMIT) wrong("a fetch is refused: " + made.status().message());
    return 0;
  }
  ++(spec.wants_views ? world_.report.fetches : world_.report.prefetches);
  world_.report.gangs += spec.gang;
  world_.report.deadlines += spec.deadline.has_value();
  open_.emplace(id, OpenFetch{layer, spec.version, spec.wants_views});
  checks_.fetched(id, spec.experts);
  carry_out();
  return id;
}

std::vector<core::Delivery> SimulatedRank::take(core::FetchNumber fetch, std::size_t max) {
  std::vector<core::Delivery> taken = core_.take(fetch, max);
  if (taken.empty()) return taken;
  const OpenFetch& of = open_.at(fetch);
  log("take", {{"id", fetch}, {"count", taken.size()}});
  for (const core::Delivery& delivery : taken) {
    checks_.delivered(fetch, number_of(of.layer), of.version, delivery);
    if (delivery.view == 0) {
      ++world_.report.failures[delivery.status.code()];
      log("failed", {{"id", fetch}, {"expert", delivery.expert}, {"status", code(delivery.status)}});
      continue;
    }
    ++world_.report.views[delivery.path];
    log("ready", {{"id", fetch},
                  {"expert", delivery.expert},
                  {"path", static_cast<std::uint64_t>(delivery.path)},
                  {"source", delivery.source},
                  {"after", static_cast<std::uint64_t>(delivery.ready_after.count())}});
    if (delivery.entry != cache::kNoEntry) {
      node().reads(delivery.entry, number_of(of.layer), delivery.expert, of.version);
      entries_read_.emplace(delivery.view, delivery.entry);
    }
    check_bytes(delivery, of, "when it was delivered");
  }
  carry_out();
  return taken;
}

void SimulatedRank::check_bytes(const core::Delivery& view, const OpenFetch& of, const char* when) {
  if (!memory_.on()) return;
  const std::byte* expert = view.slot ? memory_.slot(*view.slot)
                            : view.entry != cache::kNoEntry
                                ? cache_->payload(view.entry)
                                : world_.ranks[view.source]->own_expert(number_of(of.layer), view.expert);
  for (std::size_t i = 0; i < world_.layout.count(); ++i) {
    if ((view.segments >> i & 1) == 0) continue;
    const std::uint64_t bytes = world_.layout.segments()[i].bytes;
    world_.report.bytes_checked += bytes;
    if (!Memory::is_right(expert, of.layer, view.expert, of.version, world_.layout.offset(i), bytes))
      wrong(fmt::format("segment {} of expert {} of layer {} at version {} had wrong bytes {}", i, view.expert, of.layer,
                        of.version, when));
  }
}

void SimulatedRank::release(core::FetchNumber fetch, const core::Delivery& view) {
  log("release", {{"id", fetch}, {"expert", view.expert}});
  if (const auto of = open_.find(fetch); of != open_.end()) check_bytes(view, of->second, "when it was released");
  checks_.released(view.view);
  if (view.entry != cache::kNoEntry) {
    node().ends(view.entry);
    entries_read_.erase(view.view);
  }
  if (const auto released = core_.release(view.view, now()); !released.ok()) wrong(released.status().message());
  carry_out();
}

void SimulatedRank::cancel(core::FetchNumber fetch) {
  log("cancel", {{"id", fetch}});
  ++world_.report.canceled;
  core_.cancel(fetch, Status(CARDEA_ERR_CANCELED, "its rank said so"), now());
  changed_ = true;
  carry_out();
}

void SimulatedRank::destroy(core::FetchNumber fetch) {
  log("destroy", {{"id", fetch}});
  const core::FetchCounts counts = core_.counts(fetch);
  checks_.closed(fetch, !open_.at(fetch).views || counts.delivered != counts.experts);
  core_.destroy(fetch, now());
  open_.erase(fetch);
  changed_ = true;
  carry_out();
}

Status SimulatedRank::finish(std::uint64_t layer, Version version) {
  log("finish", {{"layer", layer}, {"version", version}});
  Status status = core_.finish(number_of(layer), version, now());
  changed_ = true;
  carry_out();
  return status;
}

Status SimulatedRank::collect(std::uint64_t layer, Version version) {
  Status status = core_.collect(number_of(layer), version);
  if (!status.ok()) return status;
  log("collect", {{"layer", layer}, {"version", version}});
  ++world_.report.collected;
  const std::uint64_t reading = world_.plan.bytes ? world_.fabric->reading(rank_, number_of(layer)) : 0;
  if (reading != 0)
    wrong(fmt::format("version {} of layer {} was collected while {} chunks read it", version, layer, reading));
  if (memory_.on()) {
    const std::uint64_t own = world_.first_expert_of(rank_ + 1) - world_.first_expert_of(rank_);
    for (std::uint64_t e = 0; e < own; ++e) memory_.poison(memory_.own(layer, e));
  }
  return status;
}

SimulatedRank::Waited SimulatedRank::wait(core::FetchNumber fetch) {
  const bool stuck = core_.would_deadlock(fetch, {fetch}, now());
  if (!core_.has_actions()) return {stuck, false};
  log("wait", {{"id", fetch}});
  ++world_.report.waits;
  carry_out();
  return {stuck, true};
}

void SimulatedRank::leave() {
  log("leave", {});
  gone_ = true;
  world_.fabric->gone(rank_, true);
  end_reading();
  if (cache_) cache_->leave();
}

void SimulatedRank::die() {
  if (gone_) return;
  log("die", {});
  ++world_.report.deaths;
  gone_ = true;
  world_.fabric->gone(rank_, false);
  end_reading();
  end();
}

/// Views go with their rank.
void SimulatedRank::end_reading() {
  for (const auto& [view, entry] : entries_read_) node().ends(entry);
  entries_read_.clear();
}

void SimulatedRank::stop(Nanoseconds how_long) {
  if (gone_ || stopped_) return;
  log("stop", {{"for", static_cast<std::uint64_t>(how_long.count())}});
  ++world_.report.stops;
  stopped_ = true;
  world_.time.after(how_long, [this] {
    stopped_ = false;
    for (auto& event : std::exchange(held_back_, {})) deliver(std::move(event));
  });
}

const std::byte* SimulatedRank::own_expert(core::LayerNumber layer, ExpertIndex expert) {
  return memory_.own(layer - 1, expert - world_.first_expert_of(rank_));
}

std::byte* SimulatedRank::destination(const core::StartChunk& chunk) {
  return (chunk.into != cache::kNoEntry ? cache_->payload(chunk.into) : memory_.slot(chunk.slot)) + chunk.range.offset;
}

void SimulatedRank::node_notice(cache::EntryIndex entry, std::uint32_t nic) {
  if (entry != cache::kNoEntry) core_.entry_changed(entry, now());
  if (nic != core::kNoNic) core_.nic_free(nic, now());
}

void SimulatedRank::report() const {
  Report& report = world_.report;
  report.wasted_bytes += core_.counters().prefetch_bytes_wasted;
  report.cache_bypassed += core_.counters().cache_bypassed;
  if (!cache_) return;
  report.wasted_bytes += cache_->counters().prefetch_bytes_wasted;
  report.cache_hits += cache_->counters().hits;
  report.cache_misses += cache_->counters().misses;
  report.cache_evicted += cache_->counters().evicted;
  report.cache_overdue += cache_->counters().overdue;
  report.left_in_slots += cache_->counters().left_in_slots;
  report.hits_in_slots += cache_->counters().hits_in_slots;
  report.housed_again += cache_->counters().housed_again;
  report.gone_from_slots += cache_->counters().gone;
}

}  // namespace cardea::simulator
