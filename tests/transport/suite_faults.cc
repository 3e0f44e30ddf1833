// SPDX-License-Identifier: Apache-2.0
// The suite's scenarios of death, disconnection and closing. A transport that reads memory by itself may complete a chunk of
// a dead or stuck peer with success: its memory is still there. One that asks can not.
#include <array>

#include "tests/transport/suite.h"

namespace cardea::test {
namespace {

using Kind = Recorder::Event::Kind;

constexpr std::uint64_t kChunk = 256 << 10;
constexpr std::size_t kChunks = 16;
constexpr Version kVersion = 3;

ExpertLayout expert_of(Rank source) {
  return ExpertLayout::whole(source, 1, source, kVersion, 64, kChunk * kChunks);
}

/// Gives every rank an expert that every other rank can pull; each rank has met all others afterwards.
void share_experts(RankHarness& rank, Memory kind) {
  Region& region = rank.make_region(1, 64 + kChunk * kChunks, kind);
  region.set_stamp(kVersion);
  rank.seen().add_lendable(expert_of(rank.rank()), region);
  rank.offer(region, rank.others());
  for (const Rank peer : rank.others()) ASSERT_TRUE(rank.accept_from(peer));
  rank.barrier();
}

/// Chunks of one source, numbered from source * kChunks.
class Pull {
 public:
  Pull(RankHarness& rank, Rank source) : rank_(rank), source_(source), landings_(kChunks, Landing(kChunk)) {}

  void start_all() {
    for (std::size_t i = 0; i < kChunks; ++i) start(i);
  }
  void start(std::size_t i) {
    rank_.transport().start(make_order(token(i), expert_of(source_), i * kChunk, kChunk, landings_[i]));
  }
  std::size_t done(cardea_status_t code) const {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < kChunks; ++i) {
      const auto found = rank_.seen().completions().find(token(i));
      sum += found != rank_.seen().completions().end() && found->second.code() == code;
    }
    return sum;
  }
  std::size_t done() const {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < kChunks; ++i) sum += rank_.seen().completions().contains(token(i));
    return sum;
  }
  /// Chunks that succeeded must be right, and all others must not have been written beside their landing.
  void expect_right() const {
    for (std::size_t i = 0; i < kChunks; ++i) {
      const auto found = rank_.seen().completions().find(token(i));
      EXPECT_TRUE(landings_[i].gaps_untouched()) << "chunk " << i << " of rank " << source_;
      if (found == rank_.seen().completions().end() || !found->second.ok()) continue;
      EXPECT_TRUE(landings_[i].payload() == expert_of(source_).expected(i * kChunk, kChunk))
          << "chunk " << i << " of rank " << source_;
    }
  }
  std::vector<Landing>& landings() { return landings_; }

 private:
  std::uint64_t token(std::size_t i) const { return source_ * kChunks + i; }

  RankHarness& rank_;
  const Rank source_;
  std::vector<Landing> landings_;
};

