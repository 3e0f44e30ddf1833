// SPDX-License-Identifier: Apache-2.0
#include "topology/machine.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "topology/vendor.h"

namespace cardea::topology {
namespace {

constexpr std::size_t kMostDevices = 4096;
constexpr unsigned kMostNvlinks = 64;
constexpr const char* kShortNames[] = {"MACHINE", "PKG", "NUMA", "HB", "SW", "GPU", "NIC", "NVS"};

std::string describe(const Device& device, DeviceId id) {
  return fmt::format("{} {}", to_string(device.kind),
                     device.bus_id ? to_string(*device.bus_id) : fmt::format("number {}", id));
}

Status check_tree(const std::vector<Device>& devices) {
  if (devices.empty() || devices[0].kind != DeviceKind::kMachine) {
    return Status::error(CARDEA_ERR_CONFIGURATION, "no machine at the root of the topology");
  }
  if (devices.size() > kMostDevices) {
    return Status::error(CARDEA_ERR_CONFIGURATION, "{} devices, more than {}", devices.size(), kMostDevices);
  }
  std::set<BusId> seen;
  std::set<std::pair<DeviceKind, unsigned>> numbers;
  bool memory = false;
  for (DeviceId id = 0; id < devices.size(); ++id) {
    const Device& device = devices[id];
    if (id > 0 && device.parent >= id) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "{} stands before its parent", describe(device, id));
    }
    if (device.bus_id && !seen.insert(*device.bus_id).second) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "two devices have bus id {}", to_string(*device.bus_id));
    }
    const bool numbered = device.kind == DeviceKind::kNumaNode || device.kind == DeviceKind::kGpu;
    if (numbered && device.os_index && !numbers.insert({device.kind, *device.os_index}).second) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "two {}s have number {}", to_string(device.kind), *device.os_index);
    }
    memory = memory || device.kind == DeviceKind::kNumaNode;
  }
  if (!memory) return Status::error(CARDEA_ERR_CONFIGURATION, "no NUMA node");
  return {};
}

Status check_nvlinks(const Description& description) {
  std::set<std::pair<DeviceId, DeviceId>> seen;
  for (const NvlinkEdge& edge : description.nvlinks) {
    if (edge.from >= description.devices.size() || edge.to >= description.devices.size()) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "an NVLink ends at no device");
    }
    const std::string from = describe(description.devices[edge.from], edge.from);
    if (edge.from == edge.to) return Status::error(CARDEA_ERR_CONFIGURATION, "an NVLink of {} ends at itself", from);
    if (edge.links == 0 || edge.links > kMostNvlinks) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "{} has {} NVLinks to one device, not 1 to {}", from, edge.links,
                           kMostNvlinks);
    }
    if (!seen.insert({edge.from, edge.to}).second) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "NVLinks of {} to one device are listed twice", from);
    }
  }
  return {};
}

/// Names come from files and end on terminals.
void make_printable(std::string& text) {
  if (text.size() > 200) text.resize(200);
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
}

/// What a device's link gives, from what both of its ends say.
Figure link_bandwidth(const Device& device) {
  const PciLink& link = device.link;
  double raw = link.raw > 0 ? link.raw : raw_bandwidth(link.rate, link.width);
  Origin origin = device.link_origin;
  if (raw <= 0) raw = link.port_raw;
  if (raw <= 0) {
    const double rate = vendor::gpu(device.identity).pcie_rate;
    raw = raw_bandwidth(rate > 0 ? rate : vendor::kGuessPcieRate, vendor::kGuessPcieWidth);
    return {raw * vendor::kPcieShare, rate > 0 ? Origin::kVendorTable : Origin::kGuess};
  }
  if (link.port_raw > 0 && link.port_raw < raw * 0.99) {
    // The port sees a slower link. At 2.5 GT/s that is an idle GPU's geared-down link: its width is real, its rate is not.
    const double lanes = link.port_raw / raw_bandwidth(2.5, 1);
    const bool geared_down = device.kind == DeviceKind::kGpu && std::abs(lanes - std::round(lanes)) < 1e-3 && lanes >= 0.9;
    if (geared_down) {
      const PciLink own = link.rate > 0 ? link : link_of_raw(raw);
      const auto width = static_cast<unsigned>(std::min(std::round(lanes), 16.0));
      raw = std::min(raw, raw_bandwidth(own.rate, width));
      origin = Origin::kGuess;
    } else {
      raw = link.port_raw;
    }
  }
  return {raw * vendor::kPcieShare, origin};
}

