// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/endpoint.h"

#include <charconv>

namespace cardea::bootstrap {

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t least, std::uint64_t most) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\" is not a number from {} to {}", text, least, most);
  }
  if (value < least || value > most) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} is not in {} to {}", text, least, most);
  }
  return value;
}

Result<Endpoint> parse_endpoint(std::string_view text, bool any_port) {
  constexpr std::string_view kUnix = "unix:";
  if (text.starts_with(kUnix)) {
    const std::string_view name = text.substr(kUnix.size());
    if (name.empty() || name.size() > kMaxUnixName) {
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\": a socket name has 1 to {} bytes", text, kMaxUnixName);
    }
    return Endpoint{.unix_name = std::string(name)};
  }
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\" is not host:port", text);
  std::string_view host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\": an IPv6 address is written [address]:port", text);
  }
  if (host.empty() || host.size() > 255 || host.find_first_of("[]") != std::string_view::npos)
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\" names no host", text);
  const auto port = parse_number(text.substr(colon + 1), any_port ? 0 : 1, 65535);
  if (!port.ok()) return port.status().within(fmt::format("port of \"{}\"", text));
  return Endpoint{.host = std::string(host), .port = static_cast<std::uint16_t>(*port)};
}

std::string to_string(const Endpoint& endpoint) {
  if (!endpoint.unix_name.empty()) return "unix:" + endpoint.unix_name;
  const bool v6 = endpoint.host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", endpoint.host, v6 ? "]" : "", endpoint.port);
}

}  // namespace cardea::bootstrap
