// SPDX-License-Identifier: Apache-2.0
// How a rank joins its job: Options say who it is and where the others meet, join() makes the Exchange. Options come from
// the environment (environment.h) or from a unique id (unique_id.h); a framework's own store needs none
// (callback_exchange.h). Blocking; any thread; several jobs at once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/bootstrap/endpoint.h"
#include "lib/bootstrap/exchange.h"

namespace cardea::bootstrap {

struct Options {
  Rank rank = 0;
  std::uint32_t world_size = 1;
  std::vector<Endpoint> roots;  // where the meeting point is; several addresses of one
  std::string job;              // names the job among those that might meet there
  Secret secret{};
  std::string secret_origin{};     // what to do if the secret is wrong, such as "copy …"
  std::uint64_t instance = 0;      // counts the contexts that the same ranks make of the same job, one after the other
  bool runs_meeting_point = true;  // rank 0 does; false: somebody has created it before
  std::uint32_t wire_version = kWireVersion;
};

/// Forms the job: returns when all ranks have arrived. A job of one rank whose meeting point nobody else runs forms without
/// any network. INVALID_ARGUMENT (rank or world size out of range), SYSTEM (rank 0 cannot listen), and the errors of
/// SocketExchange::connect.
Result<std::unique_ptr<Exchange>> join(const Options& options, Clock::time_point deadline);

}  // namespace cardea::bootstrap
