// SPDX-License-Identifier: Apache-2.0
#include "forward.h"

#include <algorithm>

namespace moe {

void LocalExperts::visit(std::uint32_t layer, std::uint64_t version, std::span<const std::uint32_t> experts,
                         const Compute& compute) {
  for (const std::uint32_t expert : experts) {
    make_expert(shape_, layer, expert, w13_, w2_);
    for (std::uint64_t v = 2; v <= version; ++v) {
      update_weights(v, w13_);
      update_weights(v, w2_);
    }
    compute(expert, {w13_, w2_});
  }
}

Routing forward_layer(const Shape& shape, std::span<const float> gate, std::uint32_t layer, std::uint64_t version,
                      ExpertSource& source, std::span<float> x, ForwardTimes& times) {
  const std::size_t h = shape.hidden;
  const Clock::time_point began = Clock::now();
  const std::vector<float> normed = rms_norm(shape, x);
  Routing routing = route(shape, normed, gate);
  const std::vector<std::uint32_t> chosen = routing.chosen();
  times.gate += Clock::now() - began;

  std::vector<float> results(routing.token.size() * h);
  std::vector<float> gathered;
  if (!chosen.empty()) {
    source.visit(layer, version, chosen, [&](std::uint32_t expert, const ExpertWeights& weights) {
      const Clock::time_point start = Clock::now();
      const std::size_t first = routing.first_row[expert];
      const std::size_t rows = routing.rows_of(expert);
      gathered.resize(rows * h);
      for (std::size_t r = 0; r < rows; ++r) {
        std::copy_n(&normed[routing.token[first + r] * h], h, &gathered[r * h]);
      }
      run_expert(shape, weights, gathered, std::span(results).subspan(first * h, rows * h));
      times.experts += Clock::now() - start;
    });
  }

  const Clock::time_point combining = Clock::now();
  for (std::size_t choice = 0; choice < routing.expert.size(); ++choice) {
    const float weight = routing.weight[choice];
    const float* result = &results[routing.row[choice] * h];
    float* out = &x[choice / routing.top_k * h];
    for (std::size_t i = 0; i < h; ++i) out[i] += weight * result[i];
  }
  times.combine += Clock::now() - combining;
  return routing;
}

}  // namespace moe
