// SPDX-License-Identifier: Apache-2.0
#include "topology/nccl_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "topology/cpu_set.h"
#include "topology/prune.h"
#include "topology/vendor.h"

namespace cardea::topology {
namespace {

constexpr double kMostMegabits = 10e6;     // of a port: 10 Tbit/s
constexpr double kMostGigabytes = 100000;  // of memory or an interconnect, per second
constexpr std::uint32_t kNvswitchClass = 0x068000;

template <typename... Args>
Status wrong(fmt::format_string<Args...> format, Args&&... args) {
  return Status::error(CARDEA_ERR_CONFIGURATION, format, std::forward<Args>(args)...);
}

class NcclReader {
 public:
  Result<Description> read(const pugi::xml_node& root) {
    out_.name = root.attribute("name").value();
    out_.add(Device{});
    if (Status s = positive(root, "interconnect_gbytes", kMostGigabytes, 1e9, out_.interconnect_bandwidth); !s.ok())
      return s;
    for (const pugi::xml_node& cpu : root.children("cpu")) {
      if (Status status = read_cpu(cpu); !status.ok()) return status;
    }
    if (out_.devices.size() == 1) return wrong("<system> has no <cpu>: no NUMA node is described");
    if (Status status = add_nvlinks(); !status.ok()) return status;
    prune_empty(out_);
    return std::move(out_);
  }

 private:
  struct Pending {
    DeviceId from;
    BusId target;
    bool nvswitch;
    unsigned links;
    double link_bandwidth;
  };

  /// An optional number that must be in (0, most].
  static Status positive(const pugi::xml_node& node, const char* name, double most, double unit, double& value) {
    const pugi::xml_attribute attribute = node.attribute(name);
    if (!attribute) return {};
    const std::string_view text = attribute.value();
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || !(number > 0) || number > most) {
      return wrong("<{}> has {}=\"{}\", which must be above 0 and at most {}", node.name(), name, text.substr(0, 40), most);
    }
    value = number * unit;
    return {};
  }

  static Status integer(const pugi::xml_node& node, const char* name, long least, long most, std::optional<long>& value) {
    const pugi::xml_attribute attribute = node.attribute(name);
    if (!attribute) return {};
    const std::string_view text = attribute.value();
    long number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < least || number > most) {
      return wrong("<{}> has {}=\"{}\", which must be a number from {} to {}", node.name(), name, text.substr(0, 40), least,
                   most);
    }
    value = number;
    return {};
  }

  Status read_cpu(const pugi::xml_node& cpu) {
    std::optional<long> number;
    std::optional<long> package;
    if (Status status = integer(cpu, "numaid", -1, 65535, number); !status.ok()) return status;
    if (!number) return wrong("<cpu> has no numaid");
    if (*number < 0) {
      out_.notes.push_back("the file does not tell the NUMA node (numaid=\"-1\"): taken as node 0");
      number = 0;
    }
    if (Status status = integer(cpu, "package", 0, 65535, package); !status.ok()) return status;
    Device node;
    node.kind = DeviceKind::kNumaNode;
    node.os_index = static_cast<unsigned>(*number);
    node.parent = package_for(cpu, package, *number);
    if (Status s = positive(cpu, "memory_gbytes", kMostGigabytes, 1e9, node.memory_bandwidth); !s.ok()) return s;
    double memory = 0;
    if (Status s = positive(cpu, "memory_gib", 1 << 20, 1, memory); !s.ok()) return s;
    node.memory_bytes = static_cast<std::uint64_t>(memory * (1 << 30));
    if (const std::string_view mask = cpu.attribute("affinity").value(); !mask.empty()) {
      const auto cpus = CpuSet::parse_mask(mask);
      if (!cpus)
        return wrong("<cpu numaid=\"{}\"> has affinity=\"{}\", which is no processor mask", *number, mask.substr(0, 80));
      node.cores = cores_of(cpus->numbers());
    }
    const DeviceId id = out_.add(node);
    for (const pugi::xml_node& child : cpu.children()) {
      if (Status status = read_child(child, id); !status.ok()) return status;
    }
    return {};
  }

  DeviceId package_for(const pugi::xml_node& cpu, std::optional<long> number, long numa) {
    const auto wanted = static_cast<unsigned>(number.value_or(numa));
    for (DeviceId id = 0; id < out_.devices.size(); ++id) {
      if (number && out_.devices[id].kind == DeviceKind::kPackage && out_.devices[id].os_index == wanted) return id;
    }
    Device package;
    package.kind = DeviceKind::kPackage;
    package.parent = 0;
    package.os_index = wanted;
    package.model = cpu.attribute("model") ? cpu.attribute("model").value() : family(cpu);
    return out_.add(package);
  }

  static std::string family(const pugi::xml_node& cpu) {
    if (!cpu.attribute("vendor")) return cpu.attribute("arch").value();
    return fmt::format("{} family {} model {}", cpu.attribute("vendor").value(), cpu.attribute("familyid").value(),
                       cpu.attribute("modelid").value());
  }

