// SPDX-License-Identifier: Apache-2.0
// Where a rank's work runs: Asio's io_context in production, virtual time in simulation. What is posted runs in order, one at
// a time, never inside the call that posted it.
#pragma once

#include <cstdint>
#include <functional>

#include "lib/base/types.h"

namespace cardea {

class Executor {
 public:
  using TimerId = std::uint64_t;  // never 0, never reused

  virtual ~Executor() = default;
  virtual Clock::time_point now() const = 0;
  /// From any thread.
  virtual void post(std::function<void()> work) = 0;
  /// Runs `work` once `when` has come, unless cancelled before. From the executor's own thread.
  virtual TimerId at(Clock::time_point when, std::function<void()> work) = 0;
  /// Harmless if it has run already.
  virtual void cancel(TimerId timer) = 0;
};

}  // namespace cardea
