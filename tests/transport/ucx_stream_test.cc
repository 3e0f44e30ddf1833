// SPDX-License-Identifier: Apache-2.0
// Streams: chunks by connections of their own. That they are used, that nothing depends on them, and who gets in.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "lib/base/unique_fd.h"
#include "lib/transport/ucx/stream_address.h"
#include "lib/transport/ucx/ucx_transport.h"
#include "tests/transport/ucx_rank.h"
#include "tests/transport/ucx_rogue.h"

namespace cardea::test {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)
using transport::ExpertAddress;
using transport::Lease;
using transport::StreamProtocol;
using transport::ucx::ChunkData;
using transport::ucx::ChunkRequest;
using transport::ucx::MessageHeader;
using transport::ucx::StreamOffer;

constexpr std::size_t kChunk = 256 << 10;
constexpr std::size_t kChunks = 16;

transport::UcxOptions streaming(Rank self) {
  auto options = ucx_options(self);
  options.stream = StreamProtocol::kRendezvous;
  return options;
}

std::uint64_t streamed(UcxRank& rank) {
  return static_cast<transport::ucx::UcxTransport&>(rank.transport()).streamed();
}

void lend_all_of(UcxRank& rank, Bytes& expert) {
  rank.lender = [&expert](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
    return Lease{1, {{expert.data() + offset, bytes}}};
  };
}

// Pulls chunk after chunk, four at a time, until `enough`; true if all that were started came, each right.
bool pull_until(UcxRank& rank, Rank source, const Bytes& expert, std::size_t chunk, const std::function<bool()>& enough) {
  const std::size_t places = expert.size() / chunk;
  Bytes landed(expert.size());
  std::uint64_t next = 0;
  const bool came = rank.pump([&] {
    while (!enough() && next - rank.chunks.size() < 4) {
      const std::size_t at = next % places * chunk;
      rank.pull(next++, source, at, {{landed.data() + at, chunk / 3}, {landed.data() + at + chunk / 3, chunk - chunk / 3}});
    }
    return enough() && rank.chunks.size() == next;
  });
  for (const auto& [token, status] : rank.chunks) EXPECT_TRUE(status.ok()) << token << ": " << status.message();
  return came && (next < places || landed == expert);
}

// Both ranks pull from each other until both have sent `wanted` chunks by streams, and at least all of the expert.
void expect_streams(const transport::UcxOptions& first, const transport::UcxOptions& second, std::size_t chunk,
                    std::uint64_t wanted) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, self == 0 ? first : second);
    Bytes mine = pattern(kChunk * kChunks, self);
    const Bytes theirs = pattern(kChunk * kChunks, 1 - self);
    lend_all_of(rank, mine);
    EXPECT_TRUE(pull_until(rank, 1 - self, theirs, chunk, [&] {
      world.board.set(self, std::min<std::uint64_t>(streamed(rank), wanted));
      return rank.chunks.size() >= theirs.size() / chunk && world.board.get(0) == wanted && world.board.get(1) == wanted;
    }));
    EXPECT_TRUE(rank.lost.empty());
    if (wanted == 0) {
      EXPECT_EQ(streamed(rank), 0u);
    }
    EXPECT_TRUE(rank.barrier(0));
  });
}

TEST(UcxStreams, ChunksOfBothDirectionsComeByThem) {
  expect_streams(streaming(0), streaming(1), kChunk, 3 * kChunks);
}

TEST(UcxStreams, ByPaceTheyServeFastLinksAndSlowOnes) {
  // On a machine that is busy enough a link counts as slow for a while.
  expect_streams(ucx_options(0), ucx_options(1), kChunk, 3 * kChunks);
}

TEST(UcxStreams, SmallChunksNeedNone) {
  expect_streams(streaming(0), streaming(1), 32 << 10, 0);
}

