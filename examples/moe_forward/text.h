// SPDX-License-Identifier: Apache-2.0
// Tokens of a real text: one byte, one token. Each rank works on a contiguous part of its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moe {

struct Text {
  std::string path;
  std::vector<std::uint8_t> bytes;
};

/// Reads `path`; if it is empty, the first there is of: the Apache licence that Debian and Ubuntu install, the one of
/// Cardea's source tree, the GPL. Throws std::runtime_error if nothing can be read or the file is empty.
Text load_text(const std::string& path);

/// Rank `rank`'s part: `count` tokens from rank * count on, going round at the text's end.
std::vector<std::uint8_t> tokens_of_rank(std::span<const std::uint8_t> text, std::uint32_t rank, std::uint32_t count);

}  // namespace moe
