// SPDX-License-Identifier: Apache-2.0
// The lock that shows whether a process lives where its pidfd cannot be had: no child, no copy of the descriptor and no
// reader of it can make a dead process look alive.
#include "lib/transport/shm/life_lock.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/shared_memory.h"
#include "lib/transport/shm/factory.h"
#include "lib/transport/shm/membership.h"
#include "tests/support/ranks.h"
#include "tests/support/test_exchange.h"

namespace cardea::shm {
namespace {

using test::BoardExchange;
using test::ExchangeBoard;
using test::SharedBoard;

TEST(LifeLock, EndsWithItsProcessThoughAChildHoldsTheFile) {
  Result<SharedMemory> memory = SharedMemory::create("test", 4096);
  ASSERT_TRUE(memory.ok());
  SharedBoard board;
  EXPECT_FALSE(life_lock_held(memory->descriptor()));
  const pid_t owner = fork();
  if (owner == 0) {
    if (!hold_life_lock(memory->descriptor()).ok()) _exit(1);
    const pid_t child = fork();
    if (child == 0) {
      board.set(1, static_cast<unsigned long>(getpid()));
      for (;;) pause();
    }
    board.set(0, 1);
    for (;;) pause();
  }
  ASSERT_TRUE(board.wait_for(0, 1));
  ASSERT_TRUE(board.wait_for(1, 1));
  EXPECT_TRUE(life_lock_held(memory->descriptor()));
  // To look, to copy the descriptor and to close the copy takes nothing away.
  close(dup(memory->descriptor()));
  EXPECT_TRUE(life_lock_held(memory->descriptor()));
  kill(owner, SIGSTOP);
  EXPECT_TRUE(life_lock_held(memory->descriptor())) << "a stopped process lives";
  kill(owner, SIGKILL);
  int status = 0;
  waitpid(owner, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(life_lock_held(memory->descriptor()));
  const auto child = static_cast<pid_t>(board.get(1));
  EXPECT_EQ(kill(child, 0), 0) << "the child lives, and holds the file";
  kill(child, SIGKILL);
}

TEST(LifeLock, TellsOfADeadRankWhereProcessesCannotBeSeen) {
  ExchangeBoard exchanges(2);
  SharedBoard board;
  test::RankOptions options;
  options.victims = {1};
  test::run_ranks(
      2,
      [&](unsigned rank) {
        BoardExchange exchange(exchanges, rank);
        MembershipOptions blind;
        blind.pidfds = false;
        Result<Membership> membership = prove_membership(exchange, "a", Clock::now() + std::chrono::seconds(40), blind);
        ASSERT_TRUE(membership.ok());
        ASSERT_EQ(membership->links.size(), 1u);
        if (rank == 1) {
          if (fork() == 0) {
            board.set(1, static_cast<unsigned long>(getpid()));
            for (;;) pause();
          }
          EXPECT_TRUE(board.wait_for(1, 1));
          board.set(0, static_cast<unsigned long>(getpid()));
          for (;;) pause();
        }
        struct Listener final : transport::Listener {
          Rank lost = kNoRank;
          std::string why;
          void on_message(Rank, ByteView) override {}
          void on_chunk_done(transport::ChunkToken, const Status&) override {}
          void on_peer_lost(Rank peer, const Status& status) override {
            lost = peer;
            why = status.message();
          }
          Result<transport::Lease> lend(Rank, const transport::ExpertAddress&, std::uint64_t, std::uint64_t) override {
            return Status(CARDEA_ERR_STALE, "nothing here");
          }
          void give_back(std::uint64_t, std::uint64_t) override {}
        } listener;
        boost::asio::io_context io;
        EXPECT_FALSE(membership->links.front().process.descriptor);
        ASSERT_TRUE(membership->links.front().process.lock);
        auto transport = make_shm_transport(io, listener, 0, std::move(membership->links));
        const std::pair<Rank, Bytes> peer{1, {}};
        ASSERT_TRUE(transport->connect(std::span(&peer, 1)).ok());
        EXPECT_TRUE(board.wait_for(0, 1));
        io.run_for(std::chrono::milliseconds(500));
        EXPECT_EQ(listener.lost, kNoRank) << listener.why;
        kill(static_cast<pid_t>(board.get(0)), SIGKILL);
        const auto deadline = Clock::now() + std::chrono::seconds(30);
        while (listener.lost == kNoRank && Clock::now() < deadline) io.run_one_for(std::chrono::seconds(1));
        EXPECT_EQ(listener.lost, 1u);
        EXPECT_NE(listener.why.find("process has ended"), std::string::npos) << listener.why;
      },
      options);
  kill(static_cast<pid_t>(board.get(1)), SIGKILL);
}

}  // namespace
}  // namespace cardea::shm
