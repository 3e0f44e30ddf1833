// SPDX-License-Identifier: Apache-2.0
#include "topology/vendor.h"

#include <array>

namespace cardea::topology::vendor {
namespace {

constexpr std::uint16_t kNvidia = 0x10de;

// Data sheets: NVLink 2 and 3 carry 25 GB/s one way per link (V100 6 links, A100 12), NVLink 4 the same (H100 SXM 18),
// NVLink 5 50 GB/s (B200 18). PCIe cards with bridges are listed without, since a bridge may or may not be there.
constexpr std::array kGpus = {
    Gpu{0x1db1, "Tesla V100-SXM2-16GB", 6, 25e9, 900e9, 8},
    Gpu{0x1db5, "Tesla V100-SXM2-32GB", 6, 25e9, 900e9, 8},
    Gpu{0x1db4, "Tesla V100-PCIE-16GB", 0, 0, 900e9, 8},
    Gpu{0x1eb8, "Tesla T4", 0, 0, 300e9, 8},
    Gpu{0x20b0, "NVIDIA A100-SXM4-40GB", 12, 25e9, 1555e9, 16},
    Gpu{0x20b2, "NVIDIA A100-SXM4-80GB", 12, 25e9, 2039e9, 16},
    Gpu{0x20f1, "NVIDIA A100-PCIE-40GB", 0, 0, 1555e9, 16},
    Gpu{0x20b5, "NVIDIA A100 80GB PCIe", 0, 0, 1935e9, 16},
    Gpu{0x2235, "NVIDIA A40", 0, 0, 696e9, 16},
    Gpu{0x2236, "NVIDIA A10", 0, 0, 600e9, 16},
    Gpu{0x26b9, "NVIDIA L40S", 0, 0, 864e9, 16},
    Gpu{0x26b5, "NVIDIA L40", 0, 0, 864e9, 16},
    Gpu{0x27b8, "NVIDIA L4", 0, 0, 300e9, 16},
    Gpu{0x2330, "NVIDIA H100 80GB HBM3", 18, 25e9, 3350e9, 32},
    Gpu{0x2331, "NVIDIA H100 PCIe", 0, 0, 2000e9, 32},
    Gpu{0x2335, "NVIDIA H200", 18, 25e9, 4800e9, 32},
    Gpu{0x2342, "NVIDIA GH200 480GB", 18, 25e9, 4000e9, 32},
    Gpu{0x2901, "NVIDIA B200", 18, 50e9, 8000e9, 32},
};

constexpr std::array kNics = {
    Nic{0x15b3, 0x1017, "ConnectX-5", 12.5e9},
    Nic{0x15b3, 0x1019, "ConnectX-5 Ex", 12.5e9},
    Nic{0x15b3, 0x101b, "ConnectX-6", 25e9},
    Nic{0x15b3, 0x101d, "ConnectX-6 Dx", 12.5e9},
    Nic{0x15b3, 0x1021, "ConnectX-7", 50e9},
    Nic{0x15b3, 0x1023, "ConnectX-8", 100e9},
    Nic{0x15b3, 0xa2dc, "BlueField-3", 50e9},
    Nic{0x1d0f, 0xefa0, "EFA", 12.5e9},
    Nic{0x1d0f, 0xefa1, "EFA", 12.5e9},
    Nic{0x1d0f, 0xefa2, "EFA", 12.5e9},
    Nic{0x1d0f, 0xec20, "ENA", 3.125e9},
    Nic{0x14e4, 0x1657, "NetXtreme BCM5719", 0.125e9},
    Nic{0x1af4, 0x1041, "virtio network", 1.25e9},
    Nic{0x1af4, 0x1000, "virtio network", 1.25e9},
};

// Memory: channels × transfer rate × 8 bytes of one package, times 0.8 that streams reach. Interconnect: one way, all
// links of a two-package machine together.
constexpr std::array kCpus = {
    Cpu{"POWER9", 135e9, 32e9},      Cpu{"EPYC 7742", 160e9, 100e9},  Cpu{"EPYC 7V12", 160e9, 100e9},
    Cpu{"EPYC 7R13", 160e9, 100e9},  Cpu{"EPYC 9", 360e9, 150e9},     Cpu{"Platinum 82", 110e9, 40e9},
    Cpu{"Platinum 83", 160e9, 60e9}, Cpu{"Platinum 84", 240e9, 96e9}, Cpu{"Platinum 85", 280e9, 120e9},
};

}  // namespace

Gpu gpu(const PciIdentity& identity) {
  for (const Gpu& known : kGpus) {
    if (identity.vendor == kNvidia && identity.device == known.device) return known;
  }
  return {};
}

double nvlink_bandwidth(unsigned compute_capability) {
  if (compute_capability >= 100) return 50e9;
  if (compute_capability >= 70) return 25e9;
  if (compute_capability >= 60) return 20e9;
  return 0;
}

Nic nic(const PciIdentity& identity) {
  for (const Nic& known : kNics) {
    if (identity.vendor == known.vendor && identity.device == known.device) return known;
  }
  return {};
}

Cpu cpu(std::string_view model) {
  for (const Cpu& known : kCpus) {
    if (model.find(known.name) != std::string_view::npos) return known;
  }
  return {};
}

}  // namespace cardea::topology::vendor
