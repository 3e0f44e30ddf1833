// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/bootstrap.h"

#include <dirent.h>
#include <signal.h>

#include <random>

#include "lib/bootstrap/meeting_point.h"
#include "tests/bootstrap/joining.h"
#include "tests/support/ranks.h"

namespace cardea::bootstrap {
namespace {

using std::chrono::milliseconds;

std::size_t entries(const char* directory) {
  std::size_t count = 0;
  DIR* open = opendir(directory);
  while (readdir(open) != nullptr) ++count;
  closedir(open);
  return count;
}

TEST(Join, RanksInAnyOrderAndLateShareIdSecretAndBytes) {
  const Options job = fresh_job(8);
  std::vector<std::string> ids(8);
  std::vector<Secret> secrets(8);
  as_threads(8, [&](Rank rank) {
    // Rank 0, which runs the meeting point, comes last.
    std::this_thread::sleep_for(milliseconds(rank == 0 ? 300 : 37 * ((rank * 5) % 8)));
    auto exchange = join(as_rank(job, rank), in_seconds(60));
    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
    for (int round = 0; round < 3; ++round) expect_everybodys_name(**exchange);
    ids[rank] = (*exchange)->job_id();
    secrets[rank] = (*exchange)->secret();
  });
  EXPECT_EQ(ids[0].size(), 32u);
  EXPECT_EQ(ids[0].find_first_not_of("0123456789abcdef"), std::string::npos);
  for (Rank rank = 1; rank < 8; ++rank) {
    EXPECT_EQ(ids[rank], ids[0]);
    EXPECT_EQ(secrets[rank], secrets[0]);
  }
  EXPECT_NE(secrets[0], job.secret);
}

TEST(Join, NothingRemainsAfterwards) {
  const auto form = [] {
    const Options job = fresh_job(3);
    as_threads(3, [&](Rank rank) {
      auto exchange = join(as_rank(job, rank), in_seconds(60));
      ASSERT_TRUE(exchange.ok()) << exchange.status().message();
      expect_everybodys_name(**exchange);
    });
  };
  form();  // whatever is made once in a process
  const std::size_t descriptors = entries("/proc/self/fd"), threads = entries("/proc/self/task");
  form();
  EXPECT_EQ(entries("/proc/self/fd"), descriptors);
  EXPECT_EQ(entries("/proc/self/task"), threads);
}

TEST(Join, TheSameJobFormsAgainAndAgainUnderOtherIds) {
  Options job = fresh_job(3);
  job.roots = {Endpoint{.host = "127.0.0.1", .port = static_cast<std::uint16_t>(21000 + getpid() % 10000)}};
  std::set<std::string> ids;
  for (job.instance = 0; job.instance < 5; ++job.instance) {
    as_threads(3, [&](Rank rank) {
      auto exchange = join(as_rank(job, rank), in_seconds(60));
      ASSERT_TRUE(exchange.ok()) << exchange.status().message();
      expect_everybodys_name(**exchange);
      if (rank == 0) ids.insert((*exchange)->job_id());
    });
  }
  EXPECT_EQ(ids.size(), 5u);
}

TEST(Join, TwoJobsSideBySideDoNotMix) {
  const Options jobs[] = {fresh_job(4), fresh_job(4)};
  std::string ids[2];
  as_threads(8, [&](Rank thread) {
    auto exchange = join(as_rank(jobs[thread % 2], thread / 2), in_seconds(60));
    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
    expect_everybodys_name(**exchange);
    if (thread < 2) ids[thread] = (*exchange)->job_id();
  });
  EXPECT_NE(ids[0], ids[1]);
}

TEST(Join, AJobOfOneNeedsNoNetwork) {
  Options options;
  auto exchange = join(options, in_seconds(1));
  ASSERT_TRUE(exchange.ok());
  const auto all = (*exchange)->allgather(bytes_of("me"), in_seconds(1));
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->at(0), bytes_of("me"));
}

TEST(Join, MissingRanksAreListedOnAllThatAreThere) {
  const Options job = fresh_job(6);
  as_threads(6, [&](Rank rank) {
    if (rank == 2 || rank == 4 || rank == 5) return;
    const auto exchange = join(as_rank(job, rank), in_seconds(2));
    EXPECT_EQ(exchange.status().code(), CARDEA_ERR_TIMEOUT);
    EXPECT_NE(exchange.status().message().find("3 of 6 ranks did not arrive in time: ranks 2, 4-5"), std::string::npos)
        << exchange.status().message();
    EXPECT_EQ(exchange.status().detail().peer, 2u);
  });
}

TEST(Join, AMissingRankZeroIsNamed) {
  const auto exchange = join(as_rank(fresh_job(2), 1), in_seconds(1));
  EXPECT_EQ(exchange.status().code(), CARDEA_ERR_TIMEOUT);
  EXPECT_NE(exchange.status().message().find("which rank 0 runs"), std::string::npos) << exchange.status().message();
  EXPECT_EQ(exchange.status().detail().peer, 0u);
}

/// All ranks fail with MISMATCH and a message that has `text`, when `change` alters the options of thread 2.
void expect_mismatch(const std::function<void(Options&)>& change, const std::string& text) {
  const Options job = fresh_job(3);
  as_threads(3, [&](Rank rank) {
    Options options = as_rank(job, rank);
    if (rank == 2) change(options);
    const auto exchange = join(options, in_seconds(30));
    EXPECT_EQ(exchange.status().code(), CARDEA_ERR_MISMATCH) << rank;
    EXPECT_NE(exchange.status().message().find(text), std::string::npos) << exchange.status().message();
  });
}

TEST(Join, TwoRanksOfOneNumberFailOnAll) {
  expect_mismatch([](Options& options) { options.rank = 1; }, "two processes say that they are rank 1");
}

TEST(Join, TwoRankZerosFail) {
  const Options job = fresh_job(2);
  as_threads(2, [&](Rank) {
    const auto exchange = join(as_rank(job, 0), in_seconds(30));
    EXPECT_EQ(exchange.status().code(), CARDEA_ERR_MISMATCH) << exchange.status().message();
    EXPECT_NE(exchange.status().message().find("rank 0"), std::string::npos);
  });
}

TEST(Join, AnotherWorldSizeFailsOnAll) {
  expect_mismatch([](Options& options) { options.world_size = 5; }, "world size 5");
}

TEST(Join, AnotherWireVersionFailsOnAll) {
  expect_mismatch([](Options& options) { options.wire_version = 77; }, "rank 2");
}

TEST(Join, AWrongSecretIsToldToItsOwnerAndMissingToTheOthers) {
  const Options job = fresh_job(3);
  as_threads(3, [&](Rank rank) {
    Options options = as_rank(job, rank);
    options.secret_origin = "copy the file";
    if (rank == 1) options.secret[0] ^= std::byte{1};
    const auto exchange = join(options, in_seconds(rank == 1 ? 30 : 3));
    EXPECT_EQ(exchange.status().code(), rank == 1 ? CARDEA_ERR_AUTHENTICATION : CARDEA_ERR_TIMEOUT);
    EXPECT_NE(exchange.status().message().find(rank == 1 ? "copy the file" : "rank 1"), std::string::npos)
        << exchange.status().message();
  });
}

TEST(Join, AMemberThatGoesBetweenExchangesIsNamedOnAll) {
  const Options job = fresh_job(4);
  test::SharedBoard board;
  test::RankOptions options{.victims = {2}};
  test::run_ranks(
      4,
      [&](Rank rank) {
        auto exchange = join(as_rank(job, rank), in_seconds(60));
        ASSERT_TRUE(exchange.ok()) << exchange.status().message();
        expect_everybodys_name(**exchange);
        if (rank == 2) {
          board.set(0, 1);
          raise(SIGKILL);
        }
        ASSERT_TRUE(board.wait_for(0, 1));
        const auto all = (*exchange)->allgather(bytes_of("again"), in_seconds(60));
        EXPECT_EQ(all.status().code(), CARDEA_ERR_PEER_LOST);
        EXPECT_EQ(all.status().detail().peer, 2u) << all.status().message();
        EXPECT_EQ((*exchange)->allgather(bytes_of("later"), in_seconds(60)).status().code(), CARDEA_ERR_PEER_LOST);
        board.barrier(1, 3);  // rank 0 takes the meeting point with it
      },
      options);
  EXPECT_EQ(board.get(0), 1u);
}

TEST(Join, TheDeathOfTheMeetingPointsRankIsNamed) {
  const Options job = fresh_job(3);
  test::SharedBoard board;
  test::run_ranks(3,
                  [&](Rank rank) {
                    auto exchange = join(as_rank(job, rank), in_seconds(60));
                    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
                    expect_everybodys_name(**exchange);
                    ASSERT_TRUE(board.barrier(0, 3));
                    if (rank == 0) raise(SIGKILL);
                    const auto all = (*exchange)->allgather(bytes_of("x"), in_seconds(60));
                    EXPECT_EQ(all.status().code(), CARDEA_ERR_PEER_LOST);
                    EXPECT_EQ(all.status().detail().peer, 0u) << all.status().message();
                  },
                  {.victims = {0}});
}

TEST(Join, ARankThatSkipsAnExchangeIsListed) {
  const Options job = fresh_job(3);
  test::SharedBoard board;
  as_threads(3, [&](Rank rank) {
    auto exchange = join(as_rank(job, rank), in_seconds(60));
    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
    if (rank != 1) {
      const auto all = (*exchange)->allgather(bytes_of("x"), in_seconds(1));
      EXPECT_EQ(all.status().code(), CARDEA_ERR_TIMEOUT);
      EXPECT_NE(all.status().message().find("rank 1"), std::string::npos) << all.status().message();
    }
    board.barrier(0, 3);
  });
}

TEST(Join, LargeAndEmptyContributionsArriveWhole) {
  const Options job = fresh_job(5);
  as_threads(5, [&](Rank rank) {
    auto exchange = join(as_rank(job, rank), in_seconds(60));
    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
    const Bytes mine(rank == 3 ? 0 : Exchange::kMaxBytes, static_cast<std::byte>(rank));
    const auto all = (*exchange)->allgather(mine, in_seconds(60));
    ASSERT_TRUE(all.ok()) << all.status().message();
    for (Rank from = 0; from < 5; ++from) {
      EXPECT_EQ((*all)[from], Bytes(from == 3 ? 0 : Exchange::kMaxBytes, static_cast<std::byte>(from))) << from;
    }
    expect_everybodys_name(**exchange);
    EXPECT_EQ((*exchange)->allgather(Bytes(Exchange::kMaxBytes + (rank == 2)), in_seconds(60)).status().code(),
              rank == 2 ? CARDEA_ERR_INVALID_ARGUMENT : CARDEA_ERR_PEER_LOST);
  });
}

}  // namespace
}  // namespace cardea::bootstrap
