// SPDX-License-Identifier: Apache-2.0
// PCI addresses and link speeds, as the sources write them. Value types and pure functions; thread-safe.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cardea::topology {

/// Where a function sits: domain:bus:device.function. Cloud files use domains such as ffff for switches they made up.
struct BusId {
  std::uint32_t domain = 0;
  std::uint8_t bus = 0;
  std::uint8_t device = 0;
  std::uint8_t function = 0;
  friend auto operator<=>(const BusId&, const BusId&) = default;
};

/// "0000:10:1c.0", "00000000:10:1C.0" (NVML) or "10:1c.0" (domain 0); hexadecimal in any case. Nothing else is one.
std::optional<BusId> parse_bus_id(std::string_view text);
/// "0000:10:1c.0", lower case.
std::string to_string(const BusId& id);

/// What kind of function it is: 24 bits of class (base, sub, interface), vendor and device number; 0 = not told.
struct PciIdentity {
  std::uint32_t class_code = 0;
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  friend bool operator==(const PciIdentity&, const PciIdentity&) = default;
};

/// True for what computes: 3D controllers, accelerators, and display controllers of the makers of GPUs (a server's
/// own VGA chip is none).
bool is_gpu(const PciIdentity& identity);
bool is_nic(const PciIdentity& identity);
bool is_bridge(const PciIdentity& identity);
bool is_nvswitch(const PciIdentity& identity);

/// A link's rate and width as one of its ends tells them, and what that end could do. 0 = not told.
struct PciLink {
  double rate = 0;  // GT/s per lane
  unsigned width = 0;
  double most_rate = 0;
  unsigned most_width = 0;
  double raw = 0;       // bytes/s one way, after line coding, before packet overhead
  double port_raw = 0;  // the same as told by the port above, which sees a GPU's link geared down while that idles
};

inline constexpr double kMostGigatransfers = 256;  // twice PCIe 7.0: beyond this a file is mistaken
inline constexpr unsigned kMostLanes = 32;

/// "16 GT/s", "16.0 GT/s PCIe", "2.5GT/s", "16". Empty, "Unknown" and the like yield 0: not told. None if it is no
/// speed at all, zero, negative or absurd.
std::optional<double> parse_link_rate(std::string_view text);
/// Bytes/s one way: 8b/10b coding up to 5 GT/s, 128b/130b up to 32, FLIT mode (242 of 256 bytes) from 64.
double raw_bandwidth(double rate, unsigned width);
/// The generation whose rate this is (8 GT/s → 3), or 0.
unsigned pcie_generation(double rate);
/// The rate and width that a raw bandwidth stands for, the wider link first; hwloc tells only the product.
PciLink link_of_raw(double raw);

}  // namespace cardea::topology
