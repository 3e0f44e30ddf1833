// SPDX-License-Identifier: Apache-2.0
#include "topology/hwloc_xml.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <sstream>

#include "topology/cpu_set.h"
#include "topology/prune.h"
#include "topology/vendor.h"

namespace cardea::topology {
namespace {

constexpr double kMostLinkGigabytes = 1000;
constexpr double kMostNvlinkMegabytes = 10e6;

template <typename... Args>
Status wrong(fmt::format_string<Args...> format, Args&&... args) {
  return Status::error(CARDEA_ERR_CONFIGURATION, format, std::forward<Args>(args)...);
}

std::string_view type_of(const pugi::xml_node& object) {
  const std::string_view type = object.attribute("type").value();
  return type == "Socket" ? "Package" : type;  // as hwloc 1.10 and older call it
}

const char* info(const pugi::xml_node& object, const char* name) {
  for (const pugi::xml_node& each : object.children("info")) {
    if (std::string_view(each.attribute("name").value()) == name) return each.attribute("value").value();
  }
  return "";
}

bool is_io(std::string_view type) {
  return type == "Bridge" || type == "PCIDev" || type == "OSDev";
}

class HwlocReader {
 public:
  Result<Description> read(const pugi::xml_node& root) {
    const std::string_view version = root.attribute("version").value();
    if (!version.empty() && version.substr(0, 2) != "1." && version.substr(0, 2) != "2.") {
      return wrong("hwloc XML version {}: only 1.x and 2.x are known", version.substr(0, 20));
    }
    const pugi::xml_node machine = root.child("object");
    if (type_of(machine) != "Machine") return wrong("the first object is no Machine");
    read_machine(machine);
    if (Status status = collect(machine); !status.ok()) return status;
    place_nodes();
    place_cores();
    if (Status status = read_io(machine, CpuSet(), kNoDevice, Above::kOutside); !status.ok()) return status;
    if (Status status = read_nvlinks(root); !status.ok()) return status;
    number_packages();
    prune_empty(out_);
    return std::move(out_);
  }

 private:
  /// What lies right above a PCI object.
  enum class Above { kOutside, kHostBridge, kPort, kUpstream };

  struct Node {
    Device device;
    CpuSet cpus;
    bool in_package;  // the Package element lies above
    std::size_t package;
  };
  struct Package {
    Device device;
    CpuSet cpus;
    DeviceId id = kNoDevice;
  };

  void read_machine(const pugi::xml_node& object) {
    Device machine;
    machine.model = info(object, "DMIProductName");
    if (machine.model.empty()) machine.model = info(object, "PlatformModel");
    out_.name = info(object, "HostName");
    out_.add(machine);
    cpu_model_ = info(object, "CPUModel");
  }

  static Status cpus_of(const pugi::xml_node& object, CpuSet& cpus) {
    const std::string_view mask = object.attribute("cpuset").value();
    if (mask.empty()) return {};
    const auto parsed = CpuSet::parse_mask(mask);
    if (!parsed) return wrong("a {} has cpuset=\"{}\", which is no processor mask", type_of(object), mask.substr(0, 80));
    cpus = *parsed;
    return {};
  }

  /// Packages, NUMA nodes and cores, wherever they lie: in 1.x nodes contain packages or the other way round.
  Status collect(const pugi::xml_node& object, std::size_t package = SIZE_MAX) {
    const std::string_view type = type_of(object);
    if (is_io(type)) return {};
    CpuSet cpus;
    if (Status status = cpus_of(object, cpus); !status.ok()) return status;
    Device device;
    if (const pugi::xml_attribute number = object.attribute("os_index")) device.os_index = number.as_uint();
    if (type == "Machine") {
      all_ = cpus;
      if (const std::string_view mask = object.attribute("allowed_cpuset").value(); !mask.empty()) {
        const auto allowed = CpuSet::parse_mask(mask);
        if (!allowed) return wrong("the Machine has allowed_cpuset=\"{}\", which is no processor mask", mask.substr(0, 80));
        all_ = cpus & *allowed;
      }
    } else if (type == "Package") {
      device.kind = DeviceKind::kPackage;
      device.parent = 0;
      device.model = info(object, "CPUModel");
      if (device.model.empty()) device.model = cpu_model_;
      package = packages_.size();
      packages_.push_back({device, cpus});
    } else if (type == "NUMANode") {
      device.kind = DeviceKind::kNumaNode;
      device.memory_bytes = object.attribute("local_memory").as_ullong();
      nodes_.push_back({device, cpus, package != SIZE_MAX, package});
    } else if (type == "Core") {
      cores_.push_back(cpus);
    } else if (type == "PU") {
      units_.push_back(cpus);
    }
    for (const pugi::xml_node& child : object.children("object")) {
      if (Status status = collect(child, package); !status.ok()) return status;
    }
    return {};
  }

