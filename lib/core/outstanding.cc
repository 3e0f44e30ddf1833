// SPDX-License-Identifier: Apache-2.0
#include "lib/core/outstanding.h"

#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {

const char* to_string(Outstanding::State state) {
  switch (state) {
    case Outstanding::State::kParked:
      return "parked";
    case Outstanding::State::kStarved:
      return "starved";
    case Outstanding::State::kQueued:
      return "queued";
    case Outstanding::State::kMoving:
      return "moving";
    case Outstanding::State::kShared:
      return "shared";
  }
  return "unknown";
}

std::vector<Outstanding> Core::outstanding() const {
  std::vector<Outstanding> all;
  fetches_.for_each([&](FetchNumber, const Fetch& fetch) {
    for (const Want& want : fetch.wants) {
      if (want.state == Want::State::kParked || want.state == Want::State::kStarved || want.state == Want::State::kMoving)
        all.push_back(outstanding_of(fetch, want));
    }
  });
  std::sort(all.begin(), all.end(), [](const Outstanding& a, const Outstanding& b) {
    return std::tuple(a.submitted, a.fetch, a.expert) < std::tuple(b.submitted, b.fetch, b.expert);
  });
  return all;
}

std::optional<Clock::time_point> Core::oldest_outstanding() const {
  std::optional<Clock::time_point> oldest;
  fetches_.for_each([&](FetchNumber, const Fetch& fetch) {
    if (fetch.outstanding() != 0) oldest = std::min(oldest.value_or(fetch.submitted), fetch.submitted);
  });
  return oldest;
}

std::vector<FetchNumber> Core::open_fetches() const {
  std::vector<FetchNumber> open;
  fetches_.for_each([&](FetchNumber number, const Fetch& fetch) {
    if (fetch.outstanding() != 0) open.push_back(number);
  });
  std::sort(open.begin(), open.end());
  return open;
}

Outstanding Core::outstanding_of(const Fetch& of, const Want& want) const {
  const Layer& in = layer(of.spec.layer);
  Outstanding out;
  out.fetch = of.number;
  out.layer = in.number;
  out.layer_id = in.layer_id;
  out.expert = want.expert;
  out.version = of.spec.version;
  out.urgency = of.spec.urgency;
  out.awaited = of.spec.wants_views;
  out.submitted = of.submitted;
  if (want.state == Want::State::kParked) {
    const Choice choice = choose(in, want.expert, of.spec);
    if (choice.source != nullptr) out.peer = out.source = choice.source->rank;
    return out;
  }
  out.source = want.source.rank;
  out.path = want.source.path;
  out.lane = want.source.lane;
  if (want.state == Want::State::kStarved) {
    out.state = Outstanding::State::kStarved;
    return out;
  }
  const Transfer* moving = &transfers_.at(want.transfer);
  if (moving->streams && moving->in_flight == 0 && moving->origin != 0) {
    // Nothing to copy: it waits for the rest to come into the node cache.
    const Transfer& origin = transfers_.at(moving->origin);
    if (!origin.complete()) moving = &origin;
  }
  const Transfer& transfer = *moving;
  out.source = transfer.source.rank;
  out.path = transfer.source.path;
  out.lane = transfer.source.lane;
  out.chunks = static_cast<std::uint32_t>(transfer.chunks.size());
  out.chunks_in_flight = transfer.in_flight;
  for (const Transfer::Chunk& chunk : transfer.chunks) {
    if (chunk.done) ++out.chunks_done;
    if (chunk.done || chunk.started == Clock::time_point{} || transfer.in_flight == 0) continue;
    out.oldest = std::min(out.oldest.value_or(chunk.started), chunk.started);
  }
  out.state = transfer.in_flight != 0 ? Outstanding::State::kMoving : Outstanding::State::kQueued;
  if (out.state == Outstanding::State::kMoving) out.peer = out.source;
  if (out.state != Outstanding::State::kQueued || !transfer.cached()) return out;
  // Whoever of the node has claimed what is missing.
  if (const auto claim = cache_->oldest_claim(transfer.entry); claim && claim->local < options_.node_ranks.size()) {
    out.state = Outstanding::State::kShared;
    out.peer = options_.node_ranks[claim->local];
    out.oldest = claim->since;
  }
  return out;
}

}  // namespace cardea::core
