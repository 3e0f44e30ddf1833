// SPDX-License-Identifier: Apache-2.0
// What the ranks of fetch_all measured, and the table and JSON made of it. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace cardea::perf {

/// What is fetched. Every rank is home of a contiguous part of each layer.
struct FetchAllShape {
  std::uint32_t layers = 4;
  std::uint32_t experts = 16;  // of a layer, over all ranks
  std::uint32_t segments = 2;
  std::uint64_t expert_bytes = 4 << 20;  // the first segment gets the remainder
  std::uint32_t slots = 8;
  std::uint32_t ahead = 2;  // layers whose fetches are open at a time

  std::uint64_t segment_bytes(std::uint32_t segment) const {
    return expert_bytes / segments + (segment == 0 ? expert_bytes % segments : 0);
  }
  std::uint32_t home_of(std::uint32_t expert, std::uint32_t world) const {
    return static_cast<std::uint32_t>((std::uint64_t{expert} * world + world - 1) / experts);
  }
};

/// One rank in one repetition; plain bytes, as they travel.
struct RankFigures {
  std::uint32_t node = 0;
  std::uint32_t reserved = 0;
  char host[64] = {};
  double seconds = 0;  // from the start, together with all others, to the last view of the last layer
  std::uint64_t experts_home = 0, experts_node_mapped = 0, experts_node_copied = 0, experts_cache = 0, experts_network = 0;
  std::uint64_t network_bytes = 0;  // expert bytes received from other nodes, as the library counted
  std::uint64_t wrong_experts = 0;
};

/// figures[repetition][rank]; repetition 0 is the warm-up.
using Figures = std::vector<std::vector<RankFigures>>;

/// The table. Ends with a line that tells of wrong bytes, if there were any.
std::string format_table(const FetchAllShape& shape, const Figures& figures, bool checked);
std::string format_json(const FetchAllShape& shape, const Figures& figures);

}  // namespace cardea::perf
