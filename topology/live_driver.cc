// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <map>

#include "topology/live.h"

namespace cardea::topology {
namespace {

constexpr std::array kRates = {0.0, 2.5, 5.0, 8.0, 16.0, 32.0, 64.0};

DeviceId nvswitch_of(Description& description) {
  for (DeviceId id = 0; id < description.devices.size(); ++id) {
    if (description.devices[id].kind == DeviceKind::kNvSwitch) return id;
  }
  Device device;
  device.kind = DeviceKind::kNvSwitch;
  device.parent = 0;
  return description.add(device);
}

void add_edge(Description& description, DeviceId from, DeviceId to, unsigned links) {
  const auto same = std::find_if(description.nvlinks.begin(), description.nvlinks.end(),
                                 [&](const NvlinkEdge& edge) { return edge.from == from && edge.to == to; });
  if (same == description.nvlinks.end()) description.nvlinks.push_back({from, to, links, 0, Origin::kSystem});
}

/// How many links lead to each device of the description.
std::map<DeviceId, unsigned> ends_of(Description& description, const DriverGpu& gpu, DeviceId id) {
  using Remote = DriverGpu::Link::Remote;
  std::map<DeviceId, unsigned> ends;
  for (const DriverGpu::Link& link : gpu.links) {
    const DeviceId seen = link.bus_id ? description.find(*link.bus_id) : kNoDevice;
    if (seen != kNoDevice && seen != id && description.devices[seen].kind == DeviceKind::kGpu) {
      ++ends[seen];
    } else if (link.remote == Remote::kCpu) {
      DeviceId above = description.devices[id].parent;
      while (above != kNoDevice && description.devices[above].kind != DeviceKind::kNumaNode)
        above = description.devices[above].parent;
      if (above != kNoDevice) ++ends[above];
    } else if (link.remote == Remote::kNvSwitch || (link.remote == Remote::kUnknown && !gpu.nvlink_peers.empty())) {
      ++ends[nvswitch_of(description)];
    }
  }
  return ends;
}

}  // namespace

void add_driver_gpus(Description& description, const std::vector<DriverGpu>& gpus) {
  for (const DriverGpu& gpu : gpus) {
    const DeviceId id = description.find(gpu.bus_id);
    if (id == kNoDevice || description.devices[id].kind != DeviceKind::kGpu) {
      description.notes.push_back(
          fmt::format("the driver shows GPU {} at {}, the PCI tree does not", gpu.index, to_string(gpu.bus_id)));
      continue;
    }
    Device& device = description.devices[id];
    device.os_index = gpu.index;
    device.uuid = gpu.uuid;
    if (!gpu.model.empty()) device.model = gpu.model;
    if (gpu.memory_bytes > 0) device.memory_bytes = gpu.memory_bytes;
    if (gpu.most_generation == 0 || gpu.most_generation >= kRates.size() || gpu.most_width > kMostLanes) continue;
    device.link.most_rate = kRates[gpu.most_generation];
    device.link.most_width = gpu.most_width;
    device.link.rate = device.link.most_rate;  // busy, it gears up
    device.link.width = gpu.width > 0 && gpu.width <= kMostLanes ? gpu.width : gpu.most_width;
    device.link.raw = raw_bandwidth(device.link.rate, device.link.width);
    device.link_origin = Origin::kSystem;
  }
  for (const DriverGpu& gpu : gpus) {
    const DeviceId id = description.find(gpu.bus_id);
    if (id == kNoDevice) continue;
    for (const auto& [end, links] : ends_of(description, gpu, id)) {
      add_edge(description, id, end, links);
      // Other GPUs tell of their own links; switches and processors do not.
      if (description.devices[end].kind != DeviceKind::kGpu) add_edge(description, end, id, links);
    }
  }
}

}  // namespace cardea::topology
