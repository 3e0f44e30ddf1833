// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/bound.h"

#include <algorithm>
#include <set>

namespace cardea::simulator {
namespace {

struct Load {
  std::vector<std::uint64_t> nic_in, nic_out, node_in, copy, memory;
  std::vector<std::int64_t> computing;
  explicit Load(const Plan& plan)
      : nic_in(plan.nodes * plan.nics),
        nic_out(nic_in.size()),
        node_in(plan.nodes),
        copy(plan.ranks()),
        memory(plan.nodes),
        computing(plan.ranks()) {}
};

void add_layer(Load& load, const Plan& plan, const Routing& routing, std::uint64_t step, std::uint64_t layer) {
  const auto nic = [&](std::uint64_t rank) { return plan.node_of(rank) * plan.nics + plan.nic_of(rank); };
  std::set<std::pair<Node, ExpertIndex>> crossed;
  for (Rank rank = 0; rank < plan.ranks(); ++rank) {
    const std::vector<double> tokens = routing.tokens(step, layer, rank);
    const Node node = plan.node_of(rank);
    load.computing[rank] += static_cast<std::int64_t>(plan.dense_time);
    for (const ExpertIndex expert : routing.wanted(step, layer, rank)) {
      load.computing[rank] += routing.compute_time(tokens[expert]).count();
      const std::uint64_t home = plan.home_of(expert);
      if (home == rank) continue;
      const bool remote = plan.node_of(home) != node;
      if (!remote || plan.caches()) {
        if (!plan.mapped) load.copy[rank] += plan.expert_bytes;
        if (!plan.mapped) load.memory[node] += plan.expert_bytes;
      }
      if (!remote || (plan.caches() && !crossed.emplace(node, expert).second)) continue;
      load.nic_out[nic(home)] += plan.expert_bytes;
      load.node_in[node] += plan.expert_bytes;
      if (!plan.caches()) load.nic_in[nic(rank)] += plan.expert_bytes;
    }
  }
}

}  // namespace

Bound lower_bound(const Plan& plan, const Routing& routing) {
  Load load(plan);
  const bool same = plan.routing == "all";  // every layer is like the first
  for (std::uint64_t step = 0; step < (same ? 1 : plan.steps); ++step) {
    for (std::uint64_t layer = 0; layer < (same ? 1 : plan.layers); ++layer) add_layer(load, plan, routing, step, layer);
  }
  const std::uint64_t times = same ? plan.steps * plan.layers : 1;
  Bound bound;
  const auto consider = [&](double nanoseconds, auto name) {
    const Nanoseconds time(static_cast<std::int64_t>(nanoseconds));
    if (time > bound.time) bound = {time, name()};
  };
  const auto lanes = [&](const std::vector<std::uint64_t>& bytes, std::uint64_t rate, const char* name) {
    for (std::size_t i = 0; rate != 0 && i < bytes.size(); ++i) {
      consider(static_cast<double>(bytes[i]) * static_cast<double>(times) * 1e9 / static_cast<double>(rate),
               [&] { return fmt::format("{} {}", name, i); });
    }
  };
  for (std::size_t rank = 0; rank < load.computing.size(); ++rank) {
    consider(static_cast<double>(load.computing[rank]) * static_cast<double>(times),
             [&] { return fmt::format("computing of rank {}", rank); });
  }
  lanes(load.nic_out, plan.nic_rate, "out of NIC");
  lanes(load.nic_in, plan.nic_rate, "into NIC");
  lanes(load.node_in, plan.nic_rate * plan.nics, "into all NICs of node");
  lanes(load.copy, plan.copy_rate, "copies of rank");
  lanes(load.memory, plan.memory_rate, "memory of node");
  return bound;
}

}  // namespace cardea::simulator
