// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/cluster.h"

#include <algorithm>
#include <set>

#include "topology/discover.h"

namespace cardea::simulator {
namespace {

using topology::DeviceId;
using topology::DeviceKind;
using topology::MemoryKind;

// Flat lanes of a node, in this order: NICs in, NICs out, memory, then each rank's copies, then each rank's pulls.
enum class Flat { kNicIn, kNicOut, kMemory, kCopy, kPull };

std::uint32_t flat(const Plan& plan, Flat kind, std::uint64_t index) {
  const std::uint64_t first[] = {0, plan.nics, 2 * plan.nics, 2 * plan.nics + 1, 2 * plan.nics + 1 + plan.ranks_per_node};
  return static_cast<std::uint32_t>(first[static_cast<std::size_t>(kind)] + index);
}

Status unfit(std::string what) {
  return Status(CARDEA_ERR_INVALID_ARGUMENT, std::move(what));
}

}  // namespace

Status Cluster::fit(Plan& plan, bool ranks_given) {
  if (plan.machine.empty()) return {};
  const Result<topology::Machine> machine = topology::machine_from_file(plan.machine);
  if (!machine.ok()) return unfit("machine " + machine.status().message());
  const auto& gpus = machine->of(DeviceKind::kGpu);
  if (!ranks_given) plan.ranks_per_node = gpus.empty() ? machine->of(DeviceKind::kNumaNode).size() : gpus.size();
  plan.nics = std::max<std::size_t>(1, std::min<std::size_t>(machine->of(DeviceKind::kNic).size(), plan.ranks_per_node));
  return {};
}

Result<Cluster> Cluster::make(const Plan& plan) {
  Cluster cluster(plan);
  if (plan.machine.empty()) {
    cluster.make_flat();
  } else if (Status status = cluster.make_machine(); !status.ok()) {
    return status;
  }
  return cluster;
}

void Cluster::make_flat() {
  lanes_per_node_ = 2 * plan_.nics + 1 + 2 * plan_.ranks_per_node;
  for (std::uint64_t node = 0; node < plan_.nodes; ++node) {
    const auto add = [&](std::uint64_t rate, const char* name, std::uint64_t count, std::uint64_t first) {
      for (std::uint64_t i = 0; i < count; ++i) lanes_.push_back({fmt::format("{} {}", name, first + i), rate});
    };
    add(plan_.nic_rate, "into NIC", plan_.nics, node * plan_.nics);
    add(plan_.nic_rate, "out of NIC", plan_.nics, node * plan_.nics);
    add(plan_.memory_rate, "memory of node", 1, node);
    add(plan_.copy_rate, "copies of rank", plan_.ranks_per_node, node * plan_.ranks_per_node);
    add(plan_.swap_rate, "pulls of rank", plan_.ranks_per_node, node * plan_.ranks_per_node);
  }
  for (std::uint64_t i = 0; i < plan_.ranks_per_node; ++i) {
    Local each;
    each.nics = {static_cast<std::uint32_t>(plan_.nic_of(i))};
    if (plan_.swap_rate != 0 && plan_.ranks_per_node <= cache::kMaxLocalRanks)
      each.peers = (plan_.ranks_per_node == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << plan_.ranks_per_node) - 1) &
                   ~(std::uint64_t{1} << i);
    each.uplink = flat(plan_, Flat::kCopy, i);
    local_.push_back(std::move(each));
  }
  for (std::uint32_t i = 0; i < plan_.nics; ++i) used_nics_.push_back(i);
}

