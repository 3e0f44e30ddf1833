// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/training.h"

#include <algorithm>

namespace cardea::simulator {

Training::Training(World& world, SimulatedRank& rank)
    : world_(world), rank_(rank), random_(world.plan.seed, 1000 + rank.rank()) {}

double Training::progress() const {
  return over_ || rank_.is_gone() ? 1 : static_cast<double>(finished_) / static_cast<double>(total());
}

std::string Training::waits_for() const {
  std::string what = fmt::format("{} of {} layers finished, {} open, {} to be collected", finished_, total(), open_.size(),
                                 collecting_.size());
  for (const OpenLayer& open : open_) {
    for (const core::FetchNumber fetch : open.fetches) {
      const core::FetchCounts counts = rank_.counts(fetch);
      what += fmt::format("; layer {} step {} fetch {}: {} experts, {} parked, {} starved, {} moving, {} ready", open.layer,
                          open.step, fetch, counts.experts, counts.parked, counts.starved, counts.moving, counts.ready);
    }
  }
  return what;
}

void Training::go_on() {
  if (over_) return;
  if (!std::exchange(started_, true)) {
    for (std::uint64_t layer = 0; layer < world_.plan.layers; ++layer) publish(layer, 1);
    rest();
  }
  collect();
  bool again = true;
  while (again && !over_) {
    open_layers();
    again = finish_one() || (!computing_ && !resting_ && compute_one());
  }
  if (finished_ == total() && collecting_.empty()) over_ = true;
}

void Training::publish(std::uint64_t layer, Version version) {
  if (rank_.publish(layer, version).ok()) published_[layer] = version;
}

void Training::rest() {
  if (world_.plan.dense_time == 0 || resting_) return;
  resting_ = true;
  const std::uint64_t least = world_.plan.dense_time;
  rank_.after(Nanoseconds(static_cast<std::int64_t>(least)), [this] {
    resting_ = false;
    go_on();
  });
}

void Training::collect() {
  for (auto at = collecting_.begin(); at != collecting_.end();) {
    const std::uint64_t layer = at->first;
    const Version version = at->second;
    const Status status = rank_.collect(layer, version);
    if (status.code() == CARDEA_IN_PROGRESS) {
      ++at;
      continue;
    }
    at = collecting_.erase(at);
    if (status.code() == CARDEA_ERR_PEER_LOST) {
      ++world_.report.aborted;
      over_ = true;
      return rank_.leave();
    }
    if (!status.ok()) {
      world_.report.violation(fmt::format("rank {}: collect: {}", rank_.rank(), status.message()));
      continue;
    }
    if (version == world_.plan.steps) continue;
    if (world_.plan.update_time == 0) {
      publish(layer, version + 1);
    } else {
      rank_.after(Nanoseconds(static_cast<std::int64_t>(world_.plan.update_time)),
                  [this, layer, version] { publish(layer, version + 1); });
    }
  }
}

void Training::open_layers() {
  // With one layer open at a time its experts are known when what comes before it has been computed; a wider window knows
  // them earlier.
  while (next_ < total() && open_.size() < world_.plan.open_ahead && (world_.plan.open_ahead > 1 || !resting_))
    open_layer(next_++);
}

void Training::open_layer(std::uint64_t place) {
  OpenLayer& open = open_.emplace_back();
  open.step = step_of(place);
  open.layer = layer_of(place);
  open.tokens = world_.routing.tokens(open.step, open.layer, rank_.rank());
  if (const auto found = prefetched_.find(place); found != prefetched_.end()) {
    if (rank_.is_open(found->second)) open.prefetch = found->second;
    prefetched_.erase(found);
  }
  const std::vector<ExpertIndex> wanted = world_.routing.wanted(open.step, open.layer, rank_.rank());
  const std::uint64_t parts = std::min<std::uint64_t>(world_.plan.fetches, wanted.size());
  for (std::uint64_t part = 0; part < parts; ++part) {
    core::FetchSpec spec;
    spec.layer = static_cast<core::LayerNumber>(open.layer);
    spec.version = open.step + 1;
    spec.experts.assign(wanted.begin() + static_cast<std::ptrdiff_t>(wanted.size() * part / parts),
                        wanted.begin() + static_cast<std::ptrdiff_t>(wanted.size() * (part + 1) / parts));
    spec.segments = some_segments();
    const auto slots = static_cast<std::uint64_t>(
        std::count_if(spec.experts.begin(), spec.experts.end(), [&](ExpertIndex e) { return rank_.takes_slot(e); }));
    spec.gang = slots <= world_.plan.slots && random_.chance(world_.plan.gangs);
    if (random_.chance(world_.plan.deadlines)) spec.deadline = world_.time.now() + somewhen();
    const core::FetchNumber fetch = rank_.fetch(std::move(spec));
    if (fetch == 0) continue;
    open_.back().fetches.push_back(fetch);
    trouble(fetch);
  }
  if (world_.plan.prefetch && place + 1 < total() && next_ <= place + 1) prefetch(place + 1);
}

core::SegmentMask Training::some_segments() {
  const core::SegmentMask all = world_.layout.all();
  if (!random_.chance(world_.plan.parts)) return all;
  const core::SegmentMask some = random_() & all;
  return some == 0 ? all : some;
}

void Training::prefetch(std::uint64_t place) {
  core::FetchSpec spec;
  spec.layer = static_cast<core::LayerNumber>(layer_of(place));
  spec.version = step_of(place) + 1;
  spec.segments = some_segments();
  spec.urgency = core::Class::kPrefetch;
  spec.wants_views = false;
  // Of more than there are slots, those from the node after its own and round, or all ranks would ask the same homes.
  const std::vector<ExpertIndex> wanted = world_.routing.wanted(step_of(place), layer_of(place), rank_.rank());
  const std::uint64_t next_node = (world_.plan.node_of(rank_.rank()) + 1) % world_.plan.nodes * world_.plan.ranks_per_node;
  const auto first = std::lower_bound(wanted.begin(), wanted.end(), world_.first_expert_of(static_cast<Rank>(next_node)));
  std::uint64_t slots = 0;
  for (std::size_t i = 0; i < wanted.size() && slots < world_.plan.slots; ++i) {
    const ExpertIndex expert = wanted[(static_cast<std::size_t>(first - wanted.begin()) + i) % wanted.size()];
    if (!rank_.takes_slot(expert)) continue;
    spec.experts.push_back(expert);
    const bool cached =
        world_.plan.caches() && world_.plan.node_of(world_.plan.home_of(expert)) != world_.plan.node_of(rank_.rank());
    if (!cached) ++slots;
  }
  if (spec.experts.empty()) return;
  const core::FetchNumber fetch = rank_.fetch(std::move(spec));
  if (fetch == 0) return;
  prefetched_.emplace(place, fetch);
  trouble(fetch);
}

void Training::trouble(core::FetchNumber fetch) {
  if (random_.chance(world_.plan.cancels)) {
    rank_.after(somewhen(), [this, fetch] {
      if (!over_ && rank_.is_open(fetch)) rank_.cancel(fetch);
    });
  }
  if (random_.chance(world_.plan.destroys)) {
    rank_.after(somewhen(), [this, fetch] {
      if (over_ || !rank_.is_open(fetch)) return;
      ++world_.report.destroyed;
      // What was delivered of it stays open until it is released.
      for (OpenLayer& open : open_) std::erase(open.fetches, fetch);
      rank_.destroy(fetch);
    });
  }
}

// ---------------------------------------------------------------- computing

bool Training::compute_one() {
  if (open_.empty()) return false;
  if (open_.size() > 1 && random_.chance(world_.plan.take_any)) {
    if (take_from(open_[random_.below(open_.size())])) return true;
  }
  if (take_from(open_.front())) return true;
  return look_for_deadlock();
}

/// True if something was taken: then it computes, or the expert had failed.
bool Training::take_from(OpenLayer& open) {
  for (const core::FetchNumber fetch : open.fetches) {
    const std::vector<core::Delivery> taken = rank_.take(fetch, 1);
    if (taken.empty()) continue;
    if (taken.front().view == 0) return true;
    world_.report.ready_time = world_.time.now().time_since_epoch();
    const Nanoseconds time = world_.routing.compute_time(open.tokens[taken.front().expert]);
    held_.push_back({fetch, taken.front(), open.layer});
    if (time.count() == 0) {
      release_held(world_.plan.hold);
      return true;
    }
    computing_ = true;
    rank_.after(time, [this] {
      computing_ = false;
      if (over_) return;
      release_held(world_.plan.hold);
      go_on();
    });
    return true;
  }
  return false;
}

void Training::release_held(std::size_t keep) {
  while (held_.size() > keep) {
    const Held held = held_.front();
    held_.pop_front();
    rank_.release(held.fetch, held.view);
  }
}

/// A rank that waits asks whether that can end. True if something changed.
bool Training::look_for_deadlock() {
  for (const OpenLayer& open : open_) {
    for (const core::FetchNumber fetch : open.fetches) {
      const core::FetchCounts counts = rank_.counts(fetch);
      if (counts.starved == 0) continue;
      if (!rank_.wait(fetch).stuck) continue;
      if (!held_.empty()) {
        release_held(0);
        return true;
      }
      // Another fetch may hold what this one needs: take from that.
      for (OpenLayer& other : open_) {
        if (take_from(other)) return true;
      }
      world_.report.violation(fmt::format("rank {}: fetch {} waits for slots that nothing holds", rank_.rank(), fetch));
      return false;
    }
  }
  return false;
}

/// Finishes a layer whose experts have all been computed with.
bool Training::finish_one() {
  if (computing_) return false;  // with a view that must be released before
  for (auto open = open_.begin(); open != open_.end(); ++open) {
    const bool complete = std::all_of(open->fetches.begin(), open->fetches.end(), [&](core::FetchNumber fetch) {
      const core::FetchCounts counts = rank_.counts(fetch);
      return counts.delivered == counts.experts;
    });
    const bool published = published_[open->layer] == open->step + 1;  // else an earlier version is still to be collected
    if (!complete || !published) continue;
    release_held(0);
    const OpenLayer ended = *open;
    open_.erase(open);
    for (const core::FetchNumber fetch : ended.fetches) rank_.destroy(fetch);
    if (ended.prefetch && rank_.is_open(*ended.prefetch)) rank_.destroy(*ended.prefetch);
    const Version version = ended.step + 1;
    if (const Status status = rank_.finish(ended.layer, version); !status.ok())
      world_.report.violation(fmt::format("rank {}: finish: {}", rank_.rank(), status.message()));
    ++finished_;
    collecting_[ended.layer] = version;
    collect();
    if (!over_ && finished_ < total()) rest();
    return true;
  }
  return false;
}

}  // namespace cardea::simulator
