// SPDX-License-Identifier: Apache-2.0
// Which experts each token chose, and what follows from it: the rows each expert works on, and the traffic that all-to-all
// would have caused. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model.h"

namespace moe {

/// The choices of a rank's tokens in one layer. Choice c of token t is at t * k + c, and a token's choices are in the order
/// of their experts' numbers. The rows are the (token, choice) pairs sorted by expert, then token.
struct Routing {
  std::uint32_t top_k = 0;
  std::vector<std::uint32_t> expert;     // [tokens * k]
  std::vector<float> weight;             // [tokens * k], the softmax over the token's k chosen logits
  std::vector<std::uint32_t> row;        // [tokens * k], where the choice's result lies
  std::vector<std::uint32_t> token;      // [rows], whose token a row is
  std::vector<std::uint32_t> first_row;  // [experts + 1], expert e has rows first_row[e] ... first_row[e + 1] - 1

  std::uint32_t rows_of(std::uint32_t e) const { return first_row[e + 1] - first_row[e]; }
  /// The experts that any token chose, ascending.
  std::vector<std::uint32_t> chosen() const;
};

/// Top-k softmax gate. `normed` is [tokens, H], `gate` [experts, H]. Of equal logits the lower expert wins.
Routing route(const Shape& shape, std::span<const float> normed, std::span<const float> gate);
/// The same from logits [tokens, experts].
Routing route_logits(const Shape& shape, std::span<const float> logits);

/// How many choices `guess`, a routing of the same tokens, shares with `real`.
std::uint64_t choices_shared(const Routing& guess, const Routing& real);

/// Bytes that all-to-all would send between nodes for these tokens, at its best: a token travels once to each rank of
/// another node that is home of any of its experts (dispatch), and once back (combine):
///   2 * H * 4 * sum over tokens of |{home(e) : e chosen, node(home(e)) != own node}|
/// `home` gives each expert's rank, `node` each rank's node.
std::uint64_t all_to_all_bytes(const Shape& shape, const Routing& routing, std::span<const std::uint32_t> home,
                               std::span<const std::uint32_t> node, std::uint32_t own_node);

/// Janus's measure (SIGCOMM 2023, section 3): R = B S k / (4 n H E) with B S tokens per rank, n nodes, E experts per rank.
/// Above 1, moving experts of 8 H² parameters (once per node) takes less traffic between nodes than moving tokens.
double janus_ratio(const Shape& shape, std::uint64_t tokens_per_rank, std::uint32_t nodes, std::uint32_t ranks);

/// The rank that is home of an expert: contiguous parts, whose sizes differ by one at most.
std::uint32_t home_of(std::uint32_t expert, std::uint32_t experts, std::uint32_t ranks);

}  // namespace moe
