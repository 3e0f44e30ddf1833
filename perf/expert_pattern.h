// SPDX-License-Identifier: Apache-2.0
// Bytes that tell where they belong: a function of layer, expert, version, segment and offset, cheap enough to write and to
// look at every one of them. Word i is seed + i * an odd constant, so no two words of a segment are equal, and another
// expert's or version's words differ nearly everywhere. Pure functions.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace cardea::perf {

/// Names one segment of one expert at one version.
struct PatternKey {
  std::uint32_t layer = 0, expert = 0, segment = 0;
  std::uint64_t version = 0;
};

namespace pattern_detail {

inline constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15u;

inline std::uint64_t mix(std::uint64_t x) {  // splitmix64's finalizer
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

inline std::uint64_t seed(const PatternKey& key) {
  return mix(mix(mix(key.version + kStep) + (std::uint64_t{key.layer} << 32 | key.expert)) + key.segment);
}

}  // namespace pattern_detail

inline void write_pattern(const PatternKey& key, std::span<std::byte> bytes) {
  std::uint64_t word = pattern_detail::seed(key);
  std::size_t at = 0;
  for (; at + sizeof(word) <= bytes.size(); at += sizeof(word), word += pattern_detail::kStep)
    std::memcpy(&bytes[at], &word, sizeof(word));
  if (at < bytes.size()) std::memcpy(&bytes[at], &word, bytes.size() - at);
}

/// The offset of the first byte that is not as written, if any.
inline std::optional<std::size_t> first_wrong_byte(const PatternKey& key, std::span<const std::byte> bytes) {
  std::uint64_t word = pattern_detail::seed(key);
  std::size_t at = 0;
  while (at < bytes.size()) {
    const std::size_t length = bytes.size() - at < sizeof(word) ? bytes.size() - at : sizeof(word);
    if (std::memcmp(&bytes[at], &word, length) != 0) {
      std::byte expected[sizeof(word)];
      std::memcpy(expected, &word, sizeof(word));
      std::size_t i = 0;
      while (bytes[at + i] == expected[i]) ++i;
      return at + i;
    }
    at += length;
    word += pattern_detail::kStep;
  }
  return std::nullopt;
}

}  // namespace cardea::perf
