// SPDX-License-Identifier: Apache-2.0
#include "topology/merge.h"

#include <algorithm>
#include <map>

#include "topology/prune.h"

namespace cardea::topology {
namespace {

template <typename... Args>
Status contradiction(fmt::format_string<Args...> format, Args&&... args) {
  return Status::error(CARDEA_ERR_CONFIGURATION, "topology file and machine contradict each other: {}",
                       fmt::format(format, std::forward<Args>(args)...));
}

bool is_end(const Device& device) {
  return device.kind == DeviceKind::kGpu || device.kind == DeviceKind::kNic;
}

DeviceId above(const Description& description, DeviceId id, DeviceKind kind) {
  while (id != kNoDevice && description.devices[id].kind != kind) id = description.devices[id].parent;
  return id;
}

DeviceId node_numbered(const Description& description, std::optional<unsigned> number) {
  for (DeviceId id = 0; id < description.devices.size(); ++id) {
    const Device& device = description.devices[id];
    if (device.kind == DeviceKind::kNumaNode && device.os_index == number) return id;
  }
  return kNoDevice;
}

std::size_t nodes_in(const Description& description) {
  return static_cast<std::size_t>(std::count_if(description.devices.begin(), description.devices.end(),
                                                [](const Device& device) { return device.kind == DeviceKind::kNumaNode; }));
}

class Merger {
 public:
  Merger(const Description& file, const Description& live) : file_(file), live_(live) {}

  Result<Description> run() {
    out_.name = live_.name.empty() ? file_.name : live_.name;
    out_.source = fmt::format("{}, laid over {}", file_.source, live_.source);
    out_.notes = file_.notes;
    out_.notes.insert(out_.notes.end(), live_.notes.begin(), live_.notes.end());
    out_.interconnect_bandwidth = file_.interconnect_bandwidth;
    if (Status status = take_frame(); !status.ok()) return status;
    for (DeviceId id = 0; id < file_.devices.size(); ++id) {
      if (Status status = take_from_file(id); !status.ok()) return status;
    }
    note_absent();
    for (DeviceId id = 0; id < live_.devices.size(); ++id) {
      if (is_end(live_.devices[id])) take_from_live(id);
    }
    if (Status status = take_nvlinks(); !status.ok()) return status;
    prune_empty(out_);
    return std::move(out_);
  }

 private:
  /// Machine, packages and NUMA nodes are the live ones: memory is bound there.
  Status take_frame() {
    for (DeviceId id = 0; id < live_.devices.size(); ++id) {
      const Device& device = live_.devices[id];
      const bool frame =
          device.kind == DeviceKind::kMachine || device.kind == DeviceKind::kPackage || device.kind == DeviceKind::kNumaNode;
      if (frame) from_live_[id] = add(device, device.parent == kNoDevice ? kNoDevice : from_live_.at(device.parent));
    }
    return {};
  }

  DeviceId add(Device device, DeviceId parent) {
    device.parent = parent;
    return out_.add(std::move(device));
  }

  bool has_present_end(DeviceId id) const {
    for (DeviceId end = id; end < file_.devices.size(); ++end) {
      if (!is_end(file_.devices[end]) || !present(end)) continue;
      for (DeviceId up = end; up != kNoDevice; up = file_.devices[up].parent) {
        if (up == id) return true;
      }
    }
    return false;
  }

  bool present(DeviceId id) const {
    const Device& device = file_.devices[id];
    if (device.bus_id) return live_.find(*device.bus_id) != kNoDevice;
    return live_named(device) != kNoDevice;
  }

  /// A NIC without a bus id is known by its name.
  DeviceId live_named(const Device& device) const {
    for (DeviceId id = 0; id < live_.devices.size(); ++id) {
      const auto& names = live_.devices[id].os_names;
      if (!device.os_names.empty() && std::find(names.begin(), names.end(), device.os_names.front()) != names.end())
        return id;
    }
    return kNoDevice;
  }