Figure port_bandwidth(const Device& nic) {
  double raw = nic.port_bandwidth;
  Origin origin = nic.port_origin;
  if (raw <= 0) {
    raw = vendor::nic(nic.identity).port_bandwidth;
    origin = Origin::kVendorTable;
  }
  if (raw <= 0) {
    // People buy the port that the slot can feed.
    const double slot = nic.link.raw > 0 ? nic.link.raw : raw_bandwidth(nic.link.rate, nic.link.width);
    raw = vendor::kGuessPort;
    for (const double gigabits : {25, 50, 100, 200, 400, 800}) raw = gigabits * 1e9 / 8 <= slot ? gigabits * 1e9 / 8 : raw;
    origin = Origin::kGuess;
  }
  return {raw * vendor::kNicShare, origin};
}

bool has_pcie_lanes(const Device& device) {
  if (device.kind == DeviceKind::kGpu || device.kind == DeviceKind::kPcieSwitch) return true;
  return device.kind == DeviceKind::kNic && device.bus_id;
}

}  // namespace

DeviceId Description::add(Device device) {
  devices.push_back(std::move(device));
  return static_cast<DeviceId>(devices.size() - 1);
}

DeviceId Description::find(const BusId& id) const {
  const auto found = std::find_if(devices.begin(), devices.end(), [&](const Device& device) { return device.bus_id == id; });
  return found == devices.end() ? kNoDevice : static_cast<DeviceId>(found - devices.begin());
}

Result<Machine> assemble(Description description) {
  if (Status status = check_tree(description.devices); !status.ok()) return status;
  if (Status status = check_nvlinks(description); !status.ok()) return status;
  make_printable(description.name);
  for (Device& device : description.devices) {
    make_printable(device.model);
    make_printable(device.uuid);
    for (std::string& name : device.os_names) make_printable(name);
  }
  Machine machine;
  machine.description_ = std::move(description);
  machine.number();
  machine.add_lanes();
  machine.add_users();
  return machine;
}

void Machine::number() {
  std::vector<Device>& devices = description_.devices;
  for (DeviceId id = 0; id < devices.size(); ++id) by_kind_[static_cast<std::size_t>(devices[id].kind)].push_back(id);
  for (const DeviceKind kind : {DeviceKind::kNumaNode, DeviceKind::kGpu, DeviceKind::kNic, DeviceKind::kPackage}) {
    auto& ids = by_kind_[static_cast<std::size_t>(kind)];
    const bool indexed = std::all_of(ids.begin(), ids.end(), [&](DeviceId id) { return devices[id].os_index.has_value(); });
    std::stable_sort(ids.begin(), ids.end(), [&](DeviceId a, DeviceId b) {
      if (indexed && devices[a].os_index != devices[b].os_index) return *devices[a].os_index < *devices[b].os_index;
      if (!devices[a].bus_id || !devices[b].bus_id) return devices[a].bus_id.has_value() && !devices[b].bus_id;
      return *devices[a].bus_id < *devices[b].bus_id;
    });
  }
  for (auto& ids : by_kind_) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Device& device = devices[ids[i]];
      const bool numa = device.kind == DeviceKind::kNumaNode && device.os_index;
      device.name =
          device.kind == DeviceKind::kMachine
              ? "machine"
              : fmt::format("{}{}", kShortNames[static_cast<std::size_t>(device.kind)], numa ? *device.os_index : i);
    }
  }
  const auto& nodes = of(DeviceKind::kNumaNode);
  for (DeviceId id = 0; id < devices.size(); ++id) {
    Device& device = devices[id];
    device.numa = kNoDevice;
    if (device.kind == DeviceKind::kNumaNode) {
      device.numa = id;
    } else if (id > 0 && devices[device.parent].numa != kNoDevice) {
      device.numa = devices[device.parent].numa;
    } else if (device.kind == DeviceKind::kPackage || (id > 0 && device.kind != DeviceKind::kNvSwitch)) {
      // Where the source tells only the package, its single NUMA node is meant.
      const DeviceId package = package_of(id);
      unsigned inside = 0;
      DeviceId last = kNoDevice;
      for (const DeviceId node : nodes) {
        if (package != kNoDevice && package_of(node) != package) continue;
        ++inside;
        last = node;
      }
      if (inside == 1) device.numa = last;
    }
  }
}

void Machine::add_lane(LaneKind kind, DeviceId from, DeviceId to, Figure bandwidth, Figure latency, unsigned links) {
  lane_index_[{kind, from, to}] = static_cast<LaneId>(lanes_.size());
  const std::string name = from == to ? fmt::format("{}:{}", to_string(kind), device(from).name)
                                      : fmt::format("{}:{}>{}", to_string(kind), device(from).name, device(to).name);
  lanes_.push_back({kind, from, to, name, bandwidth, latency, links, {}});
}

