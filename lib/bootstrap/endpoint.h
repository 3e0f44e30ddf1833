// SPDX-License-Identifier: Apache-2.0
// Where a job's meeting point listens, as people and environment variables write it. Value type, pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lib/base/status.h"

namespace cardea::bootstrap {

/// Either a TCP address (host and port), or the name of an abstract Unix socket of this machine (host empty).
struct Endpoint {
  std::string host;  // name, IPv4 or IPv6 literal without brackets
  std::uint16_t port = 0;
  std::string unix_name;
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

/// Longest name of an abstract socket that sockaddr_un holds.
inline constexpr std::size_t kMaxUnixName = 107;

/// "host:port", "[v6]:port" or "unix:NAME". INVALID_ARGUMENT says what is wrong with it; port 0 only where `any_port`.
Result<Endpoint> parse_endpoint(std::string_view text, bool any_port = false);

/// The inverse of parse_endpoint.
std::string to_string(const Endpoint& endpoint);

/// A decimal number in [least, most], digits only. INVALID_ARGUMENT otherwise; the message names neither variable nor
/// caller.
Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t least, std::uint64_t most);

}  // namespace cardea::bootstrap
