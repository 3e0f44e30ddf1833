// SPDX-License-Identifier: Apache-2.0
// The kinds of fetches and where their experts land, over every path that there is.
#include <algorithm>
#include <functional>
#include <set>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

/// Three ranks: 0 and 1 share a node, 2 has one of its own. Ends when all have, so that none leaves while another reads.
void three_ranks(const std::function<void(Job&, unsigned rank)>& body) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(exchange, rank, rank == 2 ? "second" : "first");
    body(job, rank);
    EXPECT_TRUE(board.barrier(255, 3));
  });
}

void two_nodes(const std::function<void(Job&, unsigned rank, SharedBoard&)>& body) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first");
    body(job, rank, board);
    EXPECT_TRUE(board.barrier(255, 2));
  });
}

unsigned node_of(std::uint32_t rank) {
  return rank == 2 ? 1 : 0;
}

/// Every path in one fetch. Ranks 0 and 1 share a node, and so what comes from rank 2 if there is a node cache.
void expect_paths(bool mapped, std::uint32_t flags, cardea_path_t within_the_node, bool cached) {
  setenv("CARDEA_CACHE_BYTES", cached ? "16777216" : "0", 1);
  SharedBoard sums;
  three_ranks([&](Job& job, unsigned rank) {
    const bool shares = cached && rank != 2;
    Layer layer(job, {.slots = 6, .mapped = mapped});
    layer.publish(1);
    const cardea_fetch_t fetch = layer.fetch(1, layer.everything(), flags);
    const std::vector<cardea_view_t> views = drain(fetch);
    std::set<std::uint32_t> seen;
    std::set<std::int32_t> slots;
    for (const cardea_view_t& view : views) {
      EXPECT_TRUE(layer.right(view, 1));
      EXPECT_TRUE(seen.insert(view.expert).second) << "expert " << view.expert << " was delivered twice";
      const std::uint32_t home = view.expert / 2;
      const cardea_path_t path = home == rank                     ? CARDEA_PATH_HOME
                                 : node_of(home) == node_of(rank) ? within_the_node
                                                                  : CARDEA_PATH_NETWORK;
      const bool remote = path == CARDEA_PATH_NETWORK;
      // Which of the two moves it depends on who asks first.
      if (!(shares && remote && view.path == CARDEA_PATH_CACHE)) {
        EXPECT_STREQ(cardea_path_string(view.path), cardea_path_string(path)) << "expert " << view.expert;
      }
      EXPECT_EQ(view.source, home);
      const bool copied = path != CARDEA_PATH_HOME && path != CARDEA_PATH_NODE_MAPPED &&
                          !(shares && remote && (flags & CARDEA_FETCH_SLOTS) == 0);
      EXPECT_EQ(view.slot != CARDEA_NO_SLOT, copied);
      if (!copied) continue;
      EXPECT_TRUE(slots.insert(view.slot).second) << "two views in slot " << view.slot;
      const cardea_slab_info_t slab = layer.slab.info();
      for (std::uint32_t s = 0; s < view.num_segments; ++s) {
        EXPECT_EQ(view.segments[s],
                  static_cast<std::byte*>(slab.base[s]) + static_cast<std::uint64_t>(view.slot) * slab.stride[s]);
      }
    }
    EXPECT_EQ(seen.size(), layer.experts());
    EXPECT_EQ(layer.slab.info().free_slots, 6 - slots.size());
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    EXPECT_EQ(layer.slab.info().free_slots, 6u);

    const cardea_counters_t counted = job.counters();
    const std::uint64_t network = rank == 2 ? 4 : 2, node = rank == 2 ? 0 : 2, bytes = 40000 + 512 + 96;
    EXPECT_EQ(counted.experts_home, 2u);
    EXPECT_EQ(counted.experts_network + counted.experts_cache, network);
    EXPECT_EQ(counted.experts_cache != 0, shares && counted.experts_network < network);
    EXPECT_EQ(within_the_node == CARDEA_PATH_NODE_MAPPED ? counted.experts_node_mapped : counted.experts_node_copied, node);
    EXPECT_EQ(counted.cache_bypassed, 0u);
    EXPECT_EQ(counted.cache_bytes_capacity != 0, shares);
    sums.set(rank, counted.bytes_network_received);
    EXPECT_TRUE(sums.barrier(0, 3));
    // Once for each node that has a cache, for each rank where there is none.
    EXPECT_EQ(sums.get(0) + sums.get(1), (cached ? 2 : 4) * bytes);
    EXPECT_EQ(sums.get(2), 4 * bytes);
    const std::uint64_t from_cache = shares && (flags & CARDEA_FETCH_SLOTS) != 0 ? 2 : 0;
    EXPECT_EQ(counted.bytes_node_copied, (from_cache + (within_the_node == CARDEA_PATH_NODE_COPY ? node : 0)) * bytes);
    EXPECT_EQ(counted.experts_failed, 0u);
    layer.finish(1);
    layer.collect(1);
    EXPECT_EQ(job.counters().bytes_network_sent, (rank == 2 && !cached ? 4 : 2) * bytes);
  });
  unsetenv("CARDEA_CACHE_BYTES");
}

