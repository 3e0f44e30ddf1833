// SPDX-License-Identifier: Apache-2.0
// One MoE layer's forward, indifferent to where experts come from and in which order. Each expert writes its rows of a
// buffer of its own; they are added up in a fixed order once all are there. So the result does not depend on the order of
// arrival, bit for bit.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model.h"
#include "routing.h"

namespace moe {

using Clock = std::chrono::steady_clock;

/// Gives experts' weights one by one, in any order.
class ExpertSource {
 public:
  using Compute = std::function<void(std::uint32_t expert, const ExpertWeights& weights)>;

  virtual ~ExpertSource() = default;
  /// Calls `compute` exactly once for each of `experts`; its weights may be read during the call only.
  virtual void visit(std::uint32_t layer, std::uint64_t version, std::span<const std::uint32_t> experts,
                     const Compute& compute) = 0;
};

/// Makes every expert in this process, from the seed: the reference.
class LocalExperts : public ExpertSource {
 public:
  explicit LocalExperts(const Shape& shape) : shape_(shape), w13_(shape.w13_floats()), w2_(shape.w2_floats()) {}
  void visit(std::uint32_t layer, std::uint64_t version, std::span<const std::uint32_t> experts,
             const Compute& compute) override;

 private:
  Shape shape_;
  std::vector<float> w13_, w2_;
};

/// Where a rank's time in the layers went.
struct ForwardTimes {
  std::chrono::nanoseconds gate{};     // norm, logits, top-k
  std::chrono::nanoseconds experts{};  // gathering rows and SwiGLU
  std::chrono::nanoseconds combine{};  // weighting and adding up
};

/// x += sum over each token's experts of weight * SwiGLU(norm(x)), in place; x is [tokens, H]. Returns the routing.
Routing forward_layer(const Shape& shape, std::span<const float> gate, std::uint32_t layer, std::uint64_t version,
                      ExpertSource& source, std::span<float> x, ForwardTimes& times);

}  // namespace moe
