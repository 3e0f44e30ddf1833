// SPDX-License-Identifier: Apache-2.0
#include "lib/api/affinity.h"

#include <sched.h>

#include <algorithm>
#include <set>

#include "topology/affinity.h"
#include "topology/cpu_set.h"
#include "topology/paths.h"

namespace cardea::api {
namespace {

using topology::DeviceId;
using topology::DeviceKind;
using topology::kNoDevice;

constexpr std::size_t kCoresToBind = 2;  // of the NUMA node, for each rank on it

std::string join(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : ",") + word;
  return all;
}

/// Each local rank's GPU. All ranks of the node compute the same, but for what a rank knows of itself alone: the one GPU
/// that CUDA shows it.
std::vector<DeviceId> gpus_of(const topology::Machine& machine, unsigned local, unsigned locals) {
  const auto& gpus = machine.of(DeviceKind::kGpu);
  std::vector<DeviceId> driven(locals, kNoDevice);
  for (unsigned i = 0; i < locals && !gpus.empty(); ++i) driven[i] = gpus[i % gpus.size()];
  std::vector<DeviceId> visible;
  for (const DeviceId gpu : gpus) {
    if (machine.device(gpu).cuda_index) visible.push_back(gpu);
  }
  if (visible.size() == 1) driven[local] = visible.front();
  return driven;
}

/// Of the NICs that UCX is told or, where it chooses, of all those of RDMA whose port is up.
std::vector<int> gpus_near(const topology::Machine& machine, const std::vector<std::string>& told,
                           const topology::FindPort& port) {
  std::set<DeviceId> nics;
  for (const std::string& name : told) nics.insert(machine.find(name.substr(0, name.find(':'))));
  for (const DeviceId nic : machine.of(DeviceKind::kNic)) {
    for (const std::string& name : machine.device(nic).os_names) {
      const auto found = told.empty() ? port(name) : std::nullopt;
      if (found && found->rdma) nics.insert(nic);
    }
  }
  const auto is_rdma = [&](const std::string& name) { return name.find(':') != std::string::npos; };
  if (nics.empty() || nics.contains(kNoDevice) || !std::all_of(told.begin(), told.end(), is_rdma)) return {};
  std::vector<int> near;
  for (const DeviceId gpu : machine.of(DeviceKind::kGpu)) {
    if (!machine.device(gpu).cuda_index) continue;
    const bool all = std::all_of(nics.begin(), nics.end(), [&](DeviceId nic) {
      return topology::nearness(machine, gpu, nic, false) <= topology::Nearness::kHostBridge;
    });
    if (all) near.push_back(static_cast<int>(*machine.device(gpu).cuda_index));
  }
  return near;
}

}  // namespace

std::string RankPlace::text() const {
  std::vector<std::string> parts;
  if (!gpu.empty()) parts.push_back(gpu);
  parts.push_back(nics.empty() ? "NICs as UCX chooses" : "NICs " + join(nics));
  parts.push_back(numa ? fmt::format("memory on NUMA node {}", *numa) : "memory where the kernel puts it");
  parts.push_back(cpus.empty() ? "engine thread not bound" : "engine thread on " + topology::CpuSet(cpus).to_list());
  std::string all;
  for (const std::string& part : parts) all += (all.empty() ? "" : ", ") + part;
  return all;
}

Result<RankPlace> place_rank(const topology::Machine& machine, unsigned local, unsigned locals, const std::string& wish,
                             const topology::FindPort& port) {
  RankPlace place;
  if (wish == "off") return place;
  std::vector<topology::AffinityOverride> wishes;
  if (!wish.empty() && wish != "auto") {
    Result<topology::AffinityOverride> read = topology::parse_override(
        machine, fmt::format("rank={} {}", local, wish), [&](const std::string& name) { return port(name).has_value(); });
    if (!read.ok()) return Status(CARDEA_ERR_CONFIGURATION, "CARDEA_AFFINITY: " + read.status().message());
    if (read->rank != local)
      return Status(CARDEA_ERR_CONFIGURATION, "CARDEA_AFFINITY names a rank; it is about each rank itself");
    wishes.push_back(std::move(*read));
  }
  const std::vector<topology::RankAffinity> ranks = topology::assign(machine, gpus_of(machine, local, locals), wishes);
  const topology::RankAffinity& own = ranks[local];
  if (own.gpu != kNoDevice) place.gpu = machine.device(own.gpu).name;

  const auto& nodes = machine.of(DeviceKind::kNumaNode);
  const bool wants_numa = !wishes.empty() && wishes.front().numa != kNoDevice;
  if (own.numa != kNoDevice && (nodes.size() > 1 || wants_numa)) place.numa = machine.device(own.numa).os_index;

  const bool wants_cpus = !wishes.empty() && !wishes.front().cpus.empty();
  const auto here = static_cast<std::size_t>(
      std::count_if(ranks.begin(), ranks.end(), [&](const topology::RankAffinity& rank) { return rank.numa == own.numa; }));
  if (wants_cpus || (own.numa != kNoDevice && machine.device(own.numa).cores.size() >= kCoresToBind * here))
    place.cpus = own.cpus;

  Result<std::vector<std::string>> rails =
      topology::choose_rails(machine, ranks, local, wishes.empty() ? nullptr : &wishes.front(), port);
  if (!rails.ok()) return Status(CARDEA_ERR_CONFIGURATION, "CARDEA_AFFINITY: " + rails.status().message());
  place.nics = std::move(*rails);
  place.gpus_near_nics = gpus_near(machine, place.nics, port);
  return place;
}

bool bind_thread(pthread_t thread, const std::vector<unsigned>& cpus) {
  if (cpus.empty()) return false;
  const unsigned most = *std::max_element(cpus.begin(), cpus.end());
  cpu_set_t* const set = CPU_ALLOC(most + 1);
  if (set == nullptr) return false;
  const std::size_t bytes = CPU_ALLOC_SIZE(most + 1);
  CPU_ZERO_S(bytes, set);
  for (const unsigned cpu : cpus) CPU_SET_S(cpu, bytes, set);
  const bool bound = pthread_setaffinity_np(thread, bytes, set) == 0;
  CPU_FREE(set);
  return bound;
}

Result<std::shared_ptr<const topology::Machine>> KnownMachine::get(const topology::Sources& sources) {
  if (machine_ && sources == sources_) return machine_;
  Result<topology::Machine> found = topology::discover(sources);
  if (!found.ok()) return found.status();
  machine_ = std::make_shared<const topology::Machine>(std::move(*found));
  sources_ = sources;
  return machine_;
}

}  // namespace cardea::api