void expect_paths(bool mapped, std::uint32_t flags, cardea_path_t within_the_node) {
  for (const bool cached : {false, true}) {
    SCOPED_TRACE(cached ? "with a node cache" : "without a node cache");
    expect_paths(mapped, flags, within_the_node, cached);
  }
}

TEST(Fetch, MappableMemoryIsReadInPlaceWithinTheNode) {
  expect_paths(true, CARDEA_FETCH_DEFAULT, CARDEA_PATH_NODE_MAPPED);
}
TEST(Fetch, PrivateMemoryIsCopiedWithinTheNode) {
  expect_paths(false, CARDEA_FETCH_DEFAULT, CARDEA_PATH_NODE_COPY);
}
TEST(Fetch, FetchesIntoSlotsCopyWhatIsMappedToo) {
  expect_paths(true, CARDEA_FETCH_SLOTS, CARDEA_PATH_NODE_COPY);
}
TEST(Fetch, AGangOfAllPathsIsComplete) {
  expect_paths(true, CARDEA_FETCH_SLOTS | CARDEA_FETCH_GANG, CARDEA_PATH_NODE_COPY);
}

TEST(Fetch, ExpertsAtHomeAndMappedOnesAreReadyAtOnce) {
  three_ranks([&](Job& job, unsigned rank) {
    if (rank == 2) {
      Layer layer(job, {});
      layer.publish(1);
      layer.finish(1);
      layer.collect(1);
      return;
    }
    Layer layer(job, {});
    layer.publish(1);
    cardea_expert_info_t info = CARDEA_EXPERT_INFO_INIT;
    const std::vector<std::uint32_t> others = layer.homed_at(1 - rank);
    do {
      CARDEA_MUST(cardea_expert_query(layer.handle, others[0], &info));
    } while (info.published != 1);
    EXPECT_EQ(info.home, 1 - rank);
    EXPECT_EQ(info.path, CARDEA_PATH_NODE_MAPPED);
    const cardea_fetch_t fetch = layer.fetch(1, {0, 1, 2, 3});
    EXPECT_EQ(info_of(fetch).ready, 4u);
    cardea_status_t status = CARDEA_OK;
    const std::vector<cardea_view_t> views = next(fetch, 9, 0, &status);
    EXPECT_EQ(status, CARDEA_OK);
    EXPECT_EQ(views.size(), 4u);
    for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, NextGivesAtMostMaxAndEveryExpertOnce) {
  two_nodes([](Job& job, unsigned, SharedBoard&) {
    Layer layer(job, {.per_rank = 5, .slots = 5});
    layer.publish(1);
    const cardea_fetch_t fetch = layer.fetch(1, layer.everything());
    CARDEA_MUST(cardea_wait(fetch, kPatience));
    EXPECT_EQ(info_of(fetch).ready, 10u);
    EXPECT_EQ(info_of(fetch).delivered, 0u);
    std::set<std::uint32_t> seen;
    std::uint64_t last = 0;
    for (const std::uint32_t expected : {4u, 4u, 2u, 0u, 0u}) {
      cardea_status_t status = CARDEA_OK;
      const std::vector<cardea_view_t> views = next(fetch, 4, kPatience, &status);
      EXPECT_EQ(status, CARDEA_OK);
      EXPECT_EQ(views.size(), expected);
      for (const cardea_view_t& view : views) {
        EXPECT_TRUE(seen.insert(view.expert).second);
        EXPECT_GE(view.ready_ns, last) << "not in the order in which they became ready";
        last = view.ready_ns;
        EXPECT_TRUE(layer.right(view, 1));
      }
      release(views);
    }
    EXPECT_EQ(seen.size(), 10u);
    EXPECT_EQ(info_of(fetch).delivered, 10u);
    CARDEA_MUST(cardea_wait(fetch, 0));
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, FewerSlotsThanExpertsServeAllAsViewsAreReleased) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {.per_rank = 9, .slots = 2});
    layer.publish(1);
    const cardea_fetch_t fetch = layer.fetch(1, layer.homed_at(1 - rank));
    std::set<std::uint32_t> seen;
    for (;;) {
      cardea_status_t status = CARDEA_OK;
      const std::vector<cardea_view_t> views = next(fetch, 1, kPatience, &status);
      must(status, "cardea_next");
      if (views.empty()) break;
      EXPECT_TRUE(layer.right(views[0], 1));
      EXPECT_LT(layer.slab.info().free_slots, 2u);
      seen.insert(views[0].expert);
      release(views);
    }
    EXPECT_EQ(seen.size(), 9u);
    EXPECT_EQ(layer.slab.info().free_slots, 2u) << "a credit was lost";
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, OwnViewsThatHoldEverySlotAreNoSilentDeadlock) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {.per_rank = 4, .slots = 2});
    layer.publish(1);
    const cardea_fetch_t fetch = layer.fetch(1, layer.homed_at(1 - rank));
    std::vector<cardea_view_t> held;
    cardea_status_t status = CARDEA_OK;
    while (held.size() < 2) {
      for (const cardea_view_t& view : next(fetch, 4, kPatience, &status)) held.push_back(view);
      must(status, "cardea_next");
    }
    EXPECT_TRUE(next(fetch, 4, CARDEA_FOREVER, &status).empty());
    EXPECT_TRUE(refused(CARDEA_ERR_WOULD_DEADLOCK, {"release"}, status));
    EXPECT_REFUSED(CARDEA_ERR_WOULD_DEADLOCK, ({"release"}), cardea_wait(fetch, CARDEA_FOREVER));
    for (const cardea_view_t& view : held) EXPECT_TRUE(layer.right(view, 1)) << "a slot was reused under its reader";
    release(held);
    EXPECT_EQ(read_all(layer, fetch, 1), 2u);
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, AGangReservesAllItsSlotsAtOnceOrWaits) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {.per_rank = 6, .slots = 4});
    layer.publish(1);
    const std::vector<std::uint32_t> theirs = layer.homed_at(1 - rank);
    const std::vector<std::uint32_t> five(theirs.begin(), theirs.begin() + 5);
    const cardea_fetch_desc_t large = layer.want(1, five, CARDEA_FETCH_GANG);
    cardea_fetch_t refused_one{};
    EXPECT_REFUSED(CARDEA_ERR_LIMIT, ({"5 slots", "has 4"}), cardea_fetch(layer.handle, &large, &refused_one));

    const cardea_fetch_t one = layer.fetch(1, {theirs[0], theirs[1]});
    const std::vector<cardea_view_t> held = drain(one);
    ASSERT_EQ(held.size(), 2u);
    const cardea_fetch_t gang = layer.fetch(1, {theirs[2], theirs[3], theirs[4]}, CARDEA_FETCH_GANG);
    EXPECT_EQ(info_of(gang).starved, 3u) << "two slots are free, three are needed";
    EXPECT_EQ(layer.slab.info().free_slots, 2u) << "a gang that waits holds slots";
    release({held[0]});
    EXPECT_EQ(read_all(layer, gang, 1), 3u);
    release({held[1]});
    CARDEA_MUST(cardea_fetch_destroy(one));
    EXPECT_EQ(layer.slab.info().free_slots, 4u);
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, TheMaskChoosesSegmentsAndALaterFetchBringsTheRest) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {.per_rank = 1});
    layer.publish(1);
    const std::vector<std::uint32_t> theirs = layer.homed_at(1 - rank);
    const auto masked = [&](std::uint64_t mask) {
      cardea_fetch_desc_t desc = layer.want(1, theirs);
      desc.segment_mask = mask;
      cardea_fetch_t fetch{};
      CARDEA_MUST(cardea_fetch(layer.handle, &desc, &fetch));
      return fetch;
    };
    const auto received = [&] { return job.counters().bytes_network_received; };
    const cardea_fetch_t some = masked(0b110);
    const std::vector<cardea_view_t> first = drain(some);
    ASSERT_EQ(first.size(), 1u);
    EXPECT_TRUE(layer.right(first[0], 1));
    EXPECT_EQ(first[0].segments[0], nullptr);
    EXPECT_NE(first[0].segments[1], nullptr);
    EXPECT_NE(first[0].segments[2], nullptr);
    EXPECT_EQ(received(), 512u + 96);
    const cardea_fetch_t rest = masked(0);
    const std::vector<cardea_view_t> all = drain(rest);
    ASSERT_EQ(all.size(), 1u);
    EXPECT_TRUE(layer.right(all[0], 1));
    EXPECT_NE(all[0].segments[0], nullptr);
    EXPECT_EQ(received(), 40000u + 512 + 96) << "segments that were there came again";
    EXPECT_EQ(all[0].slot, first[0].slot);
    release(first);
    release(all);
    CARDEA_MUST(cardea_fetch_destroy(some));
    CARDEA_MUST(cardea_fetch_destroy(rest));
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, APrefetchedExpertCrossesTheNetworkOnce) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {});
    layer.publish(1);
    const std::vector<std::uint32_t> theirs = layer.homed_at(1 - rank);
    const cardea_fetch_desc_t desc = layer.want(1, theirs);
    cardea_fetch_t ahead{};
    CARDEA_MUST(cardea_prefetch(layer.handle, &desc, &ahead));
    CARDEA_MUST(cardea_wait(ahead, kPatience));
    EXPECT_EQ(layer.slab.info().free_slots, 4u) << "demand may take a prefetched slot back";
    const std::uint64_t before = job.counters().bytes_network_received;
    EXPECT_EQ(before, 2u * (40000 + 512 + 96));
    const cardea_fetch_t fetch = layer.fetch(1, theirs);
    EXPECT_EQ(info_of(fetch).ready, 2u) << "prefetched experts are ready at once";
    EXPECT_EQ(read_all(layer, fetch, 1), 2u);
    EXPECT_EQ(job.counters().bytes_network_received, before);
    EXPECT_EQ(job.counters().prefetch_bytes_wasted, 0u);
    CARDEA_MUST(cardea_fetch_destroy(ahead));
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, DemandTakesPrefetchedSlotsBackAndTheWasteIsCountedWithoutPadding) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {.per_rank = 2, .slots = 1, .segments = {40000, 500, 96}});
    layer.publish(1);
    const std::vector<std::uint32_t> theirs = layer.homed_at(1 - rank);
    const std::vector<std::uint32_t> first = {theirs[0]};
    const cardea_fetch_desc_t desc = layer.want(1, first);
    cardea_fetch_t ahead{};
    CARDEA_MUST(cardea_prefetch(layer.handle, &desc, &ahead));
    CARDEA_MUST(cardea_wait(ahead, kPatience));
    EXPECT_EQ(read_all(layer, layer.fetch(1, {theirs[1]}), 1), 1u);
    EXPECT_EQ(job.counters().prefetch_bytes_wasted, 40000u + 500 + 96);
    CARDEA_MUST(cardea_fetch_destroy(ahead));
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, ARegisteredSlabNumbersTheFrameworksRowsHomeExpertsIncluded) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first");
    const std::vector<std::uint64_t> sizes = {3000, 40};
    Slab slab(job, sizes, 3, 2);  // rows 0 and 1: home experts; rows 2 to 4: for what is fetched
    const std::vector<cardea_segment_t> segments = segments_of(sizes);
    std::vector<cardea_placement_t> places(2, cardea_placement_t CARDEA_PLACEMENT_INIT);
    const cardea_slab_info_t rows = slab.info();
    EXPECT_EQ(rows.first_slot, 2u);
    EXPECT_EQ(rows.num_slots, 3u);
    for (std::size_t s = 0; s < 2; ++s) {
      EXPECT_EQ(rows.base[s], slab.arrays[s].data());
      EXPECT_EQ(rows.stride[s], sizes[s] + 64);
      places[s].base = slab.arrays[s].data();
      places[s].stride = rows.stride[s];
      for (std::size_t row = 0; row < 2; ++row) {
        auto* const at = slab.arrays[s].data() + row * rows.stride[s];
        std::fill_n(at, sizes[s], static_cast<std::byte>(1 + 2 * rank + row));  // expert e holds e + 1
      }
    }
    const std::uint32_t local[] = {2 * rank, 2 * rank + 1};
    cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
    desc.num_experts = 4;
    desc.segments = segments.data();
    desc.num_segments = 2;
    desc.num_local = 2;
    desc.local_experts = local;
    desc.placements = places.data();
    desc.slab = slab.handle;
    cardea_layer_t layer{};
    CARDEA_MUST(cardea_layer_create(job.all, &desc, &layer));
    CARDEA_MUST(cardea_publish(layer, 1, nullptr));
    cardea_fetch_desc_t want = CARDEA_FETCH_DESC_INIT;
    const std::uint32_t all[] = {0, 1, 2, 3};
    want.version = 1;
    want.experts = all;
    want.num_experts = 4;
    want.flags = CARDEA_FETCH_SLOTS | CARDEA_FETCH_GANG;
    cardea_fetch_t fetch{};
    CARDEA_MUST(cardea_fetch(layer, &want, &fetch));
    const std::vector<cardea_view_t> views = drain(fetch);
    EXPECT_EQ(views.size(), 4u);
    std::set<std::int32_t> taken;
    for (const cardea_view_t& view : views) {
      ASSERT_EQ(view.status, CARDEA_OK);
      const bool home = view.expert / 2 == rank;
      EXPECT_TRUE(taken.insert(view.slot).second);
      EXPECT_EQ(view.slot < 2, home) << "slot " << view.slot;
      if (home) {
        EXPECT_EQ(view.slot, static_cast<std::int32_t>(view.expert % 2));
      }
      for (std::size_t s = 0; s < 2; ++s) {
        // The framework's own array, indexed by the slot: what a grouped GEMM reads.
        const std::byte* const row = slab.arrays[s].data() + static_cast<std::uint64_t>(view.slot) * (sizes[s] + 64);
        EXPECT_EQ(view.segments[s], row);
        EXPECT_TRUE(
            std::all_of(row, row + sizes[s], [&](std::byte b) { return b == static_cast<std::byte>(view.expert + 1); }));
        EXPECT_TRUE(std::all_of(row + sizes[s], row + sizes[s] + 64, [](std::byte b) { return b == std::byte{0xEE}; }))
            << "written between the rows";
      }
    }
    release(views);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    CARDEA_MUST(cardea_finish(layer, 1, nullptr));
    CARDEA_MUST(cardea_collect(layer, 1, nullptr, kPatience));
    EXPECT_TRUE(board.barrier(255, 2));
    job.leave();
  });
}

