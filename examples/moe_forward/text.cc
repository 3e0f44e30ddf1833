// SPDX-License-Identifier: Apache-2.0
#include "text.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace moe {
namespace {

std::vector<std::uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

Text load_text(const std::string& path) {
  std::vector<std::string> candidates = {path};
  if (path.empty()) {
    candidates = {"/usr/share/common-licenses/Apache-2.0", MOE_LICENSE_PATH, "/usr/share/common-licenses/GPL-3"};
  }
  for (const std::string& candidate : candidates) {
    std::vector<std::uint8_t> bytes = read_file(candidate);
    if (!bytes.empty()) return {candidate, std::move(bytes)};
  }
  throw std::runtime_error(fmt::format("no text: cannot read {}, or it is empty", fmt::join(candidates, ", ")));
}

std::vector<std::uint8_t> tokens_of_rank(std::span<const std::uint8_t> text, std::uint32_t rank, std::uint32_t count) {
  std::vector<std::uint8_t> tokens(count);
  const std::uint64_t first = std::uint64_t{rank} * count;
  for (std::uint32_t i = 0; i < count; ++i) tokens[i] = text[(first + i) % text.size()];
  return tokens;
}

}  // namespace moe
