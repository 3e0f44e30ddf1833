// SPDX-License-Identifier: Apache-2.0
#include "topology/render.h"

#include <algorithm>

#include "topology/cpu_set.h"
#include "topology/rails.h"

namespace cardea::topology {
namespace {

std::string gigabytes(const Figure& figure) {
  return fmt::format("{:.1f} GB/s ({})", figure.value / 1e9, to_string(figure.origin));
}

std::string link_text(const PciLink& link) {
  if (link.rate <= 0) return "PCIe";
  const unsigned generation = pcie_generation(link.rate);
  return generation ? fmt::format("PCIe {}.0 x{}", generation, link.width)
                    : fmt::format("PCIe {} GT/s x{}", link.rate, link.width);
}

std::string users_text(const Machine& machine, const std::vector<DeviceId>& users) {
  std::vector<std::string> names;
  for (const DeviceId user : users) names.push_back(machine.device(user).name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string numa_text(const Machine& machine, const Device& device, DeviceId id) {
  std::string text;
  if (!device.cores.empty()) {
    CpuSet cpus;
    for (const auto& core : device.cores) {
      for (const unsigned cpu : core) cpus.add(cpu);
    }
    text += fmt::format("  {} cores, CPUs {}", device.cores.size(), cpus.to_list());
  }
  if (device.memory_bytes > 0) text += fmt::format("  {:.0f} GiB", static_cast<double>(device.memory_bytes) / (1 << 30));
  return text + "  memory " + gigabytes(machine.lane(machine.find_lane(LaneKind::kMemory, id, id)).bandwidth);
}

std::string line_of(const Machine& machine, DeviceId id) {
  const Device& device = machine.device(id);
  std::string text = device.name;
  if (device.bus_id) text += " " + to_string(*device.bus_id);
  if (!device.model.empty()) text += "  " + device.model;
  if (!device.os_names.empty()) text += fmt::format("  ({})", fmt::join(device.os_names, ", "));
  if (device.kind == DeviceKind::kGpu && device.cuda_index) text += fmt::format("  CUDA device {}", *device.cuda_index);
  if (device.kind == DeviceKind::kNumaNode) text += numa_text(machine, device, id);
  if (device.kind == DeviceKind::kNic) {
    text += "  port " + gigabytes(machine.lane(machine.find_lane(LaneKind::kNicOut, id, id)).bandwidth);
  }
  if (device.parent != kNoDevice) {
    if (const LaneId up = machine.find_lane(LaneKind::kPcieUp, id, device.parent); up != kNoLane) {
      const Lane& lane = machine.lane(up);
      text += fmt::format("  {} {}", link_text(device.link), gigabytes(lane.bandwidth));
      if (device.kind == DeviceKind::kPcieSwitch && lane.shared())
        text += ", uplink shared by " + users_text(machine, lane.users);
    }
  }
  for (const NvlinkEdge& edge : machine.description().nvlinks) {
    if (edge.from != id || device.kind != DeviceKind::kGpu) continue;
    const Lane& lane = machine.lane(machine.find_lane(LaneKind::kNvlink, edge.from, edge.to));
    text += fmt::format("  NVLink x{} to {} {}", edge.links, machine.device(edge.to).name, gigabytes(lane.bandwidth));
  }
  return text;
}

void tree_lines(const Machine& machine, const std::vector<std::vector<DeviceId>>& children, DeviceId id,
                const std::string& indent, std::string& out) {
  for (std::size_t i = 0; i < children[id].size(); ++i) {
    const bool last = i + 1 == children[id].size();
    out += indent + (last ? "└─ " : "├─ ") + line_of(machine, children[id][i]) + "\n";
    tree_lines(machine, children, children[id][i], indent + (last ? "   " : "│  "), out);
  }
}

std::vector<DeviceId> ends_of(const Machine& machine) {
  std::vector<DeviceId> ends = machine.of(DeviceKind::kGpu);
  ends.insert(ends.end(), machine.of(DeviceKind::kNic).begin(), machine.of(DeviceKind::kNic).end());
  return ends;
}

template <typename Cell>
std::string table(const Machine& machine, const std::vector<DeviceId>& ends, const Cell& cell, bool places) {
  std::string out = fmt::format("{:6}", "");
  for (const DeviceId column : ends) out += fmt::format(" {:>6}", machine.device(column).name);
  out += places ? "  NUMA\n" : "\n";
  for (const DeviceId row : ends) {
    out += fmt::format("{:6}", machine.device(row).name);
    for (const DeviceId column : ends) out += fmt::format(" {:>6}", cell(row, column));
    if (places) {
      const DeviceId numa = machine.device(row).numa;
      out += "  " + (numa == kNoDevice ? std::string("unknown") : machine.device(numa).name);
    }
    out += "\n";
  }
  return out;
}

}  // namespace

std::string render_tree(const Machine& machine) {
  std::vector<std::vector<DeviceId>> children(machine.devices().size());
  for (DeviceId id = 1; id < machine.devices().size(); ++id) children[machine.device(id).parent].push_back(id);
  std::string out = machine.name().empty() ? "machine" : machine.name();
  if (!machine.device(0).model.empty() && machine.device(0).model != machine.name()) out += "  " + machine.device(0).model;
  out += "\n";
  tree_lines(machine, children, 0, "", out);
  std::string interconnects;
  for (const Lane& lane : machine.lanes()) {
    if (lane.kind != LaneKind::kInterconnect || lane.from > lane.to) continue;
    interconnects += fmt::format("{} to {}: {} each way\n", machine.device(lane.from).name, machine.device(lane.to).name,
                                 gigabytes(lane.bandwidth));
  }
  return out + interconnects;
}

std::string render_matrix(const Machine& machine) {
  const std::vector<DeviceId> ends = ends_of(machine);
  if (ends.empty()) return "no GPUs and no NICs\n";
  std::string out = table(
      machine, ends, [&](DeviceId row, DeviceId column) { return nearness_label(machine, row, column); }, true);
  out +=
      "NV# NVLinks, PIX one PCIe switch, PXB several, PHB host bridge, NODE host bridges of a NUMA node, SYS between NUMA "
      "nodes\n\n"
      "expected GB/s, row to column, from device memory (a NIC's from or to the network)\n";
  return out + table(
                   machine, ends,
                   [&](DeviceId row, DeviceId column) {
                     const bool forward = row == column && machine.device(row).kind == DeviceKind::kNic;
                     const Result<Path> path = find_path(machine, row, column, MemoryKind::kDevice);
                     return forward || !path.ok() ? std::string("-") : fmt::format("{:.1f}", path->bandwidth / 1e9);
                   },
                   false);
}

std::string render_ranks(const Machine& machine, const std::vector<RankAffinity>& ranks) {
  std::string out = fmt::format("{:4}  {:6}  {:6}  {:20}  {:24}  {}\n", "rank", "GPU", "NUMA", "engine CPUs",
                                "NICs, best first", "GB/s to the first");
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const RankAffinity& rank = ranks[r];
    std::vector<std::string> nics;
    for (const DeviceId nic : rank.nics) nics.push_back(machine.device(nic).name);
    if (nics.size() > 4) {
      nics.resize(4);
      nics.emplace_back("…");
    }
    std::string speed = "-";
    if (!rank.nics.empty()) {
      const Result<Path> path =
          find_path(machine, rank.gpu == kNoDevice ? rank.numa : rank.gpu, rank.nics.front(), MemoryKind::kDevice);
      if (path.ok()) speed = fmt::format("{:.1f}", path->bandwidth / 1e9);
    }
    const std::string cpus = CpuSet(rank.cpus).to_list();
    out += fmt::format("{:<4}  {:6}  {:6}  {:20}  {:24}  {}\n", r,
                       rank.gpu == kNoDevice ? "-" : machine.device(rank.gpu).name, machine.device(rank.numa).name,
                       cpus.empty() ? "-" : cpus, nics.empty() ? "-" : fmt::format("{}", fmt::join(nics, " ")), speed);
  }
  if (!std::any_of(ranks.begin(), ranks.end(), [](const RankAffinity& rank) { return rank.rails.has_value(); })) return out;
  out += fmt::format("\n{:4}  {}\n", "rank", "rails: NICs by which its chunks come");
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].rails) out += fmt::format("{:<4}  {}\n", r, rails_text(*ranks[r].rails));
  }
  return out;
}

