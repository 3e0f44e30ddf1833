// SPDX-License-Identifier: Apache-2.0
#include "topology/check.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "topology/affinity.h"
#include "topology/paths.h"
#include "topology/vendor.h"

namespace cardea::topology {
namespace {

class Checker {
 public:
  explicit Checker(const Machine& machine) : machine_(machine) {}

  std::vector<Finding> run() {
    hidden_tree();
    far_nics();
    for (DeviceId id = 1; id < machine_.devices().size(); ++id) link(id);
    narrow_uplinks();
    nvlink_unseen();
    nvlink_uneven();
    unknown_places();
    return std::move(findings_);
  }

 private:
  template <typename... Args>
  void find(const char* kind, const std::vector<DeviceId>& ids, const std::string& remedy, fmt::format_string<Args...> what,
            Args&&... args) {
    findings_.push_back({kind, names(ids), fmt::format(what, std::forward<Args>(args)...), remedy});
  }

  std::vector<std::string> names(const std::vector<DeviceId>& ids) const {
    std::vector<std::string> all;
    for (const DeviceId id : ids) all.push_back(machine_.device(id).name);
    return all;
  }
  std::string list(const std::vector<DeviceId>& ids) const { return fmt::format("{}", fmt::join(names(ids), ", ")); }
  const Device& device(DeviceId id) const { return machine_.device(id); }

  /// A GPU is always behind a root port, unless the hypervisor shows it right on the bus.
  void hidden_tree() {
    std::vector<DeviceId> bare;
    for (const DeviceId gpu : machine_.of(DeviceKind::kGpu)) {
      const bool on_bridge = device(device(gpu).parent).kind == DeviceKind::kHostBridge;
      if (on_bridge && device(gpu).link.port_raw <= 0 && device(gpu).link_origin == Origin::kSystem) bare.push_back(gpu);
    }
    if (bare.empty()) return;
    find(
        "hidden-pcie-tree", bare,
        "get the machine type's topology file from the cloud's provider and name it in CARDEA_TOPO_FILE or NCCL_TOPO_FILE",
        "the PCIe tree is hidden: {} sit{} right on the host bridge, with no port or switch above, as virtual machines show "
        "it; shared uplinks and the nearest NICs cannot be known",
        list(bare), bare.size() == 1 ? "s" : "");
  }

  void far_nics() {
    if (machine_.of(DeviceKind::kNic).empty() || machine_.of(DeviceKind::kPackage).size() < 2) return;
    std::map<DeviceId, std::vector<DeviceId>> far;  // NIC → GPUs
    const auto ranks = assign(machine_, machine_.of(DeviceKind::kGpu));
    for (const RankAffinity& rank : ranks) {
      if (rank.nics.empty() || device(rank.gpu).numa == kNoDevice || device(rank.nics.front()).numa == kNoDevice) continue;
      if (machine_.package_of(rank.gpu) != machine_.package_of(rank.nics.front()))
        far[rank.nics.front()].push_back(rank.gpu);
    }
    for (const auto& [nic, gpus] : far) {
      std::vector<DeviceId> all = gpus;
      all.push_back(nic);
      find("far-nic", all,
           "move a NIC to that socket, or give these GPUs' ranks less network traffic (plan fetches from their own node)",
           "the best NIC for {} is {}, on the far socket: their network traffic crosses the link between sockets",
           list(gpus), device(nic).name);
    }
  }

  void link(DeviceId id) {
    const Device& end = device(id);
    const PciLink& own = end.link;
    if (own.most_width > 0 && own.width > 0 && own.width < own.most_width) {
      find("narrow-link", {id}, "reseat the card or move it to a slot with all lanes; check the BIOS's bifurcation setting",
           "the link of {} has {} lanes of {} that the device has", end.name, own.width, own.most_width);
    }
    // An idle GPU gears its rate down, so its rate proves nothing.
    const bool gpu = end.kind == DeviceKind::kGpu;
    if (!gpu && own.most_rate > 0 && own.rate > 0 && own.rate < own.most_rate * 0.99) {
      find("slow-link", {id}, "check the slot's generation and the BIOS's link speed setting",
           "the link of {} runs at {} GT/s of {} that the device can", end.name, own.rate, own.most_rate);
    }
    if (own.port_raw <= 0 || own.raw <= 0 || own.port_raw >= own.raw * 0.99) return;
    const double lanes = own.port_raw / raw_bandwidth(2.5, 1);
    const bool geared_down = gpu && std::abs(lanes - std::round(lanes)) < 1e-3;
    if (geared_down && lanes > 15) return;
    if (geared_down) {
      find("narrow-link", {id},
           "look at LnkSta of the port above with lspci -vv while the GPU is busy; if the width stays, reseat the card or "
           "use a wider slot",
           "the port above {} has {:.0f} lanes at 2.5 GT/s: the rate is an idle GPU's, the width is not; the GPU could do "
           "{:.1f} GB/s",
           end.name, lanes, own.raw / 1e9);
      return;
    }
    find("narrow-link", {id}, "look at LnkCap and LnkSta of both ends with lspci -vv; reseat the card or use a wider slot",
         "the port above {} runs the link at {:.1f} GB/s, the device could do {:.1f} GB/s", end.name, own.port_raw / 1e9,
         own.raw / 1e9);
  }

