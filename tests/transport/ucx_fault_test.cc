// SPDX-License-Identifier: Apache-2.0
// Peers that die, hang, are strangers or talk nonsense.
#include <signal.h>

#include <cstring>

#include "lib/transport/ucx/wire.h"
#include "lib/transport/ucx/worker.h"
#include "tests/support/exhaustion.h"
#include "tests/transport/ucx_rank.h"
#include "tests/transport/ucx_rogue.h"

namespace cardea::test {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)
using transport::ExpertAddress;
using transport::Lease;
using transport::ucx::ChunkData;
using transport::ucx::ChunkError;
using transport::ucx::ChunkRequest;
using transport::ucx::MessageHeader;
using transport::ucx::StreamOffer;
using transport::ucx::Worker;

constexpr std::size_t kExpert = 16 << 20;
constexpr std::size_t kChunk = 4 << 20;

// Rank 1 pulls without end from rank 0; `strike` is called in the parent once chunks flow, and must stop rank 0's sending.
void pull_until_struck(const std::function<void(pid_t)>& strike, const std::function<void(UcxRank&)>& after_strike) {
  UcxWorld world(2);
  RankOptions run;
  run.victims = {0};
  run.while_running = [&](const std::vector<pid_t>& pids) {
    EXPECT_TRUE(world.board.wait_for(0, 6)) << "no chunks flowed";
    strike(pids[0]);
    world.board.set(1, 1);
    EXPECT_TRUE(world.board.wait_for(2, 1));
    kill(pids[0], SIGKILL);
  };
  const auto ends = run_ranks(
      2,
      [&](unsigned self) {
        UcxRank rank(world, self, ucx_options(self));
        Bytes expert = pattern(kExpert, 1);
        if (self == 0) {
          rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
            return Lease{1, {{expert.data() + offset, bytes}}};
          };
          rank.pump([] { return false; }, 60s);
          return;
        }
        Bytes landed(kExpert);
        std::uint64_t next = 0;
        EXPECT_TRUE(rank.pump([&] {
          while (rank.lost.empty() && next - rank.chunks.size() < 4) {
            rank.pull(next, 0, next % 4 * kChunk, {{landed.data() + next % 4 * kChunk, kChunk}});
            ++next;
          }
          world.board.set(0, rank.chunks.size());
          return world.board.get(1) != 0;
        }));
        EXPECT_TRUE(rank.chunks.size() < next || rank.lost.contains(0)) << "nothing was in flight at the stroke";
        after_strike(rank);
        EXPECT_TRUE(rank.pump([&] { return rank.chunks.size() == next; })) << rank.chunks.size() << " of " << next;
        std::size_t failed = 0;
        for (const auto& [token, status] : rank.chunks) {
          if (status.ok()) continue;
          ++failed;
          EXPECT_EQ(status.code(), CARDEA_ERR_PEER_LOST) << status.message();
          EXPECT_EQ(status.detail().peer, 0u);
        }
        EXPECT_GT(failed, 0u) << "no chunk was hit";
        const Bytes before = landed;
        std::fill(landed.begin(), landed.end(), std::byte{0xee});
        rank.pump_for(300ms);
        EXPECT_TRUE(std::all_of(landed.begin(), landed.end(), [](std::byte byte) { return byte == std::byte{0xee}; }))
            << "a destination was written after its chunk had completed";
        rank.pull(1000000, 0, 0, {{landed.data(), 1}});
        EXPECT_TRUE(rank.pump([&] { return rank.chunks.contains(1000000); }));
        EXPECT_EQ(rank.chunks[1000000].code(), CARDEA_ERR_PEER_LOST);
        EXPECT_TRUE(rank.close());
        world.board.set(2, 1);
      },
      run);
  EXPECT_EQ(ends[0].signal, SIGKILL);
}

TEST(UcxFault, PeerKilledInMidChunkIsLostAndItsChunksWithIt) {
  pull_until_struck([](pid_t victim) { ASSERT_EQ(kill(victim, SIGKILL), 0); },
                    [](UcxRank& rank) {
                      EXPECT_TRUE(rank.pump([&] { return rank.lost.contains(0); }));
                      EXPECT_EQ(rank.lost[0].code(), CARDEA_ERR_PEER_LOST);
                    });
}

TEST(UcxFault, StoppedPeerIsLetGoWhenDisconnectedFromAbove) {
  pull_until_struck([](pid_t victim) { ASSERT_EQ(kill(victim, SIGSTOP), 0); },
                    [](UcxRank& rank) {
                      rank.pump_for(200ms);
                      rank.transport().disconnect(0);
                      rank.transport().disconnect(0);
                    });
}

