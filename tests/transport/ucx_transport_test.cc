// SPDX-License-Identifier: Apache-2.0
// What the ucx transport does beyond the suite that all transports share, between two processes over loopback TCP.
#include <sys/resource.h>

#include <cstring>
#include <numeric>
#include <ostream>
#include <string>

#include "tests/transport/ucx_rank.h"

namespace cardea::transport {

inline std::string name_of(StreamProtocol protocol) {
  switch (protocol) {
    case StreamProtocol::kByPace:
      return "ByPace";
    case StreamProtocol::kRendezvous:
      return "Rendezvous";
    case StreamProtocol::kEager:
      return "Eager";
  }
  return "unknown";
}
/// For GoogleTest, which would print its bytes.
inline void PrintTo(StreamProtocol protocol, std::ostream* out) {
  *out << name_of(protocol);
}

}  // namespace cardea::transport

namespace cardea::test {
namespace {

using transport::ExpertAddress;
using transport::Lease;
using transport::StreamProtocol;

Result<Lease> lend_from(Bytes& expert, std::uint64_t offset, std::uint64_t bytes) {
  if (offset > expert.size() || bytes > expert.size() - offset) return Status(CARDEA_ERR_INVALID_ARGUMENT, "out of range");
  return Lease{1, {{expert.data() + offset, bytes}}};
}

// Cuts memory into pieces of odd sizes that repeat.
std::vector<iovec> cut(std::byte* base, std::size_t bytes, std::vector<std::size_t> sizes) {
  std::vector<iovec> pieces;
  for (std::size_t at = 0, i = 0; at < bytes; ++i) {
    const std::size_t size = std::min(sizes[i % sizes.size()], bytes - at);
    pieces.push_back({base + at, size});
    at += size;
  }
  return pieces;
}

class UcxStream : public ::testing::TestWithParam<StreamProtocol> {
 protected:
  static transport::UcxOptions options(Rank self) {
    auto options = ucx_options(self);
    options.stream = GetParam();
    return options;
  }
};

TEST(UcxTransport, TenThousandMessagesOfMixedSizesArriveInOrder) {
  UcxWorld world(2);
  constexpr unsigned kCount = 10000;
  const auto size_of = [](unsigned i) -> std::size_t {
    if (i % 2500 == 1) return transport::Transport::kMaxMessage;
    if (i % 500 == 3) return 300000 + i;
    if (i % 50 == 7) return 20000 + i;
    return i % 97;
  };
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    if (self == 0) {
      for (unsigned i = 0; i < kCount; ++i) {
        Bytes message(size_of(i), static_cast<std::byte>(i));
        if (message.size() >= 4) std::memcpy(message.data(), &i, 4);
        rank.transport().send(1, std::move(message));
        if (i % 100 == 0) rank.pump_for(std::chrono::milliseconds(0));
      }
    } else {
      ASSERT_TRUE(rank.pump([&] { return rank.messages.size() == kCount; })) << rank.messages.size();
      for (unsigned i = 0; i < kCount; ++i) {
        const Bytes& message = rank.messages[i].second;
        ASSERT_EQ(message.size(), size_of(i)) << i;
        if (message.size() < 4) continue;
        unsigned number = 0;
        std::memcpy(&number, message.data(), 4);
        ASSERT_EQ(number, i);
        ASSERT_EQ(message.back(), message.size() == 4 ? message.back() : static_cast<std::byte>(i));
      }
    }
    EXPECT_TRUE(rank.lost.empty());
    EXPECT_TRUE(rank.barrier(0));  // whoever passes it may leave
  });
}

TEST_P(UcxStream, TwoHundredMebibytesArriveWithEveryByteRight) {
  UcxWorld world(2);
  constexpr std::size_t kBytes = 200 << 20;
  constexpr std::size_t kChunk = 1 << 20;
  run_ranks(2, [&](unsigned self) {
    Bytes expert = pattern(kBytes, 3);
    UcxRank rank(world, self, options(self));
    if (self == 0) {
      rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) {
        return lend_from(expert, offset, bytes);
      };
      ASSERT_TRUE(rank.pump([&] { return rank.given_back.size() == kBytes / kChunk; }));
      EXPECT_EQ(std::accumulate(rank.given_back.begin(), rank.given_back.end(), std::uint64_t{0}), kBytes);
    } else {
      Bytes landed(kBytes, std::byte{0});
      std::size_t next = 0;
      ASSERT_TRUE(rank.pump([&] {
        while (next < kBytes / kChunk && next - rank.chunks.size() < 8) {
          rank.pull(next, 0, next * kChunk, {{landed.data() + next * kChunk, kChunk}});
          ++next;
        }
        return rank.chunks.size() == kBytes / kChunk;
      }));
      for (const auto& [token, status] : rank.chunks) ASSERT_TRUE(status.ok()) << token << ": " << status.message();
      EXPECT_TRUE(landed == expert);
    }
    EXPECT_TRUE(rank.barrier(0));
  });
}