Status Cluster::make_machine() {
  Result<topology::Machine> machine = topology::machine_from_file(plan_.machine);
  if (!machine.ok()) return unfit("machine " + machine.status().message());
  machine_ = std::move(*machine);
  const auto& gpus = machine_->of(DeviceKind::kGpu);
  const auto& nics = machine_->of(DeviceKind::kNic);
  const auto& nodes = machine_->of(DeviceKind::kNumaNode);
  if (nics.empty() && plan_.nodes > 1) return unfit(fmt::format("machine {} has no NIC", machine_->name()));
  if (!gpus.empty() && plan_.ranks_per_node > gpus.size())
    return unfit(
        fmt::format("ranks-per-node {}: machine {} has {} GPUs", plan_.ranks_per_node, machine_->name(), gpus.size()));

  lanes_per_node_ = machine_->lanes().size();
  for (std::uint64_t node = 0; node < plan_.nodes; ++node) {
    for (const topology::Lane& lane : machine_->lanes())
      lanes_.push_back({fmt::format("{} of node {}", lane.name, node), static_cast<std::uint64_t>(lane.bandwidth.value)});
  }
  std::vector<DeviceId> driven(plan_.ranks_per_node, topology::kNoDevice);
  for (std::size_t i = 0; i < driven.size() && !gpus.empty(); ++i) driven[i] = gpus[i];
  const std::vector<topology::RankAffinity> affinity = topology::assign(*machine_, driven);
  const std::uint64_t rails = std::clamp<std::uint64_t>(nics.size() / plan_.ranks_per_node, 1, plan_.rails);
  std::set<std::uint32_t> used;
  for (std::size_t i = 0; i < driven.size(); ++i) {
    Local each;
    each.device = gpus.empty() ? nodes[i % nodes.size()] : driven[i];
    const auto numa = std::find(nodes.begin(), nodes.end(), affinity[i].numa);
    each.numa = numa == nodes.end() ? 0 : static_cast<std::uint32_t>(numa - nodes.begin());
    for (std::size_t k = 0; k < rails && !nics.empty(); ++k) {
      // Without affinity, NICs are dealt in turn, whatever is near.
      const DeviceId nic = plan_.nic_affinity ? affinity[i].nics[k] : nics[(i * rails + k) % nics.size()];
      each.nics.push_back(static_cast<std::uint32_t>(std::find(nics.begin(), nics.end(), nic) - nics.begin()));
    }
    used.insert(each.nics.begin(), each.nics.end());
    for (std::size_t j = 0; j < driven.size() && !gpus.empty(); ++j) {
      if (j != i && machine_->nvlinks(gpus[i], gpus[j]) != 0 && machine_->nvlinks(gpus[j], gpus[i]) != 0)
        each.peers |= std::uint64_t{1} << j;
    }
    // The PCIe lane nearest to memory that is as slow as any of the way: below a switch, the switch's.
    const Steps way = steps(0, nodes[0], each.device, MemoryKind::kHost);
    each.uplink = way.back().lane;
    std::uint64_t least = UINT64_MAX;
    for (const Step& step : way) {
      if (machine_->lane(step.lane).kind != topology::LaneKind::kPcieDown || lanes_[step.lane].rate >= least) continue;
      least = lanes_[step.lane].rate;
      each.uplink = step.lane;
    }
    local_.push_back(std::move(each));
  }
  used_nics_.assign(used.begin(), used.end());
  return {};
}

CoreLanes Cluster::core_lanes(Rank rank) const {
  return {std::max<std::uint32_t>(1, static_cast<std::uint32_t>(nics(rank).size()))};
}

core::SwapOptions Cluster::swap(Rank rank) const {
  core::SwapOptions swap;
  if (!plan_.split || !plan_.caches()) return swap;
  swap.peers = local_[local(rank)].peers;
  swap.lane = core_lanes(rank).pull();
  for (const Local& each : local_) swap.uplink_of.push_back(each.uplink);
  return swap;
}

core::SourceOption Cluster::within_node(Rank reader, Rank home) const {
  const CoreLanes lanes = core_lanes(reader);
  if (plan_.mapped) return {home, CARDEA_PATH_NODE_MAPPED, lanes.copy()};
  if (!machine_) return {home, CARDEA_PATH_NODE_COPY, lanes.copy()};
  const bool near = local_[local(reader)].peers >> local(home) & 1;
  return {home, CARDEA_PATH_NODE_GPU, near ? lanes.pull() : lanes.copy()};
}

