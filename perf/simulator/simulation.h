// SPDX-License-Identifier: Apache-2.0
// One run: cores of all ranks over the modelled cluster, in virtual time, until every rank has come to its end, nothing can
// happen any more, or the watchdog's time has passed. A function of the plan (and of the recorded requests). No thread, no
// clock; use it once.
#pragma once

#include <functional>

#include "perf/simulator/world.h"

namespace cardea::simulator {

class Simulation {
 public:
  /// `plan` has been checked. `routing` and `log` must outlive it.
  Simulation(const Plan& plan, const Routing& routing, EventLog& log);
  /// The same, but ranks ask for what was recorded, and die and stop as recorded.
  Simulation(const RecordedRun& recorded, const Routing& routing, EventLog& log);
  ~Simulation();

  /// `progress` is told, now and then, how much of the work is done (of 1).
  const Report& run(const std::function<void(double)>& progress = {});

 private:
  void set_up();
  void schedule_faults();
  void close();

  World world_;
};

/// Makes the routing, runs, and reports; a plan that cannot be run is the Status.
Result<Report> simulate(const Plan& plan, std::FILE* log = nullptr, const std::function<void(double)>& progress = {});
Result<Report> simulate(const RecordedRun& recorded, std::FILE* log = nullptr,
                        const std::function<void(double)>& progress = {});

}  // namespace cardea::simulator