  Status take_from_file(DeviceId id) {
    const Device& device = file_.devices[id];
    switch (device.kind) {
      case DeviceKind::kNumaNode: {
        DeviceId node = node_numbered(live_, device.os_index);
        if (node == kNoDevice && has_present_end(id)) {
          // A machine that shows one node where the file has several hides them; memory can only be bound to that one.
          if (nodes_in(live_) > 1) {
            return contradiction("the file puts devices on NUMA node {}, which the machine does not have",
                                 device.os_index.value_or(0));
          }
          node = node_numbered(live_, live_first_node());
          out_.notes.push_back(
              fmt::format("the file's NUMA node {} is not visible here: its devices count as on the only one",
                          device.os_index.value_or(0)));
        }
        if (node != kNoDevice) {
          from_file_[id] = from_live_.at(node);
          Device& merged = out_.devices[from_file_[id]];
          if (merged.memory_bandwidth <= 0) merged.memory_bandwidth = device.memory_bandwidth;
        }
        return {};
      }
      case DeviceKind::kHostBridge:
      case DeviceKind::kPcieSwitch:
        if (has_present_end(id) && parent_of(id) != kNoDevice) from_file_[id] = add(device, parent_of(id));
        return {};
      case DeviceKind::kNvSwitch:
        from_file_[id] = add(device, 0);
        return {};
      case DeviceKind::kGpu:
      case DeviceKind::kNic:
        return take_end(id);
      default:
        return {};
    }
  }

  std::optional<unsigned> live_first_node() const {
    for (const Device& device : live_.devices) {
      if (device.kind == DeviceKind::kNumaNode) return device.os_index;
    }
    return {};
  }

  DeviceId parent_of(DeviceId id) const {
    for (DeviceId up = file_.devices[id].parent; up != kNoDevice; up = file_.devices[up].parent) {
      if (const auto found = from_file_.find(up); found != from_file_.end()) return found->second;
    }
    return 0;
  }

  Status take_end(DeviceId id) {
    const Device& told = file_.devices[id];
    const DeviceId seen = told.bus_id ? live_.find(*told.bus_id) : live_named(told);
    if (seen == kNoDevice) {
      absent_.push_back(told.bus_id ? to_string(*told.bus_id) : told.os_names.empty() ? "a NIC" : told.os_names.front());
      return {};
    }
    const Device& real = live_.devices[seen];
    if (Status status = compare(id, seen); !status.ok()) return status;
    Device merged = real;
    if (told.link.raw > 0) {
      merged.link.rate = told.link.rate;
      merged.link.width = told.link.width;
      merged.link.raw = told.link.raw;
      merged.link.port_raw = 0;
      merged.link_origin = Origin::kFile;
    }
    if (merged.port_bandwidth <= 0) {
      merged.port_bandwidth = told.port_bandwidth;
      merged.port_origin = Origin::kFile;
    }
    if (merged.model.empty()) merged.model = told.model;
    from_file_[id] = from_live_[seen] = add(merged, parent_of(id));
    return {};
  }

  Status compare(DeviceId id, DeviceId seen) const {
    const Device& told = file_.devices[id];
    const Device& real = live_.devices[seen];
    const std::string name = told.bus_id ? to_string(*told.bus_id) : told.os_names.front();
    if (told.kind != real.kind)
      return contradiction("{} is a {} in the file, a {} here", name, to_string(told.kind), to_string(real.kind));
    const auto differ = [](unsigned a, unsigned b) { return a != 0 && b != 0 && a != b; };
    if (differ(told.identity.vendor, real.identity.vendor) || differ(told.identity.device, real.identity.device)) {
      return contradiction("{} is PCI device {:04x}:{:04x} in the file, {:04x}:{:04x} here", name, told.identity.vendor,
                           told.identity.device, real.identity.vendor, real.identity.device);
    }
    if (!told.uuid.empty() && !real.uuid.empty() && told.uuid != real.uuid) {
      return contradiction("{} has UUID {} in the file, {} here", name, told.uuid, real.uuid);
    }
    const double most = raw_bandwidth(real.link.most_rate, real.link.most_width);
    if (most > 0 && told.link.raw > most * 1.01) {
      return contradiction("{} has a link of {:.1f} GB/s in the file, but can do {:.1f} GB/s", name, told.link.raw / 1e9,
                           most / 1e9);
    }
    const DeviceId told_node = above(file_, id, DeviceKind::kNumaNode);
    const DeviceId real_node = above(live_, seen, DeviceKind::kNumaNode);
    if (told_node == kNoDevice || real_node == kNoDevice || nodes_in(live_) < 2) return {};
    if (file_.devices[told_node].os_index != live_.devices[real_node].os_index) {
      return contradiction("{} is on NUMA node {} in the file, on {} here", name,
                           file_.devices[told_node].os_index.value_or(0), live_.devices[real_node].os_index.value_or(0));
    }
    return {};
  }

