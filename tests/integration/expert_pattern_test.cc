// SPDX-License-Identifier: Apache-2.0
// perf/expert_pattern.h: a check that could not fail would make every measurement worthless.
#include "perf/expert_pattern.h"

#include <gtest/gtest.h>

#include <vector>

namespace cardea::perf {
namespace {

constexpr PatternKey kKey{.layer = 3, .expert = 5, .segment = 1, .version = 7};

std::vector<std::byte> written(const PatternKey& key, std::size_t bytes) {
  std::vector<std::byte> data(bytes);
  write_pattern(key, data);
  return data;
}

TEST(ExpertPattern, WhatWasWrittenIsRightAtAnyLength) {
  for (const std::size_t bytes : {0u, 1u, 7u, 8u, 9u, 63u, 4096u, 100003u})
    EXPECT_EQ(first_wrong_byte(kKey, written(kKey, bytes)), std::nullopt) << bytes;
}

TEST(ExpertPattern, AnyByteThatDiffersIsFound) {
  std::vector<std::byte> data = written(kKey, 61);
  for (std::size_t at = 0; at < data.size(); ++at) {
    data[at] ^= std::byte{0x10};
    EXPECT_EQ(first_wrong_byte(kKey, data), at);
    data[at] ^= std::byte{0x10};
  }
}

TEST(ExpertPattern, AnotherLayersExpertsSegmentsOrVersionsBytesAreWrong) {
  for (const PatternKey& other : {PatternKey{.layer = 5, .expert = 3, .segment = 1, .version = 7},
                                  PatternKey{.layer = 3, .expert = 6, .segment = 1, .version = 7},
                                  PatternKey{.layer = 3, .expert = 5, .segment = 0, .version = 7},
                                  PatternKey{.layer = 3, .expert = 5, .segment = 1, .version = 8}}) {
    EXPECT_NE(first_wrong_byte(kKey, written(other, 4096)), std::nullopt);
  }
}

TEST(ExpertPattern, BytesFromAnotherOffsetAreWrong) {
  const std::vector<std::byte> data = written(kKey, 8192);
  for (const std::size_t shift : {1u, 8u, 4096u})
    EXPECT_EQ(first_wrong_byte(kKey, std::span(data).subspan(shift, 64)).has_value(), true) << shift;
}

}  // namespace
}  // namespace cardea::perf
