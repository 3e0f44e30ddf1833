// SPDX-License-Identifier: Apache-2.0
// Chunks whose destination is memory of a GPU. Here UCX has none, so either it says so, or it is taken to have said
// otherwise (pretend_device_memory), and writes into host memory as into a GPU's.
#include <cstring>

#include "lib/transport/ucx/lanes.h"
#include "tests/transport/ucx_rank.h"

namespace cardea::test {
namespace {

using transport::DeviceMemory;
using transport::ExpertAddress;
using transport::Lease;
using transport::StreamProtocol;

constexpr std::size_t kBytes = 3 << 20;

class UcxDevice : public ::testing::Test {
 protected:
  void TearDown() override { transport::pretend_device_memory(std::nullopt); }

  /// Rank 1 pulls from rank 0, which lends `count` times.
  static void pull_from_other(unsigned count, const std::function<void(UcxRank&, const Bytes& expert)>& pull,
                              StreamProtocol protocol = StreamProtocol::kRendezvous,
                              const std::vector<std::string>& rails = {}) {
    UcxWorld world(2);
    run_ranks(2, [&](unsigned self) {
      Bytes expert = pattern(kBytes, 11);
      auto options = ucx_options(self);
      options.stream = protocol;
      UcxRank rank(world, self, options, rails);
      if (self == 0) {
        rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
          return Lease{1, {{expert.data() + offset, bytes}}};
        };
        EXPECT_TRUE(rank.pump([&] { return rank.given_back.size() == count; }));
      } else {
        pull(rank, expert);
      }
      EXPECT_TRUE(rank.lost.empty());
      EXPECT_TRUE(rank.barrier(0));
    });
  }
};

TEST_F(UcxDevice, WhereUcxHasNoneItSaysSoAndChunksAreRefused) {
  if (transport::ucx_has_device_memory()) GTEST_SKIP() << "this UCX has device memory";
  for (const bool rails : {false, true}) {
    pull_from_other(
        1,
        [](UcxRank& rank, const Bytes& expert) {
          EXPECT_EQ(rank.transport().device_memory(), DeviceMemory::kNone);
          EXPECT_EQ(rank.transport().device_memory(0), DeviceMemory::kNone);
          Bytes landing(kBytes, std::byte{0xEE});
          rank.pull(1, 0, 0, {{landing.data(), kBytes}}, 1, 0, {landing.data(), kBytes});
          ASSERT_TRUE(rank.pump([&] { return rank.chunks.contains(1); }));
          EXPECT_EQ(rank.chunks[1].code(), CARDEA_ERR_UNSUPPORTED);
          EXPECT_NE(rank.chunks[1].message().find("has no device memory to receive into"), std::string::npos)
              << rank.chunks[1].message();
          EXPECT_EQ(landing, Bytes(kBytes, std::byte{0xEE}));
          // The same into host memory comes.
          rank.pull(2, 0, 0, {{landing.data(), kBytes}});
          ASSERT_TRUE(rank.pump([&] { return rank.chunks.contains(2); }));
          EXPECT_TRUE(rank.chunks[2].ok()) << rank.chunks[2].message();
          EXPECT_EQ(landing, expert);
        },
        StreamProtocol::kRendezvous, rails ? std::vector<std::string>{"lo"} : std::vector<std::string>{});
  }
}

TEST_F(UcxDevice, ByRendezvousBytesLieInPlace) {
  for (const DeviceMemory what : {DeviceMemory::kCopied, DeviceMemory::kWritten}) {
    transport::pretend_device_memory(what);
    pull_from_other(3, [&](UcxRank& rank, const Bytes& expert) {
      EXPECT_EQ(rank.transport().device_memory(), what);
      EXPECT_EQ(rank.transport().device_memory(0), what);
      Bytes slots(kBytes + 8192, std::byte{0xEE});
      std::byte* const at = slots.data() + 4096;
      for (transport::ChunkToken token = 1; token <= 3; ++token) {
        const std::size_t offset = (token - 1) << 20;
        rank.pull(token, 0, offset, {{at + offset, 1 << 20}}, 1, 0, {slots.data(), slots.size()});
      }
      ASSERT_TRUE(rank.pump([&] { return rank.chunks.size() == 3; }));
      for (const auto& [token, status] : rank.chunks) EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(rank.landed.empty());
      EXPECT_EQ(Bytes(at, at + kBytes), expert);
      EXPECT_EQ(Bytes(slots.data(), at), Bytes(4096, std::byte{0xEE}));
      EXPECT_EQ(Bytes(at + kBytes, slots.data() + slots.size()), Bytes(4096, std::byte{0xEE}));
      rank.transport().forget_device(slots.data());
      rank.transport().forget_device(slots.data());
    });
  }
}

TEST_F(UcxDevice, WhatComesEagerlyIsHandedOverAndNothingIsWritten) {
  transport::pretend_device_memory(DeviceMemory::kCopied);
  for (const bool rails : {false, true}) {
    pull_from_other(
        1,
        [](UcxRank& rank, const Bytes& expert) {
          Bytes slots(kBytes, std::byte{0xEE});
          rank.pull(1, 0, 4096, {{slots.data(), 100000}}, 1, 0, {slots.data(), slots.size()});
          ASSERT_TRUE(rank.pump([&] { return rank.chunks.contains(1); }));
          ASSERT_TRUE(rank.landed.contains(1));
          EXPECT_EQ(rank.landed[1], Bytes(expert.begin() + 4096, expert.begin() + 4096 + 100000));
          EXPECT_EQ(slots, Bytes(kBytes, std::byte{0xEE}));
        },
        StreamProtocol::kEager, rails ? std::vector<std::string>{"lo"} : std::vector<std::string>{});
  }
}

TEST_F(UcxDevice, AChunkOfSeveralPiecesOrOutsideOfItsMemoryIsRefused) {
  transport::pretend_device_memory(DeviceMemory::kCopied);
  pull_from_other(0, [](UcxRank& rank, const Bytes&) {
    Bytes slots(kBytes, std::byte{0xEE});
    rank.pull(1, 0, 0, {{slots.data(), 4096}, {slots.data() + 8192, 4096}}, 1, 0, {slots.data(), kBytes});
    rank.pull(2, 0, 0, {{slots.data() + 4096, 8192}}, 1, 0, {slots.data(), 8192});
    rank.pull(3, 0, 0, {{slots.data(), 4096}}, 1, 0, {slots.data() + 1, 8192});
    ASSERT_TRUE(rank.pump([&] { return rank.chunks.size() == 3; }));
    for (const auto& [token, status] : rank.chunks) EXPECT_EQ(status.code(), CARDEA_ERR_UNSUPPORTED) << token;
    EXPECT_EQ(slots, Bytes(kBytes, std::byte{0xEE}));
  });
}

TEST_F(UcxDevice, ThePeersEndCompletesWhatWasOnTheWayAndNothingIsWrittenAfterwards) {
  transport::pretend_device_memory(DeviceMemory::kCopied);
  UcxWorld world(2);
  RankOptions judged;
  judged.victims = {0};
  run_ranks(
      2,
      [&](unsigned self) {
        Bytes expert = pattern(kBytes, 11);
        UcxRank rank(world, self, ucx_options(self));
        if (self == 0) {
          unsigned lent = 0;
          rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
            if (++lent == 4) kill(getpid(), SIGKILL);
            return Lease{lent, {{expert.data() + offset, bytes}}};
          };
          rank.pump([] { return false; });
          return;
        }
        Bytes slots(kBytes, std::byte{0xEE});
        constexpr std::size_t kChunk = 64 << 10;
        const std::size_t count = kBytes / kChunk;
        for (std::size_t i = 0; i < count; ++i)
          rank.pull(i + 1, 0, i * kChunk, {{slots.data() + i * kChunk, kChunk}}, 1, 0, {slots.data(), kBytes});
        ASSERT_TRUE(rank.pump([&] { return rank.chunks.size() == count; }));
        std::size_t lost = 0;
        for (const auto& [token, status] : rank.chunks) lost += status.code() == CARDEA_ERR_PEER_LOST;
        EXPECT_GE(lost, count - 4);
        std::fill(slots.begin(), slots.end(), std::byte{0xDD});
        rank.pump_for(std::chrono::milliseconds(100));
        EXPECT_EQ(slots, Bytes(kBytes, std::byte{0xDD}));
      },
      judged);
}

TEST(UcxLanes, RdmaIsToldFromAContextsText) {
  const std::string tcp =
      "#\n# UCP context\n#\n#     component 0  :  self\n#     component 4  :  ib\n"
      "#            md 1  :  component 1  tcp \n#      resource 1  :  md 1  dev 1  flags -- tcp/rc_eth0\n";
  using transport::ucx::describes_rdma;
  EXPECT_FALSE(describes_rdma(tcp));
  EXPECT_FALSE(describes_rdma(tcp + "#      resource 4  :  md 4  dev 3  flags -- ud_mlx5/mlx5_0:1\n"));
  EXPECT_TRUE(describes_rdma(tcp + "#      resource 4  :  md 4  dev 3  flags -- rc_mlx5/mlx5_0:1\n"));
  EXPECT_TRUE(describes_rdma(tcp + "#      resource 12 :  md 4  dev 3  flags -- dc_mlx5/mlx5_0:1"));
  EXPECT_FALSE(describes_rdma(""));
}

}  // namespace
}  // namespace cardea::test
