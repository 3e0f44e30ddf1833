// SPDX-License-Identifier: Apache-2.0
#include "topology/rails.h"

#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <fstream>

namespace cardea::topology {
namespace {

std::optional<NicPort> rdma_port(const std::string& device, const std::string& sys) {
  constexpr int kMostPorts = 2;
  for (int number = 1; number <= kMostPorts; ++number) {
    std::ifstream state(fmt::format("{}/class/infiniband/{}/ports/{}/state", sys, device, number));
    std::string text;
    if (std::getline(state, text) && text.find("ACTIVE") != std::string::npos)
      return NicPort{fmt::format("{}:{}", device, number), true};
  }
  return std::nullopt;
}

bool reaches_beyond(const sockaddr& address) {
  if (address.sa_family == AF_INET) return true;
  if (address.sa_family != AF_INET6) return false;
  return !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
}

bool is_usable_interface(const std::string& name) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return false;
  bool usable = false;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || name != entry->ifa_name) continue;
    usable |= (entry->ifa_flags & IFF_UP) != 0 && (entry->ifa_flags & IFF_RUNNING) != 0 && reaches_beyond(*entry->ifa_addr);
  }
  freeifaddrs(list);
  return usable;
}

/// A device's RDMA port if it has one, else its interface.
std::optional<NicPort> port_of(const Device& nic, const FindPort& port) {
  std::optional<NicPort> found;
  for (const std::string& name : nic.os_names) {
    std::optional<NicPort> each = port(name);
    if (each && (!found || (each->rdma && !found->rdma))) found = std::move(each);
  }
  return found;
}

Result<std::vector<std::string>> named_rails(const AffinityOverride& wish, const Machine& machine, const FindPort& port) {
  std::vector<std::string> rails;
  for (const std::string& name : wish.nic_names) {
    const DeviceId nic = machine.find(name);
    const std::optional<NicPort> found = nic == kNoDevice ? port(name) : port_of(machine.device(nic), port);
    if (!found) {
      return Status::error(CARDEA_ERR_CONFIGURATION,
                           "NIC {} is neither an RDMA device with a port that is up, nor an interface that is up and has an "
                           "address",
                           name);
    }
    if (std::find(rails.begin(), rails.end(), found->device) != rails.end())
      return Status::error(CARDEA_ERR_CONFIGURATION, "NIC {} is named twice", name);
    rails.push_back(found->device);
  }
  const std::size_t wanted = wish.rails == 0 ? rails.size() : wish.rails;
  if (wanted > rails.size())
    return Status::error(CARDEA_ERR_CONFIGURATION, "rails={}, and {} NICs are named", wanted, rails.size());
  if (wanted > kMaxRails)
    return Status::error(CARDEA_ERR_CONFIGURATION, "{} NICs are named; a rank uses {} at most", rails.size(), kMaxRails);
  rails.resize(wanted);
  return rails;
}

}  // namespace

std::optional<NicPort> find_port(const std::string& os_name, const std::string& sys) {
  if (os_name.empty() || os_name.find('/') != std::string::npos) return std::nullopt;
  if (std::optional<NicPort> rdma = rdma_port(os_name, sys)) return rdma;
  if (is_usable_interface(os_name)) return NicPort{os_name, false};
  return std::nullopt;
}

Result<std::vector<std::string>> choose_rails(const Machine& machine, const std::vector<RankAffinity>& ranks, unsigned local,
                                              const AffinityOverride* wish, const FindPort& port) {
  if (wish != nullptr && !wish->nic_names.empty()) return named_rails(*wish, machine, port);
  std::vector<std::string> rdma, interfaces;
  for (const DeviceId nic : ranks[local].nics) {
    const std::optional<NicPort> found = port_of(machine.device(nic), port);
    if (found) (found->rdma ? rdma : interfaces).push_back(found->device);
  }
  if (wish != nullptr && wish->rails != 0) {
    std::vector<std::string>& rails = rdma.empty() ? interfaces : rdma;
    if (rails.size() < wish->rails) {
      return Status::error(CARDEA_ERR_CONFIGURATION, "rails={}, and this machine has {} {} that can be used", wish->rails,
                           rails.size(), rdma.empty() ? "NICs" : "RDMA devices");
    }
    rails.resize(wish->rails);
    return rails;
  }
  if (rdma.size() < 2) return std::vector<std::string>();  // nothing to choose
  rdma.resize(std::clamp<std::size_t>(rdma.size() / ranks.size(), 1, kMaxRails));
  return rdma;
}

std::string rails_text(const std::vector<std::string>& rails) {
  return rails.empty() ? "as UCX chooses" : fmt::format("{}", fmt::join(rails, ","));
}

Result<std::vector<RankAffinity>> assign_as_set(const Machine& machine, const std::vector<DeviceId>& gpus,
                                                const std::string& setting, std::vector<AffinityOverride> overrides,
                                                const FindPort& port) {
  const bool off = setting == "off";
  const bool words = !off && !setting.empty() && setting != "auto";
  for (unsigned rank = 0; words && rank < gpus.size(); ++rank) {
    const auto is_interface = [&](const std::string& name) { return port && port(name).has_value(); };
    Result<AffinityOverride> parsed = parse_override(machine, fmt::format("rank={} {}", rank, setting), is_interface);
    if (!parsed.ok()) return parsed.status();
    if (parsed->rank != rank) return Status(CARDEA_ERR_CONFIGURATION, "it names a rank, and is about each rank itself");
    const auto has_rank = [&](const AffinityOverride& each) { return each.rank == rank; };
    if (std::none_of(overrides.begin(), overrides.end(), has_rank)) overrides.push_back(std::move(*parsed));
  }
  std::vector<RankAffinity> ranks = assign(machine, gpus, overrides);
  for (unsigned rank = 0; port && rank < ranks.size(); ++rank) {
    const auto wish =
        std::find_if(overrides.begin(), overrides.end(), [&](const AffinityOverride& each) { return each.rank == rank; });
    Result<std::vector<std::string>> rails = std::vector<std::string>();
    if (!off) rails = choose_rails(machine, ranks, rank, wish == overrides.end() ? nullptr : &*wish, port);
    if (!rails.ok()) return rails.status();
    ranks[rank].rails = std::move(*rails);
  }
  return ranks;
}

}  // namespace cardea::topology