  void place_nodes() {
    if (nodes_.empty()) {
      // 1.x shows no node where memory is uniform.
      Device device;
      device.kind = DeviceKind::kNumaNode;
      device.os_index = 0;
      nodes_.push_back({device, all_, false, SIZE_MAX});
    }
    for (Package& package : packages_) package.id = out_.add(package.device);
    for (Node& node : nodes_) {
      node.device.parent = node.in_package ? packages_[node.package].id : 0;
      if (!node.in_package) {
        std::size_t inside = 0;
        for (const Package& package : packages_) {
          const bool holds = !node.cpus.empty() && (package.cpus.includes(node.cpus) || node.cpus.includes(package.cpus));
          if (!holds) continue;
          node.device.parent = ++inside == 1 ? package.id : 0;
        }
      }
      node_ids_.push_back(out_.add(node.device));
    }
  }

  void place_cores() {
    // Without Core objects every processor counts as one.
    for (const CpuSet& core : cores_.empty() ? units_ : cores_) {
      const std::vector<unsigned> cpus = (core & all_).numbers();
      if (cpus.empty()) continue;
      for (std::size_t i = 0; i < nodes_.size(); ++i) {
        if (!nodes_[i].cpus.has(cpus.front())) continue;
        out_.devices[node_ids_[i]].cores.push_back(cpus);
        break;
      }
    }
  }

  /// The device that stands for processors: a NUMA node, else a package, else the machine.
  DeviceId place(const CpuSet& cpus) const {
    DeviceId only = kNoDevice;
    std::size_t touched = 0;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      if (!nodes_[i].cpus.intersects(cpus)) continue;
      ++touched;
      only = node_ids_[i];
    }
    if (touched == 1) return only;
    for (const Package& package : packages_) {
      if (!cpus.empty() && package.cpus.includes(cpus)) return package.id;
    }
    return 0;
  }

  Status read_io(const pugi::xml_node& object, const CpuSet& cpus, DeviceId parent, Above above) {
    const std::string_view type = type_of(object);
    if (type == "Bridge") return read_bridge(object, cpus, parent, above);
    if (type == "PCIDev") return read_device(object, cpus, parent);
    if (type == "OSDev") return {};
    CpuSet own;
    if (Status status = cpus_of(object, own); !status.ok()) return status;
    return read_children(object, own, parent, above);
  }

  Status read_children(const pugi::xml_node& object, const CpuSet& cpus, DeviceId parent, Above above) {
    for (const pugi::xml_node& child : object.children("object")) {
      if (Status status = read_io(child, cpus, parent, above); !status.ok()) return status;
    }
    return {};
  }

  static bool has_bridge_below(const pugi::xml_node& object) {
    return std::any_of(object.children("object").begin(), object.children("object").end(),
                       [](const pugi::xml_node& child) { return type_of(child) == "Bridge"; });
  }

  Status read_bridge(const pugi::xml_node& object, const CpuSet& cpus, DeviceId parent, Above above) {
    const std::string_view kind = object.attribute("bridge_type").value();
    if (kind.substr(0, 2) == "0-") {
      Device bridge;
      bridge.kind = DeviceKind::kHostBridge;
      bridge.parent = place(cpus);
      return read_children(object, cpus, out_.add(bridge), Above::kHostBridge);
    }
    Device bridge;
    if (Status status = read_pci(object, bridge); !status.ok()) return status;
    bridge.parent = parent == kNoDevice ? place(cpus) : parent;
    const double port = bridge.link.raw;
    above_.push_back(*bridge.bus_id);
    Status status;
    // Root ports lie under the host bridge; below a port, a bridge that itself has bridges is a switch's upstream port.
    if (above == Above::kPort && has_bridge_below(object)) {
      bridge.kind = DeviceKind::kPcieSwitch;
      bridge.model = info(object, "PCIDevice");
      bridge.link.port_raw = port_raw_;
      status = read_children(object, cpus, out_.add(bridge), Above::kUpstream);
    } else {
      const double before = std::exchange(port_raw_, port);
      status = read_children(object, cpus, bridge.parent, Above::kPort);
      port_raw_ = before;
    }
    above_.pop_back();
    return status;
  }

