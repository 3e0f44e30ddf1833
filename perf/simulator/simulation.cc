// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/simulation.h"

#include <algorithm>

#include "perf/simulator/bound.h"
#include "perf/simulator/fabric.h"
#include "perf/simulator/rank.h"
#include "perf/simulator/replay.h"
#include "perf/simulator/training.h"

namespace cardea::simulator {
namespace {

core::SegmentLayout layout_of(const Plan& plan) {
  std::vector<core::Segment> segments;
  std::uint64_t left = plan.expert_bytes;
  for (std::uint64_t i = 0; i < plan.segments; ++i) {
    const std::uint64_t bytes = i + 1 == plan.segments ? left : plan.expert_bytes / plan.segments / 8 * 8;
    segments.push_back({"s" + std::to_string(i), bytes, 8});
    left -= bytes;
  }
  return core::SegmentLayout::make(std::move(segments)).value();
}

}  // namespace

World::World(const Plan& of, const Routing& routed, EventLog& to)
    : plan(of), routing(routed), log(to), cluster(Cluster::make(of).value()) {}
World::~World() = default;

Simulation::Simulation(const Plan& plan, const Routing& routing, EventLog& log) : world_(plan, routing, log) {
  set_up();
  for (auto& rank : world_.ranks) rank->start(std::make_unique<Training>(world_, *rank));
  schedule_faults();
}

Simulation::Simulation(const RecordedRun& recorded, const Routing& routing, EventLog& log)
    : world_(recorded.plan, routing, log) {
  set_up();
  std::vector<std::vector<LoggedRequest>> requests(world_.ranks.size());
  using What = LoggedRequest::What;
  for (const LoggedRequest& request : recorded.requests) {
    SimulatedRank& rank = *world_.ranks[request.rank];
    const Clock::time_point when{Nanoseconds(static_cast<std::int64_t>(request.when))};
    if (request.what == What::kDie) {
      (void)world_.time.at(when, [&rank] { rank.die(); });
    } else if (request.what == What::kStop) {
      const Nanoseconds how_long(static_cast<std::int64_t>(request.nanoseconds));
      (void)world_.time.at(when, [&rank, how_long] { rank.stop(how_long); });
    } else {
      requests[request.rank].push_back(request);
    }
  }
  for (auto& rank : world_.ranks) rank->start(std::make_unique<Replay>(world_, *rank, std::move(requests[rank->rank()])));
}

Simulation::~Simulation() = default;

void Simulation::set_up() {
  const Plan& plan = world_.plan;
  world_.log.begin(plan);
  world_.layout = layout_of(plan);
  if (plan.caches()) {
    const cache::Shape shape = cache::Shape::of(plan.cache_bytes, std::max<std::uint64_t>(plan.chunk_bytes, 64)).value();
    for (std::uint64_t node = 0; node < plan.nodes; ++node)
      world_.nodes.push_back(std::make_unique<NodeMemory>(shape, plan.bytes, world_.report));
  }
  world_.fabric = std::make_unique<Fabric>(world_);
  for (Rank rank = 0; rank < plan.ranks(); ++rank) world_.ranks.push_back(std::make_unique<SimulatedRank>(world_, rank));
}

void Simulation::schedule_faults() {
  const Plan& plan = world_.plan;
  const bool any = plan.deaths + plan.stops + plan.cancels + plan.deadlines + plan.destroys != 0;
  if (!any) return;
  world_.fault_span = plan.fault_span;
  if (world_.fault_span == 0)
    world_.fault_span = 2 * static_cast<std::uint64_t>(lower_bound(plan, world_.routing).time.count());
  Random random(plan.seed, 2);
  std::set<Rank> dying;
  while (dying.size() < plan.deaths) {
    const auto rank = static_cast<Rank>(random.below(plan.ranks()));
    if (!dying.insert(rank).second) continue;
    (void)world_.time.at(Clock::time_point{Nanoseconds(static_cast<std::int64_t>(random.below(world_.fault_span)))},
                         [this, rank] { world_.ranks[rank]->die(); });
  }
  for (std::uint64_t i = 0; i < plan.stops; ++i) {
    const auto rank = static_cast<Rank>(random.below(plan.ranks()));
    const Nanoseconds how_long(static_cast<std::int64_t>(random.between(1, plan.stop_time)));
    (void)world_.time.at(Clock::time_point{Nanoseconds(static_cast<std::int64_t>(random.below(world_.fault_span)))},
                         [this, rank, how_long] { world_.ranks[rank]->stop(how_long); });
  }
}

const Report& Simulation::run(const std::function<void(double)>& progress) {
  Report& report = world_.report;
  const Clock::time_point end{Nanoseconds(static_cast<std::int64_t>(world_.plan.watchdog))};
  constexpr std::uint64_t kBetweenReports = 1 << 16;
  bool dry = false;
  while (world_.ended < world_.ranks.size() && world_.time.now() <= end) {
    if (dry = !world_.time.run_one(); dry) break;
    if (progress && world_.time.events_run() % kBetweenReports == 0) {
      double sum = 0;
      for (const auto& rank : world_.ranks) sum += rank->script()->progress();
      progress(sum / static_cast<double>(world_.ranks.size()));
    }
  }
  report.completed = world_.ended == world_.ranks.size();
  if (!report.completed) {
    report.time = world_.time.now().time_since_epoch();
    const std::string_view why =
        dry ? "nothing can happen any more, and ranks still wait" : "the watchdog's time has passed";
    report.violation(fmt::format("{}", why));
    for (const auto& rank : world_.ranks) {
      if (!rank->is_gone() && !rank->script()->done())
        report.violation(fmt::format("rank {} waits: {}", rank->rank(), rank->script()->waits_for()));
    }
  } else {
    close();
  }
  for (const auto& rank : world_.ranks) rank->report();
  const bool once = world_.plan.caches() && report.deaths + report.failed_chunks + report.cache_evicted +
                                                    report.cache_bypassed + report.cache_overdue + report.housed_again +
                                                    report.gone_from_slots ==
                                                0;
  if (once && report.repeated_network_bytes != 0)
    report.violation(
        fmt::format("{} bytes came over the network again to a node that had them", report.repeated_network_bytes));
  report.hash = world_.log.hash();
  report.events = world_.log.events();
  report.virtual_events = world_.time.events_run();
  return report;
}

/// What is still on its way must come to its end, and leave nothing behind.
void Simulation::close() {
  world_.time.run_until_idle();
  for (const auto& rank : world_.ranks) rank->check_rest();
  const auto locals = static_cast<std::uint32_t>(world_.plan.ranks_per_node);
  for (std::size_t node = 0; node < world_.nodes.size(); ++node) {
    std::uint64_t gone = 0;
    for (std::uint32_t local = 0; local < locals; ++local) {
      if (world_.ranks[node * locals + local]->is_gone()) gone |= std::uint64_t{1} << local;
    }
    world_.nodes[node]->check_rest(locals, gone);
  }
}

Result<Report> simulate(const Plan& plan, std::FILE* file, const std::function<void(double)>& progress) {
  if (const Status status = check(plan); !status.ok()) return status;
  const Result<Routing> routing = Routing::make(plan);
  if (!routing.ok()) return routing.status();
  EventLog log(file);
  return Simulation(plan, *routing, log).run(progress);
}

Result<Report> simulate(const RecordedRun& recorded, std::FILE* file, const std::function<void(double)>& progress) {
  if (const Status status = check(recorded.plan); !status.ok()) return status;
  const Result<Routing> routing = Routing::make(recorded.plan);
  if (!routing.ok()) return routing.status();
  EventLog log(file);
  return Simulation(recorded, *routing, log).run(progress);
}

}  // namespace cardea::simulator
