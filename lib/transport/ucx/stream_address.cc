// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/stream_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <array>
#include <cstring>

namespace cardea::transport::ucx {
namespace {

bool usable(const sockaddr& address) {
  if (address.sa_family == AF_INET) return true;
  if (address.sa_family != AF_INET6) return false;
  return !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
}

}  // namespace

Result<sockaddr_storage> address_of_device(const std::string& device) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return Status::from_errno(errno, "getifaddrs", device);
  sockaddr_storage found{};
  for (const ifaddrs* entry = list; entry != nullptr && found.ss_family != AF_INET; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || device != entry->ifa_name || !usable(*entry->ifa_addr)) continue;
    if (found.ss_family != AF_UNSPEC && entry->ifa_addr->sa_family != AF_INET) continue;
    found = {};
    std::memcpy(&found, entry->ifa_addr, entry->ifa_addr->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
  }
  freeifaddrs(list);
  if (found.ss_family == AF_UNSPEC) return Status::error(CARDEA_ERR_TRANSPORT, "{} has no address", device);
  return found;
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
