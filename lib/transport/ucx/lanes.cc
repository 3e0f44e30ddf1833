// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/lanes.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include "lib/transport/ucx/protocols.h"

namespace cardea::transport::ucx {
namespace {

constexpr bool is_rdma(std::string_view transport) {
  return transport.starts_with("rc_") || transport.starts_with("dc_");
}

std::string_view next_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

// The number in "name[12]:" if the line has it, else an empty view.
std::string_view index_of(std::string_view line, std::string_view name) {
  const std::size_t at = line.find(name);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = line.substr(at + name.size());
  const std::size_t end = rest.find("]:");
  return end == std::string_view::npos ? std::string_view() : rest.substr(0, end);
}

// The transport in "lane[0]:  3:rc_mlx5/mlx5_0:1.0 md[2] -> …".
std::string_view transport_of(std::string_view line) {
  const std::size_t colon = line.find("]:");
  if (colon == std::string_view::npos) return {};
  std::string_view rest = line.substr(colon + 2);
  const std::size_t resource = rest.find(':');
  if (resource == std::string_view::npos) return {};
  rest.remove_prefix(resource + 1);
  return rest.substr(0, rest.find('/'));
}

// "eth0.100" in "…:tcp/eth0.100.0 md[2] …": what follows the last dot is UCX's number of the path.
std::string_view device_of(std::string_view line) {
  const std::size_t slash = line.find('/');
  if (slash == std::string_view::npos) return {};
  std::string_view rest = line.substr(slash + 1);
  rest = rest.substr(0, rest.find(' '));
  return rest.substr(0, rest.rfind('.'));
}

#if UCP_API_VERSION >= UCP_VERSION(1, 15)
struct Transports {
  std::array<ucp_transport_entry_t, 64> entries{};
  std::size_t count = 0;
};

Transports transports_of(ucp_ep_h endpoint) {
  Transports found;
  ucp_ep_attr_t attr{};
  attr.field_mask = UCP_EP_ATTR_FIELD_TRANSPORTS;
  attr.transports.entries = found.entries.data();
  attr.transports.num_entries = found.entries.size();
  attr.transports.entry_size = sizeof(ucp_transport_entry_t);
  if (ucp_ep_query(endpoint, &attr) == UCS_OK) {
    found.count = std::min<std::size_t>(attr.transports.num_entries, found.entries.size());
  }
  return found;
}
#endif

/// What `print(file)` writes.
template <typename Print>
std::string text_of(Print print) {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  if (out == nullptr) return {};
  print(out);
  std::fclose(out);
  const std::string info(text, size);
  std::free(text);
  return info;
}

#if UCP_API_VERSION < UCP_VERSION(1, 15)
std::string text_of_endpoint(ucp_ep_h endpoint) {
  return text_of([&](std::FILE* out) { ucp_ep_print_info(endpoint, out); });
}
#endif

/// UCX 1.15 to 1.18 lose zero-copy GET where peer errors are on.
bool loses_get(bool peer_errors) {
  const unsigned minor = ucx_minor_version();
  return peer_errors && minor >= 15 && minor <= 18;
}

}  // namespace

bool describes_hardware_get(std::string_view info) {
  std::set<std::string_view> rdma_lanes;
  std::string_view rest = info;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    const std::string_view lane = index_of(line, " lane[");
    if (!lane.empty() && is_rdma(transport_of(line))) rdma_lanes.insert(lane);
  }
  rest = info;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    const std::string_view lane = index_of(line, " get[");
    if (!lane.empty() && rdma_lanes.contains(lane) && line.find("zcopy") != std::string_view::npos) return true;
  }
  return false;
}

bool has_hardware_get(ucp_ep_h endpoint, bool peer_errors) {
  if (loses_get(peer_errors)) return false;
#if UCP_API_VERSION >= UCP_VERSION(1, 15)
  const Transports transports = transports_of(endpoint);
  return std::any_of(transports.entries.begin(), transports.entries.begin() + transports.count,
                     [](const auto& entry) { return entry.transport_name != nullptr && is_rdma(entry.transport_name); });
#else
  return describes_hardware_get(text_of_endpoint(endpoint));
#endif
}

// "#      resource 4  :  md 3  dev 1  flags -- rc_mlx5/mlx5_0:1"
bool describes_rdma(std::string_view info) {
  while (!info.empty()) {
    const std::string_view line = next_line(info);
    const std::size_t at = line.find("-- ");
    if (line.find(" resource ") != std::string_view::npos && at != std::string_view::npos && is_rdma(line.substr(at + 3)))
      return true;
  }
  return false;
}

bool has_rdma(ucp_context_h context) {
  return describes_rdma(text_of([&](std::FILE* out) { ucp_context_print_info(context, out); }));
}

bool reads_by_rdma(ucp_context_h context, bool peer_errors) {
  return !loses_get(peer_errors) && has_rdma(context);
}

std::string describes_tcp_device(std::string_view info) {
  std::string_view device;
  while (!info.empty()) {
    const std::string_view line = next_line(info);
    if (index_of(line, " lane[").empty()) continue;
    if (transport_of(line) != "tcp") return {};
    if (device.empty()) device = device_of(line);
  }
  return std::string(device);
}

std::string tcp_device(ucp_ep_h endpoint) {
#if UCP_API_VERSION >= UCP_VERSION(1, 15)
  const Transports transports = transports_of(endpoint);
  std::string device;
  for (std::size_t i = 0; i < transports.count; ++i) {
    const ucp_transport_entry_t& entry = transports.entries[i];
    if (entry.transport_name == nullptr || entry.transport_name != std::string_view("tcp")) return {};
    if (device.empty() && entry.device_name != nullptr) device = entry.device_name;
  }
  return device;
#else
  return describes_tcp_device(text_of_endpoint(endpoint));
#endif
}

}  // namespace cardea::transport::ucx