TEST_P(TransportSuite, ChunksOfAKilledPeerFailOnceThenThePeerIsLostAndOthersGoOn) {
  const auto body = [](RankHarness& rank, Memory kind) {
    share_experts(rank, kind);
    if (rank.rank() == 2) {
      rank.add(1, 1);  // it answers nothing from here on
      EXPECT_TRUE(rank.stall_until([&] { return rank.get(0) == 2; }));
      rank.die();
    }
    EXPECT_TRUE(rank.run_until([&] { return rank.get(1) == 1; }));
    const Rank friendly = 1 - rank.rank();
    Pull lost(rank, 2), kept(rank, friendly);
    lost.start_all();
    kept.start_all();
    rank.transport().send(2, Bytes(1000));
    rank.add(0, 1);
    EXPECT_TRUE(
        rank.run_until([&] { return lost.done() == kChunks && kept.done() == kChunks && !rank.seen().losses().empty(); }));
    EXPECT_EQ(lost.done(CARDEA_OK) + lost.done(CARDEA_ERR_PEER_LOST), kChunks);
    if (rank.traits().asks(kind)) {
      EXPECT_EQ(lost.done(CARDEA_ERR_PEER_LOST), kChunks);
    }
    EXPECT_EQ(kept.done(CARDEA_OK), kChunks);
    EXPECT_EQ(rank.seen().losses().count(2), 1u);
    EXPECT_EQ(rank.seen().losses().size(), 1u);
    lost.expect_right();
    kept.expect_right();
    // Whoever comes too late is told, not forgotten.
    Landing late(kChunk);
    rank.transport().send(2, Bytes(10));
    rank.transport().start(make_order(1000, expert_of(2), 0, kChunk, late));
    EXPECT_TRUE(rank.run_until([&] { return rank.seen().completions().contains(1000); }));
    EXPECT_EQ(rank.seen().completions().at(1000).code(), CARDEA_ERR_PEER_LOST);
    EXPECT_EQ(rank.seen().completions().at(1000).detail().peer, 2u);
    EXPECT_TRUE(late.untouched());
    rank.transport().send(friendly, pattern_bytes(1, 0, 100));
    EXPECT_TRUE(rank.next_message(friendly) == pattern_bytes(1, 0, 100));
    rank.barrier(2);
  };
  run_for_each_memory(3, body, {2});
}

TEST_P(TransportSuite, APeerMayBeKilledWhileItsChunksFlow) {
  const auto body = [](RankHarness& rank, Memory kind) {
    share_experts(rank, kind);
    if (rank.rank() == 1) {
      EXPECT_TRUE(rank.run_until([&] { return rank.get(0) >= 3; }));
      rank.die();
    }
    Pull pull(rank, 1);
    rank.seen().on_event([&](const Recorder::Event& event) {
      if (event.kind == Kind::kChunkDone && event.status.ok()) rank.add(0, 1);
    });
    pull.start_all();
    EXPECT_TRUE(rank.run_until([&] { return pull.done() == kChunks && !rank.seen().losses().empty(); }));
    EXPECT_GE(pull.done(CARDEA_OK), 3u);
    EXPECT_EQ(pull.done(CARDEA_OK) + pull.done(CARDEA_ERR_PEER_LOST), kChunks);
    pull.expect_right();
  };
  run_for_each_memory(2, body, {1});
}

TEST_P(TransportSuite, LeasesOfAKilledAskerAreGivenBack) {
  const auto body = [](RankHarness& rank, Memory kind) {
    share_experts(rank, kind);
    if (rank.rank() == 1) {
      Pull pull(rank, 0);
      pull.start_all();
      EXPECT_TRUE(rank.run_until([&] { return pull.done() >= 1; }));
      rank.die();
    }
    EXPECT_TRUE(rank.run_until([&] { return rank.seen().losses().contains(1); }));
    EXPECT_TRUE(rank.run_until([&] { return rank.seen().open_leases() == 0; }))
        << rank.seen().open_leases() << " still open";
    if (rank.traits().asks(kind)) {
      EXPECT_GE(rank.seen().count(Kind::kLend), 1u);
    }
  };
  run_for_each_memory(2, body, {1});
}

