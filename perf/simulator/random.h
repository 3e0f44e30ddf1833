// SPDX-License-Identifier: Apache-2.0
// Seeded randomness of simulations: splitmix64, the same numbers with every library. Not thread-safe.
#pragma once

#include <cstdint>

namespace cardea::simulator {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}
  /// A stream of its own for each purpose, so that a draw here does not change what is drawn there.
  Random(std::uint64_t seed, std::uint64_t stream) : Random(mixed(seed) ^ mixed(~stream)) {}

  std::uint64_t operator()() { return mixed(state_ += 0x9e3779b97f4a7c15); }
  /// In [0, bound); 0 if bound is 0.
  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : (*this)() % bound; }
  std::uint64_t between(std::uint64_t least, std::uint64_t most) { return least + below(most - least + 1); }
  bool chance(std::uint64_t percent) { return below(100) < percent; }
  double unit() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }

  static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

 private:
  std::uint64_t state_;
};

}  // namespace cardea::simulator