void Machine::add_pcie_lanes(DeviceId id) {
  const Device& below = device(id);
  const Figure bandwidth = link_bandwidth(below);
  const Figure latency = {below.kind == DeviceKind::kPcieSwitch ? vendor::kPcieSwitchLatency : vendor::kPcieDeviceLatency,
                          Origin::kGuess};
  add_lane(LaneKind::kPcieUp, id, below.parent, bandwidth, latency);
  add_lane(LaneKind::kPcieDown, below.parent, id, bandwidth, latency);
}

void Machine::add_lanes() {
  const auto& nodes = of(DeviceKind::kNumaNode);
  const auto& packages = of(DeviceKind::kPackage);
  const auto guess = [](double value) { return Figure{value, Origin::kGuess}; };
  const auto known_or = [&](double published, double otherwise) {
    return published > 0 ? Figure{published, Origin::kVendorTable} : guess(otherwise);
  };

  for (const DeviceId node : nodes) {
    const DeviceId package = package_of(node);
    const auto siblings =
        std::count_if(nodes.begin(), nodes.end(), [&](DeviceId other) { return package_of(other) == package; });
    const double published = package == kNoDevice ? 0 : vendor::cpu(device(package).model).memory_bandwidth;
    Figure bandwidth = known_or(published / static_cast<double>(siblings), vendor::kGuessMemory);
    if (device(node).memory_bandwidth > 0) bandwidth = {device(node).memory_bandwidth, device(node).port_origin};
    add_lane(LaneKind::kMemory, node, node, bandwidth, guess(vendor::kMemoryLatency));
  }
  for (const DeviceId from : nodes) {
    for (const DeviceId to : nodes) {
      const bool far = package_of(from) != package_of(to);
      add_lane(LaneKind::kMemoryCopy, from, to, guess(vendor::kGuessMemoryCopy * (far ? vendor::kGuessFarCopyShare : 1)),
               guess(0));
    }
  }
  add_lane(LaneKind::kLoopback, 0, 0, guess(vendor::kGuessLoopback), guess(vendor::kLoopbackLatency));
  for (const DeviceId from : packages) {
    for (const DeviceId to : packages) {
      if (from == to) continue;
      Figure bandwidth = known_or(vendor::cpu(device(from).model).interconnect_bandwidth, vendor::kGuessInterconnect);
      if (description_.interconnect_bandwidth > 0) bandwidth = {description_.interconnect_bandwidth, Origin::kFile};
      add_lane(LaneKind::kInterconnect, from, to, bandwidth, guess(vendor::kInterconnectLatency));
    }
  }
  for (DeviceId id = 1; id < devices().size(); ++id) {
    if (has_pcie_lanes(device(id))) add_pcie_lanes(id);
  }
  for (const NvlinkEdge& edge : description_.nvlinks) {
    double each = edge.link_bandwidth;
    Origin origin = edge.origin;
    if (each <= 0) {
      const DeviceId gpu = device(edge.from).kind == DeviceKind::kGpu ? edge.from : edge.to;
      each = vendor::gpu(device(gpu).identity).link_bandwidth;
      origin = each > 0 ? Origin::kVendorTable : Origin::kGuess;
      if (each <= 0) each = vendor::kGuessLinkBandwidth;
    }
    add_lane(LaneKind::kNvlink, edge.from, edge.to, {each * edge.links * vendor::kNvlinkShare, origin},
             guess(vendor::kNvlinkLatency), edge.links);
  }
  for (const DeviceId nic : of(DeviceKind::kNic)) {
    add_lane(LaneKind::kNicOut, nic, nic, port_bandwidth(device(nic)), guess(vendor::kNicLatency));
    add_lane(LaneKind::kNicIn, nic, nic, port_bandwidth(device(nic)), guess(vendor::kNicLatency));
  }
  for (const DeviceId gpu : of(DeviceKind::kGpu)) {
    // A copy reads and writes, so it gets half of what the memory moves.
    const double published = vendor::gpu(device(gpu).identity).memory_bandwidth / 2;
    add_lane(LaneKind::kDeviceMemory, gpu, gpu, known_or(published * 0.85, vendor::kGuessDeviceMemory / 2),
             guess(vendor::kDeviceMemoryLatency));
  }
}

