// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/random_plan.h"

#include "perf/simulator/random.h"

namespace cardea::simulator {

Plan random_plan(std::uint64_t seed) {
  Random random(seed, 3);
  Plan plan;
  plan.seed = seed;
  plan.nodes = random.between(1, 3);
  plan.ranks_per_node = random.between(1, 3);
  plan.nics = random.between(1, plan.ranks_per_node);
  plan.nic_rate = random.between(100, 2000) * 1'000'000;
  plan.copy_rate = random.between(500, 5000) * 1'000'000;
  plan.memory_rate = random.chance(30) ? random.between(500, 5000) * 1'000'000 : 0;
  plan.network_latency = random.between(100, 3000);
  plan.node_latency = random.between(0, 300);
  plan.fair = random.chance(30);
  plan.mapped = random.chance(25);
  plan.layers = random.between(1, 3);
  plan.steps = random.between(1, 3);
  plan.experts = random.between(1, 3 * plan.ranks());
  plan.segments = random.between(1, 3);
  plan.expert_bytes = 8 * random.between(3, 60);
  plan.chunk_bytes = 8 * random.between(4, 40);
  plan.slots = random.between(1, 8);
  plan.routing = random.chance(40) ? "zipf" : "all";
  plan.tokens = random.between(4, 64);
  plan.top_k = random.between(1, std::min<std::uint64_t>(plan.experts, 3));
  plan.expert_time = random.below(3) * 400;
  plan.dense_time = random.below(2) * random.below(5000);
  plan.update_time = random.below(2) * random.below(2000);
  plan.open_ahead = random.chance(40) ? random.between(2, 3) : 1;
  plan.fetches = random.between(1, 3);
  plan.hold = random.chance(30) ? random.between(1, 3) : 0;
  plan.gangs = random.chance(40) ? 40 : 0;
  plan.parts = random.chance(30) ? 40 : 0;
  plan.take_any = random.chance(40) ? 50 : 0;
  plan.bytes = true;
  plan.network_chunks = random.between(1, 8);
  plan.copy_chunks = random.between(1, 4);
  plan.stagger = random.chance(80);
  plan.network_first = random.chance(80);
  plan.side_by_side = random.chance(80);
  plan.node_cache = random.chance(75);
  plan.cache_bytes = random.chance(50) ? 1 << 20 : 4096 * random.between(1, 4);
  plan.cache_overdue = random.chance(30) ? random.between(5'000, 50'000) : 1'000'000'000;
  plan.prefetch = random.chance(60);
  plan.swap_rate = random.chance(50) ? random.between(500, 20'000) * 1'000'000 : 0;
  plan.message_delay = random.chance(50) ? random.below(5000) : 0;
  plan.chunk_delay = random.chance(50) ? random.below(5000) : 0;
  plan.cancels = random.chance(35) ? 25 : 0;
  plan.deadlines = random.chance(30) ? 25 : 0;
  plan.destroys = random.chance(25) ? 20 : 0;
  plan.deaths = plan.ranks() > 1 && random.chance(20) ? random.between(1, std::min<std::uint64_t>(2, plan.ranks() - 1)) : 0;
  plan.stops = random.chance(30) ? random.between(1, 3) : 0;
  plan.stop_time = 20'000;
  plan.detection = random.between(1000, 30'000);
  plan.pull_chunks = random.between(1, 8);
  plan.watchdog = 1'000'000'000;  // such a job takes less than a millisecond
  return plan;
}

}  // namespace cardea::simulator
