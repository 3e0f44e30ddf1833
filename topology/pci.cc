// SPDX-License-Identifier: Apache-2.0
#include "topology/pci.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace cardea::topology {
namespace {

constexpr std::array<double, 7> kRates = {2.5, 5, 8, 16, 32, 64, 128};
constexpr std::uint16_t kNvidia = 0x10de;
constexpr std::uint16_t kAmd = 0x1002;
constexpr std::uint16_t kIntel = 0x8086;

std::optional<std::uint32_t> hexadecimal(std::string_view text, std::uint32_t most) {
  std::uint32_t value = 0;
  if (text.empty() || text.size() > 8) return {};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size() || value > most) return {};
  return value;
}

}  // namespace

std::optional<BusId> parse_bus_id(std::string_view text) {
  const auto dot = text.rfind('.');
  if (dot == std::string_view::npos) return {};
  const auto colon = text.rfind(':', dot);
  if (colon == std::string_view::npos) return {};
  std::string_view front = text.substr(0, colon);
  std::string_view domain = "0";
  if (const auto first = front.find(':'); first != std::string_view::npos) {
    domain = front.substr(0, first);
    front = front.substr(first + 1);
  }
  const auto d = hexadecimal(domain, 0xffffffff);
  const auto bus = hexadecimal(front, 0xff);
  const auto device = hexadecimal(text.substr(colon + 1, dot - colon - 1), 0x1f);
  const auto function = hexadecimal(text.substr(dot + 1), 7);
  if (!d || !bus || !device || !function) return {};
  return BusId{*d, static_cast<std::uint8_t>(*bus), static_cast<std::uint8_t>(*device),
               static_cast<std::uint8_t>(*function)};
}

std::string to_string(const BusId& id) {
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", id.domain, id.bus, id.device, id.function);
}

bool is_gpu(const PciIdentity& identity) {
  const bool maker =
      identity.vendor == kNvidia || identity.vendor == kAmd || identity.vendor == kIntel || identity.vendor == 0;
  switch (identity.class_code >> 8) {
    case 0x0302:
      return true;
    case 0x0300:
      return identity.vendor == kNvidia || identity.vendor == kAmd;
    case 0x0380:
    case 0x1200:
      return maker && identity.vendor != 0;
    default:
      return false;
  }
}

bool is_nic(const PciIdentity& identity) {
  return (identity.class_code >> 16) == 0x02;
}
bool is_bridge(const PciIdentity& identity) {
  return (identity.class_code >> 8) == 0x0604;
}
bool is_nvswitch(const PciIdentity& identity) {
  return (identity.class_code >> 8) == 0x0680 && (identity.vendor == kNvidia || identity.vendor == 0);
}

std::optional<double> parse_link_rate(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  if (text.empty() || text.substr(0, 7) == "Unknown" || text.substr(0, 7) == "unknown") return 0.0;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value) || value <= 0 || value > kMostGigatransfers) return {};
  std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (!unit.empty() && unit.substr(0, 4) != "GT/s") return {};
  return value;
}

double raw_bandwidth(double rate, unsigned width) {
  const double bits = rate * 1e9 * width;
  if (rate <= 5) return bits * 8 / 10 / 8;
  if (rate <= 32) return bits * 128 / 130 / 8;
  return bits * 242 / 256 / 8;
}

unsigned pcie_generation(double rate) {
  for (std::size_t i = 0; i < kRates.size(); ++i) {
    if (std::abs(kRates[i] - rate) < 0.01) return static_cast<unsigned>(i) + 1;
  }
  return 0;
}

PciLink link_of_raw(double raw) {
  PciLink link;
  link.raw = raw;
  for (const unsigned width : {16U, 8U, 4U, 2U, 1U, 32U, 12U}) {
    for (const double rate : kRates) {
      if (std::abs(raw_bandwidth(rate, width) / raw - 1) > 1e-3) continue;
      link.rate = rate;
      link.width = width;
      return link;
    }
  }
  return link;
}

}  // namespace cardea::topology
