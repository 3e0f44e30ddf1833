// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "cardea/cardea.h"
#include "perf/simulator/random.h"

namespace cardea::chaos {

using simulator::Random;

bool LayerPlan::has(std::uint32_t rank) const {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

namespace {

/// Sizes differ by orders of magnitude, and are rarely round.
std::uint64_t some_bytes(Random& random, unsigned least_power, unsigned most_power) {
  const std::uint64_t power = std::uint64_t{1} << (least_power + random.below(most_power - least_power + 1));
  return random.below(3) == 0 ? power : 1 + power / 2 + random.below(power);
}

LayerPlan plan_layer(Random& random, std::uint32_t ranks) {
  LayerPlan layer;
  for (std::uint32_t rank = 0; rank < ranks; ++rank) layer.ranks.push_back(rank);
  // A third of the layers belong to some of the ranks only, in some order.
  if (ranks > 2 && random.below(3) == 0) {
    for (std::size_t i = layer.ranks.size(); i > 1; --i) std::swap(layer.ranks[i - 1], layer.ranks[random.below(i)]);
    layer.ranks.resize(2 + random.below(ranks - 1));
  }
  layer.experts_per_rank = static_cast<std::uint32_t>(1 + random.below(3));
  for (std::uint64_t i = 1 + random.below(4); i > 0; --i) layer.segments.push_back(some_bytes(random, 4, 17));
  layer.mapped = random.below(3) != 0;
  layer.slots = static_cast<std::uint32_t>(1 + random.below(layer.experts() + 1));
  layer.own_rows = random.below(3) == 0;
  return layer;
}

}  // namespace

JobPlan plan_job(std::uint64_t seed) {
  Random random(seed, 0xc4a05);
  JobPlan plan;
  plan.seed = seed;
  plan.ranks = static_cast<std::uint32_t>(2 + random.below(4));
  const bool two_nodes = random.below(6) != 0;
  const bool interleaved = random.below(4) == 0;
  for (std::uint32_t rank = 0; rank < plan.ranks; ++rank)
    plan.node_of.push_back(!two_nodes ? 0 : interleaved ? rank % 2 : rank * 2 / plan.ranks);
  for (std::uint64_t layers = 1 + random.below(3); layers > 0; --layers)
    plan.layers.push_back(plan_layer(random, plan.ranks));
  std::uint64_t version = random.below(3);
  for (std::uint64_t versions = 1 + random.below(5); versions > 0; --versions) {
    plan.versions.push_back(version);
    version += 1 + (random.below(4) == 0 ? random.below(1000) : 0);
  }
  plan.chunk_bytes = std::uint64_t{4096} << random.below(6);
  plan.chunks_in_flight = static_cast<std::uint32_t>(1 + random.below(8));
  const std::uint64_t cache = random.below(4);
  plan.cache_bytes = cache == 0   ? CARDEA_NO_CACHE
                     : cache == 1 ? std::max<std::uint64_t>(plan.chunk_bytes, some_bytes(random, 17, 20))
                                  : std::uint64_t{32} << 20;
  const std::uint64_t fault = random.below(20);
  plan.fault = fault < 9 ? Fault::kNone : fault < 14 ? Fault::kKill : fault < 18 ? Fault::kStop : Fault::kStopKill;
  plan.victim = static_cast<std::uint32_t>(random.below(plan.ranks));
  // From the very start, bootstrap included, to about the end.
  plan.strike = std::chrono::milliseconds(random.below(4) == 0 ? random.below(60) : random.below(600));
  plan.standing = std::chrono::milliseconds(plan.fault == Fault::kStop ? random.below(1500) : random.below(3000));
  return plan;
}

std::string describe(const JobPlan& plan) {
  static constexpr const char* kFaults[] = {"no fault", "SIGKILL", "SIGSTOP for a while", "SIGSTOP and then SIGKILL"};
  std::string text = fmt::format("seed {}: {} ranks on nodes ", plan.seed, plan.ranks);
  for (const std::uint32_t node : plan.node_of) text += std::to_string(node);
  text += fmt::format(", {} versions, chunks of {}, {} in flight, cache ", plan.versions.size(), plan.chunk_bytes,
                      plan.chunks_in_flight);
  text += plan.cache_bytes == CARDEA_NO_CACHE ? "none" : std::to_string(plan.cache_bytes);
  text += fmt::format(", {}", kFaults[static_cast<int>(plan.fault)]);
  if (plan.fault != Fault::kNone) text += fmt::format(" of rank {} after {} ms", plan.victim, plan.strike.count());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& layer = plan.layers[i];
    text += fmt::format("; layer {}: ranks", i);
    for (const std::uint32_t rank : layer.ranks) text += fmt::format(" {}", rank);
    text += fmt::format(", {} experts of", layer.experts());
    for (const std::uint64_t bytes : layer.segments) text += fmt::format(" {}", bytes);
    text += fmt::format(" bytes, {}, {} {}slots", layer.mapped ? "mapped" : "not mapped", layer.slots,
                        layer.own_rows ? "of the caller's " : "");
  }
  return text;
}

}  // namespace cardea::chaos