TEST_P(UcxStream, ScatteredChunksOfOddSizesLandWhereTheyBelong) {
  UcxWorld world(2);
  const std::vector<std::size_t> sizes = {1, 7, 8191, 8192, 65537, 300001, 3000017, 0};
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, options(self));
    Bytes expert = pattern(4 << 20, 5);
    rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
      return Lease{1, cut(expert.data() + offset, bytes, {1, 4097, 63, 0, 100003})};
    };
    EXPECT_TRUE(rank.barrier(0));
    std::vector<Bytes> landed;
    for (const std::size_t size : sizes) landed.emplace_back(size + 2, std::byte{0x77});
    for (std::size_t i = 0; i < sizes.size(); ++i) {  // both ways at once
      rank.pull(i, 1 - self, i, cut(landed[i].data() + 1, sizes[i], {333, 1, 70001, 0, 5}));
    }
    ASSERT_TRUE(rank.pump([&] { return rank.chunks.size() == sizes.size() && rank.given_back.size() == sizes.size(); }));
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      EXPECT_TRUE(rank.chunks[i].ok()) << sizes[i] << ": " << rank.chunks[i].message();
      EXPECT_TRUE(std::equal(landed[i].begin() + 1, landed[i].end() - 1, expert.begin() + static_cast<std::ptrdiff_t>(i)))
          << sizes[i];
      EXPECT_EQ(landed[i].front(), std::byte{0x77});
      EXPECT_EQ(landed[i].back(), std::byte{0x77});
    }
    EXPECT_TRUE(rank.barrier(1));
  });
}

INSTANTIATE_TEST_SUITE_P(Ucx, UcxStream,
                         ::testing::Values(StreamProtocol::kByPace, StreamProtocol::kRendezvous, StreamProtocol::kEager),
                         [](const auto& which) { return name_of(which.param); });

TEST(UcxTransport, SourcesErrorsReachTheAskerWithTheirCodeAndText) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    Bytes expert(1000);
    rank.lender = [&](Rank, const ExpertAddress& address, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
      if (address.version == 1) return Status(CARDEA_ERR_STALE, "version 1 was retired");
      if (address.version == 2) return Status(CARDEA_ERR_INVALID_ARGUMENT, std::string(500, 'x'));
      if (address.version == 3) return lend_from(expert, offset, bytes - 1);  // less than asked for
      return lend_from(expert, offset, bytes);
    };
    if (self == 1) {
      Bytes landed(1000, std::byte{0x33});
      for (Version version = 1; version <= 4; ++version) rank.pull(version, 0, 0, {{landed.data(), 100}}, version);
      ASSERT_TRUE(rank.pump([&] { return rank.chunks.size() == 4; }));
      EXPECT_EQ(rank.chunks[1].code(), CARDEA_ERR_STALE);
      EXPECT_EQ(rank.chunks[1].message(), "version 1 was retired");
      EXPECT_EQ(rank.chunks[1].detail().peer, 0u);
      EXPECT_EQ(rank.chunks[1].detail().path, CARDEA_PATH_NETWORK);
      EXPECT_EQ(rank.chunks[2].code(), CARDEA_ERR_INVALID_ARGUMENT);
      EXPECT_EQ(rank.chunks[2].message(), std::string(200, 'x'));
      EXPECT_EQ(rank.chunks[3].code(), CARDEA_ERR_INVALID_ARGUMENT);
      EXPECT_TRUE(rank.chunks[4].ok()) << "a refused chunk must not harm the next: " << rank.chunks[4].message();
    } else {
      ASSERT_TRUE(rank.pump([&] { return rank.given_back.size() == 2; }));
      EXPECT_EQ(rank.given_back[0] + rank.given_back[1], 100u);
    }
    EXPECT_TRUE(rank.lost.empty());
    EXPECT_TRUE(rank.barrier(0));  // whoever passes it may leave
  });
}

