// SPDX-License-Identifier: Apache-2.0
#include "lib/engine/stall_watch.h"

#include <fmt/format.h>

#include <algorithm>

namespace cardea::engine {
namespace {

using State = core::Outstanding::State;

std::optional<Clock::time_point> still_since(const core::Outstanding& of, const LastMoved& moved) {
  switch (of.state) {
    case State::kMoving: {
      const auto from = moved.from.find(of.source);
      const Clock::time_point started = of.oldest.value_or(of.submitted);
      return from == moved.from.end() ? started : std::max(started, from->second);
    }
    case State::kShared:
      // The claim's time comes out of memory that others write.
      return std::max(of.submitted, of.oldest.value_or(of.submitted));
    case State::kParked:
      if (of.awaited) return of.submitted;
      break;
    case State::kStarved:
    case State::kQueued:
      if (of.awaited) return std::max(of.submitted, moved.anything);
  }
  return std::nullopt;
}

}  // namespace

std::vector<Stall> find_stalls(const std::vector<core::Outstanding>& outstanding, const LastMoved& moved,
                               Nanoseconds patience, Clock::time_point now) {
  std::vector<Stall> stalls;
  for (const core::Outstanding& of : outstanding) {
    const auto since = still_since(of, moved);
    if (since && now - *since >= patience) stalls.push_back({of, now - *since});
  }
  std::stable_sort(stalls.begin(), stalls.end(), [](const Stall& a, const Stall& b) { return a.still > b.still; });
  return stalls;
}

std::string stall_reason(const Dump& dump, const std::vector<Stall>& stalls) {
  Dump still;
  still.self = dump.self;
  still.now = dump.now;
  still.lanes = dump.lanes;
  for (const Stall& stall : stalls) still.outstanding.push_back(stall.of);
  const std::vector<Suspect> blamed = suspects(still);
  const auto concerns = [&](const Stall& stall) { return blamed.empty() || stall.of.peer == blamed.front().rank; };
  const auto found = std::find_if(stalls.begin(), stalls.end(), concerns);
  const Stall& shown = found == stalls.end() ? stalls.front() : *found;
  return fmt::format(
      "fetch {} has stood still for {:.1f} s, at fault: {}; expert {} of layer {}, version {}, path {}, lane {}",
      shown.of.fetch, std::chrono::duration<double>(shown.still).count(),
      blamed.empty() ? "nobody, it is queued" : fmt::format("rank {} ({})", blamed.front().rank, blamed.front().why),
      shown.of.expert, shown.of.layer_id, shown.of.version, cardea_path_string(shown.of.path),
      shown.of.lane < dump.lanes.size() ? dump.lanes[shown.of.lane] : fmt::to_string(shown.of.lane));
}

bool StallWatch::tell(const std::vector<Stall>& stalls, Clock::time_point now) {
  std::set<Key> keys;
  for (const Stall& stall : stalls) keys.emplace(stall.of.fetch, stall.of.expert, stall.of.state, stall.of.peer);
  // What has moved since may be told of anew.
  std::erase_if(told_, [&](const Key& key) { return !keys.contains(key); });
  if (keys.empty()) return false;
  const Nanoseconds pause = keys == told_ ? patience_ * kRepeat : patience_;
  if (last_ && now - *last_ < pause) return false;
  told_ = std::move(keys);
  last_ = now;
  return true;
}

}  // namespace cardea::engine
