// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/unique_id.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdlib>

#include "lib/base/crypto.h"
#include "lib/base/wire.h"
#include "lib/bootstrap/sockets.h"

namespace cardea::bootstrap {
namespace {

namespace asio = boost::asio;

constexpr std::uint32_t kMagic = 0x49554443;  // "CDUI"
constexpr std::uint8_t kFormat = 1;
constexpr std::size_t kIdBytes = sizeof(cardea_unique_id_t::bytes);
constexpr std::size_t kChecksumBytes = 8;

ByteView checked_part(const cardea_unique_id_t& id) {
  return std::as_bytes(std::span(id.bytes)).first(kIdBytes - kChecksumBytes);
}

crypto::Digest checksum(const cardea_unique_id_t& id) {
  return crypto::hmac(std::as_bytes(std::span(std::string_view("cardea unique id"))), checked_part(id));
}

std::string job_name(const UniqueId& id) {
  return "unique id " + crypto::hex(id.job);
}

/// The first address of an interface that is up and not loopback, IPv4 before IPv6; loopback if there is none.
std::string own_address() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "127.0.0.1";
  std::string v4, v6;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0 || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
    if (entry->ifa_addr->sa_family == AF_INET && v4.empty()) {
      v4 = to_endpoint(SocketAddress(entry->ifa_addr, sizeof(sockaddr_in))).host;
    } else if (entry->ifa_addr->sa_family == AF_INET6 && v6.empty()) {
      const auto* address = reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr);
      if (!IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr)) v6 = to_endpoint(SocketAddress(address, sizeof *address)).host;
    }
  }
  freeifaddrs(list);
  return !v4.empty() ? v4 : !v6.empty() ? v6 : "127.0.0.1";
}

/// "host:port", "host" (IPv6 literals bare or in brackets), or nothing.
Result<Endpoint> parse_address(std::string_view text) {
  if (text.empty()) return Endpoint{.host = own_address()};
  boost::system::error_code not_literal;
  const bool bracketed = text.size() > 2 && text.front() == '[' && text.back() == ']';
  const std::string bare(bracketed ? text.substr(1, text.size() - 2) : text);
  asio::ip::make_address(bare, not_literal);
  if (!not_literal) return Endpoint{.host = bare};
  if (text.find(':') == std::string_view::npos) return parse_endpoint(std::string(text) + ":0", true);
  Result<Endpoint> parsed = parse_endpoint(text, true);
  if (parsed.ok() && !parsed->unix_name.empty())
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\" is not an IP address", text);
  return parsed;
}

/// The literal addresses under which others may reach what listens on `listening` for `wanted`.
Result<std::vector<Endpoint>> reachable_addresses(const Endpoint& wanted, const Endpoint& listening) {
  const Result<std::vector<SocketAddress>> resolved = resolve(wanted);
  if (!resolved.ok()) return resolved.status();
  std::vector<Endpoint> found;
  bool all_loopback = true;
  for (const SocketAddress& address : *resolved) {
    Endpoint endpoint = to_endpoint(address);
    endpoint.port = listening.port;
    if (endpoint.host.find('%') != std::string::npos) continue;
    all_loopback = all_loopback && asio::ip::make_address(endpoint.host).is_loopback();
    if (std::find(found.begin(), found.end(), endpoint) == found.end()) found.push_back(std::move(endpoint));
  }
  // Debian resolves a machine's own name to 127.0.1.1, which helps nobody else.
  if (all_loopback && listening.host != wanted.host && wanted.host != "localhost") {
    found.insert(found.begin(), Endpoint{.host = own_address(), .port = listening.port});
  }
  if (found.size() > UniqueId::kMaxAddresses) found.resize(UniqueId::kMaxAddresses);
  if (found.empty()) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\" has no usable address", wanted.host);
  return found;
}

}  // namespace

cardea_unique_id_t encode(const UniqueId& id) {
  WireWriter out;
  out.number(kMagic).number(kFormat).number(static_cast<std::uint8_t>(id.addresses.size()));
  for (const Endpoint& endpoint : id.addresses) {
    const asio::ip::address address = asio::ip::make_address(endpoint.host);
    std::array<unsigned char, 16> raw{};
    if (address.is_v4()) {
      const auto bytes = address.to_v4().to_bytes();
      std::copy(bytes.begin(), bytes.end(), raw.begin());
    } else {
      raw = address.to_v6().to_bytes();
    }
    out.number(static_cast<std::uint8_t>(address.is_v4() ? 4 : 6)).number(endpoint.port);
    for (const unsigned char byte : raw) out.number(static_cast<std::uint8_t>(byte));
  }
  Bytes bytes = out.take();
  bytes.insert(bytes.end(), id.job.begin(), id.job.end());
  bytes.insert(bytes.end(), id.secret.begin(), id.secret.end());
  bytes.resize(kIdBytes - kChecksumBytes);
  cardea_unique_id_t encoded{};
  std::memcpy(encoded.bytes, bytes.data(), bytes.size());
  const crypto::Digest sum = checksum(encoded);
  std::memcpy(encoded.bytes + bytes.size(), sum.data(), kChecksumBytes);
  return encoded;
}

