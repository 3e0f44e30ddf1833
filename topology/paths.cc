// SPDX-License-Identifier: Apache-2.0
#include "topology/paths.h"

#include <algorithm>

namespace cardea::topology {
namespace {

bool is_endpoint(const Device& device) {
  return device.kind == DeviceKind::kGpu || device.kind == DeviceKind::kNic || device.kind == DeviceKind::kNumaNode;
}

/// Collects lanes; a lane that the machine does not have is left out.
class Route {
 public:
  explicit Route(const Machine& machine) : machine_(machine) {}

  void take(LaneKind kind, DeviceId from, DeviceId to) {
    if (const LaneId lane = machine_.find_lane(kind, from, to); lane != kNoLane) path_.lanes.push_back(lane);
  }

  /// From `device` up to, but not into, `top`.
  void climb(DeviceId device, DeviceId top) {
    for (; device != top && device != kNoDevice; device = machine_.device(device).parent) {
      take(LaneKind::kPcieUp, device, machine_.device(device).parent);
    }
  }

  void descend(DeviceId top, DeviceId device) {
    std::vector<DeviceId> steps;
    for (; device != top && device != kNoDevice; device = machine_.device(device).parent) steps.push_back(device);
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      take(LaneKind::kPcieDown, machine_.device(*step).parent, *step);
    }
  }

  void cross(DeviceId from, DeviceId to) {
    const DeviceId here = machine_.package_of(from);
    const DeviceId there = machine_.package_of(to);
    if (here != there && here != kNoDevice && there != kNoDevice) take(LaneKind::kInterconnect, here, there);
  }

  bool nvlink(DeviceId from, DeviceId to) {
    if (machine_.find_lane(LaneKind::kNvlink, from, to) != kNoLane) return take(LaneKind::kNvlink, from, to), true;
    if (machine_.nvlinks(from, to) == 0) return false;
    for (const DeviceId nvswitch : machine_.of(DeviceKind::kNvSwitch)) {
      if (machine_.find_lane(LaneKind::kNvlink, from, nvswitch) == kNoLane) continue;
      if (machine_.find_lane(LaneKind::kNvlink, nvswitch, to) == kNoLane) continue;
      take(LaneKind::kNvlink, from, nvswitch);
      take(LaneKind::kNvlink, nvswitch, to);
      return true;
    }
    return false;
  }

  Path finish() {
    for (const LaneId id : path_.lanes) {
      const Lane& lane = machine_.lane(id);
      path_.latency += lane.latency.value;
      if (path_.bottleneck != kNoLane && lane.bandwidth.value >= path_.bandwidth) continue;
      path_.bottleneck = id;
      path_.bandwidth = lane.bandwidth.value;
      path_.origin = lane.bandwidth.origin;
    }
    return std::move(path_);
  }

 private:
  const Machine& machine_;
  Path path_;
};

DeviceId common_ancestor(const Machine& machine, DeviceId a, DeviceId b) {
  const std::vector<DeviceId> line = machine.ancestry(a);
  while (std::find(line.begin(), line.end(), b) == line.end()) b = machine.device(b).parent;
  return b;
}

/// The NUMA node whose memory stands for a device; the first one where the machine hides the device's place.
DeviceId memory_of(const Machine& machine, DeviceId id) {
  const DeviceId numa = machine.device(id).numa;
  return numa == kNoDevice ? machine.of(DeviceKind::kNumaNode).front() : numa;
}

void between_nodes(Route& route, DeviceId from, DeviceId to) {
  route.take(LaneKind::kMemory, from, from);
  route.take(LaneKind::kMemoryCopy, from, to);
  route.cross(from, to);
  if (from != to) route.take(LaneKind::kMemory, to, to);
}

void from_node(const Machine& machine, Route& route, DeviceId node, DeviceId device) {
  route.take(LaneKind::kMemory, node, node);
  if (machine.find_lane(LaneKind::kNvlink, node, device) != kNoLane) {
    route.take(LaneKind::kNvlink, node, device);
    return;
  }
  route.cross(node, memory_of(machine, device));
  route.descend(0, device);
}

void to_node(const Machine& machine, Route& route, DeviceId device, DeviceId node) {
  if (machine.find_lane(LaneKind::kNvlink, device, node) != kNoLane) {
    route.take(LaneKind::kNvlink, device, node);
  } else {
    route.climb(device, 0);
    route.cross(memory_of(machine, device), node);
  }
  route.take(LaneKind::kMemory, node, node);
}

void between_devices(const Machine& machine, Route& route, DeviceId from, DeviceId to) {
  const bool gpus = machine.device(from).kind == DeviceKind::kGpu && machine.device(to).kind == DeviceKind::kGpu;
  if (gpus && route.nvlink(from, to)) return;
  const DeviceId top = common_ancestor(machine, from, to);
  route.climb(from, top);
  route.cross(memory_of(machine, from), memory_of(machine, to));
  route.descend(top, to);
}

}  // namespace

