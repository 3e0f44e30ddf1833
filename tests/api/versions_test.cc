// SPDX-License-Identifier: Apache-2.0
// A layer's versions across ranks: parking, STALE, collect as the only barrier there is, updates in place.
#include <functional>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

/// Two ranks, on one node or on two.
class Versions : public ::testing::TestWithParam<bool> {
 protected:
  /// Ends when both ranks have, so that none leaves while the other still reads.
  void two_ranks(const std::function<void(Job&, unsigned rank)>& body) {
    run_ranks(2, [&](unsigned rank) {
      Job job(exchange, rank, GetParam() && rank == 1 ? "second" : "first");
      body(job, rank);
      EXPECT_TRUE(board.barrier(255, 2));
    });
  }

  SharedExchange exchange{2};
  SharedBoard board;
};

INSTANTIATE_TEST_SUITE_P(, Versions, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "TwoNodes" : "OneNode"; });

TEST_P(Versions, AFetchOfTheUnpublishedParksWithoutASlotAndPublishWakesIt) {
  two_ranks([&](Job& job, unsigned rank) {
    Layer layer(job, {.mapped = false});
    if (rank == 0) {
      ASSERT_TRUE(board.wait_for(0, 1));  // the other's fetch is parked
      layer.publish(3);
    } else {
      const cardea_fetch_t fetch = layer.fetch(3, {0, 1});
      EXPECT_EQ(info_of(fetch).parked, 2u);
      EXPECT_EQ(layer.slab.info().free_slots, 4u) << "a parked fetch holds slots";
      cardea_status_t status = CARDEA_OK;
      EXPECT_TRUE(next(fetch, 2, 0, &status).empty());
      EXPECT_EQ(status, CARDEA_IN_PROGRESS);
      EXPECT_TRUE(next(fetch, 2, 20 * kMilli, &status).empty());
      EXPECT_EQ(status, CARDEA_ERR_TIMEOUT);
      EXPECT_EQ(cardea_wait(fetch, 0), CARDEA_IN_PROGRESS);
      board.set(0, 1);
      EXPECT_EQ(read_all(layer, fetch, 3), 2u);
      EXPECT_EQ(layer.slab.info().free_slots, 4u);
    }
    layer.finish(3);
    if (rank == 0) layer.collect(3);
  });
}

TEST_P(Versions, CollectWaitsForTheLastMemberToFinish) {
  two_ranks([&](Job& job, unsigned rank) {
    Layer layer(job, {});
    layer.publish(1);
    if (rank == 0) {
      layer.finish(1);
      ASSERT_TRUE(board.wait_for(0, 1));  // the other has a view
      for (int i = 0; i < 20; ++i) {
        const cardea_status_t status = cardea_collect(layer.handle, 1, nullptr, 5 * kMilli);
        EXPECT_EQ(board.get(1), 0u);
        EXPECT_EQ(status, CARDEA_ERR_TIMEOUT) << "collected while another rank reads";
      }
      EXPECT_EQ(cardea_collect(layer.handle, 1, nullptr, 0), CARDEA_IN_PROGRESS);
      board.set(2, 1);
      layer.collect(1);
      EXPECT_EQ(board.get(1), 1u) << "collected before the other rank had finished";
    } else {
      const cardea_fetch_t fetch = layer.fetch(1, {0, 1});
      const std::vector<cardea_view_t> views = drain(fetch);
      board.set(0, 1);
      ASSERT_TRUE(board.wait_for(2, 1));
      for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
      release(views);
      CARDEA_MUST(cardea_fetch_destroy(fetch));
      board.set(1, 1);
      layer.finish(1);
      layer.collect(1);
    }
  });
}

