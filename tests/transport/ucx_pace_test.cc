// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/pace.h"

#include <gtest/gtest.h>

namespace cardea::transport::ucx {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

Pace after(Nanoseconds took, int chunks, std::size_t place = 1, Pace pace = {}) {
  for (int i = 0; i < chunks; ++i) pace.sent(took, place);
  return pace;
}

TEST(Pace, OneChunkAtATimeUntilSomethingIsKnown) {
  EXPECT_EQ(Pace().most_streaming(false), 1u);
  EXPECT_FALSE(Pace().slow());
}

TEST(Pace, TheQueueIsLimitedInTimeAndInNumber) {
  EXPECT_EQ(after(microseconds(10), 50).most_streaming(false), Pace::kMaxStreaming);
  EXPECT_EQ(after(milliseconds(1), 50).most_streaming(false), 4u);
  EXPECT_EQ(after(milliseconds(9), 50).most_streaming(false), 1u) << "never none";
}

TEST(Pace, ByAStreamTwoChunksGoAtLeastAndByRendezvousOnSlowLinksToo) {
  EXPECT_EQ(Pace().most_streaming(true), 2u);
  const Pace slow = after(milliseconds(9), 50);
  EXPECT_EQ(slow.most_streaming(true), 2u);
  EXPECT_TRUE(slow.rendezvous(true));
  EXPECT_FALSE(slow.rendezvous(false));
  const Pace fast = after(microseconds(10), 50);
  EXPECT_EQ(fast.most_streaming(true), Pace::kMaxStreaming);
  EXPECT_TRUE(fast.rendezvous(true));
  EXPECT_TRUE(fast.rendezvous(false));
}

TEST(Pace, ChunksThatWentTogetherShareTheirTime) {
  EXPECT_EQ(after(milliseconds(8), 50, 8).most_streaming(false), 4u);
}

TEST(Pace, ALinkIsSlowByWhatItsChunksTakeAndNotForOneLateChunk) {
  EXPECT_TRUE(after(milliseconds(9), 1).slow());
  Pace fast = after(microseconds(300), 50);
  fast.sent(milliseconds(9), 1);
  EXPECT_FALSE(fast.slow());
  EXPECT_TRUE(after(milliseconds(9), 50, 1, fast).slow());
}

TEST(Pace, BetweenSlowAndFastItStaysWhatItWas) {
  const auto between = Pace::kSlowChunk * 3 / 4;
  EXPECT_FALSE(after(between, 50, 1, after(microseconds(300), 50)).slow());
  const Pace slow = after(milliseconds(9), 50);
  EXPECT_TRUE(after(between, 200, 1, slow).slow());
  EXPECT_FALSE(after(microseconds(300), 200, 1, slow).slow());
}

}  // namespace
}  // namespace cardea::transport::ucx
