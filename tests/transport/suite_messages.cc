// SPDX-License-Identifier: Apache-2.0
// The suite's scenarios of messages.
#include <array>

#include "tests/transport/suite.h"

namespace cardea::test {
namespace {

using transport::Transport;

TEST_P(TransportSuite, MessagesArriveWholeAndInOrder) {
  const std::vector<std::size_t> sizes = {0, 1, 4096, 1, 1 << 20, 7, 0, Transport::kMaxMessage, 100};
  run(3, [&](RankHarness& rank) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      for (const Rank peer : rank.others()) rank.transport().send(peer, pattern_bytes(10 * rank.rank() + peer, i, sizes[i]));
    }
    for (const Rank peer : rank.others()) {
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        const Bytes message = rank.next_message(peer);
        EXPECT_EQ(message.size(), sizes[i]) << "message " << i << " of rank " << peer;
        EXPECT_TRUE(message == pattern_bytes(10 * peer + rank.rank(), i, sizes[i]))
            << "message " << i << " of rank " << peer;
      }
    }
    rank.barrier();
    for (const Rank peer : rank.others())
      EXPECT_TRUE(rank.seen().messages(peer).empty()) << "more than was sent, by rank " << peer;
    EXPECT_TRUE(rank.seen().losses().empty());
    rank.barrier();  // whoever passes it may leave
  });
}

TEST_P(TransportSuite, ManySmallMessagesKeepTheirOrder) {
  constexpr unsigned kCount = 3000;
  run(2, [&](RankHarness& rank) {
    const Rank peer = 1 - rank.rank();
    for (unsigned i = 0; i < kCount; ++i) rank.transport().send(peer, pattern_bytes(i, 0, 8 + i % 50));
    for (unsigned i = 0; i < kCount; ++i)
      ASSERT_TRUE(rank.next_message(peer) == pattern_bytes(i, 0, 8 + i % 50)) << "message " << i;
    rank.barrier();
  });
}

TEST_P(TransportSuite, AMessageOverTheLimitIsDroppedWithoutHarm) {
  run(2, [&](RankHarness& rank) {
    const Rank peer = 1 - rank.rank();
    rank.transport().send(peer, pattern_bytes(1, 0, 100));
    rank.transport().send(peer, Bytes(Transport::kMaxMessage + 1));
    rank.transport().send(peer, pattern_bytes(2, 0, 100));
    EXPECT_TRUE(rank.next_message(peer) == pattern_bytes(1, 0, 100));
    EXPECT_TRUE(rank.next_message(peer) == pattern_bytes(2, 0, 100));
    rank.run_for(std::chrono::milliseconds(20));
    EXPECT_TRUE(rank.seen().losses().empty());
    rank.barrier();  // whoever passes it may leave
  });
}

TEST_P(TransportSuite, MessagesQueuedJustBeforeCloseArrive) {
  constexpr unsigned kCount = 40;
  const auto size = [](unsigned i) { return i == 20 ? std::size_t{1} << 20 : 100 * i; };
  run(2, [&](RankHarness& rank) {
    if (rank.rank() == 0) {
      for (unsigned i = 0; i < kCount; ++i) rank.transport().send(1, pattern_bytes(i, 0, size(i)));
      EXPECT_TRUE(rank.close());
    } else {
      for (unsigned i = 0; i < kCount; ++i)
        ASSERT_TRUE(rank.next_message(0) == pattern_bytes(i, 0, size(i))) << "message " << i;
    }
  });
}

TEST_P(TransportSuite, AnswersSentFromWithinTheListenerArrive) {
  constexpr unsigned kRounds = 200;
  run(2, [&](RankHarness& rank) {
    const Rank peer = 1 - rank.rank();
    rank.seen().on_event([&](const Recorder::Event& event) {
      if (event.kind == Recorder::Event::kMessage && event.bytes < kRounds)
        rank.transport().send(peer, Bytes(event.bytes + 1));
    });
    if (rank.rank() == 0) rank.transport().send(peer, Bytes(1));
    const auto last_seen = [&] {
      const auto& queue = rank.seen().messages(peer);
      return !queue.empty() && queue.back().size() >= kRounds - 1;
    };
    EXPECT_TRUE(rank.run_until(last_seen)) << "after " << rank.seen().messages(peer).size() << " messages";
    rank.barrier();
    EXPECT_EQ(rank.seen().messages(peer).size(), kRounds / 2);
  });
}

}  // namespace
}  // namespace cardea::test
