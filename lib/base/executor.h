// SPDX-License-Identifier: Apache-2.0
// Where a rank's runtime runs: a clock, a queue of functions and timers. In production it is an io_context
// (lib/engine/asio_executor.h), in simulations virtual time (lib/transport/sim/virtual_time.h), so that the same code is
// driven by both. Functions run one at a time, on the executor's thread, never from inside a call made to the executor.
#pragma once

#include <cstdint>
#include <functional>

#include "lib/base/types.h"

namespace cardea {

/// Names a timer; never reused by its executor. 0 is never a timer.
using TimerId = std::uint64_t;
inline constexpr TimerId kNoTimer = 0;

class Executor {
 public:
  virtual ~Executor() = default;

  /// Any thread.
  virtual Clock::time_point now() const = 0;
  /// Runs `work` soon; functions posted by one thread run in the order in which they were posted. Any thread.
  virtual void post(std::function<void()> work) = 0;
  /// Runs `work` once, not before `when`; a time that has passed means soon. Executor's thread only.
  virtual TimerId at(Clock::time_point when, std::function<void()> work) = 0;
  /// True if the timer had not run, and now never will; false for one that ran, was cancelled, or is kNoTimer. Executor's
  /// thread only.
  virtual bool cancel(TimerId timer) = 0;

  TimerId after(Nanoseconds delay, std::function<void()> work) { return at(now() + delay, std::move(work)); }
};

}  // namespace cardea
