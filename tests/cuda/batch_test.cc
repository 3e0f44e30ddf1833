// SPDX-License-Identifier: Apache-2.0
// Copies that are neighbours in source and destination go as one.
#include "lib/cuda/batch.h"

#include <gtest/gtest.h>

#include <random>

namespace cardea::cuda {
namespace {

TEST(Batch, NeighboursInSourceAndDestinationBecomeOneCopy) {
  Batch batch;
  for (std::uint64_t i = 0; i < 64; ++i) batch.add(std::vector<CopyPiece>{{1000 + i * 10, 5000 + i * 10, 10}});
  ASSERT_EQ(batch.count(), 1u);
  EXPECT_EQ(batch.to()[0], 1000u);
  EXPECT_EQ(batch.from()[0], 5000u);
  EXPECT_EQ(batch.sizes()[0], 640u);
  EXPECT_EQ(batch.bytes(), 640u);
}

TEST(Batch, EachSegmentOfStackedExpertsBecomesOneCopy) {
  Batch batch;
  for (std::uint64_t i = 0; i < 8; ++i) {
    batch.add(std::vector<CopyPiece>{{1000 + i * 10, 5000 + i * 10, 10}, {20000 + i * 7, 30000 + i * 7, 7}});
  }
  ASSERT_EQ(batch.count(), 2u);
  EXPECT_EQ(batch.sizes()[0], 80u);
  EXPECT_EQ(batch.sizes()[1], 56u);
}

TEST(Batch, NeighboursOnOneSideAloneStayApart) {
  Batch batch;
  batch.add(std::vector<CopyPiece>{{0, 100, 10}});
  batch.add(std::vector<CopyPiece>{{10, 200, 10}});
  batch.add(std::vector<CopyPiece>{{50, 210, 10}});
  EXPECT_EQ(batch.count(), 3u);
}

TEST(Batch, WhatItCopiesIsWhatTheOrdersSaid) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::uint8_t> source(4096), expected(4096, 0xEE), got(4096, 0xEE);
    for (auto& byte : source) byte = static_cast<std::uint8_t>(random());
    Batch batch;
    // Rows of a slab, each filled once, by rows of the source in any order, in several pieces.
    std::vector<std::uint32_t> rows(32);
    for (std::uint32_t i = 0; i < 32; ++i) rows[i] = i;
    if (round % 3 != 0) std::shuffle(rows.begin(), rows.end(), random);
    for (std::uint32_t i = 0; i < 32; ++i) {
      std::vector<CopyPiece> pieces;
      const std::uint32_t cut = random() % 129;
      for (const auto& [at, bytes] : {std::pair<std::uint32_t, std::uint32_t>{0, cut}, {cut, 128 - cut}}) {
        pieces.push_back({rows[i] * 128 + at, i * 128 + at, bytes});
        std::copy_n(source.begin() + i * 128 + at, bytes, expected.begin() + rows[i] * 128 + at);
      }
      batch.add(pieces);
    }
    for (std::size_t i = 0; i < batch.count(); ++i)
      std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(batch.from()[i]), batch.sizes()[i],
                  got.begin() + static_cast<std::ptrdiff_t>(batch.to()[i]));
    ASSERT_EQ(got, expected);
    if (round % 3 == 0) {
      EXPECT_EQ(batch.count(), 1u);
    }
    batch.clear();
    EXPECT_EQ(batch.count(), 0u);
  }
}

}  // namespace
}  // namespace cardea::cuda
