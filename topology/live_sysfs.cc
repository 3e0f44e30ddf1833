// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "topology/live.h"

namespace cardea::topology {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

unsigned number(const fs::path& path, unsigned most) {
  const unsigned long value = std::strtoul(first_line(path).c_str(), nullptr, 10);
  return value <= most ? static_cast<unsigned>(value) : 0;
}

void add_link(Device& device, const fs::path& pci) {
  PciLink& link = device.link;
  link.most_rate = parse_link_rate(first_line(pci / "max_link_speed")).value_or(0);
  link.most_width = number(pci / "max_link_width", kMostLanes);
  const double rate = parse_link_rate(first_line(pci / "current_link_speed")).value_or(0);
  const unsigned width = number(pci / "current_link_width", kMostLanes);
  if (rate <= 0 || width == 0) return;
  link.rate = rate;
  link.width = width;
  // An idle GPU's link is geared down; what counts is what it runs at when busy, at the width that it has.
  if (device.kind == DeviceKind::kGpu && link.most_rate > rate) link.rate = link.most_rate;
  link.raw = raw_bandwidth(link.rate, link.width);
  device.link_origin = Origin::kSystem;
}

/// "200 Gb/sec (4X HDR)" of every port of an RDMA device, in bytes/s; down ports say what they last had.
double rdma_rate(const fs::path& device) {
  double sum = 0;
  std::error_code error;
  for (const auto& port : fs::directory_iterator(device / "ports", error)) {
    const double gigabits = std::strtod(first_line(port.path() / "rate").c_str(), nullptr);
    if (gigabits > 0 && gigabits < 10000) sum += gigabits * 1e9 / 8;
  }
  return sum;
}

void add_port(Device& nic, const fs::path& sys) {
  double best = 0;
  for (const std::string& name : nic.os_names) {
    if (name.empty() || name.find('/') != std::string::npos || name[0] == '.') continue;
    best = std::max(best, rdma_rate(sys / "class/infiniband" / name));
    const double megabits = std::strtod(first_line(sys / "class/net" / name / "speed").c_str(), nullptr);
    if (megabits > 0 && megabits < 10e6) best = std::max(best, megabits * 1e6 / 8);
  }
  if (best <= 0) return;
  nic.port_bandwidth = best;
  nic.port_origin = Origin::kSystem;
}

}  // namespace

void add_sysfs(Description& description, const std::string& sys) {
  for (Device& device : description.devices) {
    if (device.bus_id) add_link(device, fs::path(sys) / "bus/pci/devices" / to_string(*device.bus_id));
    if (device.kind == DeviceKind::kNic) add_port(device, sys);
  }
}

}  // namespace cardea::topology