  void narrow_uplinks() {
    for (const DeviceId id : machine_.of(DeviceKind::kPcieSwitch)) {
      const double uplink = machine_.lane(machine_.find_lane(LaneKind::kPcieUp, id, device(id).parent)).bandwidth.value;
      for (DeviceId below = id + 1; below < machine_.devices().size(); ++below) {
        if (device(below).parent != id) continue;
        const LaneId lane = machine_.find_lane(LaneKind::kPcieUp, below, id);
        if (lane == kNoLane || machine_.lane(lane).bandwidth.value <= uplink * 1.05) continue;
        find("narrow-uplink", {id, below}, "check the switch's upstream slot: width, generation, BIOS setting",
             "the uplink of {} gives {:.1f} GB/s, less than the {:.1f} GB/s of {} below it", device(id).name, uplink / 1e9,
             machine_.lane(lane).bandwidth.value / 1e9, device(below).name);
        break;
      }
    }
  }

  unsigned links_of(DeviceId gpu) const {
    unsigned sum = 0;
    for (const NvlinkEdge& edge : machine_.description().nvlinks) sum += edge.from == gpu ? edge.links : 0;
    return sum;
  }

  void nvlink_unseen() {
    if (!machine_.description().nvlinks.empty() || machine_.of(DeviceKind::kGpu).size() < 2) return;
    std::vector<DeviceId> having;
    for (const DeviceId gpu : machine_.of(DeviceKind::kGpu)) {
      if (vendor::gpu(device(gpu).identity).nvlinks > 0) having.push_back(gpu);
    }
    if (having.size() < 2) return;
    find("nvlink-unseen", having,
         "run where the NVIDIA driver is (NVML tells NVLinks), or write <nvlink> into the topology file; nvidia-smi nvlink "
         "-s shows their state",
         "{} ({}) have NVLink, but no source shows any: paths between them are taken to be PCIe", list(having),
         device(having.front()).model);
  }

  void nvlink_uneven() {
    for (const NvlinkEdge& edge : machine_.description().nvlinks) {
      const LaneId back = machine_.find_lane(LaneKind::kNvlink, edge.to, edge.from);
      if (edge.from > edge.to && back != kNoLane) continue;
      if (back != kNoLane && machine_.lane(back).links == edge.links) continue;
      find("nvlink-uneven", {edge.from, edge.to},
           "look at nvidia-smi nvlink -s on both; a link that is down needs a reset or a repair",
           "{} has {} NVLinks to {}, which has {} back", device(edge.from).name, edge.links, device(edge.to).name,
           back == kNoLane ? 0 : machine_.lane(back).links);
    }
    std::map<std::uint16_t, unsigned> most;
    for (const DeviceId gpu : machine_.of(DeviceKind::kGpu)) {
      unsigned& links = most[device(gpu).identity.device];
      links = std::max(links, links_of(gpu));
    }
    for (const DeviceId gpu : machine_.of(DeviceKind::kGpu)) {
      const unsigned expected = most[device(gpu).identity.device];
      if (links_of(gpu) == expected) continue;
      find("nvlink-down", {gpu}, "look at nvidia-smi nvlink -s; a link that is down needs a reset or a repair",
           "{} has {} NVLinks, others of its model have {}", device(gpu).name, links_of(gpu), expected);
    }
  }

  void unknown_places() {
    std::vector<DeviceId> lost;
    for (const DeviceKind kind : {DeviceKind::kGpu, DeviceKind::kNic}) {
      for (const DeviceId id : machine_.of(kind)) {
        if (device(id).numa == kNoDevice) lost.push_back(id);
      }
    }
    if (!lost.empty()) {
      find("unknown-numa", lost,
           "update the firmware (its PCI tables tell no NUMA node), or name a topology file in CARDEA_TOPO_FILE",
           "nobody tells the NUMA node of {}", list(lost));
    }
    for (const DeviceId node : machine_.of(DeviceKind::kNumaNode)) {
      const auto& users = machine_.lane(machine_.find_lane(LaneKind::kMemory, node, node)).users;
      const bool told = std::any_of(machine_.of(DeviceKind::kNumaNode).begin(), machine_.of(DeviceKind::kNumaNode).end(),
                                    [&](DeviceId other) { return !device(other).cores.empty(); });
      if (users.empty() || !told || !device(node).cores.empty()) continue;
      find("no-processors", users,
           "give the job processors of that node (cpuset, taskset, the scheduler's binding), or engine threads run far from "
           "their GPUs",
           "{} has {} but no processor that this process may use", device(node).name, list(users));
    }
  }

  const Machine& machine_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> check(const Machine& machine) {
  return Checker(machine).run();
}

}  // namespace cardea::topology