  /// Two equal runs of numbers are the hyperthreads of the same cores, as Linux numbers them on x86.
  static std::vector<std::vector<unsigned>> cores_of(const std::vector<unsigned>& cpus) {
    std::vector<std::vector<unsigned>> cores;
    const std::size_t half = cpus.size() / 2;
    std::size_t breaks = 0;
    for (std::size_t i = 1; i < cpus.size(); ++i) breaks += cpus[i] != cpus[i - 1] + 1;
    const bool pairs = cpus.size() % 2 == 0 && half > 0 && breaks == 1 && cpus[half] != cpus[half - 1] + 1;
    for (std::size_t i = 0; i < (pairs ? half : cpus.size()); ++i) {
      cores.push_back({cpus[i]});
      if (pairs) cores.back().push_back(cpus[half + i]);
    }
    return cores;
  }

  Status read_child(const pugi::xml_node& child, DeviceId parent) {
    const std::string_view name = child.name();
    if (name == "pci") return read_pci(child, parent);
    if (name == "nic") {
      // A NIC that is no PCI function of its own: a bond, or a network without hardware.
      Device nic;
      nic.kind = DeviceKind::kNic;
      nic.parent = parent;
      if (Status status = read_nets(child, nic); !status.ok()) return status;
      if (!nic.os_names.empty()) out_.add(nic);
    }
    return {};
  }

  Status read_pci(const pugi::xml_node& pci, DeviceId parent) {
    const std::string_view text = pci.attribute("busid").value();
    const auto bus_id = parse_bus_id(text);
    if (!bus_id) return wrong("<pci> has busid=\"{}\", which is no PCI address", text.substr(0, 40));
    if (std::find(above_.begin(), above_.end(), *bus_id) != above_.end()) {
      return wrong("<pci busid=\"{}\"> lies within itself", to_string(*bus_id));
    }
    if (!seen_.insert(*bus_id).second) return wrong("<pci busid=\"{}\"> is there twice", to_string(*bus_id));

    Device device;
    device.parent = parent;
    device.bus_id = bus_id;
    device.link_origin = Origin::kFile;
    if (Status status = read_identity(pci, device); !status.ok()) return status.within(to_string(*bus_id));
    if (Status status = read_link(pci, device); !status.ok()) return status.within(to_string(*bus_id));
    const bool gpu = pci.child("gpu") || is_gpu(device.identity);
    const bool nic = pci.child("nic") || is_nic(device.identity);
    const bool bridge = is_bridge(device.identity) || (!gpu && !nic && pci.child("pci"));
    device.kind = gpu ? DeviceKind::kGpu : nic ? DeviceKind::kNic : DeviceKind::kPcieSwitch;
    DeviceId id = parent;
    if (is_nvswitch(device.identity)) {
      device.kind = DeviceKind::kNvSwitch;
      device.parent = 0;
      if (nvswitch_ == kNoDevice) nvswitch_ = out_.add(device);
    } else if (gpu || nic || bridge) {
      if (gpu)
        device.model =
            pci.attribute("model") ? pci.attribute("model").value() : or_empty(vendor::gpu(device.identity).model);
      if (nic)
        device.model =
            pci.attribute("model") ? pci.attribute("model").value() : or_empty(vendor::nic(device.identity).model);
      if (nic) {
        if (Status status = read_nets(pci.child("nic"), device); !status.ok()) return status.within(to_string(*bus_id));
      }
      id = out_.add(device);
      if (gpu) {
        if (Status status = read_gpu(pci.child("gpu"), id); !status.ok()) return status.within(to_string(*bus_id));
      }
    }
    above_.push_back(*bus_id);
    for (const pugi::xml_node& child : pci.children("pci")) {
      if (Status status = read_pci(child, id); !status.ok()) return status;
    }
    above_.pop_back();
    return {};
  }

  static const char* or_empty(const char* text) { return text ? text : ""; }

  static Status read_identity(const pugi::xml_node& pci, Device& device) {
    const auto hexadecimal = [&](const char* name, std::uint32_t most, std::uint32_t& value) {
      std::string_view text = pci.attribute(name).value();
      if (text.empty()) return Status();
      const std::string_view whole = text;
      if (text.substr(0, 2) == "0x") text.remove_prefix(2);
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
      if (error == std::errc() && end == text.data() + text.size() && value <= most) return Status();
      return wrong("{}=\"{}\" is no hexadecimal number up to {:x}", name, whole.substr(0, 40), most);
    };
    std::uint32_t maker = 0;
    std::uint32_t number = 0;
    if (Status status = hexadecimal("class", 0xffffff, device.identity.class_code); !status.ok()) return status;
    if (Status status = hexadecimal("vendor", 0xffff, maker); !status.ok()) return status;
    if (Status status = hexadecimal("device", 0xffff, number); !status.ok()) return status;
    // 0xffff is what a cloud writes for switches that it made up.
    device.identity.vendor = static_cast<std::uint16_t>(maker == 0xffff ? 0 : maker);
    device.identity.device = static_cast<std::uint16_t>(number == 0xffff ? 0 : number);
    return {};
  }