std::string render_path(const Machine& machine, DeviceId from, DeviceId to, MemoryKind kind, const Path& path) {
  std::string out =
      fmt::format("{} to {}, {}: {:.1f} GB/s expected, {:.0f} ns to the first byte\n", machine.device(from).name,
                  machine.device(to).name, to_string(kind), path.bandwidth / 1e9, path.latency);
  for (const LaneId id : path.lanes) {
    const Lane& lane = machine.lane(id);
    out += fmt::format("  {:34} {:>8.1f} GB/s ({}) {:>7.0f} ns ({}){}", lane.name, lane.bandwidth.value / 1e9,
                       to_string(lane.bandwidth.origin), lane.latency.value, to_string(lane.latency.origin),
                       id == path.bottleneck ? "  bottleneck" : "");
    if (lane.shared()) out += ", shared by " + users_text(machine, lane.users);
    out += "\n";
  }
  for (const std::uint64_t mebibytes : {1ULL, 16ULL, 256ULL}) {
    out += fmt::format("  {:4} MiB: {:.1f} µs\n", mebibytes, path.expected_time(mebibytes << 20) / 1e3);
  }
  return out;
}

std::string render_findings(const std::vector<Finding>& findings) {
  if (findings.empty()) return "nothing looks wrong\n";
  std::string out;
  for (const Finding& finding : findings)
    out += fmt::format("{}: {}\n  do: {}\n", finding.kind, finding.what, finding.remedy);
  return out + fmt::format("{} finding{}\n", findings.size(), findings.size() == 1 ? "" : "s");
}

std::string render(const Machine& machine, const std::vector<RankAffinity>& ranks) {
  std::string out = fmt::format("source: {}\nfingerprint: {}\n", machine.source(), machine.fingerprint());
  for (const std::string& note : machine.notes()) out += "note: " + note + "\n";
  return out + "\n" + render_tree(machine) + "\n" + render_matrix(machine) + "\n" + render_ranks(machine, ranks);
}

}  // namespace cardea::topology
