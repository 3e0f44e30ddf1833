// SPDX-License-Identifier: Apache-2.0
#include "lib/engine/dump.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "lib/engine/runtime.h"
#include "lib/telemetry/event_text.h"

namespace cardea::engine {
namespace {

using State = core::Outstanding::State;

constexpr std::size_t kRecentLines = 512;

double seconds(Nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

std::string lane_name(const Dump& dump, std::uint32_t lane) {
  return lane < dump.lanes.size() ? dump.lanes[lane] : fmt::to_string(lane);
}

std::string why(const Dump& dump, const core::Outstanding& of) {
  switch (of.state) {
    case State::kMoving:
      return fmt::format("chunks are on the way from it by {} on lane {}", cardea_path_string(of.path),
                         lane_name(dump, of.lane));
    case State::kShared:
      return "it has claimed chunks in the node cache";
    case State::kParked:
      return fmt::format("it has not published version {} of layer {}", of.version, of.layer_id);
    case State::kStarved:
      return "views that it holds, or transfers before, take every slot";
    case State::kQueued:
      break;
  }
  return "it is queued";
}

std::string rank_name(Rank rank) {
  return rank == kNoRank ? "none" : fmt::to_string(rank);
}

}  // namespace

std::vector<Suspect> suspects(const Dump& dump) {
  std::map<Rank, Suspect> by_rank;
  const auto charge = [&](Rank rank, const core::Outstanding& of) {
    const Nanoseconds waited = dump.now - of.oldest.value_or(of.submitted);
    Suspect& suspect = by_rank[rank];
    suspect.rank = rank;
    if (suspect.experts++ != 0 && suspect.waited >= waited) return;
    suspect.waited = waited;
    suspect.why = why(dump, of);
  };
  for (const core::Outstanding& of : dump.outstanding) {
    if (of.peer != kNoRank) charge(of.peer, of);
  }
  if (by_rank.empty()) {
    for (const core::Outstanding& of : dump.outstanding) {
      if (of.state == State::kStarved) charge(dump.self, of);
    }
  }
  std::vector<Suspect> all;
  for (auto& [rank, suspect] : by_rank) all.push_back(std::move(suspect));
  std::stable_sort(all.begin(), all.end(), [](const Suspect& a, const Suspect& b) { return a.waited > b.waited; });
  return all;
}

std::string to_text(const Dump& dump, std::string_view reason, std::size_t most_outstanding) {
  std::string text;
  const auto to = std::back_inserter(text);
  fmt::format_to(to, "cardea dump: {}\n", reason);
  fmt::format_to(to, "rank {} of {} on node {}, {:.6f} s after it joined, {:%Y-%m-%dT%H:%M:%S}Z\n", dump.self, dump.ranks,
                 dump.node, seconds(dump.now - dump.began), fmt::gmtime(std::chrono::system_clock::to_time_t(dump.wall)));
  const std::vector<Suspect> blamed = suspects(dump);
  if (blamed.empty()) fmt::format_to(to, "at fault: nobody; no fetch waits for another rank\n");
  for (const Suspect& suspect : blamed) {
    fmt::format_to(to, "at fault: rank {} ({} experts, for {:.3f} s: {})\n", suspect.rank, suspect.experts,
                   seconds(suspect.waited), suspect.why);
  }

  fmt::format_to(to, "outstanding: {} experts\n", dump.outstanding.size());
  std::size_t shown = 0;
  for (const core::Outstanding& of : dump.outstanding) {
    if (shown++ == most_outstanding) {
      fmt::format_to(to, "  and {} more\n", dump.outstanding.size() - most_outstanding);
      break;
    }
    fmt::format_to(
        to, "  fetch={} layer={} layer-id={} expert={} version={} class={} state={} peer={} source={} path={} lane={}",
        of.fetch, of.layer - 1, of.layer_id, of.expert, of.version,
        telemetry::class_name(static_cast<std::uint8_t>(of.urgency)), core::to_string(of.state), rank_name(of.peer),
        rank_name(of.source), cardea_path_string(of.path), lane_name(dump, of.lane));
    fmt::format_to(to, " chunks={}/{} in-flight={} waited={:.3f}", of.chunks_done, of.chunks, of.chunks_in_flight,
                   seconds(dump.now - of.submitted));
    if (of.oldest) fmt::format_to(to, " oldest-chunk={:.3f}", seconds(dump.now - *of.oldest));
    text += '\n';
  }
  fmt::format_to(to, "lent: {} chunks\n", dump.lent.size());
  for (const Dump::Lent& lent : dump.lent) {
    fmt::format_to(to, "  to={} layer-id={} expert={} since={:.3f}\n", lent.to, lent.layer_id, lent.expert,
                   seconds(dump.now - lent.since));
  }
  fmt::format_to(to, "lost: {} ranks\n", dump.lost.size());
  for (const auto& [rank, status] : dump.lost) fmt::format_to(to, "  rank={} {}\n", rank, status.message());

  telemetry::EventText events(dump.self, dump.began.time_since_epoch().count());
  const std::size_t first = dump.recent.size() > kRecentLines ? dump.recent.size() - kRecentLines : 0;
  fmt::format_to(to, "recent: the last {} of {} records, times in ns after it joined\n", dump.recent.size() - first,
                 dump.records);
  for (std::size_t i = first; i < dump.recent.size(); ++i) events.add(dump.recent[i], text);
  events.flush(text);
  text += "end of dump\n";
  return text;
}

Dump Runtime::take_dump() const {
  Dump dump;
  dump.self = options_.self;
  dump.node = options_.node_of[options_.self];
  dump.ranks = static_cast<std::uint32_t>(options_.node_of.size());
  dump.now = now();
  dump.began = began_;
  dump.wall = std::chrono::system_clock::now();
  dump.outstanding = core_.outstanding();
  for (const auto& [id, lent] : leases_) {
    const std::shared_ptr<LayerRecord>* const layer = by_number_.find(lent.layer);
    dump.lent.push_back({lent.to, layer == nullptr ? 0 : (*layer)->layer_id, lent.expert, lent.since});
  }
  dump.lost.assign(lost_.begin(), lost_.end());
  if (!recorder_) return dump;
  dump.lanes = recorder_->counters().lanes();
  dump.recent = recorder_->recent();
  dump.records = recorder_->made();
  return dump;
}

}  // namespace cardea::engine