TEST(UcxStreams, AreNotMadeWhereOneSideHasThemOffNorWithoutPeerErrors) {
  auto off = streaming(0);
  off.stream_connections = false;
  expect_streams(off, streaming(1), kChunk, 0);
  auto first = streaming(0), second = streaming(1);
  first.peer_errors = second.peer_errors = false;
  expect_streams(first, second, kChunk, 0);
}

TEST(UcxStreams, LastMessageOfAPeerThatLeavesIsHeardThoughItsStreamEndsFirst) {
  for (int round = 0; round < 5; ++round) {
    UcxWorld world(2);
    run_ranks(2, [&](unsigned self) {
      UcxRank rank(world, self, streaming(self));
      Bytes expert = pattern(kChunk * kChunks, 0);
      lend_all_of(rank, expert);
      if (self == 0) {
        EXPECT_TRUE(rank.pump([&] { return streamed(rank) > 8; }));
        rank.transport().send(1, Bytes(3, std::byte{7}));
        EXPECT_TRUE(rank.close());
        return;
      }
      Bytes landed(kChunk * 4);
      std::uint64_t next = 0;
      EXPECT_TRUE(rank.pump([&] {
        while (rank.lost.empty() && next - rank.chunks.size() < 4) {
          rank.pull(next, 0, 0, {{landed.data() + next % 4 * kChunk, kChunk}});
          ++next;
        }
        return !rank.lost.empty() && rank.chunks.size() == next;
      }));
      EXPECT_EQ(rank.messages.size(), 1u) << "it was taken for dead before its last message was read";
    });
  }
}

// Rank 0 is ours and asks rank 1, a member that does what the test says, for a large chunk; `run` begins when rank 1 knows
// where it is awaited.
void as_a_source(const std::function<void(UcxRank&, const std::function<bool()>&)>& ours,
                 const std::function<void(Rogue&, const StreamOffer&)>& source) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    if (self == 0) {
      UcxRank rank(world, self, streaming(self));
      ours(rank, [&] { return world.board.get(0) == 1; });
      world.board.set(1, 1);
      return;
    }
    Rogue rogue(world, self, streaming(self));
    const auto offer = [&]() -> const StreamOffer* {
      for (const auto& header : rogue.heard) {
        if (const auto* found = std::get_if<StreamOffer>(&header)) return found;
      }
      return nullptr;
    };
    EXPECT_TRUE(rogue.progress_until([&] { return offer() != nullptr; })) << "rank 0 has offered no stream";
    const StreamOffer where = *offer();
    source(rogue, where);
    world.board.set(0, 1);
    EXPECT_TRUE(rogue.progress_until([&] { return world.board.get(1) == 1; }));
  });
}

UniqueFd dial(const StreamOffer& where) {
  const sockaddr_storage address = transport::ucx::to_sockaddr(where);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(sockaddr_in)), 0);
  return fd;
}

