// SPDX-License-Identifier: Apache-2.0
// By which NICs a rank's chunks come side by side: its rails. Chosen from its affinity's NICs (affinity.h) and the ports
// that the system shows. Pure but for find_port.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "topology/affinity.h"

namespace cardea::topology {

/// A port that can be used, as UCX names it.
struct NicPort {
  std::string device;  // "mlx5_0:1", "eth1"
  bool rdma = false;
  friend bool operator==(const NicPort&, const NicPort&) = default;
};

/// By an operating system's name: of an RDMA device a port that is active; a network interface that is up, has a carrier
/// and an address that reaches beyond its link. Nothing if there is none such.
using FindPort = std::function<std::optional<NicPort>(const std::string& os_name)>;
std::optional<NicPort> find_port(const std::string& os_name, const std::string& sys = "/sys");

/// The rails of rank `local` of `ranks`, nearest first; empty: UCX chooses, and chunks go by what it takes.
///
/// By itself a rank takes RDMA devices only, and only where there are two or more: as many as there are for each rank, one
/// to kMaxRails. Interfaces of Ethernet are never taken unless asked for: the second one often leads elsewhere, to storage
/// or management, and over TCP the kernel's routes decide which of them carries what is sent.
///
/// `wish`: its nic_names are taken as they are; `rails` asks for so many of them, or of the affinity's NICs: RDMA devices if
/// there are any, else interfaces. CONFIGURATION: a NIC that cannot be used, or fewer than asked for.
Result<std::vector<std::string>> choose_rails(const Machine& machine, const std::vector<RankAffinity>& ranks, unsigned local,
                                              const AffinityOverride* wish, const FindPort& port);

/// Rails in words: "mlx5_0:1,mlx5_1:1", "as UCX chooses".
std::string rails_text(const std::vector<std::string>& rails);

/// What ranks get by CARDEA_AFFINITY, all of them by the same words: `auto` or empty, `off`, or those of parse_override
/// without the rank. `overrides` go before it. With rails if there is a `port`. CONFIGURATION.
Result<std::vector<RankAffinity>> assign_as_set(const Machine& machine, const std::vector<DeviceId>& gpus,
                                                const std::string& setting, std::vector<AffinityOverride> overrides,
                                                const FindPort& port = {});

}  // namespace cardea::topology
