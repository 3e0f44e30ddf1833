// SPDX-License-Identifier: Apache-2.0
#include "topology/prune.h"

namespace cardea::topology {

void prune(Description& description, const std::vector<bool>& keep) {
  std::vector<DeviceId> moved(description.devices.size(), kNoDevice);  // where a device, or what stands for it, is now
  std::vector<Device> kept;
  for (DeviceId id = 0; id < description.devices.size(); ++id) {
    Device& device = description.devices[id];
    const DeviceId parent = device.parent == kNoDevice ? kNoDevice : moved[device.parent];
    if (!keep[id]) {
      moved[id] = parent;
      continue;
    }
    moved[id] = static_cast<DeviceId>(kept.size());
    device.parent = parent;
    kept.push_back(std::move(device));
  }
  std::vector<NvlinkEdge> nvlinks;
  for (NvlinkEdge edge : description.nvlinks) {
    if (!keep[edge.from] || !keep[edge.to]) continue;
    edge.from = moved[edge.from];
    edge.to = moved[edge.to];
    nvlinks.push_back(edge);
  }
  description.devices = std::move(kept);
  description.nvlinks = std::move(nvlinks);
}

void prune_empty(Description& description) {
  const std::vector<Device>& devices = description.devices;
  std::vector<bool> keep(devices.size(), false);
  for (std::size_t id = devices.size(); id-- > 0;) {
    const bool passage = devices[id].kind == DeviceKind::kHostBridge || devices[id].kind == DeviceKind::kPcieSwitch;
    if (!passage) keep[id] = true;
    const bool end = devices[id].kind == DeviceKind::kGpu || devices[id].kind == DeviceKind::kNic;
    if ((end || passage) && keep[id] && devices[id].parent != kNoDevice) keep[devices[id].parent] = true;
  }
  prune(description, keep);
}

}  // namespace cardea::topology
