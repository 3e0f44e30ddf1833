// SPDX-License-Identifier: Apache-2.0
// What callers see of stopped, dead and idle peers: who is told, by what, and what can still be read.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

constexpr std::uint64_t kLimit = kSecond;

cardea_config_t watched(SharedExchange& exchange, unsigned rank, const char* node) {
  cardea_config_t config = exchange.config(rank, node);
  config.liveness_limit = kLimit;
  config.setup_timeout = kPatience;
  return config;
}

bool is_alive(const Job& job, std::uint32_t rank) {
  cardea_rank_info_t info = CARDEA_RANK_INFO_INIT;
  CARDEA_MUST(cardea_rank_query(job.context, rank, &info));
  return info.alive != 0;
}

/// Sleeps on the event descriptor, and makes no other call, until the rank is not alive any more.
void await_loss(const Job& job, std::uint32_t rank) {
  int descriptor = -1;
  CARDEA_MUST(cardea_event_descriptor(job.context, &descriptor));
  for (;;) {
    CARDEA_MUST(cardea_event_clear(job.context));
    if (!is_alive(job, rank)) return;
    pollfd event{descriptor, POLLIN, 0};
    ASSERT_EQ(poll(&event, 1, 30000), 1) << "the event descriptor told nothing";
  }
}

void await_stop(pid_t pid) {
  for (int i = 0; i < 30000; ++i) {
    char path[64], state = 0;
    std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (std::FILE* const file = std::fopen(path, "r")) {
      if (std::fscanf(file, "%*d (%*[^)]) %c", &state) != 1) state = 0;
      std::fclose(file);
    }
    if (state == 'T') return;
    usleep(1000);
  }
  FAIL() << "the rank was not stopped";
}

struct Places {
  const char* name;
  const char* node[3];
  unsigned victim;
};

class StoppedRank : public ::testing::TestWithParam<Places> {};