  void note_absent() {
    if (absent_.empty()) return;
    out_.notes.push_back(fmt::format("{} {} not here and ignored: {}", absent_.size(),
                                     absent_.size() == 1 ? "device of the file is" : "devices of the file are",
                                     fmt::join(absent_, ", ")));
  }

  void take_from_live(DeviceId id) {
    if (from_live_.count(id) > 0) return;
    const Device& device = live_.devices[id];
    const std::string name = device.bus_id             ? to_string(*device.bus_id)
                             : device.os_names.empty() ? "a NIC"
                                                       : device.os_names.front();
    out_.notes.push_back(
        fmt::format("{} {} is not in the file: it stays where the machine shows it", to_string(device.kind), name));
    // With its bridges, which lie on no device of the file.
    std::vector<DeviceId> line;
    DeviceId up = device.parent;
    for (; from_live_.count(up) == 0; up = live_.devices[up].parent) line.push_back(up);
    DeviceId parent = from_live_.at(up);
    for (auto bridge = line.rbegin(); bridge != line.rend(); ++bridge) {
      const auto& bus_id = live_.devices[*bridge].bus_id;
      const DeviceId same = bus_id ? out_.find(*bus_id) : kNoDevice;
      parent = from_live_[*bridge] = same != kNoDevice ? same : add(live_.devices[*bridge], parent);
    }
    from_live_[id] = add(device, parent);
  }

  Status take_nvlinks() {
    for (const NvlinkEdge& edge : live_.nvlinks) {
      for (const DeviceId end : {edge.from, edge.to}) {
        if (from_live_.count(end) == 0) from_live_[end] = live_nvswitch(end);
      }
      NvlinkEdge moved = edge;
      moved.from = from_live_.at(edge.from);
      moved.to = from_live_.at(edge.to);
      out_.nvlinks.push_back(moved);
    }
    const bool told_by_driver = !out_.nvlinks.empty();
    for (const NvlinkEdge& edge : file_.nvlinks) {
      if (from_file_.count(edge.from) == 0 || from_file_.count(edge.to) == 0) continue;
      NvlinkEdge moved = edge;
      moved.from = from_file_.at(edge.from);
      moved.to = from_file_.at(edge.to);
      if (!told_by_driver) {
        out_.nvlinks.push_back(moved);
        continue;
      }
      const auto same = std::find_if(out_.nvlinks.begin(), out_.nvlinks.end(), [&](const NvlinkEdge& other) {
        return other.from == moved.from && other.to == moved.to;
      });
      const unsigned here = same == out_.nvlinks.end() ? 0 : same->links;
      const Device& from = out_.devices[moved.from];
      if (here == moved.links || !from.bus_id) continue;
      const Device& to = out_.devices[moved.to];
      return contradiction("{} has {} NVLinks to {} in the file, {} here", to_string(*from.bus_id), moved.links,
                           to.bus_id ? to_string(*to.bus_id) : to_string(to.kind), here);
    }
    return {};
  }

  /// The machine's NVSwitches and the file's are the same.
  DeviceId live_nvswitch(DeviceId id) {
    for (DeviceId own = 0; own < out_.devices.size(); ++own) {
      if (out_.devices[own].kind == DeviceKind::kNvSwitch) return own;
    }
    return add(live_.devices[id], 0);
  }

  const Description& file_;
  const Description& live_;
  Description out_;
  std::map<DeviceId, DeviceId> from_file_;
  std::map<DeviceId, DeviceId> from_live_;
  std::vector<std::string> absent_;
};

}  // namespace

Result<Description> merge(const Description& file, const Description& live) {
  return Merger(file, live).run();
}

}  // namespace cardea::topology