  Status read_pci(const pugi::xml_node& object, Device& device) {
    const std::string_view text = object.attribute("pci_busid").value();
    device.bus_id = parse_bus_id(text);
    if (!device.bus_id)
      return wrong("a {} has pci_busid=\"{}\", which is no PCI address", type_of(object), text.substr(0, 40));
    if (std::find(above_.begin(), above_.end(), *device.bus_id) != above_.end()) {
      return wrong("{} {} lies within itself", type_of(object), to_string(*device.bus_id));
    }
    if (!seen_.insert(*device.bus_id).second)
      return wrong("{} {} is there twice", type_of(object), to_string(*device.bus_id));
    unsigned base = 0;
    unsigned vendor = 0;
    unsigned number = 0;
    if (std::sscanf(object.attribute("pci_type").value(), "%4x [%4x:%4x]", &base, &vendor, &number) != 3) {
      return wrong("{} {} has pci_type=\"{}\", not like \"0302 [10de:2335]\"", type_of(object), to_string(*device.bus_id),
                   std::string_view(object.attribute("pci_type").value()).substr(0, 40));
    }
    device.identity = {base << 8, static_cast<std::uint16_t>(vendor), static_cast<std::uint16_t>(number)};
    return read_speed(object, device);
  }

  static Status read_speed(const pugi::xml_node& object, Device& device) {
    const std::string_view text = object.attribute("pci_link_speed").value();
    if (text.empty()) return {};
    double gigabytes = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), gigabytes);
    const bool whole = error == std::errc() && end == text.data() + text.size();
    // Zero is hwloc's way to say that it does not know.
    if (!whole || !(gigabytes >= 0) || gigabytes > kMostLinkGigabytes) {
      return wrong("{} {} has pci_link_speed=\"{}\", not 0 to {} GB/s", type_of(object), to_string(*device.bus_id),
                   text.substr(0, 40), kMostLinkGigabytes);
    }
    if (gigabytes > 0) device.link = link_of_raw(gigabytes * 1e9);
    device.link_origin = Origin::kSystem;
    return {};
  }

  Status read_device(const pugi::xml_node& object, const CpuSet& cpus, DeviceId parent) {
    Device device;
    if (Status status = read_pci(object, device); !status.ok()) return status;
    device.parent = parent == kNoDevice ? place(cpus) : parent;
    device.link.port_raw = port_raw_;
    bool computes = is_gpu(device.identity);
    for (const pugi::xml_node& child : object.children("object")) {
      if (type_of(child) == "OSDev") computes = read_os_device(child, device) || computes;
    }
    if (is_nvswitch(device.identity)) {
      device.kind = DeviceKind::kNvSwitch;
      device.parent = 0;
      if (nvswitch_ != kNoDevice) return note_index(object, nvswitch_), Status();
      nvswitch_ = out_.add(device);
      return note_index(object, nvswitch_), Status();
    }
    if (computes) {
      device.kind = DeviceKind::kGpu;
      if (device.model.empty())
        device.model = vendor::gpu(device.identity).model ? vendor::gpu(device.identity).model : info(object, "PCIDevice");
    } else if (is_nic(device.identity)) {
      device.kind = DeviceKind::kNic;
      device.model = vendor::nic(device.identity).model ? vendor::nic(device.identity).model : info(object, "PCIDevice");
    } else {
      return {};
    }
    note_index(object, out_.add(device));
    return {};
  }

  /// True if the object makes its PCI device one that computes.
  static bool read_os_device(const pugi::xml_node& object, Device& device) {
    const std::string_view name = object.attribute("name").value();
    const bool cuda = name.substr(0, 4) == "cuda";
    const bool nvml = name.substr(0, 4) == "nvml";
    if (cuda || nvml) {
      unsigned number = 0;
      const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), number);
      if (nvml && error == std::errc()) device.os_index = number;
      if (const std::string_view model = info(object, "GPUModel"); !model.empty()) device.model = model;
      if (const std::string_view uuid = info(object, "NVIDIAUUID"); !uuid.empty()) device.uuid = uuid;
      if (cuda) device.memory_bytes = std::strtoull(info(object, "CUDAGlobalMemorySize"), nullptr, 10) * 1024;
      return true;
    }
    const std::string_view type = object.attribute("osdev_type").value();
    // RDMA devices go first: they are what UCX and NCCL name.
    if (type == "3") device.os_names.insert(device.os_names.begin(), std::string(name));
    if (type == "2") device.os_names.emplace_back(name);
    return false;
  }

  void note_index(const pugi::xml_node& object, DeviceId id) {
    const auto note = [&](const pugi::xml_node& each) {
      if (const auto attribute = each.attribute("gp_index")) by_index_[attribute.as_ullong()] = id;
    };
    note(object);
    for (const pugi::xml_node& child : object.children("object")) note(child);
  }

  /// hwloc's NVML backend records NVLink as a matrix of MB/s between objects.
  Status read_nvlinks(const pugi::xml_node& root) {
    for (const char* element : {"distances2", "distances2hetero"}) {
      for (const pugi::xml_node& matrix : root.children(element)) {
        if (std::string_view(matrix.attribute("name").value()) != "NVLinkBandwidth") continue;
        if (Status status = read_matrix(matrix); !status.ok()) return status;
      }
    }
    return {};
  }

  Status read_matrix(const pugi::xml_node& matrix) {
    std::vector<DeviceId> ends;
    for (const pugi::xml_node& part : matrix.children("indexes")) {
      std::istringstream words(part.text().get());
      for (std::string word; words >> word;) {
        const auto colon = word.find(':');  // "OSDev:417" where objects differ in type
        const auto found =
            by_index_.find(std::strtoull(word.c_str() + (colon == std::string::npos ? 0 : colon + 1), nullptr, 10));
        ends.push_back(found == by_index_.end() ? kNoDevice : found->second);
      }
    }
    std::map<std::pair<DeviceId, DeviceId>, double> megabytes;
    std::size_t position = 0;
    for (const pugi::xml_node& part : matrix.children("u64values")) {
      std::istringstream words(part.text().get());
      for (double value = 0; words >> value; ++position) {
        if (!(value >= 0) || value > kMostNvlinkMegabytes) return wrong("NVLinkBandwidth has a value of {} MB/s", value);
        if (ends.empty() || position >= ends.size() * ends.size())
          return wrong("NVLinkBandwidth has more values than {} devices need", ends.size());
        const DeviceId from = ends[position / ends.size()];
        const DeviceId to = ends[position % ends.size()];
        if (from != to && from != kNoDevice && to != kNoDevice && value > 0) megabytes[{from, to}] += value;
      }
    }
    if (position != ends.size() * ends.size())
      return wrong("NVLinkBandwidth has {} values for {} devices", position, ends.size());
    for (const auto& [pair, value] : megabytes) {
      const DeviceId gpu = out_.devices[pair.first].kind == DeviceKind::kGpu ? pair.first : pair.second;
      const double published = vendor::gpu(out_.devices[gpu].identity).link_bandwidth;
      const double each = published > 0 ? published : vendor::kGuessLinkBandwidth;
      const auto links = static_cast<unsigned>(std::clamp(value * 1e6 / each + 0.5, 1.0, 64.0));
      out_.nvlinks.push_back({pair.first, pair.second, links, value * 1e6 / links, Origin::kSystem});
    }
    return {};
  }

  /// Some 1.x exports number packages twice (per node); then numbers mean nothing.
  void number_packages() {
    std::set<unsigned> numbers;
    for (Device& device : out_.devices) {
      const bool twice = device.kind == DeviceKind::kPackage && device.os_index && !numbers.insert(*device.os_index).second;
      if (twice) device.os_index.reset();
    }
  }

  Description out_;
  std::string cpu_model_;
  CpuSet all_;
  std::vector<Package> packages_;
  std::vector<Node> nodes_;
  std::vector<DeviceId> node_ids_;
  std::vector<CpuSet> cores_;
  std::vector<CpuSet> units_;
  std::set<BusId> seen_;
  std::vector<BusId> above_;
  std::map<std::uint64_t, DeviceId> by_index_;
  double port_raw_ = 0;  // of the nearest port above
  DeviceId nvswitch_ = kNoDevice;
};

}  // namespace

Result<Description> read_hwloc_xml(const pugi::xml_node& root) {
  return HwlocReader().read(root);
}

}  // namespace cardea::topology