TEST(UcxStreams, StrangersAreTurnedAwayAndTheSourceStillGetsIn) {
  Bytes landed(100000);
  as_a_source(
      [&](UcxRank& rank, const std::function<bool()>& over) {
        rank.pull(1, 1, 0, {{landed.data(), landed.size()}});
        EXPECT_TRUE(rank.pump(over));
        EXPECT_TRUE(rank.pump([&] { return rank.chunks.contains(1); }));
        EXPECT_TRUE(rank.chunks[1].ok()) << rank.chunks[1].message();
        EXPECT_TRUE(landed == pattern(landed.size(), 9));
        EXPECT_TRUE(rank.lost.empty());
      },
      [&](Rogue& rogue, const StreamOffer& where) {
        std::vector<UniqueFd> silent;
        for (int i = 0; i < 30; ++i) silent.push_back(dial(where));  // they stay
        for (int i = 0; i < 30; ++i) {
          const UniqueFd reset = dial(where);
          const linger hard{1, 0};
          ::setsockopt(reset.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        }
        for (const std::size_t size : {1u, 7u, 8u, 9u, 64u, 4000u, 100000u}) {
          silent.push_back(dial(where));
          Bytes noise = pattern(size, 77);
          EXPECT_GT(::send(silent.back().get(), noise.data(), noise.size(), MSG_NOSIGNAL | MSG_DONTWAIT), 0);
        }
        // Strangers that know UCX: turned away before anything else of theirs is looked at.
        const ucp_ep_h nameless = rogue.call(where, false);
        EXPECT_TRUE(rogue.progress_until([&] { return rogue.failed_calls == 1; })) << "who gave no name was let in";
        rogue.close(nameless);
        // The member, once.
        const ucp_ep_h stream = rogue.call(where);
        rogue.say(rogue.header(ChunkData{1}), pattern(100000, 9), UCP_AM_SEND_FLAG_RNDV, stream);
        rogue.progress_for(300ms);
        EXPECT_EQ(rogue.failed_calls, 1u) << "the member was turned away";
        const ucp_ep_h again = rogue.call(where);
        EXPECT_TRUE(rogue.progress_until([&] { return rogue.failed_calls == 2; })) << "a member was let in twice";
        rogue.close(again);
        rogue.let_in.push_back(stream);  // closed at the end
      });
}

TEST(UcxStreams, EndOfOneThatCarriesNothingLosesNobody) {
  Bytes landed(100000);
  as_a_source(
      [&](UcxRank& rank, const std::function<bool()>& over) {
        rank.pull(1, 1, 0, {{landed.data(), landed.size()}});
        EXPECT_TRUE(rank.pump([&] { return rank.chunks.contains(1); }));
        rank.transport().send(1, Bytes(1));
        EXPECT_TRUE(rank.pump([&] { return rank.messages.size() == 1; }));
        rank.pump_for(1500ms);
        rank.pull(2, 1, 0, {{landed.data(), landed.size()}});
        EXPECT_TRUE(rank.pump([&] { return rank.chunks.contains(2); }));
        EXPECT_TRUE(rank.chunks[2].ok()) << rank.chunks[2].message();
        EXPECT_TRUE(rank.lost.empty());
        EXPECT_TRUE(rank.pump(over));
      },
      [&](Rogue& rogue, const StreamOffer& where) {
        const ucp_ep_h stream = rogue.call(where);
        rogue.say(rogue.header(ChunkData{1}), pattern(100000, 9), UCP_AM_SEND_FLAG_RNDV, stream);
        const auto heard = [&](const auto& wanted) {
          return rogue.progress_until([&] { return std::any_of(rogue.heard.begin(), rogue.heard.end(), wanted); });
        };
        // A message says that rank 0 has the chunk.
        EXPECT_TRUE(heard([](const auto& header) { return std::holds_alternative<MessageHeader>(header); }));
        rogue.close(stream);
        rogue.say(rogue.header(MessageHeader{0}), Bytes(1));
        EXPECT_TRUE(heard([](const auto& header) {
          const auto* request = std::get_if<ChunkRequest>(&header);
          return request != nullptr && request->token == 2;
        }));
        rogue.say(rogue.header(ChunkData{2}), pattern(100000, 9));  // with the messages
      });
}

// Rank 0 is ours and lends; rank 1 says where it awaits chunks, and asks for them.
void as_an_asker(const std::function<void(UcxRank&, const std::function<bool()>&)>& ours,
                 const std::function<void(Rogue&)>& asker) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    if (self == 0) {
      UcxRank rank(world, self, streaming(self));
      Bytes expert = pattern(kChunk, 4);
      lend_all_of(rank, expert);
      ours(rank, [&] { return world.board.get(0) == 1; });
      EXPECT_TRUE(rank.close());
      world.board.set(1, 1);
      return;
    }
    Rogue rogue(world, self, streaming(self));
    asker(rogue);
    world.board.set(0, 1);
    EXPECT_TRUE(rogue.progress_until([&] { return world.board.get(1) == 1; }));
  });
}

std::size_t answers(const Rogue& rogue) {
  return static_cast<std::size_t>(std::count_if(
      rogue.heard.begin(), rogue.heard.end(), [](const auto& header) { return std::holds_alternative<ChunkData>(header); }));
}