TEST(Fetch, TheTableHoldsHomeExpertsAlwaysAndOthersFromNextToRelease) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {});
    cardea_expert_table_t table = CARDEA_EXPERT_TABLE_INIT;
    CARDEA_MUST(cardea_layer_table(layer.handle, &table));
    ASSERT_EQ(table.num_experts, 4u);
    ASSERT_EQ(table.num_segments, 3u);
    layer.publish(1);
    const std::vector<std::uint32_t> mine = layer.homed_at(rank), theirs = layer.homed_at(1 - rank);
    const auto empty = [&](std::uint32_t e) {
      const cardea_expert_entry_t& entry = table.entries[e];
      return entry.version == UINT64_MAX && entry.slot == CARDEA_NO_SLOT && entry.segments[0] == nullptr &&
             entry.segments[2] == nullptr;
    };
    for (const std::uint32_t e : mine) {
      EXPECT_EQ(table.entries[e].version, 1u);
      EXPECT_EQ(table.entries[e].slot, CARDEA_NO_SLOT);
      EXPECT_NE(table.entries[e].segments[0], nullptr);
    }
    const cardea_fetch_t fetch = layer.fetch(1, theirs);
    const cardea_fetch_t again = layer.fetch(1, {theirs[0]});
    CARDEA_MUST(cardea_wait(fetch, kPatience));
    for (const std::uint32_t e : theirs) EXPECT_TRUE(empty(e)) << "entered before cardea_next";
    const std::vector<cardea_view_t> views = drain(fetch);
    for (const cardea_view_t& view : views) {
      const cardea_expert_entry_t& entry = table.entries[view.expert];
      EXPECT_EQ(entry.version, 1u);
      EXPECT_EQ(entry.slot, view.slot);
      for (std::size_t s = 0; s < 3; ++s) EXPECT_EQ(entry.segments[s], view.segments[s]);
    }
    const std::vector<cardea_view_t> second = drain(again);
    release(views);
    EXPECT_FALSE(empty(theirs[0])) << "another view of it is open";
    EXPECT_TRUE(empty(theirs[1]));
    release(second);
    EXPECT_TRUE(empty(theirs[0]));
    cardea_expert_table_t later = CARDEA_EXPERT_TABLE_INIT;
    CARDEA_MUST(cardea_layer_table(layer.handle, &later));
    EXPECT_EQ(later.entries, table.entries) << "the table moved";
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    CARDEA_MUST(cardea_fetch_destroy(again));
    layer.finish(1);
    layer.collect(1);
  });
}

TEST(Fetch, ExpertsThatMustBeCopiedNeedASlab) {
  two_nodes([](Job& job, unsigned rank, SharedBoard&) {
    Layer layer(job, {.slots = 0});
    layer.publish(1);
    const std::vector<std::uint32_t> theirs = layer.homed_at(1 - rank);
    const cardea_fetch_desc_t desc = layer.want(1, theirs);
    cardea_fetch_t fetch{};
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"slab"}), cardea_fetch(layer.handle, &desc, &fetch));
    EXPECT_EQ(read_all(layer, layer.fetch(1, layer.homed_at(rank)), 1), 2u) << "home experts need none";
    layer.finish(1);
    layer.collect(1);
  });
}

}  // namespace
}  // namespace cardea::test
