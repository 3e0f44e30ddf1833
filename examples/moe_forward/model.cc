// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moe {
namespace {

/// What a random stream is for; keeps the streams of one seed apart.
enum class Stream : std::uint64_t { kEmbedding = 1, kGate = 2, kExpertIn = 3, kExpertOut = 4 };

/// The mixing function of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// Fills with numbers of mean 0 and variance 1 / fan_in, uniformly distributed. Element i depends on i and the stream only.
void fill(const Shape& shape, Stream stream, std::uint32_t layer, std::uint32_t expert, std::uint32_t fan_in,
          std::span<float> out) {
  std::uint64_t key = mix(shape.seed + 0x9e3779b97f4a7c15u);
  key = mix(key ^ static_cast<std::uint64_t>(stream));
  key = mix(key ^ ((std::uint64_t{layer} << 32) | expert));
  const float scale = std::sqrt(3.0f / static_cast<float>(fan_in));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto bits = static_cast<std::int32_t>(mix(key + i * 0x9e3779b97f4a7c15u) >> 32);
    out[i] = static_cast<float>(bits) * 0x1p-31f * scale;
  }
}

/// The weights' magnitude at a version, relative to what they were made with: the golden ratio's multiples modulo 1 spread
/// over [1, 1.25), so that no two versions are near each other until there are thousands, and none drifts away.
double scale_at(std::uint64_t version) {
  const double turns = static_cast<double>(version - 1) * 0.6180339887498949;
  return 1.0 + 0.25 * (turns - std::floor(turns));
}

float silu(float x) {
  return x / (1.0f + std::exp(-x));
}

}  // namespace

std::vector<float> embed(const Shape& shape, std::span<const std::uint8_t> tokens) {
  constexpr std::size_t kBefore = 3;
  const std::size_t h = shape.hidden;
  std::vector<float> table(256 * h);
  fill(shape, Stream::kEmbedding, 0, 0, 1, table);
  std::vector<float> x(tokens.size() * h, 0.0f);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    float weight = 1.0f;
    for (std::size_t back = 0; back <= std::min(kBefore, t); ++back, weight *= 0.5f) {
      const float* row = &table[tokens[t - back] * h];
      for (std::size_t i = 0; i < h; ++i) x[t * h + i] += weight * row[i];
    }
  }
  return x;
}

std::vector<float> rms_norm(const Shape& shape, std::span<const float> x) {
  const std::size_t h = shape.hidden;
  std::vector<float> out(x.size());
  for (std::size_t row = 0; row < x.size(); row += h) {
    float sum = 0.0f;
    for (std::size_t i = 0; i < h; ++i) sum += x[row + i] * x[row + i];
    const float factor = 1.0f / std::sqrt(sum / static_cast<float>(h) + 1e-6f);
    for (std::size_t i = 0; i < h; ++i) out[row + i] = x[row + i] * factor;
  }
  return out;
}

std::vector<float> make_gate(const Shape& shape, std::uint32_t layer) {
  std::vector<float> gate(std::size_t{shape.experts} * shape.hidden);
  fill(shape, Stream::kGate, layer, 0, shape.hidden, gate);
  return gate;
}

void make_expert(const Shape& shape, std::uint32_t layer, std::uint32_t expert, std::span<float> w13, std::span<float> w2) {
  fill(shape, Stream::kExpertIn, layer, expert, shape.hidden, w13);
  fill(shape, Stream::kExpertOut, layer, expert, shape.inner, w2);
}

void update_weights(std::uint64_t version, std::span<float> weights) {
  const auto factor = static_cast<float>(scale_at(version) / scale_at(version - 1));
  for (float& w : weights) w *= factor;
}

void multiply(std::uint32_t m, std::uint32_t n, std::uint32_t k, const float* a, const float* b, float* c) {
  const auto int_of = [](std::uint32_t v) { return static_cast<blasint>(v); };
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, int_of(m), int_of(n), int_of(k), 1.0f, a, int_of(k), b, int_of(k),
              0.0f, c, int_of(n));
}

void run_expert(const Shape& shape, const ExpertWeights& weights, std::span<const float> in, std::span<float> out) {
  constexpr std::size_t kBlock = 512;  // rows at a time: what lies between the products stays in the cache
  const std::size_t h = shape.hidden;
  const std::size_t inner = shape.inner;
  const std::size_t rows = in.size() / h;
  std::vector<float> both(std::min(rows, kBlock) * 2 * inner);
  std::vector<float> activated(std::min(rows, kBlock) * inner);
  for (std::size_t first = 0; first < rows; first += kBlock) {
    const auto block = static_cast<std::uint32_t>(std::min(kBlock, rows - first));
    multiply(block, 2 * shape.inner, shape.hidden, &in[first * h], weights.w13.data(), both.data());
    for (std::size_t row = 0; row < block; ++row) {
      const float* gate = &both[row * 2 * inner];
      for (std::size_t i = 0; i < inner; ++i) activated[row * inner + i] = silu(gate[i]) * gate[inner + i];
    }
    multiply(block, shape.hidden, shape.inner, activated.data(), weights.w2.data(), &out[first * h]);
  }
}

double max_norm_error(std::span<const float> result, std::span<const float> reference) {
  double difference = 0.0;
  double magnitude = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    if (!std::isfinite(result[i]) || !std::isfinite(reference[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(double{result[i]} - double{reference[i]}));
    magnitude = std::max(magnitude, std::abs(double{reference[i]}));
  }
  return difference == 0.0 ? 0.0 : difference / magnitude;
}

}  // namespace moe