TEST(UcxTransport, OrdersThatCannotBeCarriedOutCompleteWithTheirReason) {
  UcxWorld world(1);
  run_ranks(1, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    std::byte byte{};
    rank.pull(1, 5, 0, {{&byte, 1}});
    rank.pull(2, 0, 0, {{&byte, 1}});
    EXPECT_TRUE(rank.chunks.empty()) << "the listener was called from inside a call";
    ASSERT_TRUE(rank.pump([&] { return rank.chunks.size() == 2; }));
    EXPECT_EQ(rank.chunks[1].code(), CARDEA_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(rank.chunks[2].code(), CARDEA_ERR_INVALID_ARGUMENT);
    const std::pair<Rank, Bytes> peer{3, Bytes(10)};
    EXPECT_EQ(rank.transport().connect({&peer, 1}).code(), CARDEA_ERR_PROTOCOL);
  });
}

TEST(UcxTransport, CloseCompletesChunksAsCanceledAndLetsMessagesLeave) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    if (self == 0) {
      for (int i = 0; i < 20; ++i) rank.transport().send(1, Bytes(100000, std::byte{1}));
      EXPECT_TRUE(rank.close());
    } else {
      ASSERT_TRUE(rank.pump([&] { return rank.messages.size() == 20; })) << rank.messages.size();
      Bytes landed(100);
      rank.pull(9, 0, 0, {{landed.data(), landed.size()}});
      EXPECT_TRUE(rank.close());
      ASSERT_TRUE(rank.chunks.contains(9));
      EXPECT_TRUE(rank.chunks[9].code() == CARDEA_ERR_CANCELED || rank.chunks[9].code() == CARDEA_ERR_PEER_LOST);
      bool again = false;
      rank.transport().close([&] { again = true; });
      EXPECT_TRUE(rank.pump([&] { return again; }));
    }
    EXPECT_TRUE(world.board.barrier(0, 2));
  });
}

TEST(UcxTransport, DestroyedWithoutCloseItCallsNobody) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    if (self == 0) {
      boost::asio::io_context io;
      auto second = transport::make_ucx_transport(io, rank, ucx_options(0));
      ASSERT_TRUE(second.ok());
      second->reset();
      io.run_for(std::chrono::milliseconds(50));
    }
    EXPECT_TRUE(rank.barrier(0));
    EXPECT_TRUE(rank.messages.empty() && rank.chunks.empty());
  });
}

TEST(UcxTransport, IdleTransportSleeps) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    rank.transport().send(1 - self, Bytes(10));
    ASSERT_TRUE(rank.pump([&] { return rank.messages.size() == 1; }));
    EXPECT_TRUE(rank.barrier(0));
    rank.pump_for(std::chrono::milliseconds(100));
    rusage before{};
    rusage after{};
    getrusage(RUSAGE_SELF, &before);
    rank.pump_for(std::chrono::milliseconds(1000));
    getrusage(RUSAGE_SELF, &after);
    const auto micros = [](const timeval& time) { return time.tv_sec * 1000000L + time.tv_usec; };
    const long used = micros(after.ru_utime) + micros(after.ru_stime) - micros(before.ru_utime) - micros(before.ru_stime);
    EXPECT_LT(used, 300000) << "microseconds of processor time in a second of idleness";
    EXPECT_TRUE(rank.barrier(1));
  });
}

TEST(UcxTransport, SettingsOfTheUserWinAndWrongOnesAreErrors) {
  UcxWorld world(1);
  run_ranks(1, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    boost::asio::io_context io;
    auto options = ucx_options(0);
    options.defaults = {{"RNDV_THRESH", "not a size"}};
    EXPECT_EQ(transport::make_ucx_transport(io, rank, options).status().code(), CARDEA_ERR_CONFIGURATION);
    options.defaults = {{"TLS", "no_such_transport"}};  // the environment has UCX_TLS
    EXPECT_TRUE(transport::make_ucx_transport(io, rank, options).ok());
    unsetenv("UCX_TLS");
    EXPECT_EQ(transport::make_ucx_transport(io, rank, options).status().code(), CARDEA_ERR_TRANSPORT);
    EXPECT_FALSE(transport::ucx_version().empty());
  });
}

}  // namespace
}  // namespace cardea::test