void Machine::add_users() {
  std::vector<DeviceId> leaves = of(DeviceKind::kGpu);
  leaves.insert(leaves.end(), of(DeviceKind::kNic).begin(), of(DeviceKind::kNic).end());
  for (const DeviceId leaf : leaves) {
    for (DeviceId id = leaf; id != kNoDevice; id = device(id).parent) {
      if (device(id).parent == kNoDevice) break;
      for (const LaneId lane :
           {find_lane(LaneKind::kPcieUp, id, device(id).parent), find_lane(LaneKind::kPcieDown, device(id).parent, id)}) {
        if (lane != kNoLane) lanes_[lane].users.push_back(leaf);
      }
    }
    if (device(leaf).numa != kNoDevice) {
      lanes_[find_lane(LaneKind::kMemory, device(leaf).numa, device(leaf).numa)].users.push_back(leaf);
    }
  }
  for (Lane& lane : lanes_) {
    const bool own = lane.kind == LaneKind::kNicIn || lane.kind == LaneKind::kNicOut || lane.kind == LaneKind::kDeviceMemory;
    if (own) lane.users.push_back(lane.from);
    if (lane.kind == LaneKind::kNvlink)
      lane.users.push_back(device(lane.from).kind == DeviceKind::kGpu ? lane.from : lane.to);
  }
}

DeviceId Machine::find(std::string_view any_name) const {
  const auto bus_id = parse_bus_id(any_name);
  for (DeviceId id = 0; id < devices().size(); ++id) {
    const Device& candidate = device(id);
    const bool os = std::find(candidate.os_names.begin(), candidate.os_names.end(), any_name) != candidate.os_names.end();
    if (candidate.name == any_name || (bus_id && candidate.bus_id == bus_id) || os) return id;
    if (!candidate.uuid.empty() && candidate.uuid == any_name) return id;
  }
  return kNoDevice;
}

LaneId Machine::find_lane(LaneKind kind, DeviceId from, DeviceId to) const {
  const auto found = lane_index_.find({kind, from, to});
  return found == lane_index_.end() ? kNoLane : found->second;
}

DeviceId Machine::package_of(DeviceId id) const {
  while (id != kNoDevice && device(id).kind != DeviceKind::kPackage) id = device(id).parent;
  return id;
}

std::vector<DeviceId> Machine::ancestry(DeviceId id) const {
  std::vector<DeviceId> line;
  for (; id != kNoDevice; id = device(id).parent) line.push_back(id);
  return line;
}

unsigned Machine::nvlinks(DeviceId from, DeviceId to) const {
  if (const LaneId direct = find_lane(LaneKind::kNvlink, from, to); direct != kNoLane) return lane(direct).links;
  unsigned most = 0;
  for (const DeviceId nvswitch : of(DeviceKind::kNvSwitch)) {
    const LaneId there = find_lane(LaneKind::kNvlink, from, nvswitch);
    const LaneId back = find_lane(LaneKind::kNvlink, nvswitch, to);
    if (there != kNoLane && back != kNoLane) most = std::max(most, std::min(lane(there).links, lane(back).links));
  }
  return most;
}

std::string Machine::fingerprint() const {
  std::string text;
  for (const Device& each : devices()) {
    text += fmt::format("{};{};{};{};{:x}:{:x};{};", to_string(each.kind), each.parent, each.model,
                        each.bus_id ? to_string(*each.bus_id) : "", each.identity.vendor, each.identity.device,
                        each.cores.size());
  }
  for (const NvlinkEdge& edge : description_.nvlinks) text += fmt::format("{}>{}*{};", edge.from, edge.to, edge.links);
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

bool Machine::set_measured(std::string_view lane_name, double bandwidth, double latency) {
  const auto found = std::find_if(lanes_.begin(), lanes_.end(), [&](const Lane& each) { return each.name == lane_name; });
  if (found == lanes_.end()) return false;
  if (bandwidth > 0) found->bandwidth = {bandwidth, Origin::kMeasured};
  if (latency > 0) found->latency = {latency, Origin::kMeasured};
  return true;
}

const char* to_string(Origin origin) {
  constexpr const char* kNames[] = {"measured", "file", "system", "vendor table", "guess"};
  return kNames[static_cast<std::size_t>(origin)];
}

const char* to_string(DeviceKind kind) {
  constexpr const char* kNames[] = {"machine",     "package", "NUMA node", "host bridge",
                                    "PCIe switch", "GPU",     "NIC",       "NVSwitch"};
  return kNames[static_cast<std::size_t>(kind)];
}

const char* to_string(LaneKind kind) {
  constexpr const char* kNames[] = {"memory",    "memory-copy", "loopback", "interconnect", "pcie-up",
                                    "pcie-down", "nvlink",      "nic-out",  "nic-in",       "device-memory"};
  return kNames[static_cast<std::size_t>(kind)];
}

}  // namespace cardea::topology
