// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/lanes.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

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
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucp_get_version(&major, &minor, &release);
  if (peer_errors && major == 1 && minor >= 15 && minor <= 18) return false;
#if UCP_API_VERSION >= UCP_VERSION(1, 15)
  std::array<ucp_transport_entry_t, 64> entries{};
  ucp_ep_attr_t attr{};
  attr.field_mask = UCP_EP_ATTR_FIELD_TRANSPORTS;
  attr.transports.entries = entries.data();
  attr.transports.num_entries = entries.size();
  attr.transports.entry_size = sizeof(ucp_transport_entry_t);
  if (ucp_ep_query(endpoint, &attr) != UCS_OK) return false;
  for (std::size_t i = 0; i < attr.transports.num_entries && i < entries.size(); ++i) {
    const char* name = entries[i].transport_name;
    if (name != nullptr && is_rdma(name)) return true;
  }
  return false;
#else
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  if (out == nullptr) return false;
  ucp_ep_print_info(endpoint, out);
  std::fclose(out);
  const bool found = describes_hardware_get({text, size});
  std::free(text);
  return found;
#endif
}

}  // namespace cardea::transport::ucx
