// SPDX-License-Identifier: Apache-2.0
#include "lib/core/index_fifo.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace cardea::core {
namespace {

TEST(IndexFifo, GivesBackInTheOrderOfArrival) {
  IndexFifo fifo;
  for (std::size_t i = 5; i < 8; ++i) fifo.push_back(i);
  EXPECT_EQ(fifo.size(), 3u);
  for (std::size_t i = 5; i < 8; ++i) {
    EXPECT_EQ(fifo.front(), i);
    fifo.pop_front();
  }
  EXPECT_TRUE(fifo.empty());
  fifo.push_back(1);
  EXPECT_EQ(fifo.front(), 1u);
}

TEST(IndexFifo, OneMayLeaveFromTheMiddle) {
  IndexFifo fifo;
  for (std::size_t i = 0; i < 4; ++i) fifo.push_back(i);
  fifo.pop_front();
  fifo.erase(std::find(fifo.begin(), fifo.end(), 2u));
  EXPECT_EQ(std::vector<std::size_t>(fifo.begin(), fifo.end()), (std::vector<std::size_t>{1, 3}));
  fifo.erase(fifo.begin());
  fifo.erase(fifo.begin());
  EXPECT_TRUE(fifo.empty());
}

}  // namespace
}  // namespace cardea::core