TEST(UcxStreams, SourceThatCannotConnectSendsWithTheMessagesAndSaysSo) {
  const auto closed_port = [] {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at;
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
    EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&at), &length), 0);
    sockaddr_storage storage{};
    std::memcpy(&storage, &at, sizeof at);
    return transport::ucx::to_offer(storage);
  };
  as_an_asker(
      [&](UcxRank& rank, const std::function<bool()>& over) {
        ::testing::internal::CaptureStderr();
        std::string log;
        EXPECT_TRUE(rank.pump(over));
        rank.pump_for(1500ms);
        EXPECT_TRUE(rank.lost.empty());
        EXPECT_EQ(streamed(rank), 0u);
        log = ::testing::internal::GetCapturedStderr();
        EXPECT_NE(log.find("chunks for rank 1 go with the messages"), std::string::npos) << log;
      },
      [&](Rogue& rogue) {
        rogue.say(rogue.header(closed_port()));
        for (std::uint64_t i = 0; i < 20; ++i) {
          rogue.say(rogue.header(ChunkRequest{i, {}, 0, kChunk, kChunk}));
          EXPECT_TRUE(rogue.progress_until([&] { return answers(rogue) == i + 1; }));
          rogue.progress_for(20ms);
        }
      });
}

TEST(UcxStreams, ChunkThatIsLostWithItsStreamLosesThePeerIfNothingElseIsHeardOfIt) {
  as_an_asker(
      [&](UcxRank& rank, const std::function<bool()>&) {
        EXPECT_TRUE(rank.pump([&] { return rank.lost.contains(1); }));
        EXPECT_EQ(rank.lost[1].code(), CARDEA_ERR_PEER_LOST);
        EXPECT_NE(rank.lost[1].message().find("chunks' connection"), std::string::npos) << rank.lost[1].message();
        EXPECT_GT(streamed(rank), 0u);
      },
      [&](Rogue& rogue) {
        rogue.say(rogue.header(rogue.listen()));
        std::uint64_t token = 0;
        const auto ask = [&] { rogue.say(rogue.header(ChunkRequest{token++, {}, 0, kChunk, kChunk})); };
        EXPECT_TRUE(rogue.progress_until([&] { return !rogue.let_in.empty(); })) << "nobody has called";
        for (int i = 0; i < 20; ++i) {  // until chunks come by the stream
          ask();
          EXPECT_TRUE(rogue.progress_until([&] { return answers(rogue) == token; }));
          rogue.progress_for(10ms);
        }
        rogue.takes_data = false;
        ask();
        EXPECT_TRUE(rogue.progress_until([&] { return answers(rogue) == token; }));
        for (ucp_ep_h endpoint : std::exchange(rogue.let_in, {})) rogue.close(endpoint);
      });
}

TEST(UcxStreams, AddressesOfDevicesAndOffersAreOneAnothersForm) {
  const auto lo = transport::ucx::address_of_device("lo");
  ASSERT_TRUE(lo.ok()) << lo.status().message();
  ASSERT_EQ(lo->ss_family, AF_INET);
  EXPECT_EQ(transport::ucx::to_string(transport::ucx::to_offer(*lo)), "127.0.0.1:0");
  EXPECT_EQ(transport::ucx::address_of_device("no such device").status().code(), CARDEA_ERR_TRANSPORT);
  StreamOffer v6{6, {}, 4711};
  v6.address[0] = std::byte{0x20};
  v6.address[15] = std::byte{1};
  EXPECT_EQ(transport::ucx::to_string(v6), "[2000::1]:4711");
  const StreamOffer back = transport::ucx::to_offer(transport::ucx::to_sockaddr(v6));
  EXPECT_EQ(back.family, v6.family);
  EXPECT_EQ(back.address, v6.address);
  EXPECT_EQ(back.port, v6.port);
}

}  // namespace
}  // namespace cardea::test