TEST_P(Versions, WeightsAreUpdatedInPlaceOverManyVersionsAndEveryReaderSeesItsOwn) {
  two_ranks([&](Job& job, unsigned rank) {
    Layer layer(job, {});
    for (std::uint64_t version = 1; version <= 8; ++version) {
      layer.slab.poison();
      const std::uint32_t flags = version % 2 == 0 ? CARDEA_FETCH_SLOTS : CARDEA_FETCH_DEFAULT;
      const cardea_fetch_t early = layer.fetch(version, layer.homed_at(1 - rank), flags);  // before either published
      layer.publish(version);
      EXPECT_EQ(read_all(layer, early, version), 2u);
      layer.finish(version);
      layer.collect(version);
    }
  });
}

TEST_P(Versions, WhatIsRetiredIsStale) {
  two_ranks([&](Job& job, unsigned rank) {
    Layer layer(job, {});
    layer.publish(1);
    layer.finish(1);
    const std::vector<std::uint32_t> others = layer.homed_at(1 - rank);
    cardea_fetch_desc_t desc = layer.want(1, others);
    cardea_fetch_t fetch{};
    EXPECT_REFUSED(CARDEA_ERR_STALE, ({"version 1"}), cardea_fetch(layer.handle, &desc, &fetch));
    layer.collect(1);
    layer.publish(5);
    ASSERT_TRUE(board.barrier(0, 2));
    // Version 3 was never published by anyone, and will not be: the other rank is beyond it.
    cardea_expert_info_t info = CARDEA_EXPERT_INFO_INIT;
    while (info.published != 5) CARDEA_MUST(cardea_expert_query(layer.handle, others[0], &info));
    fetch = layer.fetch(3, others);
    const std::vector<cardea_view_t> views = drain(fetch);
    ASSERT_EQ(views.size(), 2u);
    for (const cardea_view_t& view : views) {
      EXPECT_EQ(view.status, CARDEA_ERR_STALE);
      EXPECT_EQ(view.id, 0u);
    }
    EXPECT_EQ(last_error().peer, 1 - rank);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    EXPECT_EQ(read_all(layer, layer.fetch(5, others), 5), 2u);
    ASSERT_TRUE(board.barrier(1, 2));
  });
}

TEST_P(Versions, ALayerIdServesAgainOnceItsLayerIsDestroyed) {
  two_ranks([&](Job& job, unsigned rank) {
    for (unsigned round = 0; round < 3; ++round) {
      Layer layer(job, {.layer_id = 7, .per_rank = 1 + round, .segments = {1000 + 8 * round, 64}});
      layer.publish(1);
      EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), layer.experts());
      layer.finish(1);
      layer.collect(1);
      CARDEA_MUST(cardea_layer_destroy(layer.handle));
      CARDEA_MUST(cardea_slab_destroy(layer.slab.handle));
      CARDEA_MUST(cardea_memory_free(layer.memory));
    }
    EXPECT_EQ(rank, job.rank);
  });
}

TEST_P(Versions, LayersShareASlabAndDoNotMixTheirVersions) {
  two_ranks([&](Job& job, unsigned rank) {
    Layer first(job, {.layer_id = 0, .segments = {5000}});
    Layer second(job, {.layer_id = 1, .slots = 0, .segments = {5000}});
    first.publish(1);
    second.publish(4);
    const auto from_second = [&](std::uint32_t flags) {
      const std::vector<std::uint32_t> experts = second.homed_at(1 - rank);
      cardea_fetch_desc_t desc = second.want(4, experts, flags);
      desc.slab = first.slab.handle;
      cardea_fetch_t fetch{};
      CARDEA_MUST(cardea_fetch(second.handle, &desc, &fetch));
      return fetch;
    };
    const cardea_fetch_t a = first.fetch(1, first.homed_at(1 - rank), CARDEA_FETCH_SLOTS);
    const cardea_fetch_t b = from_second(CARDEA_FETCH_SLOTS);
    EXPECT_EQ(read_all(second, b, 4), 2u);
    EXPECT_EQ(read_all(first, a, 1), 2u);
    EXPECT_EQ(first.slab.info().free_slots, 4u);
    first.finish(1);
    second.finish(4);
    first.collect(1);
    second.collect(4);
  });
}

}  // namespace
}  // namespace cardea::test
