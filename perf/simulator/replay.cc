// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/replay.h"

#include <algorithm>

namespace cardea::simulator {

Replay::Replay(World& world, SimulatedRank& rank, std::vector<LoggedRequest> requests)
    : world_(world), rank_(rank), requests_(std::move(requests)) {}

double Replay::progress() const {
  return rank_.is_gone() || requests_.empty() ? 1 : static_cast<double>(next_) / static_cast<double>(requests_.size());
}

std::string Replay::waits_for() const {
  return fmt::format("request {} of {} of the log", next_ + 1, requests_.size());
}

void Replay::go_on() {
  while (!done() && !rank_.is_gone() && !rank_.is_stopped()) {
    const LoggedRequest& request = requests_[next_];
    const Clock::time_point when{Nanoseconds(static_cast<std::int64_t>(request.when))};
    if (when > world_.time.now()) {
      // Set now, as the timer that led to it was: among events of one time the order of setting counts.
      if (!std::exchange(armed_, true)) {
        rank_.after(when - world_.time.now(), [this] {
          armed_ = false;
          go_on();
        });
      }
      return;
    }
    if (!make(request)) return;
    ++next_;
  }
}

core::FetchNumber Replay::number(std::uint64_t id) const {
  const auto found = fetches_.find(id);
  return found == fetches_.end() || !rank_.is_open(found->second) ? 0 : found->second;
}

bool Replay::take(std::uint64_t id, std::size_t count) {
  const core::FetchNumber fetch = number(id);
  if (fetch == 0) return false;
  const std::vector<core::Delivery> taken = rank_.take(fetch, count);
  delivered_[id] += taken.size();
  for (const core::Delivery& delivery : taken) {
    world_.report.ready_time = world_.time.now().time_since_epoch();
    if (delivery.view != 0) views_[id].push_back(delivery);
  }
  return !taken.empty();
}

/// False: it must wait, and asks as a waiting thread does whether what it waits for can come.
bool Replay::wait(core::FetchNumber fetch) {
  (void)rank_.wait(fetch);
  return false;
}

/// False if it must wait.
bool Replay::make(const LoggedRequest& request) {
  using What = LoggedRequest::What;
  const core::FetchNumber fetch = number(request.id);
  switch (request.what) {
    case What::kPublish:
      (void)rank_.publish(request.layer, request.version);
      return true;
    case What::kFetch: {
      core::FetchSpec spec;
      spec.layer = static_cast<core::LayerNumber>(request.layer);
      spec.version = request.version;
      spec.experts = request.experts;
      spec.segments = request.segments;
      spec.urgency = static_cast<core::Class>(request.urgency);
      spec.gang = request.gang != 0;
      spec.wants_views = request.views != 0;
      if (request.deadline != 0) spec.deadline = Clock::time_point{Nanoseconds(static_cast<std::int64_t>(request.deadline))};
      fetches_[request.id] = rank_.fetch(std::move(spec));
      return true;
    }
    case What::kTake: {
      if (fetch == 0) return true;
      const core::FetchCounts counts = rank_.counts(fetch);
      const std::uint64_t there = counts.experts - (counts.parked + counts.starved + counts.moving) - counts.delivered;
      if (there < request.count && counts.delivered + request.count <= counts.experts) return wait(fetch);
      (void)take(request.id, request.count);
      return true;
    }
    case What::kRelease: {
      // Experts may come in another order here. Held views would keep slots from those to come, so each release lets one
      // view go: the one that it names, else the one taken first.
      const auto named = [&](const core::Delivery& view) { return view.expert == request.expert; };
      std::deque<core::Delivery>& held = views_[request.id];
      while (held.empty()) {
        if (take(request.id, 1)) continue;
        const bool may_come = fetch != 0 && rank_.counts(fetch).delivered < rank_.counts(fetch).experts;
        return may_come ? wait(fetch) : true;  // it failed here
      }
      auto view = std::find_if(held.begin(), held.end(), named);
      if (view == held.end()) view = held.begin();
      rank_.release(fetch, *view);
      held.erase(view);
      return true;
    }
    case What::kCancel:
      if (fetch != 0) rank_.cancel(fetch);
      return true;
    case What::kDestroy:
      if (fetch != 0) rank_.destroy(fetch);
      return true;
    case What::kFinish:
      return rank_.finish(request.layer, request.version).code() != CARDEA_ERR_BUSY;
    case What::kCollect:
      return rank_.collect(request.layer, request.version).code() != CARDEA_IN_PROGRESS;
    case What::kWait:
      // It changed something when it was logged; if not now, then perhaps behind what else happens at this time.
      if (fetch == 0 || rank_.wait(fetch).changed || std::exchange(waited_, false)) {
        waited_ = false;
        return true;
      }
      waited_ = true;
      rank_.after(Nanoseconds(0), [this] { go_on(); });
      return false;
    case What::kLeave:
      rank_.leave();
      return true;
    case What::kDie:
      rank_.die();
      return true;
    case What::kStop:
      rank_.stop(Nanoseconds(static_cast<std::int64_t>(request.nanoseconds)));
      return true;
  }
  return true;
}

}  // namespace cardea::simulator