Steps Cluster::steps(Node node, DeviceId from, DeviceId to, MemoryKind kind) const {
  Steps steps;
  const Result<topology::Path> path = topology::find_path(*machine_, from, to, kind);
  for (const topology::LaneId lane : path->lanes)
    steps.push_back({base(node) + lane, static_cast<std::uint64_t>(machine_->lane(lane).latency.value)});
  return steps;
}

DeviceId Cluster::memory(std::uint32_t numa) const {
  return machine_->of(DeviceKind::kNumaNode)[numa];
}

Steps Cluster::out(Rank source, std::uint32_t rail) const {
  const Node node = plan_.node_of(source);
  const Local& from = local_[local(source)];
  const std::uint32_t nic = from.nics[rail % from.nics.size()];
  if (!machine_) return {{base(node) + flat(plan_, Flat::kNicOut, nic), 0}};
  return steps(node, from.device, machine_->of(DeviceKind::kNic)[nic], MemoryKind::kDevice);
}

Steps Cluster::network(Rank source, Rank reader, std::uint32_t rail, std::uint32_t numa) const {
  Steps way = out(source, rail);
  way.back().latency += plan_.network_latency;
  const Node node = plan_.node_of(reader);
  const std::uint32_t nic = nics(reader)[rail];
  if (!machine_) {
    way.push_back({base(node) + flat(plan_, Flat::kNicIn, nic), 0});
    return way;
  }
  // Without a node cache there is nobody to share host memory with: straight into the GPU's slot.
  const DeviceId end = plan_.caches() ? memory(numa) : local_[local(reader)].device;
  const Steps in = steps(node, machine_->of(DeviceKind::kNic)[nic], end, MemoryKind::kDevice);
  way.insert(way.end(), in.begin(), in.end());
  return way;
}

Steps Cluster::copy(Rank reader, std::uint32_t numa) const {
  const Node node = plan_.node_of(reader);
  if (machine_) {
    Steps way = steps(node, memory(numa), local_[local(reader)].device, MemoryKind::kHost);
    way.back().latency += plan_.node_latency;
    return way;
  }
  const Step own{base(node) + flat(plan_, Flat::kCopy, local(reader)), plan_.node_latency};
  if (plan_.memory_rate == 0) return {own};
  return {{base(node) + flat(plan_, Flat::kMemory, 0), 0}, {own.lane, 0}};
}

Steps Cluster::pull(Rank reader, Rank peer) const {
  const Node node = plan_.node_of(reader);
  if (!machine_) return {{base(node) + flat(plan_, Flat::kPull, local(reader)), plan_.node_latency}};
  Steps way = steps(node, local_[local(peer)].device, local_[local(reader)].device, MemoryKind::kDevice);
  way.back().latency += plan_.node_latency;
  return way;
}

Steps Cluster::from_home(Rank reader, Rank home) const {
  return machine_ ? pull(reader, home) : copy(reader, 0);
}

std::uint32_t Cluster::nic_in_lane(Node node, std::uint32_t nic) const {
  if (!machine_) return base(node) + flat(plan_, Flat::kNicIn, nic);
  const DeviceId device = machine_->of(DeviceKind::kNic)[nic];
  return base(node) + machine_->find_lane(topology::LaneKind::kNicIn, device, device);
}

std::uint32_t Cluster::uplink(Rank rank) const {
  return base(plan_.node_of(rank)) + local_[local(rank)].uplink;
}

std::uint64_t Cluster::copy_rate(Rank rank) const {
  return lanes_[uplink(rank)].rate;
}

std::uint64_t Cluster::host_memory_rate() const {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; machine_ && i < machine_->lanes().size(); ++i) {
    if (machine_->lanes()[i].kind == topology::LaneKind::kMemory) sum += lanes_[i].rate;
  }
  return sum;
}

std::uint64_t Cluster::pull_rate(Rank rank) const {
  const std::uint64_t peers = local_[local(rank)].peers;
  if (peers == 0) return 0;
  const auto first = static_cast<Rank>(rank - local(rank)) + static_cast<Rank>(std::countr_zero(peers));
  std::uint64_t least = UINT64_MAX;
  for (const Step& step : pull(rank, first)) least = std::min(least, lanes_[step.lane].rate);
  return least;
}

}  // namespace cardea::simulator
