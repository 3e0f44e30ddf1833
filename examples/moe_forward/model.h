// SPDX-License-Identifier: Apache-2.0
// A small Mixture-of-Experts model in fp32, all of whose weights follow from a seed, so that any rank can make any of them.
// Knows nothing of Cardea. A layer is x + sum over the token's top-k experts of gate * SwiGLU(norm(x)); see routing.h for
// the gate and forward.h for the layer. Matrices are row-major. Functions are thread-safe: there is no state.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

struct Shape {
  std::uint32_t hidden = 256;  // H
  std::uint32_t inner = 768;   // I of SwiGLU
  std::uint32_t experts = 8;   // over all ranks
  std::uint32_t top_k = 2;
  std::uint32_t layers = 2;
  std::uint64_t seed = 1;

  std::size_t w13_floats() const { return std::size_t{2} * inner * hidden; }
  std::size_t w2_floats() const { return std::size_t{hidden} * inner; }
  std::size_t expert_bytes() const { return (w13_floats() + w2_floats()) * sizeof(float); }
};

/// One expert's weights, wherever they lie. w13 is [2I, H]: the gate projection's I rows, then the up projection's.
/// w2 is [H, I].
struct ExpertWeights {
  std::span<const float> w13;
  std::span<const float> w2;
};

/// The vectors that stand for the tokens, [tokens, H]. A token is its byte's vector plus, with halving weight, those of the
/// three bytes before it: there is no attention here, and without its surroundings every "e" would go the same way.
std::vector<float> embed(const Shape& shape, std::span<const std::uint8_t> tokens);

/// Each row divided by its root mean square (plus 1e-6 within the root).
std::vector<float> rms_norm(const Shape& shape, std::span<const float> x);

/// The gate of a layer, [experts, H].
std::vector<float> make_gate(const Shape& shape, std::uint32_t layer);

/// An expert's weights at version 1.
void make_expert(const Shape& shape, std::uint32_t layer, std::uint32_t expert, std::span<float> w13, std::span<float> w2);

/// What stands for the optimizer's step: takes weights of version `version` - 1 to `version`, in place, by a factor such
/// that an expert of the wrong version cannot pass the check.
void update_weights(std::uint64_t version, std::span<float> weights);

/// SwiGLU of `rows` rows: out = (silu(in · gateᵀ) * (in · upᵀ)) · w2ᵀ. `in` and `out` are [rows, H].
void run_expert(const Shape& shape, const ExpertWeights& weights, std::span<const float> in, std::span<float> out);

/// c = a · bᵀ with a [m, k], b [n, k], c [m, n], by OpenBLAS.
void multiply(std::uint32_t m, std::uint32_t n, std::uint32_t k, const float* a, const float* b, float* c);

/// The largest difference over the largest magnitude in `reference`; infinity if either holds what is no finite number.
double max_norm_error(std::span<const float> result, std::span<const float> reference);

}  // namespace moe
