// SPDX-License-Identifier: Apache-2.0
// What a rank uses of its machine (topology/affinity.h): its GPU, the NICs that UCX is told, the NUMA node for its memory,
// the processors for its engine thread. Decided once, when its context is created; all of it advice, so that what the
// kernel forbids leaves things as they are. Pure but for bind_thread and active_port.
//
// CARDEA_AFFINITY says how: `auto`, `off`, or words that replace what is computed, as cardea-topo show --affinity takes
// them, without the rank: "nic=mlx5_2,mlx5_3 numa=NUMA1 cpus=8-15".
#pragma once

#include <pthread.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "topology/discover.h"

namespace cardea::api {

struct RankPlace {
  std::string gpu;                // "GPU2"; empty: none
  std::vector<std::string> nics;  // devices for UCX, "mlx5_0:1", nearest first; empty: UCX chooses
  std::optional<unsigned> numa;   // for memory, by the operating system's number; none: the kernel chooses
  std::vector<unsigned> cpus;     // for the engine thread; empty: it is not bound

  /// "GPU2, NICs mlx5_0:1, NUMA node 1, engine on 8-15", for the log.
  std::string text() const;
  /// UCX settings that make it use these NICs, all of them for one large transfer.
  std::vector<std::pair<std::string, std::string>> ucx_settings() const;
};

/// UCX's name of an RDMA device's port that is up, if it has any: "mlx5_0:1" for "mlx5_0".
using ActivePort = std::function<std::optional<std::string>(const std::string& device)>;
std::optional<std::string> active_port(const std::string& device, const std::string& sys = "/sys");

/// For local rank `local` of `locals` on the machine. By itself (`auto`) it binds the engine thread only where the rank has
/// two cores of its NUMA node or more for itself, prefers a NUMA node only where there are several, and chooses NICs only
/// where there are several RDMA devices with a port that is up: as many for each rank as there are for all, at least one, at
/// most four. CONFIGURATION: `wish` makes no sense on this machine.
Result<RankPlace> place_rank(const topology::Machine& machine, unsigned local, unsigned locals, const std::string& wish,
                             const ActivePort& port);

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
