// SPDX-License-Identifier: Apache-2.0
// What makers publish about their devices, and what to assume where nothing is known. Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

#include "topology/machine.h"
#include "topology/pci.h"

namespace cardea::topology::vendor {

/// Of a GPU model; zeros and nulls for one that the table does not have.
struct Gpu {
  std::uint16_t device = 0;  // PCI device number, vendor 10de
  const char* model = nullptr;
  unsigned nvlinks = 0;         // links that the model has, 0 for a PCIe card without
  double link_bandwidth = 0;    // bytes/s one way of one link
  double memory_bandwidth = 0;  // bytes/s of its own memory
  double pcie_rate = 0;         // GT/s
};
Gpu gpu(const PciIdentity& identity);

/// Bytes/s one way of one NVLink by CUDA compute capability (80: A100), which NCCL files tell; 0 if unknown.
double nvlink_bandwidth(unsigned compute_capability);

struct Nic {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  const char* model = nullptr;
  double port_bandwidth = 0;  // bytes/s one way
};
Nic nic(const PciIdentity& identity);

/// Bytes/s of a NUMA node's package by the CPU's model name, and of the link to the next package; zeros if unknown.
struct Cpu {
  const char* name = nullptr;  // as it occurs in the model name
  double memory_bandwidth = 0;
  double interconnect_bandwidth = 0;
};
Cpu cpu(std::string_view model);

// Shares of the raw rate that long copies get. PCIe: header and acknowledgement overhead at 256-byte payloads leaves
// about 0.85 to 0.9 (H200, 63.0 raw: 55 measured); NVLink: 0.87 (H200, 450 raw: 391 measured); networks: 0.95.
inline constexpr double kPcieShare = 0.87;
inline constexpr double kNvlinkShare = 0.87;
inline constexpr double kNicShare = 0.95;

// Where nothing is known.
inline constexpr double kGuessMemory = 100e9;       // bytes/s, DRAM of a NUMA node
inline constexpr double kGuessMemoryCopy = 10e9;    // one core
inline constexpr double kGuessFarCopyShare = 0.7;   // of the near copy, from the other package
inline constexpr double kGuessInterconnect = 40e9;  // between packages, one way
inline constexpr double kGuessLoopback = 3e9;
inline constexpr double kGuessDeviceMemory = 500e9;  // of a GPU
inline constexpr double kGuessPort = 1.25e9;         // 10 Gbit/s
inline constexpr double kGuessPcieRate = 8;          // GT/s, 16 lanes
inline constexpr unsigned kGuessPcieWidth = 16;
inline constexpr double kGuessLinkBandwidth = 25e9;  // of an NVLink, one way

// Latencies in ns: what each lane adds until the first byte is there.
inline constexpr double kMemoryLatency = 100;
inline constexpr double kInterconnectLatency = 150;
inline constexpr double kLoopbackLatency = 15000;
inline constexpr double kPcieSwitchLatency = 150;
inline constexpr double kPcieDeviceLatency = 1000;  // starting a copy by the device's engine
inline constexpr double kNvlinkLatency = 1700;      // one hop: GPU to GPU took 3.3 µs over two
inline constexpr double kNicLatency = 1500;
inline constexpr double kDeviceMemoryLatency = 1500;

}  // namespace cardea::topology::vendor