INSTANTIATE_TEST_SUITE_P(, StoppedRank,
                         ::testing::Values(Places{"OnTheNode", {"a", "a", "a"}, 2},
                                           Places{"AloneOnItsNode", {"a", "a", "b"}, 2},
                                           Places{"TheLowestOfTwoNodes", {"a", "a", "b"}, 0},
                                           Places{"OfThreeNodes", {"a", "b", "c"}, 0}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST_P(StoppedRank, IsLostToIdleRanksAndExpelledWhenItComesBack) {
  const Places& places = GetParam();
  SharedExchange exchange(3);
  SharedBoard board;
  RankOptions options;
  run_ranks(
      3,
      [&](unsigned rank) {
        Job job(watched(exchange, rank, places.node[rank]));
        if (rank == places.victim) {
          board.set(0, static_cast<unsigned long>(getpid()));
          // Blocked in a call that would wait for ever, when it is stopped.
          Layer layer(job, {.mapped = false});
          const cardea_fetch_t fetch = layer.fetch(1, layer.everything());
          EXPECT_TRUE(board.barrier(0, 3));
          cardea_view_t view = CARDEA_VIEW_INIT;
          std::uint32_t count = 0;
          EXPECT_REFUSED(CARDEA_ERR_EXPELLED, ({"expelled", "rank"}), cardea_next(fetch, &view, 1, &count, CARDEA_FOREVER));
          EXPECT_NE(last_error().peer, CARDEA_NO_RANK);
          EXPECT_NE(last_error().peer, rank);
          EXPECT_REFUSED(CARDEA_ERR_EXPELLED, ({}), cardea_publish(layer.handle, 1, nullptr));
          EXPECT_REFUSED(CARDEA_ERR_EXPELLED, ({}), cardea_finish(layer.handle, 1, nullptr));
          EXPECT_REFUSED(CARDEA_ERR_EXPELLED, ({}), cardea_layer_destroy(layer.handle));
          cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
          EXPECT_REFUSED(CARDEA_ERR_EXPELLED, ({}), cardea_context_query(job.context, &info));
          EXPECT_EQ(job.leave(), CARDEA_OK) << "leaving is always possible";
          board.set(3, 1);
          return;
        }
        Layer layer(job, {.mapped = false});
        EXPECT_TRUE(board.barrier(0, 3));
        const auto victim = static_cast<pid_t>(board.get(0));
        const unsigned first = places.victim == 0 ? 1 : 0;
        if (rank == first) {
          EXPECT_EQ(kill(victim, SIGSTOP), 0);
          await_stop(victim);
        }
        await_loss(job, places.victim);
        // Of the same node or in the majority, so these two go on.
        const std::uint32_t other = 3 - places.victim - rank;
        const cardea_group_t rest = job.group({std::min(rank, other), std::max(rank, other)});
        Layer next_layer(job, rest, {.layer_id = 1});
        next_layer.publish(1);
        EXPECT_EQ(read_all(next_layer, next_layer.fetch(1, next_layer.everything()), 1), 4u);
        EXPECT_TRUE(is_alive(job, other));
        EXPECT_TRUE(board.barrier(1, 2));
        if (rank == first) {
          EXPECT_EQ(kill(victim, SIGCONT), 0);
        }
        EXPECT_TRUE(board.wait_for(3, 1)) << "the rank that came back did not learn that it is expelled";
        EXPECT_FALSE(is_alive(job, places.victim));
        next_layer.finish(1);
        next_layer.collect(1);
        EXPECT_TRUE(board.barrier(2, 2));
      },
      options);
}

struct Victims {
  bool two_nodes;
  bool child;  // of the victim's, which holds its descriptors
};

class DeadRank : public ::testing::TestWithParam<Victims> {
 protected:
  /// Ranks 0 and 1 share a node; rank 2, on it or on another one, is killed when they have come to read(before).
  void run(const std::function<void(Job&, Layer&, unsigned)>& before,
           const std::function<void(Job&, Layer&, unsigned)>& after, const Shape& shape) {
    RankOptions options;
    options.victims = {2};
    pid_t child = 0;
    const std::vector<RankEnd> ends = run_ranks(
        3,
        [&](unsigned rank) {
          Job job(watched(exchange, rank, GetParam().two_nodes && rank == 2 ? "second" : "first"));
          Layer layer(job, shape);
          layer.publish(1);
          if (rank == 2) {
            if (GetParam().child) {
              child = fork();
              if (child == 0) {
                for (;;) pause();
              }
              board.set(5, static_cast<unsigned long>(child));
            }
            board.set(0, static_cast<unsigned long>(getpid()));
            for (;;) pause();
          }
          EXPECT_TRUE(board.wait_for(0, 1));
          before(job, layer, rank);
          EXPECT_TRUE(board.barrier(1, 2));
          if (rank == 0) {
            EXPECT_EQ(kill(static_cast<pid_t>(board.get(0)), SIGKILL), 0);
          }
          await_loss(job, 2);
          after(job, layer, rank);
          EXPECT_TRUE(board.barrier(2, 2));
        },
        options);
    if (board.get(5) != 0) kill(static_cast<pid_t>(board.get(5)), SIGKILL);
    EXPECT_EQ(ends[2].signal, SIGKILL);
  }

  SharedExchange exchange{3};
  SharedBoard board;
};

INSTANTIATE_TEST_SUITE_P(
    , DeadRank, ::testing::Values(Victims{false, false}, Victims{false, true}, Victims{true, false}, Victims{true, true}),
    [](const auto& param) {
      return std::string(param.param.two_nodes ? "OfAnotherNode" : "OfThisNode") + (param.param.child ? "WithAChild" : "");
    });

TEST_P(DeadRank, WhatTheNodeStillHasOfItCanBeReadAndTheViewSaysThatItIsDead) {
  const auto read = [](Layer& layer, std::uint32_t flags, std::uint32_t alive, cardea_path_t path) {
    const cardea_fetch_t fetch = layer.fetch(1, {4, 5}, flags);
    const std::vector<cardea_view_t> views = drain(fetch);
    EXPECT_EQ(views.size(), 2u);
    for (const cardea_view_t& view : views) {
      EXPECT_TRUE(layer.right(view, 1)) << last_error().message;
      EXPECT_EQ(view.source, 2u);
      EXPECT_EQ(view.source_alive, alive);
      if (path != CARDEA_PATH_NONE) {
        EXPECT_EQ(view.path, path);
      }
    }
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
  };
  const bool far = GetParam().two_nodes;
  run(
      [&](Job&, Layer& layer, unsigned rank) {
        // From another node, one rank brings it into the node cache; the other has never asked for it.
        if (!far || rank == 0) read(layer, 0, 1, far ? CARDEA_PATH_NETWORK : CARDEA_PATH_NODE_MAPPED);
      },
      [&](Job&, Layer& layer, unsigned rank) {
        if (rank == 0) layer.slab.poison();
        read(layer, 0, 0, far ? CARDEA_PATH_CACHE : CARDEA_PATH_NODE_MAPPED);
        read(layer, CARDEA_FETCH_SLOTS, 0, CARDEA_PATH_NONE);
        // What it never published will never come.
        const cardea_fetch_t later = layer.fetch(2, {4});
        EXPECT_REFUSED(CARDEA_ERR_PEER_LOST, ({"rank 2"}), cardea_wait(later, kPatience));
        CARDEA_MUST(cardea_fetch_destroy(later));
      },
      {.slots = 4, .mapped = true});
}

TEST(Progress, AVersionThatALivingRankDoesNotPublishIsGivenUpNamingRankAndExpert) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    cardea_config_t config = watched(exchange, rank, nullptr);
    config.progress_limit = 2 * kSecond;
    config.progress_warning = kSecond;
    Job job(config);
    Layer layer(job, {});
    if (rank == 0) {
      const cardea_fetch_t fetch = layer.fetch(1, {2, 3});
      EXPECT_REFUSED(CARDEA_ERR_TIMEOUT, ({"rank 1 has not published version 1", "expert"}), cardea_wait(fetch, kPatience));
      EXPECT_EQ(last_error().peer, 1u);
      EXPECT_EQ(last_error().layer, 0u);
      EXPECT_TRUE(last_error().expert == 2 || last_error().expert == 3);
      CARDEA_MUST(cardea_fetch_destroy(fetch));
      EXPECT_TRUE(is_alive(job, 1)) << "it lives, it only does not publish";
    }
    EXPECT_TRUE(board.barrier(0, 2));
    layer.publish(1);
    EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 4u) << "and the job goes on";
    EXPECT_TRUE(board.barrier(1, 2));
  });
}

TEST(Liveness, SettingsThatMakeNoSenseAreRefused) {
  SharedExchange exchange(1);
  cardea_config_t config = exchange.config(0);
  cardea_context_t context{};
  config.heartbeat = kSecond;
  config.liveness_limit = kSecond;
  EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"liveness limit", "two heartbeats"}),
                 cardea_context_create(&config, &context));
  config.heartbeat = 1;
  EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"config.heartbeat"}), cardea_context_create(&config, &context));
  config.heartbeat = 0;
  config.liveness_limit = 10 * kMilli;
  EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"config.liveness_limit"}), cardea_context_create(&config, &context));
  config.liveness_limit = 0;
  config.progress_limit = kMilli;
  EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"config.progress_limit"}), cardea_context_create(&config, &context));
}

}  // namespace
}  // namespace cardea::test