// Rank 0 is ours, rank 1 says what `say` tells it to; rank 0 must report it PROTOCOL, and its open chunk PEER_LOST.
void expect_nonsense_is_reported(const std::function<void(Rogue&)>& say) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    if (self == 0) {
      UcxRank rank(world, self, ucx_options(self));
      Bytes landed(1000, std::byte{0x11});
      rank.pull(5, 1, 0, {{landed.data(), 100}});
      EXPECT_TRUE(rank.pump([&] { return rank.lost.contains(1) && rank.chunks.contains(5); }));
      EXPECT_EQ(rank.lost[1].code(), CARDEA_ERR_PROTOCOL) << rank.lost[1].message();
      EXPECT_EQ(rank.chunks[5].code(), CARDEA_ERR_PEER_LOST) << rank.chunks[5].message();
      EXPECT_TRUE(landed == Bytes(1000, std::byte{0x11})) << "nonsense was written to memory";
      world.board.set(0, 1);
    } else {
      Rogue rogue(world, self, ucx_options(self));
      EXPECT_TRUE(rogue.progress_until([&] { return !rogue.heard.empty(); })) << "rank 0 did not ask";
      say(rogue);
      EXPECT_TRUE(rogue.progress_until([&] { return world.board.get(0) == 1; }));
    }
  });
}

TEST(UcxFault, UnknownOpcodeIsReported) {
  expect_nonsense_is_reported([](Rogue& rogue) {
    Bytes header = rogue.header(ChunkData{5});
    header[0] = std::byte{200};
    rogue.say(header);
  });
}

TEST(UcxFault, TruncatedHeaderIsReported) {
  expect_nonsense_is_reported([](Rogue& rogue) {
    Bytes header = rogue.header(ChunkData{5});
    header.pop_back();
    rogue.say(header);
  });
}

TEST(UcxFault, OversizedMessageIsReported) {
  expect_nonsense_is_reported(
      [](Rogue& rogue) { rogue.say(rogue.header(MessageHeader{0}), Bytes(transport::Transport::kMaxMessage + 1)); });
}

TEST(UcxFault, MessageByRendezvousIsReported) {
  expect_nonsense_is_reported(
      [](Rogue& rogue) { rogue.say(rogue.header(MessageHeader{0}), Bytes(100000), UCP_AM_SEND_FLAG_RNDV); });
}

TEST(UcxFault, DataForARequestThatIsNotOpenIsReported) {
  expect_nonsense_is_reported([](Rogue& rogue) { rogue.say(rogue.header(ChunkData{6}), Bytes(100)); });
  expect_nonsense_is_reported([](Rogue& rogue) { rogue.say(rogue.header(ChunkError{6, CARDEA_ERR_STALE, "x"})); });
}

TEST(UcxFault, MoreOrLessDataThanAskedForIsReported) {
  for (const std::size_t size : {std::size_t{99}, std::size_t{101}, std::size_t{0}, std::size_t{900000}}) {
    expect_nonsense_is_reported([&](Rogue& rogue) { rogue.say(rogue.header(ChunkData{5}), Bytes(size)); });
    expect_nonsense_is_reported(
        [&](Rogue& rogue) { rogue.say(rogue.header(ChunkData{5}), Bytes(size + 7), UCP_AM_SEND_FLAG_RNDV); });
  }
}

TEST(UcxFault, StreamOfferOfNowhereASecondOneAndOneWithAPayloadAreReported) {
  const StreamOffer good{4, {std::byte{127}, std::byte{0}, std::byte{0}, std::byte{1}}, 1};
  StreamOffer nowhere = good;
  nowhere.port = 0;
  expect_nonsense_is_reported([&](Rogue& rogue) { rogue.say(rogue.header(nowhere)); });
  expect_nonsense_is_reported([&](Rogue& rogue) {
    rogue.say(rogue.header(good));
    rogue.say(rogue.header(good));
  });
  expect_nonsense_is_reported([&](Rogue& rogue) { rogue.say(rogue.header(good), Bytes(1)); });
}

TEST(UcxFault, RepeatedMessageNumberIsReported) {
  expect_nonsense_is_reported([](Rogue& rogue) {
    rogue.say(rogue.header(MessageHeader{0}), Bytes(1));
    rogue.say(rogue.header(MessageHeader{0}), Bytes(1));
  });
}

