// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/membership.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <thread>

#include "lib/transport/shm/proposal.h"
#include "lib/transport/shm/rank_segment.h"
#include "tests/support/ranks.h"
#include "tests/support/test_exchange.h"

namespace cardea::shm {
namespace {

using test::BoardExchange;
using test::ExchangeBoard;
using test::SharedBoard;
using ::testing::ElementsAre;

Clock::time_point patience() {
  return Clock::now() + std::chrono::seconds(40);
}

std::size_t open_descriptors() {
  DIR* const directory = opendir("/proc/self/fd");
  std::size_t count = 0;
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

std::vector<Rank> linked(const Membership& membership) {
  std::vector<Rank> ranks;
  for (const NodeLink& link : membership.links) ranks.push_back(link.rank);
  return ranks;
}

TEST(Membership, TwoNodeIdentitiesMakeTwoNodesWithProvenLinks) {
  ExchangeBoard board(4);
  SharedBoard pids;
  test::run_ranks(4, [&](unsigned rank) {
    const std::size_t descriptors = open_descriptors();
    pids.set(rank, static_cast<unsigned long>(getpid()));
    BoardExchange exchange(board, rank);
    {
      Result<Membership> result = prove_membership(exchange, rank % 2 == 0 ? "a" : "b", patience());
      ASSERT_TRUE(result.ok()) << result.status().message();
      Membership& membership = *result;
      EXPECT_THAT(membership.node_of, ElementsAre(0, 1, 0, 1));
      EXPECT_THAT(membership.node_ranks, ElementsAre(rank % 2, rank % 2 + 2));
      EXPECT_EQ(membership.host_names.size(), 4u);
      EXPECT_FALSE(membership.host_names[0].empty());
      ASSERT_THAT(linked(membership), ElementsAre((rank + 2) % 4));
      NodeLink& link = membership.links.front();
      EXPECT_EQ(static_cast<unsigned long>(link.process.pid), pids.get(link.rank));
      EXPECT_GT(link.process.start_time, 0u);
      EXPECT_TRUE(link.process.descriptor);
      EXPECT_EQ(read_header(link.segment).rank, link.rank);
      // The link carries bytes both ways, and nothing is left over from the handshake.
      const char byte = static_cast<char>(rank);
      EXPECT_EQ(::send(link.socket.get(), &byte, 1, MSG_NOSIGNAL), 1);
      pollfd polled{link.socket.get(), POLLIN, 0};
      EXPECT_EQ(poll(&polled, 1, 30000), 1);
      char got[8];
      EXPECT_EQ(recv(link.socket.get(), got, sizeof got, 0), 1);
      EXPECT_EQ(got[0], static_cast<char>(link.rank));
      EXPECT_TRUE(pids.barrier(0, 4));
    }
    EXPECT_EQ(open_descriptors(), descriptors);
  });
}

TEST(Membership, ManyRanksOfOneNodeAllGetLinked) {
  ExchangeBoard board(8);
  test::run_ranks(8, [&](unsigned rank) {
    BoardExchange exchange(board, rank);
    Result<Membership> membership =
        prove_membership(exchange, "", patience(), {.handshake_timeout = std::chrono::seconds(30)});
    ASSERT_TRUE(membership.ok()) << membership.status().message();
    EXPECT_THAT(membership->node_of, ::testing::Each(0u));
    EXPECT_EQ(membership->links.size(), 7u);
  });
}

TEST(Membership, ALiarFromAnotherNetworkNamespaceEndsAlone) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root for a network namespace";
  // The second time it also lies about the namespace, so that the others find out by waiting for it.
  for (const bool lies_about_namespace : {false, true}) {
    ExchangeBoard board(4);
    test::run_ranks(4, [&](unsigned rank) {
      BoardExchange exchange(board, rank);
      const std::uint64_t common = propose("", "").network_namespace;
      if (rank == 1) {
        ASSERT_EQ(unshare(CLONE_NEWNET), 0);
        ASSERT_NE(propose("", "").network_namespace, common);
        if (lies_about_namespace) {
          exchange.on_give([common](unsigned round, Bytes mine) {
            if (round != 0) return mine;
            Proposal proposal = decode_proposal(mine).value();
            proposal.network_namespace = common;
            return encode(proposal);
          });
        }
      }
      Result<Membership> membership =
          prove_membership(exchange, "", patience(), {.handshake_timeout = std::chrono::seconds(3)});
      ASSERT_TRUE(membership.ok()) << membership.status().message();
      EXPECT_THAT(membership->node_of, ElementsAre(0, 1, 0, 0));
      EXPECT_EQ(membership->links.size(), rank == 1 ? 0u : 2u);
    });
  }
}

TEST(Membership, ARankWithAnotherSecretEndsAlone) {
  ExchangeBoard board(3);
  test::run_ranks(3, [&](unsigned rank) {
    BoardExchange exchange(board, rank);
    if (rank == 0) exchange.use_secret({});
    Result<Membership> membership =
        prove_membership(exchange, "", patience(), {.handshake_timeout = std::chrono::seconds(3)});
    ASSERT_TRUE(membership.ok()) << membership.status().message();
    EXPECT_THAT(membership->node_of, ElementsAre(0, 1, 1));
    EXPECT_EQ(linked(*membership), rank == 0 ? std::vector<Rank>{} : std::vector<Rank>{3 - rank});
  });
}

TEST(Membership, OtherHostsAreNotEvenTried) {
  ExchangeBoard board(2);
  test::run_ranks(2, [&](unsigned rank) {
    BoardExchange exchange(board, rank);
    MembershipOptions options{.host_name = "host" + std::to_string(rank)};
    const auto before = Clock::now();
    Result<Membership> membership = prove_membership(exchange, "", patience(), options);
    ASSERT_TRUE(membership.ok()) << membership.status().message();
    EXPECT_LT(Clock::now() - before, options.handshake_timeout);
    EXPECT_THAT(membership->node_of, ElementsAre(0, 1));
    EXPECT_THAT(membership->host_names, ElementsAre("host0", "host1"));
    EXPECT_TRUE(membership->links.empty());
  });
}

// Learns rank 0's socket from what it gives, and comes before rank 1 does.
TEST(Membership, StrangersAtTheSocketAreDroppedAndTheNodeStillForms) {
  ExchangeBoard board(2);
  SharedBoard seen;
  test::run_ranks(2, [&](unsigned rank) {
    BoardExchange exchange(board, rank);
    std::thread strangers;
    if (rank == 0) {
      exchange.on_give([&](unsigned round, Bytes mine) {
        if (round != 0) return mine;
        strangers = std::thread([&seen, name = decode_proposal(mine).value().socket] {
          sockaddr_un address{};
          address.sun_family = AF_UNIX;
          std::memcpy(address.sun_path + 1, name.data(), name.size());
          const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
          std::vector<UniqueFd> sockets;
          for (int i = 0; i < 30; ++i) {
            UniqueFd& stranger = sockets.emplace_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
            EXPECT_EQ(connect(stranger.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
            const std::string garbage(i % 3 == 0 ? 0 : 4096, 'x');  // a third stays silent
            if (i % 3 != 0) ::send(stranger.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
            if (i % 3 == 2) stranger.reset();  // another goes at once
          }
          seen.set(0, 1);
          // Whoever sent garbage is thrown out.
          char byte[256];
          pollfd polled{sockets[1].get(), POLLIN, 0};
          EXPECT_EQ(poll(&polled, 1, 30000), 1);
          while (recv(sockets[1].get(), byte, sizeof byte, 0) > 0) {
          }
          seen.add(1, 1);
        });
        EXPECT_TRUE(seen.wait_for(0, 1));
        return mine;
      });
    }
    Result<Membership> membership =
        prove_membership(exchange, "", patience(), {.handshake_timeout = std::chrono::seconds(30)});
    if (strangers.joinable()) strangers.join();
    ASSERT_TRUE(membership.ok()) << membership.status().message();
    EXPECT_THAT(membership->node_of, ElementsAre(0, 0));
    EXPECT_EQ(membership->links.size(), 1u);
  });
  EXPECT_EQ(seen.get(1), 1u);
}

TEST(Membership, AMissingRankIsTheExchangesErrorAndAMalformedProposalNamesItsRank) {
  ExchangeBoard board(2);
  BoardExchange alone(board, 0);
  const Status missing = prove_membership(alone, "", Clock::now() + std::chrono::milliseconds(50)).status();
  EXPECT_EQ(missing.code(), CARDEA_ERR_TIMEOUT);
  EXPECT_EQ(missing.detail().peer, 1u);

  ExchangeBoard other(2);
  test::run_ranks(2, [&](unsigned rank) {
    BoardExchange exchange(other, rank);
    if (rank == 1) exchange.on_give([](unsigned, Bytes) { return Bytes(3); });
    const Status status = prove_membership(exchange, "", patience()).status();
    EXPECT_EQ(status.code(), CARDEA_ERR_PROTOCOL);
    EXPECT_EQ(status.detail().peer, 1u);
  });
}

}  // namespace
}  // namespace cardea::shm