const char* to_string(MemoryKind kind) {
  return kind == MemoryKind::kDevice ? "device memory" : "host memory";
}

Result<Path> find_path(const Machine& machine, DeviceId source, DeviceId destination, MemoryKind kind) {
  for (const DeviceId id : {source, destination}) {
    if (id >= machine.devices().size()) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "no device number {}", id);
    if (is_endpoint(machine.device(id))) continue;
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} is a {}: a path joins GPUs, NICs and NUMA nodes",
                         machine.device(id).name, to_string(machine.device(id).kind));
  }
  Route route(machine);
  const bool nic_source = machine.device(source).kind == DeviceKind::kNic;
  const bool host = machine.device(source).kind == DeviceKind::kNumaNode || (kind == MemoryKind::kHost && !nic_source);
  const bool to_memory = machine.device(destination).kind == DeviceKind::kNumaNode;
  const DeviceId node = memory_of(machine, source);
  if (nic_source) route.take(LaneKind::kNicIn, source, source);
  if (host && to_memory) {
    between_nodes(route, node, destination);
  } else if (host) {
    from_node(machine, route, node, destination);
  } else if (to_memory) {
    to_node(machine, route, source, destination);
  } else if (source == destination) {
    route.take(LaneKind::kDeviceMemory, source, source);
  } else {
    between_devices(machine, route, source, destination);
  }
  if (machine.device(destination).kind == DeviceKind::kNic) route.take(LaneKind::kNicOut, destination, destination);
  return route.finish();
}

Nearness nearness(const Machine& machine, DeviceId a, DeviceId b, bool nvlink) {
  if (a == b) return Nearness::kSelf;
  if (nvlink && machine.nvlinks(a, b) > 0) return Nearness::kNvlink;
  const DeviceId top = common_ancestor(machine, a, b);
  switch (machine.device(top).kind) {
    case DeviceKind::kPcieSwitch: {
      unsigned switches = 1;
      for (const DeviceId end : {a, b}) {
        for (DeviceId id = machine.device(end).parent; id != top; id = machine.device(id).parent) ++switches;
      }
      return switches == 1 ? Nearness::kOneSwitch : Nearness::kSwitches;
    }
    case DeviceKind::kHostBridge:
      return Nearness::kHostBridge;
    case DeviceKind::kNumaNode: {
      // A source that tells no host bridges leaves PHB and NODE undecided; PHB is what NCCL takes.
      const bool bridges =
          std::any_of(machine.of(DeviceKind::kHostBridge).begin(), machine.of(DeviceKind::kHostBridge).end(),
                      [&](DeviceId id) { return machine.device(id).parent == top; });
      return bridges ? Nearness::kNode : Nearness::kHostBridge;
    }
    default: {
      const DeviceId here = machine.device(a).numa;
      return here != kNoDevice && here == machine.device(b).numa ? Nearness::kNode : Nearness::kSystem;
    }
  }
}

std::string nearness_label(const Machine& machine, DeviceId a, DeviceId b) {
  const Nearness value = nearness(machine, a, b);
  if (value == Nearness::kNvlink) return fmt::format("NV{}", machine.nvlinks(a, b));
  constexpr const char* kLabels[] = {"X", "NV", "PIX", "PXB", "PHB", "NODE", "SYS"};
  return kLabels[static_cast<std::size_t>(value)];
}

}  // namespace cardea::topology
