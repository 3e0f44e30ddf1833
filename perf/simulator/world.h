// SPDX-License-Identifier: Apache-2.0
// What the parts of one run share. Owned by the Simulation; not thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "lib/core/segment_layout.h"
#include "lib/transport/sim/virtual_time.h"
#include "perf/simulator/cluster.h"
#include "perf/simulator/event_log.h"
#include "perf/simulator/node_memory.h"
#include "perf/simulator/plan.h"
#include "perf/simulator/report.h"
#include "perf/simulator/routing.h"

namespace cardea::simulator {

class Fabric;
class SimulatedRank;

struct World {
  World(const Plan& of, const Routing& routed, EventLog& to);
  ~World();

  const Plan plan;
  const Routing& routing;
  EventLog& log;
  sim::VirtualTime time;
  Report report;
  core::SegmentLayout layout;
  const Cluster cluster;
  std::uint64_t fault_span = 0;
  std::uint64_t ended = 0;                         // ranks that have nothing more to do, or are no more
  std::vector<std::unique_ptr<NodeMemory>> nodes;  // empty without node cache
  std::unique_ptr<Fabric> fabric;
  std::vector<std::unique_ptr<SimulatedRank>> ranks;

  std::uint64_t first_expert_of(Rank rank) const { return (rank * plan.experts + plan.ranks() - 1) / plan.ranks(); }
};

}  // namespace cardea::simulator
