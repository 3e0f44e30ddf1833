// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/bound.h"

#include <algorithm>
#include <map>
#include <set>

namespace cardea::simulator {
namespace {

/// Bytes that must pass, by what they must pass.
struct Load {
  std::vector<std::uint64_t> lane;     // of the cluster
  std::vector<std::uint64_t> node_in;  // by any of its NICs
  std::vector<std::uint64_t> shared;   // by any uplink of the node, where ranks split
  std::vector<std::uint64_t> memory;   // by any of the node's NUMA nodes: into the node cache and out of it
  std::vector<std::uint64_t> filled;   // into a rank's slots, by any way
  std::vector<std::int64_t> computing;
  Load(const Plan& plan, const Cluster& cluster)
      : lane(cluster.lanes().size()),
        node_in(plan.nodes),
        shared(plan.nodes),
        memory(plan.nodes),
        filled(plan.ranks()),
        computing(plan.ranks()) {}
  void pass(const Steps& way, std::uint64_t bytes) {
    for (const Step& step : way) lane[step.lane] += bytes;
  }
};

/// Copies out of host memory: by the rank's own way, or shared out among those who swap.
void land_from_host(Load& load, const Plan& plan, const Cluster& cluster, Rank rank, bool first) {
  if (plan.mapped) return;
  load.filled[rank] += plan.expert_bytes;
  if (cluster.swap(rank).peers == 0 || first) load.memory[plan.node_of(rank)] += plan.expert_bytes;
  if (cluster.swap(rank).peers == 0) {
    if (!cluster.is_machine()) return load.pass(cluster.copy(rank, 0), plan.expert_bytes);
    load.lane[cluster.uplink(rank)] += plan.expert_bytes;  // its way to there depends on where the bytes lie
  } else if (first) {
    load.shared[plan.node_of(rank)] += plan.expert_bytes;
  }
}

void add_layer(Load& load, const Plan& plan, const Cluster& cluster, const Routing& routing, std::uint64_t step,
               std::uint64_t layer) {
  std::set<std::pair<Node, ExpertIndex>> crossed;
  for (Rank rank = 0; rank < plan.ranks(); ++rank) {
    const std::vector<double> tokens = routing.tokens(step, layer, rank);
    const Node node = plan.node_of(rank);
    load.computing[rank] += static_cast<std::int64_t>(plan.dense_time);
    for (const ExpertIndex expert : routing.wanted(step, layer, rank)) {
      load.computing[rank] += routing.compute_time(tokens[expert]).count();
      const auto home = static_cast<Rank>(plan.home_of(expert));
      if (home == rank) continue;
      if (plan.node_of(home) == node) {
        if (plan.mapped) continue;
        load.filled[rank] += plan.expert_bytes;
        load.pass(cluster.from_home(rank, home), plan.expert_bytes);
        continue;
      }
      const bool first = crossed.emplace(node, expert).second;
      if (plan.caches()) land_from_host(load, plan, cluster, rank, first);
      if (plan.caches() && !first) continue;
      load.node_in[node] += plan.expert_bytes;
      if (plan.caches()) load.memory[node] += plan.expert_bytes;
      // Over several rails only what one of them must carry at least counts, which is left to the sum over NICs.
      const CoreLanes lanes = cluster.core_lanes(rank);
      if (lanes.rails == 1)
        load.pass(plan.caches() ? cluster.out(home, 0) : cluster.network(home, rank, 0, 0), plan.expert_bytes);
    }
  }
}

}  // namespace

Bound lower_bound(const Plan& plan, const Routing& routing) {
  const Cluster cluster = Cluster::make(plan).value();
  Load load(plan, cluster);
  const bool same = plan.routing == "all";  // every layer is like the first
  for (std::uint64_t step = 0; step < (same ? 1 : plan.steps); ++step) {
    for (std::uint64_t layer = 0; layer < (same ? 1 : plan.layers); ++layer)
      add_layer(load, plan, cluster, routing, step, layer);
  }
  const std::uint64_t times = same ? plan.steps * plan.layers : 1;
  Bound bound;
  const auto consider = [&](double nanoseconds, auto name) {
    const Nanoseconds time(static_cast<std::int64_t>(nanoseconds));
    if (time > bound.time) bound = {time, name()};
  };
  const auto bytes = [&](std::uint64_t count, std::uint64_t rate, auto name) {
    if (rate == 0) return;
    consider(static_cast<double>(count) * static_cast<double>(times) * 1e9 / static_cast<double>(rate), name);
  };
  for (std::size_t rank = 0; rank < load.computing.size(); ++rank) {
    consider(static_cast<double>(load.computing[rank]) * static_cast<double>(times),
             [&] { return fmt::format("computing of rank {}", rank); });
  }
  const auto& lanes = cluster.lanes();
  for (std::size_t i = 0; i < lanes.size(); ++i) bytes(load.lane[i], lanes[i].rate, [&] { return lanes[i].name; });
  for (Node node = 0; node < plan.nodes; ++node) {
    std::uint64_t in = 0;
    for (const std::uint32_t nic : cluster.nics_of_node()) in += lanes[cluster.nic_in_lane(node, nic)].rate;
    bytes(load.node_in[node], in, [&] { return fmt::format("into all NICs of node {}", node); });
    bytes(load.memory[node], cluster.host_memory_rate(), [&] { return fmt::format("host memory of node {}", node); });
    std::map<std::uint32_t, std::uint64_t> uplinks;
    for (std::uint64_t i = 0; i < plan.ranks_per_node; ++i) {
      const std::uint32_t uplink = cluster.uplink(static_cast<Rank>(node * plan.ranks_per_node + i));
      uplinks.emplace(uplink, lanes[uplink].rate);
    }
    std::uint64_t down = 0, other = 0;
    for (const auto& [uplink, rate] : uplinks) {
      down += rate;
      other += load.lane[uplink];
    }
    if (load.shared[node] != 0)
      bytes(load.shared[node] + other, down, [&] { return fmt::format("all uplinks of node {}", node); });
  }
  for (Rank rank = 0; rank < plan.ranks(); ++rank) {
    if (cluster.swap(rank).peers == 0) continue;
    bytes(load.filled[rank], cluster.copy_rate(rank) + cluster.pull_rate(rank),
          [&] { return fmt::format("into slots of rank {}", rank); });
  }
  return bound;
}

}  // namespace cardea::simulator
