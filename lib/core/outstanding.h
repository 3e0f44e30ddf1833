// SPDX-License-Identifier: Apache-2.0
// An expert that a fetch still waits for, and for whom it waits: what warnings, errors and dumps tell of a stall. Plain
// value, made by Core::outstanding().
#pragma once

#include <cstdint>
#include <optional>

#include "lib/core/lane.h"
#include "lib/core/slots.h"
#include "lib/core/versions.h"

namespace cardea::core {

struct Outstanding {
  enum class State : std::uint8_t {
    kParked,   // `peer` has not published the version
    kStarved,  // waits for a slot: this rank's own views, or transfers before it, hold them
    kQueued,   // waits for its lane
    kMoving,   // chunks are on the way from `peer`
    kShared,   // another rank of the node, `peer`, is bringing it into the node cache
  };
  std::uint64_t fetch = 0;
  std::uint32_t layer = 0;     // LayerNumber
  std::uint32_t layer_id = 0;  // the framework's
  ExpertIndex expert = 0;
  Version version = 0;
  Class urgency = Class::kDemand;
  bool awaited = true;  // somebody wants to read it; false: a prefetch
  State state = State::kParked;
  Rank peer = kNoRank;    // for whom it waits; none for starved and queued ones
  Rank source = kNoRank;  // of the expert
  cardea_path_t path = CARDEA_PATH_NONE;
  std::uint32_t lane = 0;
  std::uint32_t chunks = 0, chunks_done = 0, chunks_in_flight = 0;  // of its transfer
  Clock::time_point submitted;                                      // the fetch
  std::optional<Clock::time_point> oldest;                          // of the chunks in flight, or of the other rank's claims
};

/// "parked", "starved", "queued", "moving", "shared".
const char* to_string(Outstanding::State state);

}  // namespace cardea::core