// The stranger's bytes are of a member in all but one thing, which `change` makes wrong.
void expect_stranger_is_dropped(const std::function<void(transport::UcxOptions&)>& change) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    if (self == 0) {
      ::testing::internal::CaptureStderr();
      UcxRank rank(world, self, ucx_options(self));
      bool lent = false;
      rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t, std::uint64_t) -> Result<Lease> {
        lent = true;
        return Status(CARDEA_ERR_STALE, "no");
      };
      EXPECT_TRUE(rank.pump([&] { return world.board.get(0) == 1; }));
      rank.pump_for(500ms);
      EXPECT_TRUE(rank.messages.empty());
      EXPECT_TRUE(rank.lost.empty()) << rank.lost.begin()->second.message();
      EXPECT_FALSE(lent);
      EXPECT_TRUE(rank.close());
      const std::string log = ::testing::internal::GetCapturedStderr();
      const std::string line = "dropped a message that is not of this job";
      EXPECT_NE(log.find(line), std::string::npos) << "the stranger was not heard at all: " << log;
      EXPECT_EQ(log.find(line), log.rfind(line)) << "more than one line for many messages";
      world.board.set(1, 1);
    } else {
      auto options = ucx_options(self);
      change(options);
      Rogue rogue(world, self, options);
      for (std::uint64_t i = 0; i < 50; ++i) {
        rogue.say(rogue.header(MessageHeader{i}), Bytes(100));
        rogue.say(rogue.header(ChunkRequest{i, {}, 0, 10, 10}));
        rogue.say(rogue.header(MessageHeader{i}), Bytes(200000), UCP_AM_SEND_FLAG_RNDV);
        rogue.say(Bytes(3));
      }
      EXPECT_TRUE(rogue.progress_until([&] {
        world.board.add(2, 1);
        if (world.board.get(2) == 200) world.board.set(0, 1);
        return world.board.get(1) == 1;
      }));
    }
  });
}

TEST(UcxFault, StrangerWithAnotherSecretIsDropped) {
  expect_stranger_is_dropped([](transport::UcxOptions& options) { options.secret[31] ^= std::byte{1}; });
}

TEST(UcxFault, RankOfAnotherJobIsDropped) {
  expect_stranger_is_dropped([](transport::UcxOptions& options) { options.job_id = "another"; });
}

TEST(UcxFault, NothingIsHeardOfADisconnectedPeer) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    if (self == 0) {
      rank.transport().send(1, Bytes(1));
      ASSERT_TRUE(rank.pump([&] { return rank.messages.size() == 1; }));
      rank.transport().disconnect(1);
      world.board.set(0, 1);
      EXPECT_TRUE(rank.pump([&] { return world.board.get(1) == 1; }));
      rank.pump_for(200ms);
      EXPECT_EQ(rank.messages.size(), 1u);
      EXPECT_TRUE(rank.lost.empty());
    } else {
      rank.transport().send(0, Bytes(1));
      ASSERT_TRUE(rank.pump([&] { return world.board.get(0) == 1; }));
      for (int i = 0; i < 10; ++i) rank.transport().send(0, Bytes(10));
      rank.pump_for(300ms);
      world.board.set(1, 1);
    }
  });
}

// UCX itself ends the process then, here with 0, 1, 2 and 13 descriptors left.
TEST(UcxWorker, WithTooFewDescriptorsIsRefusedAndTheProcessLives) {
  CARDEA_SKIP_WITHOUT_DESCRIPTORS_FOR_UBSAN();
  SharedBoard board;
  for (std::size_t left = 0; left <= 64; left += left < 16 ? 1 : 8) {
    run_ranks(1, [&](unsigned) {
      boost::asio::io_context io;
      boost::asio::posix::stream_descriptor reactor(io);  // has its descriptors from now on
      const AllDescriptors all(left);
      auto made = Worker::make(io, ucx_options(0));
      board.add(made.ok() ? 1 : 0, 1);
      if (made.ok()) {
        made.value()->stop();
      } else {
        EXPECT_EQ(made.status().code(), CARDEA_ERR_NO_MEMORY) << made.status().message();
        EXPECT_NE(made.status().message().find(std::to_string(left) + " descriptors are left"), std::string::npos)
            << made.status().message();
      }
    });
  }
  EXPECT_GE(board.get(0), 16u) << "it was never refused";
  EXPECT_GE(board.get(1), 1u) << "it never had enough";
}

}  // namespace
}  // namespace cardea::test
