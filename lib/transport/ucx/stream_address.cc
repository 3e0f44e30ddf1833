// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/stream_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <array>
#include <bit>
#include <cstring>
#include <span>

namespace cardea::transport::ucx {
namespace {

bool usable(const sockaddr& address) {
  if (address.sa_family == AF_INET) return true;
  if (address.sa_family != AF_INET6) return false;
  return !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
}

struct Found {
  sockaddr_storage address{};
  sockaddr_storage mask{};
};

void keep(const sockaddr* from, sockaddr_storage& to, sa_family_t family) {
  if (from != nullptr) std::memcpy(&to, from, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
}

Result<Found> find(const std::string& device) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return Status::from_errno(errno, "getifaddrs", device);
  Found found;
  for (const ifaddrs* entry = list; entry != nullptr && found.address.ss_family != AF_INET; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || device != entry->ifa_name || !usable(*entry->ifa_addr)) continue;
    const sa_family_t family = entry->ifa_addr->sa_family;
    if (found.address.ss_family != AF_UNSPEC && family != AF_INET) continue;
    found = {};
    keep(entry->ifa_addr, found.address, family);
    keep(entry->ifa_netmask, found.mask, family);
  }
  freeifaddrs(list);
  if (found.address.ss_family == AF_UNSPEC) return Status::error(CARDEA_ERR_TRANSPORT, "{} has no address", device);
  return found;
}

/// The address itself, in network order. Of a mask, whose family need not be set, as long as its address.
std::span<const std::uint8_t> bytes_of(const sockaddr_storage& of, sa_family_t family) {
  if (family == AF_INET6) {
    return {reinterpret_cast<const sockaddr_in6&>(of).sin6_addr.s6_addr, sizeof(in6_addr)};
  }
  return {reinterpret_cast<const std::uint8_t*>(&reinterpret_cast<const sockaddr_in&>(of).sin_addr), sizeof(in_addr)};
}

}  // namespace

Result<sockaddr_storage> address_of_device(const std::string& device) {
  Result<Found> found = find(device);
  if (!found.ok()) return found.status();
  return found->address;
}

std::string network_of_device(const std::string& device) {
  const Result<Found> found = find(device);
  if (!found.ok()) return {};
  std::array<std::uint8_t, sizeof(in6_addr)> network{};
  const std::span<const std::uint8_t> bytes = bytes_of(found->address, found->address.ss_family),
                                      mask = bytes_of(found->mask, found->address.ss_family);
  unsigned length = 0;
  for (std::size_t i = 0; i < bytes.size() && i < mask.size(); ++i) {
    network[i] = bytes[i] & mask[i];
    length += static_cast<unsigned>(std::popcount(mask[i]));
  }
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(found->address.ss_family, network.data(), text.data(), text.size());
  return fmt::format("{}/{}", text.data(), length);
}

StreamOffer to_offer(const sockaddr_storage& address) {
  StreamOffer offer;
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    offer.family = 6;
    std::memcpy(offer.address.data(), &v6.sin6_addr, sizeof(v6.sin6_addr));
    offer.port = ntohs(v6.sin6_port);
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    std::memcpy(offer.address.data(), &v4.sin_addr, sizeof(v4.sin_addr));
    offer.port = ntohs(v4.sin_port);
  }
  return offer;
}

sockaddr_storage to_sockaddr(const StreamOffer& offer) {
  sockaddr_storage address{};
  if (offer.family == 6) {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v6.sin6_family = AF_INET6;
    std::memcpy(&v6.sin6_addr, offer.address.data(), sizeof(v6.sin6_addr));
    v6.sin6_port = htons(offer.port);
  } else {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    std::memcpy(&v4.sin_addr, offer.address.data(), sizeof(v4.sin_addr));
    v4.sin_port = htons(offer.port);
  }
  return address;
}

std::string to_string(const StreamOffer& offer) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(offer.family == 6 ? AF_INET6 : AF_INET, offer.address.data(), text.data(), text.size());
  return offer.family == 6 ? fmt::format("[{}]:{}", text.data(), offer.port) : fmt::format("{}:{}", text.data(), offer.port);
}

}  // namespace cardea::transport::ucx
