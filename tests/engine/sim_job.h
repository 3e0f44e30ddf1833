// SPDX-License-Identifier: Apache-2.0
// A whole job in one process and in virtual time: real runtimes over the simulated network, each driven by a random script
// that does to every layer, version after version, what a training step does: publish, fetch, read, release, finish,
// collect, overwrite the weights in place. Every byte of every view is checked, when it is taken and again when it is
// released; between collect and publish the weights are poison. A run is a function of its plan.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "lib/engine/runtime.h"
#include "lib/transport/sim/sim_network.h"
#include "tests/core/seeds.h"

namespace cardea::test {

struct JobPlan {
  std::uint64_t seed = 1;
  unsigned nodes = 2;
  unsigned ranks_per_node = 2;
  unsigned layers = 3;
  unsigned experts_per_rank = 2;
  Version versions = 3;
  unsigned fetches = 3;  // of each rank, layer and version
  std::uint32_t slots = 3;
  std::uint64_t cache_bytes = 0;  // of each node's cache; 0: none
  bool cancels = false;           // and deadlines, and destroying what is not done
  bool kill = false;              // one rank, somewhen
  Nanoseconds span{60'000};
};

/// What happened, over all ranks, so that a test can prove that it has tested something.
struct JobCounts {
  std::map<cardea_path_t, std::uint64_t> views;
  std::map<cardea_status_t, std::uint64_t> failures;
  std::uint64_t network_bytes = 0, cache_hits = 0, evicted = 0, bypassed = 0;
  std::uint64_t parked = 0, starved = 0, collected = 0, prefetches = 0, gangs = 0, killed = 0, aborted = 0;
  void add(const JobCounts& other);
};

class JobRank;

class SimJob {
 public:
  explicit SimJob(const JobPlan& plan);
  ~SimJob();
  /// Runs until nothing is left to do, and checks that everybody who lives has come to the end.
  void run();

  const JobCounts& counts() const { return counts_; }
  /// Of everything that the network did and everything that was delivered, with times.
  std::uint64_t hash() const { return hash_; }

 private:
  friend class JobRank;
  void mix(std::uint64_t value) { hash_ = (hash_ ^ value) * 0x100000001b3 + (hash_ >> 47); }

  const JobPlan plan_;
  Random random_;
  sim::VirtualTime time_;
  std::unique_ptr<sim::SimNetwork> network_;
  std::vector<Node> node_of_;
  struct NodeMemory;
  std::vector<std::unique_ptr<NodeMemory>> node_memory_;  // by node, if there are caches
  Rank victim_ = kNoRank;
  JobCounts counts_;
  std::uint64_t hash_ = 0xcbf29ce484222325;
  std::vector<std::unique_ptr<JobRank>> ranks_;
};

}  // namespace cardea::test
