// SPDX-License-Identifier: Apache-2.0
#include "routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe {
namespace {

/// Sorts the rows of a routing by expert, once its choices are known.
void assign_rows(std::uint32_t experts, Routing& routing) {
  routing.first_row.assign(experts + 1, 0);
  for (const std::uint32_t e : routing.expert) ++routing.first_row[e + 1];
  std::partial_sum(routing.first_row.begin(), routing.first_row.end(), routing.first_row.begin());
  std::vector<std::uint32_t> next(routing.first_row.begin(), routing.first_row.end() - 1);
  routing.row.resize(routing.expert.size());
  routing.token.resize(routing.expert.size());
  for (std::uint32_t choice = 0; choice < routing.expert.size(); ++choice) {
    const std::uint32_t row = next[routing.expert[choice]]++;
    routing.row[choice] = row;
    routing.token[row] = choice / routing.top_k;
  }
}

}  // namespace

std::vector<std::uint32_t> Routing::chosen() const {
  std::vector<std::uint32_t> experts;
  for (std::uint32_t e = 0; e + 1 < first_row.size(); ++e) {
    if (rows_of(e) != 0) experts.push_back(e);
  }
  return experts;
}

Routing route(const Shape& shape, std::span<const float> normed, std::span<const float> gate) {
  const auto tokens = static_cast<std::uint32_t>(normed.size() / shape.hidden);
  std::vector<float> logits(std::size_t{tokens} * shape.experts);
  if (tokens != 0) multiply(tokens, shape.experts, shape.hidden, normed.data(), gate.data(), logits.data());
  return route_logits(shape, logits);
}

Routing route_logits(const Shape& shape, std::span<const float> logits) {
  const std::size_t tokens = logits.size() / shape.experts;
  const std::uint32_t k = shape.top_k;
  Routing routing;
  routing.top_k = k;
  routing.expert.reserve(tokens * k);
  routing.weight.reserve(tokens * k);
  std::vector<std::uint32_t> order(shape.experts);
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* row = &logits[t * shape.experts];
    std::iota(order.begin(), order.end(), 0u);
    std::partial_sort(order.begin(), order.begin() + k, order.end(),
                      [row](std::uint32_t a, std::uint32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
    const float largest = row[order[0]];
    std::sort(order.begin(), order.begin() + k);
    float sum = 0.0f;
    for (std::uint32_t c = 0; c < k; ++c) sum += std::exp(row[order[c]] - largest);
    for (std::uint32_t c = 0; c < k; ++c) {
      routing.expert.push_back(order[c]);
      routing.weight.push_back(std::exp(row[order[c]] - largest) / sum);
    }
  }
  assign_rows(shape.experts, routing);
  return routing;
}

std::uint64_t choices_shared(const Routing& guess, const Routing& real) {
  std::uint64_t shared = 0;
  for (std::size_t first = 0; first < real.expert.size(); first += real.top_k) {
    const auto begin = guess.expert.begin() + static_cast<std::ptrdiff_t>(first);
    for (std::size_t c = first; c < first + real.top_k; ++c) {
      if (std::binary_search(begin, begin + guess.top_k, real.expert[c])) ++shared;
    }
  }
  return shared;
}

std::uint64_t all_to_all_bytes(const Shape& shape, const Routing& routing, std::span<const std::uint32_t> home,
                               std::span<const std::uint32_t> node, std::uint32_t own_node) {
  std::uint64_t trips = 0;
  std::vector<std::uint32_t> ranks;
  for (std::size_t first = 0; first < routing.expert.size(); first += routing.top_k) {
    ranks.clear();
    for (std::uint32_t c = 0; c < routing.top_k; ++c) {
      const std::uint32_t rank = home[routing.expert[first + c]];
      if (node[rank] != own_node) ranks.push_back(rank);
    }
    std::sort(ranks.begin(), ranks.end());
    trips += static_cast<std::uint64_t>(std::unique(ranks.begin(), ranks.end()) - ranks.begin());
  }
  return trips * 2 * shape.hidden * sizeof(float);
}

double janus_ratio(const Shape& shape, std::uint64_t tokens_per_rank, std::uint32_t nodes, std::uint32_t ranks) {
  const double experts_per_rank = static_cast<double>(shape.experts) / ranks;
  return static_cast<double>(tokens_per_rank) * shape.top_k / (4.0 * nodes * shape.hidden * experts_per_rank);
}

std::uint32_t home_of(std::uint32_t expert, std::uint32_t experts, std::uint32_t ranks) {
  // Rank r has the experts floor(r E / W) ... floor((r + 1) E / W) - 1.
  return static_cast<std::uint32_t>((std::uint64_t{expert} * ranks + ranks - 1) / experts);
}

}  // namespace moe