Result<UniqueId> decode_unique_id(const cardea_unique_id_t& bytes) {
  WireReader in(checked_part(bytes));
  if (in.number<std::uint32_t>() != kMagic)
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "these bytes are not a unique id");
  const crypto::Digest sum = checksum(bytes);
  if (std::memcmp(bytes.bytes + kIdBytes - kChecksumBytes, sum.data(), kChecksumBytes) != 0) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "the unique id is damaged: its checksum is wrong");
  }
  if (const auto format = in.number<std::uint8_t>(); format != kFormat) {
    return Status::error(CARDEA_ERR_MISMATCH, "the unique id has format {}, this library knows {}", format, kFormat);
  }
  UniqueId id;
  const auto count = in.number_in<std::uint8_t>(1, UniqueId::kMaxAddresses);
  for (unsigned i = 0; i < count; ++i) {
    const auto family = in.number<std::uint8_t>();
    const auto port = in.number_in<std::uint16_t>(1, UINT16_MAX);
    std::array<unsigned char, 16> raw{};
    for (unsigned char& byte : raw) byte = in.number<std::uint8_t>();
    if (family != 4 && family != 6) in.fail();
    const auto v4 = asio::ip::address_v4({raw[0], raw[1], raw[2], raw[3]});
    id.addresses.push_back({.host = family == 4 ? v4.to_string() : asio::ip::address_v6(raw).to_string(), .port = port});
  }
  for (std::byte& byte : id.job) byte = static_cast<std::byte>(in.number<std::uint8_t>());
  for (std::byte& byte : id.secret) byte = static_cast<std::byte>(in.number<std::uint8_t>());
  while (in.left() > 0) in.number_in<std::uint8_t>(0, 0);
  if (in.failed()) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "the unique id makes no sense");
  return id;
}

Result<CreatedId> create_unique_id(const char* address, Clock::duration lifetime) {
  const char* variable = std::getenv("CARDEA_BOOTSTRAP_ADDRESS");
  const bool from_variable = address == nullptr && variable != nullptr && *variable != '\0';
  const auto failed = [&](const Status& status) -> Status {
    if (!from_variable || status.code() != CARDEA_ERR_INVALID_ARGUMENT) return status;
    return Status::error(CARDEA_ERR_CONFIGURATION, "CARDEA_BOOTSTRAP_ADDRESS: {}", status.message());
  };
  const std::string_view text = from_variable ? variable : address != nullptr ? address : "";
  const Result<Endpoint> wanted = parse_address(text);
  if (!wanted.ok()) return failed(wanted.status());
  // Before anything listens, so that an unknown host is refused.
  if (const auto resolved = resolve(*wanted); !resolved.ok()) return failed(resolved.status());

  UniqueId id;
  crypto::random(id.job);
  crypto::random(id.secret);
  auto opened = MeetingPoint::open(
      *wanted, {.job = job_tag(job_name(id), 0), .secret = id.secret, .deadline = later(Clock::now(), lifetime)});
  if (!opened.ok()) {
    if (opened.status().code() == CARDEA_ERR_BUSY) return Status(CARDEA_ERR_SYSTEM, opened.status().message());
    return failed(opened.status());
  }
  Result<std::vector<Endpoint>> addresses = reachable_addresses(*wanted, (*opened)->endpoint());
  if (!addresses.ok()) return failed(addresses.status());
  id.addresses = std::move(*addresses);
  return CreatedId{.id = encode(id), .meeting_point = std::move(*opened)};
}

Result<Options> from_unique_id(const cardea_unique_id_t& bytes, Rank rank, std::uint32_t world_size) {
  Result<UniqueId> id = decode_unique_id(bytes);
  if (!id.ok()) return id.status();
  return Options{.rank = rank,
                 .world_size = world_size,
                 .roots = std::move(id->addresses),
                 .job = job_name(*id),
                 .secret = id->secret,
                 .runs_meeting_point = false};
}

}  // namespace cardea::bootstrap
