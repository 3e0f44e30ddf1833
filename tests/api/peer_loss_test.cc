// SPDX-License-Identifier: Apache-2.0
// A rank that others read from dies (SIGKILL) or leaves: what they asked it for fails, naming it, and nobody hangs.
#include <signal.h>
#include <unistd.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

enum class End { kKilled, kLeft };

struct Scene {
  bool two_nodes;
  End end;
};

std::string name_of(const Scene& scene) {
  return std::string(scene.end == End::kKilled ? "Killed" : "Left") + (scene.two_nodes ? "OnAnotherNode" : "OnThisNode");
}
/// For GoogleTest, which would print its bytes.
void PrintTo(const Scene& scene, std::ostream* out) {
  *out << name_of(scene);
}

class PeerLoss : public ::testing::TestWithParam<Scene> {
 protected:
  /// Ranks 0 and 1 run survive(); rank 2, on rank 0's node or on one of its own, goes when rank 0 has called gone().
  void run(const std::function<void(Job&, Layer&, unsigned rank)>& survive) {
    RankOptions options;
    if (GetParam().end == End::kKilled) options.victims = {2};
    const std::vector<RankEnd> ends = run_ranks(
        3,
        [&](unsigned rank) {
          Job job(exchange, rank, GetParam().two_nodes && rank == 2 ? "second" : "first");
          Layer layer(job, {.slots = 6, .mapped = false});
          layer.publish(1);
          if (rank == 2) board.set(0, static_cast<unsigned long>(getpid()));
          EXPECT_TRUE(board.barrier(0, 3));
          if (rank == 2) {
            EXPECT_TRUE(board.wait_for(1, 1));
            if (GetParam().end == End::kKilled) {
              for (;;) pause();
            }
            EXPECT_EQ(job.leave(), CARDEA_OK);
            return;
          }
          // Everybody has read from everybody, so that all know that version 1 is there.
          EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 6u);
          EXPECT_TRUE(board.barrier(1, 2));
          survive(job, layer, rank);
          EXPECT_TRUE(board.barrier(2, 2));
          job.leave();
        },
        options);
    if (GetParam().end == End::kKilled) {
      EXPECT_EQ(ends[2].signal, SIGKILL) << "the rank did not die as it should";
    }
  }
  void let_it_go() {
    board.set(1, 1);
    if (GetParam().end == End::kKilled) {
      EXPECT_EQ(kill(static_cast<pid_t>(board.get(0)), SIGKILL), 0);
    }
  }
  const char* word() const { return GetParam().end == End::kLeft ? "has left" : "rank 2"; }

  SharedExchange exchange{3};
  SharedBoard board;
};

INSTANTIATE_TEST_SUITE_P(, PeerLoss,
                         ::testing::Values(Scene{false, End::kKilled}, Scene{true, End::kKilled}, Scene{false, End::kLeft},
                                           Scene{true, End::kLeft}),
                         [](const auto& param) { return name_of(param.param); });

TEST_P(PeerLoss, OpenFetchesFromItFailAndNameItAndOthersGoOn) {
  run([&](Job& job, Layer& layer, unsigned rank) {
    const cardea_fetch_t fetch = layer.fetch(2, {2 * (1 - rank), 4, 5});  // parked: nobody has published version 2
    EXPECT_EQ(info_of(fetch).parked, 3u);
    EXPECT_TRUE(board.barrier(10, 2));
    if (rank == 0) let_it_go();
    std::vector<cardea_view_t> lost;
    while (lost.size() < 2) {
      cardea_status_t status = CARDEA_OK;
      const std::vector<cardea_view_t> views = next(fetch, 1, kPatience, &status);
      must(status, "cardea_next");
      ASSERT_EQ(views.size(), 1u);
      EXPECT_EQ(views[0].status, CARDEA_ERR_PEER_LOST);
      EXPECT_TRUE(views[0].expert == 4 || views[0].expert == 5);
      EXPECT_EQ(last_error().peer, 2u);
      EXPECT_EQ(last_error().expert, views[0].expert);
      EXPECT_NE(std::string(last_error().message).find(word()), std::string::npos) << last_error().message;
      lost.push_back(views[0]);
    }
    EXPECT_EQ(info_of(fetch).parked, 1u) << "the other rank's expert is still to come";
    cardea_rank_info_t info = CARDEA_RANK_INFO_INIT;
    CARDEA_MUST(cardea_rank_query(job.context, 2, &info));
    EXPECT_EQ(info.alive, 0u);
    CARDEA_MUST(cardea_rank_query(job.context, 1 - rank, &info));
    EXPECT_EQ(info.alive, 1u);
    CARDEA_MUST(cardea_cancel(fetch));
    CARDEA_MUST(cardea_fetch_destroy(fetch));

    // What is asked of it later fails too, unless the node has it; what others hold is served.
    const bool cached = GetParam().two_nodes;
    const cardea_fetch_t later = layer.fetch(1, {2 * (1 - rank), 4});
    EXPECT_EQ(cardea_wait(later, kPatience), cached ? CARDEA_OK : CARDEA_ERR_PEER_LOST);
    for (const cardea_view_t& view : drain(later)) {
      if (view.expert == 4 && !cached) {
        EXPECT_EQ(view.status, CARDEA_ERR_PEER_LOST);
      } else {
        EXPECT_TRUE(layer.right(view, 1));
        EXPECT_EQ(view.source_alive, view.expert == 4 ? 0u : 1u);
        release({view});
      }
    }
    CARDEA_MUST(cardea_fetch_destroy(later));
    EXPECT_EQ(layer.slab.info().free_slots, 6u);

    // The two that are left make a group without it.
    const cardea_group_t rest = job.group({0, 1});
    Layer next_layer(job, rest, {.layer_id = 1});
    next_layer.publish(1);
    EXPECT_EQ(read_all(next_layer, next_layer.fetch(1, next_layer.everything()), 1), 4u);
    next_layer.finish(1);
    next_layer.collect(1);
  });
}

TEST_P(PeerLoss, ACollectThatAwaitsItFailsAndNamesItIfItDied) {
  run([&](Job&, Layer& layer, unsigned rank) {
    layer.finish(1);
    EXPECT_EQ(cardea_collect(layer.handle, 1, nullptr, 0), CARDEA_IN_PROGRESS);
    EXPECT_TRUE(board.barrier(10, 2));
    if (rank == 0) let_it_go();
    if (GetParam().end == End::kLeft) {
      EXPECT_EQ(cardea_collect(layer.handle, 1, nullptr, kPatience), CARDEA_OK) << "who has left reads nothing any more";
      return;
    }
    EXPECT_REFUSED(CARDEA_ERR_PEER_LOST, ({"rank 2"}), cardea_collect(layer.handle, 1, nullptr, kPatience));
    EXPECT_EQ(last_error().peer, 2u);
  });
}

TEST_P(PeerLoss, ALayerThatAwaitsItFailsAndNamesIt) {
  run([&](Job& job, Layer&, unsigned rank) {
    if (rank == 0) let_it_go();
    try {
      const Layer never(job, {.layer_id = 1});
      ADD_FAILURE() << "a layer was formed without one of its members";
    } catch (const std::exception&) {
      EXPECT_EQ(last_error().status, CARDEA_ERR_PEER_LOST) << last_error().message;
      EXPECT_EQ(last_error().peer, 2u);
    }
  });
}

}  // namespace
}  // namespace cardea::test
