// SPDX-License-Identifier: Apache-2.0
#include "lib/base/path_pattern.h"

#include <unistd.h>

#include <array>

namespace cardea {

Result<std::string> expand_path(std::string_view pattern, std::optional<Rank> rank) {
  std::string path;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '%') {
      path += pattern[i];
      continue;
    }
    const char letter = ++i < pattern.size() ? pattern[i] : '\0';
    if (letter == '%') {
      path += '%';
    } else if (letter == 'h') {
      std::array<char, 256> host{};
      if (gethostname(host.data(), host.size() - 1) != 0) return Status::from_errno(errno, "gethostname");
      path += host.data();
    } else if (letter == 'p') {
      path += fmt::to_string(getpid());
    } else if (letter == 'r') {
      path += rank ? fmt::to_string(*rank) : "unknown";
    } else {
      return Status::error(CARDEA_ERR_CONFIGURATION, "\"{}\": after a % comes h (host), p (process), r (rank) or %",
                           pattern);
    }
  }
  return path;
}

bool names_rank(std::string_view pattern) {
  for (std::size_t i = 0; i + 1 < pattern.size(); ++i) {
    if (pattern[i] == '%' && pattern[++i] == 'r') return true;
  }
  return false;
}

}  // namespace cardea
