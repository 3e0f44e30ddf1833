// SPDX-License-Identifier: Apache-2.0
// The core's half that gives up what has not moved for too long; how long that is, the runtime says.
#include <algorithm>

#include "lib/core/core.h"
#include "lib/core/core_state.h"

namespace cardea::core {

void Core::give_up(ChunkNumber chunk, const Status& why, Clock::time_point now) {
  if (Transfer* const found = transfers_.find(Transfer::transfer_of(chunk)); found != nullptr) abandon(*found, why, now);
}

Core::Parked Core::parked_at(const Layer& of, const Fetch& fetch, ExpertIndex expert) const {
  Parked parked{of.layer_id, expert, kNoRank, fetch.spec.version, fetch.submitted};
  for (const SourceOption& option : of.experts[expert].options) {
    if (!lost_.contains(option.rank) && !of.left.contains(option.rank)) {
      parked.source = option.rank;
      break;
    }
  }
  return parked;
}

std::optional<Core::Parked> Core::oldest_parked() const {
  std::optional<Parked> oldest;
  for (const auto& [number, of] : layers_) {
    for (const WantRef& ref : of->parked) {
      const Fetch* const found = fetches_.find(ref.fetch);
      if (found == nullptr || !found->spec.wants_views) continue;
      const Fetch& fetch = *found;
      const Want& want = fetch.wants[ref.want];
      if (want.state != Want::State::kParked || (oldest && oldest->since <= fetch.submitted)) continue;
      oldest = parked_at(*of, fetch, want.expert);
    }
  }
  return oldest;
}

void Core::give_up_parked(Clock::time_point submitted_until, Clock::time_point now) {
  std::vector<WantRef> old;
  for (const auto& [number, of] : layers_) {
    for (const WantRef& ref : of->parked) {
      const Fetch* const found = fetches_.find(ref.fetch);
      if (found != nullptr && found->spec.wants_views && found->submitted <= submitted_until) old.push_back(ref);
    }
  }
  for (const WantRef& ref : old) {
    Fetch& of = fetch_of(ref.fetch);
    if (of.wants[ref.want].state != Want::State::kParked) continue;
    const Parked parked = parked_at(layer(of.spec.layer), of, of.wants[ref.want].expert);
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now - of.submitted).count();
    fail(of, ref.want,
         Status::error(CARDEA_ERR_TIMEOUT, "rank {} has not published version {} of layer {} for {} s: expert {}, 0 bytes",
                       parked.source, parked.version, parked.layer_id, seconds, parked.expert)
             .with_peer(parked.source),
         now);
  }
}

}  // namespace cardea::core
