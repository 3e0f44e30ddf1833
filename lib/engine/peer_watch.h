// SPDX-License-Identifier: Apache-2.0
// What a runtime keeps to watch its peers: whether they live, and, apart from that, whether what it waits for moves. A peer
// that lives and does not move anything (it writes a checkpoint, its user computes) is warned of and, much later, given up
// for the experts concerned. Plain state; runtime.h has the rules, watch.cc the code.
#pragma once

#include <functional>
#include <string>

#include "lib/engine/liveness.h"
#include "lib/engine/stall_watch.h"

namespace cardea::engine {

struct WatchOptions {
  LivenessOptions liveness;
  Nanoseconds progress_warning = std::chrono::seconds(30);
  Nanoseconds progress_limit = std::chrono::minutes(10);
  /// Gets the text of dumps, on the executor's thread, without the mutex; unset: the log does.
  std::function<void(const std::string&)> on_dump;
};

struct PeerWatch {
  WatchOptions options;
  Liveness liveness;
  StallWatch stalls{options.progress_warning};
  LastMoved moved;
  bool dumping = false;  // a dump is being written
  Clock::time_point parked_warned{};
  Clock::time_point looked{};  // for what does not move
  TimerId timer = kNoTimer;
  Clock::time_point armed{};
};

}  // namespace cardea::engine