  static Status read_link(const pugi::xml_node& pci, Device& device) {
    const std::string_view text = pci.attribute("link_speed").value();
    const auto rate = parse_link_rate(text);
    if (!rate)
      return wrong("link_speed=\"{}\" is no rate above 0 and up to {} GT/s", text.substr(0, 40), kMostGigatransfers);
    std::optional<long> width;
    if (Status status = integer(pci, "link_width", 0, kMostLanes, width); !status.ok()) return status;
    if (*rate > 0 && width && *width == 0) return wrong("link_width=\"0\" at link_speed=\"{}\"", text.substr(0, 40));
    if (*rate == 0) return {};
    device.link.rate = *rate;
    device.link.width = static_cast<unsigned>(width.value_or(vendor::kGuessPcieWidth));
    device.link.raw = raw_bandwidth(device.link.rate, device.link.width);
    return {};
  }

  static Status read_nets(const pugi::xml_node& nic, Device& device) {
    for (const pugi::xml_node& net : nic.children("net")) {
      double megabits = 0;
      if (Status status = positive(net, "speed", kMostMegabits, 1, megabits); !status.ok()) return status;
      device.os_names.emplace_back(net.attribute("name").value());
      device.port_bandwidth += megabits * 1e6 / 8;
    }
    device.port_origin = Origin::kFile;
    return {};
  }

  Status read_gpu(const pugi::xml_node& gpu, DeviceId id) {
    std::optional<long> number;
    std::optional<long> capability;
    if (Status status = integer(gpu, "dev", 0, 4095, number); !status.ok()) return status;
    if (Status status = integer(gpu, "sm", 0, 10000, capability); !status.ok()) return status;
    if (number) out_.devices[id].os_index = static_cast<unsigned>(*number);
    const double each = vendor::nvlink_bandwidth(static_cast<unsigned>(capability.value_or(0)));
    for (const pugi::xml_node& link : gpu.children("nvlink")) {
      const std::string_view text = link.attribute("target").value();
      const std::string_view target_class = link.attribute("tclass").value();
      // NCCL names a switch that it cannot see "fffffff:ffff:ff", so a switch's address is not read.
      const bool nvswitch = target_class.substr(0, 6) == "0x0680";
      const auto target = nvswitch ? BusId{0xffffffff, 0xff, 0x1f, 7} : parse_bus_id(text);
      if (!target) return wrong("<nvlink> has target=\"{}\", which is no PCI address", text.substr(0, 40));
      if (target == out_.devices[id].bus_id) return wrong("<nvlink> ends at its own GPU");
      std::optional<long> count;
      if (Status status = integer(link, "count", 1, 64, count); !status.ok()) return status;
      pending_.push_back({id, *target, nvswitch, static_cast<unsigned>(count.value_or(1)), each});
    }
    return {};
  }

  /// All NVSwitches of a machine count as one: every GPU's links are spread over all of them.
  DeviceId nvswitch() {
    if (nvswitch_ != kNoDevice) return nvswitch_;
    Device device;
    device.kind = DeviceKind::kNvSwitch;
    device.parent = 0;
    device.identity.class_code = kNvswitchClass;
    return nvswitch_ = out_.add(device);
  }

  Status add_nvlinks() {
    for (const Pending& link : pending_) {
      const BusId& own = *out_.devices[link.from].bus_id;
      const DeviceId to = link.nvswitch ? nvswitch() : out_.find(link.target);
      if (to == kNoDevice) {
        out_.notes.push_back(
            fmt::format("{} has NVLinks to {}, which the file does not list", to_string(own), to_string(link.target)));
        continue;
      }
      if (!link.nvswitch && out_.devices[to].kind != DeviceKind::kGpu && out_.devices[to].kind != DeviceKind::kNvSwitch) {
        return wrong("{}: <nvlink> ends at {}, a {}", to_string(own), to_string(link.target),
                     to_string(out_.devices[to].kind));
      }
      add_links(link.from, to, link);
      if (out_.devices[to].kind == DeviceKind::kNvSwitch) add_links(to, link.from, link);
    }
    return {};
  }

  void add_links(DeviceId from, DeviceId to, const Pending& link) {
    for (NvlinkEdge& edge : out_.nvlinks) {
      if (edge.from != from || edge.to != to) continue;
      edge.links += link.links;
      return;
    }
    // The file has the number of links, the table what each gives.
    out_.nvlinks.push_back({from, to, link.links, link.link_bandwidth, Origin::kVendorTable});
  }

  Description out_;
  std::set<BusId> seen_;
  std::vector<BusId> above_;
  std::vector<Pending> pending_;
  DeviceId nvswitch_ = kNoDevice;
};

}  // namespace

Result<Description> read_nccl(const pugi::xml_node& root) {
  return NcclReader().read(root);
}

}  // namespace cardea::topology
