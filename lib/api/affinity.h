// SPDX-License-Identifier: Apache-2.0
// What a rank uses of its machine (topology/affinity.h): its GPU, the NICs that UCX is told, the NUMA node for its memory,
// the processors for its engine thread. Decided once, when its context is created; all of it advice, so that what the
// kernel forbids leaves things as they are. Pure but for bind_thread.
//
// CARDEA_AFFINITY says how: `auto`, `off`, or words that replace what is computed, as cardea-topo show --affinity takes
// them, without the rank: "nic=mlx5_2,mlx5_3 rails=2 numa=NUMA1 cpus=8-15".
#pragma once

#include <pthread.h>

#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "topology/discover.h"
#include "topology/rails.h"

namespace cardea::api {

struct RankPlace {
  std::string gpu;                // "GPU2"; empty: none
  std::vector<std::string> nics;  // its rails (topology/rails.h), by UCX's names; empty: UCX chooses
  std::optional<unsigned> numa;   // for memory, by the operating system's number; none: the kernel chooses
  std::vector<unsigned> cpus;     // for the engine thread; empty: it is not bound
  /// By CUDA's numbers, the GPUs that share a PCIe switch or the host bridge with each NIC by which chunks may come. None
  /// unless all of these are RDMA devices.
  std::vector<int> gpus_near_nics;

  /// "GPU2, NICs mlx5_0:1, NUMA node 1, engine on 8-15", for the log.
  std::string text() const;
};

/// For local rank `local` of `locals` on the machine. By itself (`auto`) it binds the engine thread only where the rank has
/// two cores of its NUMA node or more for itself, prefers a NUMA node only where there are several, and chooses NICs as
/// topology/rails.h says. CONFIGURATION: `wish` makes no sense on this machine.
Result<RankPlace> place_rank(const topology::Machine& machine, unsigned local, unsigned locals, const std::string& wish,
                             const topology::FindPort& port);

/// False if the kernel refuses.
bool bind_thread(pthread_t thread, const std::vector<unsigned>& cpus);

/// The machine, discovered at first use and again only when what it is made from (files, variables) has changed. One thread
/// at a time.
class KnownMachine {
 public:
  /// Errors as topology::discover.
  Result<std::shared_ptr<const topology::Machine>> get(const topology::Sources& sources);

 private:
  topology::Sources sources_;
  std::shared_ptr<const topology::Machine> machine_;
};

}  // namespace cardea::api
