// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/slurm_hosts.h"

#include <algorithm>

namespace cardea::bootstrap {

Result<std::string> first_slurm_host(std::string_view list) {
  const auto malformed = [&] { return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "\"{}\" is not a list of hosts", list); };
  const auto in_name = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
  };
  std::string host;
  for (std::size_t i = 0; i < list.size() && list[i] != ','; ++i) {
    if (in_name(list[i])) {
      host += list[i];
      continue;
    }
    const std::size_t close = list.find(']', i);
    if (list[i] != '[' || close == std::string_view::npos) return malformed();
    const std::string_view ranges = list.substr(i + 1, close - i - 1);
    const std::string_view first = ranges.substr(0, ranges.find_first_of(",-"));
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    if (first.empty() || !std::all_of(first.begin(), first.end(), digit)) return malformed();
    if (!std::all_of(ranges.begin(), ranges.end(), [&](char c) { return digit(c) || c == ',' || c == '-'; }))
      return malformed();
    host += first;
    i = close;
  }
  if (host.empty() || host.size() > 255) return malformed();
  return host;
}

}  // namespace cardea::bootstrap