TEST_P(TransportSuite, DisconnectEndsTheChunksOfThatPeerAndIgnoresItsMessages) {
  run_for_each_memory(3, [](RankHarness& rank, Memory kind) {
    share_experts(rank, kind);
    if (rank.rank() == 2) {
      EXPECT_TRUE(rank.stall_until([&] { return rank.get(0) == 1; }));
      rank.transport().send(0, Bytes(10));
      rank.transport().send(1, Bytes(10));
      EXPECT_EQ(rank.next_message(1).size(), 20u);
      EXPECT_TRUE(rank.run_until([&] { return rank.seen().open_leases() == 0; }));
    } else if (rank.rank() == 1) {
      EXPECT_EQ(rank.next_message(2).size(), 10u);
      rank.transport().send(2, Bytes(20));
      EXPECT_EQ(rank.next_message(0).size(), 30u);
      EXPECT_TRUE(rank.seen().losses().empty());
    } else {
      Pull pull(rank, 2), other(rank, 1);
      pull.start_all();
      other.start_all();
      rank.transport().disconnect(2);
      rank.transport().disconnect(2);
      EXPECT_TRUE(rank.run_until([&] { return pull.done() == kChunks && other.done() == kChunks; }));
      EXPECT_EQ(pull.done(CARDEA_OK) + pull.done(CARDEA_ERR_PEER_LOST), kChunks);
      if (rank.traits().asks(kind)) {
        EXPECT_EQ(pull.done(CARDEA_ERR_PEER_LOST), kChunks);
      }
      EXPECT_EQ(other.done(CARDEA_OK), kChunks);
      pull.expect_right();
      other.expect_right();
      // What failed is the caller's again: nothing arrives there any more.
      for (Landing& landing : pull.landings()) landing.poison(std::byte{0x3C});
      rank.add(0, 1);
      rank.transport().start(make_order(1000, expert_of(2), 0, kChunk, pull.landings()[0]));
      EXPECT_TRUE(rank.run_until([&] { return rank.seen().completions().contains(1000); }));
      EXPECT_EQ(rank.seen().completions().at(1000).code(), CARDEA_ERR_PEER_LOST);
      rank.transport().send(1, Bytes(30));
    }
    rank.barrier();
    if (rank.rank() == 0) {
      rank.run_for(std::chrono::milliseconds(50));
      EXPECT_TRUE(rank.seen().messages(2).empty());
      EXPECT_FALSE(rank.seen().losses().contains(1));
    }
    rank.barrier();  // until then nobody closes, which would be a loss to rank 0
  });
}

TEST_P(TransportSuite, CloseCompletesEachChunkInFlightOnceAndThenIsSilent) {
  run_for_each_memory(2, [](RankHarness& rank, Memory kind) {
    share_experts(rank, kind);
    if (rank.rank() == 1) {
      // Answers too late, to nobody.
      EXPECT_TRUE(rank.stall_until([&] { return rank.get(0) == 1; }));
      rank.run_for(std::chrono::milliseconds(50));
      EXPECT_TRUE(rank.run_until([&] { return rank.seen().open_leases() == 0; }));
      rank.add(1, 1);
      return;
    }
    Pull pull(rank, 1);
    pull.start_all();
    EXPECT_TRUE(rank.close());
    EXPECT_EQ(pull.done(), kChunks);
    EXPECT_EQ(pull.done(CARDEA_OK) + pull.done(CARDEA_ERR_CANCELED), kChunks);
    if (rank.traits().asks(kind)) {
      EXPECT_EQ(pull.done(CARDEA_ERR_CANCELED), kChunks);
    }
    pull.expect_right();
    for (Landing& landing : pull.landings()) landing.poison(std::byte{0x3C});
    rank.add(0, 1);
    EXPECT_TRUE(rank.run_until([&] { return rank.get(1) == 1; }));
    for (const Landing& landing : pull.landings()) EXPECT_TRUE(landing.untouched());
    EXPECT_EQ(rank.seen().events().back().kind, Kind::kClosed);
  });
}

TEST_P(TransportSuite, APeerThatLeftIsLostToWhoeverPullsFromIt) {
  run_for_each_memory(2, [](RankHarness& rank, Memory kind) {
    share_experts(rank, kind);
    if (rank.rank() == 1) {
      EXPECT_TRUE(rank.close());
      rank.add(0, 1);
      EXPECT_TRUE(rank.run_until([&] { return rank.get(1) == 1; }));
      return;
    }
    EXPECT_TRUE(rank.run_until([&] { return rank.get(0) == 1; }));
    Pull pull(rank, 1);
    pull.start_all();
    EXPECT_TRUE(rank.run_until([&] { return pull.done() == kChunks; })) << pull.done() << " completed";
    EXPECT_EQ(pull.done(CARDEA_OK) + pull.done(CARDEA_ERR_PEER_LOST), kChunks);
    if (rank.traits().asks(kind)) {
      EXPECT_EQ(pull.done(CARDEA_ERR_PEER_LOST), kChunks);
    }
    pull.expect_right();
    rank.add(1, 1);
  });
}

}  // namespace
}  // namespace cardea::test
