// SPDX-License-Identifier: Apache-2.0
// Calls that are wrong: each returns the documented status, says which argument was at fault, and changes nothing.
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

/// Runs the body in a process of its own, which is the only rank of its job.
void alone(const std::function<void(Alone&)>& body) {
  run_ranks(1, [&](unsigned) {
    Alone rank;
    body(rank);
  });
}

TEST(Misuse, NullPointersAreNamed) {
  alone([](Alone& rank) {
    const cardea_context_t context = rank.job.context;
    const Layer layer(rank.job, {});
    const auto null = CARDEA_ERR_INVALID_ARGUMENT;
    const cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    const cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
    cardea_layer_t made{};
    cardea_slab_t slab_made{};
    cardea_memory_t memory{};
    cardea_fetch_t fetch{};
    std::uint32_t count = 7;
    std::vector<std::byte> bytes(64);

    EXPECT_EQ(cardea_last_error(nullptr), null);
    EXPECT_REFUSED(null, ({"info"}), cardea_version(nullptr));
    EXPECT_REFUSED(null, ({"id is null"}), cardea_unique_id_create("127.0.0.1", nullptr));
    EXPECT_REFUSED(null, ({"context is null"}), cardea_context_create(nullptr, nullptr));
    EXPECT_REFUSED(null, ({"info"}), cardea_context_query(context, nullptr));
    EXPECT_REFUSED(null, ({"info"}), cardea_rank_query(context, 0, nullptr));
    EXPECT_REFUSED(null, ({"descriptor"}), cardea_event_descriptor(context, nullptr));
    EXPECT_REFUSED(null, ({"counters"}), cardea_counters_query(context, nullptr));
    EXPECT_REFUSED(null, ({"group is null"}), cardea_group_create(context, nullptr, 0, nullptr));
    cardea_group_t group{};
    EXPECT_REFUSED(null, ({"ranks"}), cardea_group_create(context, nullptr, 1, &group));
    EXPECT_REFUSED(null, ({"info"}), cardea_group_query(rank.job.all, nullptr));
    EXPECT_REFUSED(null, ({"memory is null"}), cardea_memory_alloc(context, 64, CARDEA_MEMORY_HOST, nullptr));
    EXPECT_REFUSED(null, ({"memory is null"}),
                   cardea_memory_register(context, bytes.data(), 64, CARDEA_MEMORY_HOST, nullptr));
    EXPECT_REFUSED(null, ({"address is null"}), cardea_memory_register(context, nullptr, 64, CARDEA_MEMORY_HOST, &memory));
    EXPECT_REFUSED(null, ({"info"}), cardea_memory_query(layer.memory, nullptr));
    EXPECT_REFUSED(null, ({"slab is null"}), cardea_slab_create(context, &slab, nullptr));
    EXPECT_REFUSED(null, ({"desc is null"}), cardea_slab_create(context, nullptr, &slab_made));
    EXPECT_REFUSED(null, ({"info"}), cardea_slab_query(layer.slab.handle, nullptr));
    EXPECT_REFUSED(null, ({"layer is null"}), cardea_layer_create(rank.job.all, &desc, nullptr));
    EXPECT_REFUSED(null, ({"desc is null"}), cardea_layer_create(rank.job.all, nullptr, &made));
    EXPECT_REFUSED(null, ({"info"}), cardea_layer_query(layer.handle, nullptr));
    EXPECT_REFUSED(null, ({"info"}), cardea_expert_query(layer.handle, 0, nullptr));
    EXPECT_REFUSED(null, ({"table"}), cardea_layer_table(layer.handle, nullptr));
    EXPECT_REFUSED(null, ({"table"}), cardea_layer_device_table(layer.handle, nullptr));
    EXPECT_REFUSED(null, ({"address is null"}), cardea_memory_wait_unmapped(rank.job.context, nullptr, 1, 0));
    EXPECT_REFUSED(null, ({"bytes is 0"}), cardea_memory_wait_unmapped(rank.job.context, &made, 0, 0));
    EXPECT_REFUSED(null, ({"address space"}), cardea_memory_wait_unmapped(rank.job.context, &made, UINT64_MAX, 0));
    EXPECT_REFUSED(null, ({"fetch is null"}), cardea_fetch(layer.handle, nullptr, nullptr));
    EXPECT_REFUSED(null, ({"desc is null"}), cardea_fetch(layer.handle, nullptr, &fetch));
    EXPECT_REFUSED(null, ({"desc is null"}), cardea_prefetch(layer.handle, nullptr, &fetch));
    EXPECT_REFUSED(null, ({"views is null"}), cardea_release(nullptr, 1));
    EXPECT_EQ(cardea_release(nullptr, 0), CARDEA_OK);

    fetch = layer.fetch(1, {0});
    cardea_view_t view = CARDEA_VIEW_INIT;
    EXPECT_REFUSED(null, ({"views"}), cardea_next(fetch, nullptr, 1, &count, 0));
    EXPECT_REFUSED(null, ({"count is null"}), cardea_next(fetch, &view, 1, nullptr, 0));
    EXPECT_REFUSED(null, ({"max is 0"}), cardea_next(fetch, &view, 0, &count, 0));
    EXPECT_REFUSED(null, ({"info"}), cardea_fetch_query(fetch, nullptr));
    EXPECT_EQ(made.id + slab_made.id + memory.id + group.id, 0u) << "an output was written by a call that failed";
  });
}

TEST(Misuse, HandlesThatAreZeroUnknownOrOfAnotherKindTouchNothing) {
  alone([](Alone& rank) {
    const Layer layer(rank.job, {});
    const cardea_fetch_t fetch = layer.fetch(1, {0});
    // Every kind of handle there is, zero, and numbers that were never given out.
    const std::uint64_t handles[] = {0,
                                     rank.job.context.id,
                                     rank.job.all.id,
                                     layer.memory.id,
                                     layer.handle.id,
                                     layer.slab.handle.id,
                                     fetch.id,
                                     1,
                                     UINT64_MAX,
                                     rank.job.context.id + 1000,
                                     layer.handle.id + 1000,
                                     fetch.id + 1000};
    cardea_context_info_t context_info = CARDEA_CONTEXT_INFO_INIT;
    cardea_rank_info_t rank_info = CARDEA_RANK_INFO_INIT;
    cardea_counters_t counters = CARDEA_COUNTERS_INIT;
    cardea_group_info_t group_info = CARDEA_GROUP_INFO_INIT;
    cardea_memory_info_t memory_info = CARDEA_MEMORY_INFO_INIT;
    cardea_layer_info_t layer_info = CARDEA_LAYER_INFO_INIT;
    cardea_expert_info_t expert_info = CARDEA_EXPERT_INFO_INIT;
    cardea_expert_table_t table = CARDEA_EXPERT_TABLE_INIT;
    cardea_device_table_t device_table = CARDEA_DEVICE_TABLE_INIT;
    cardea_slab_info_t slab_info = CARDEA_SLAB_INFO_INIT;
    cardea_fetch_info_t fetch_info = CARDEA_FETCH_INFO_INIT;
    const cardea_fetch_desc_t fetch_desc = CARDEA_FETCH_DESC_INIT;
    const cardea_slab_desc_t slab_desc = CARDEA_SLAB_DESC_INIT;
    const cardea_layer_desc_t layer_desc = CARDEA_LAYER_DESC_INIT;
    cardea_group_t group{};
    cardea_memory_t memory{};
    cardea_slab_t slab{};
    cardea_layer_t made{};
    cardea_fetch_t fetched{};
    cardea_view_t view = CARDEA_VIEW_INIT;
    std::uint32_t count = 0;
    int descriptor = 0;
    for (const std::uint64_t id : handles) {
      const auto bad = CARDEA_ERR_INVALID_HANDLE;
      SCOPED_TRACE(id);
      if (id != rank.job.context.id) {
        const cardea_context_t wrong{id};
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_context_destroy(wrong));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_context_abort(wrong));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_context_query(wrong, &context_info));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_rank_query(wrong, 0, &rank_info));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_event_descriptor(wrong, &descriptor));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_event_clear(wrong));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_counters_query(wrong, &counters));
        std::size_t needed = 0;
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_traffic_query(wrong, nullptr, 0, &count));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_metrics_text(wrong, nullptr, 0, &needed));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_dump_text(wrong, "", nullptr, 0, &needed));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_group_create(wrong, nullptr, 0, &group));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_memory_alloc(wrong, 64, CARDEA_MEMORY_HOST, &memory));
        EXPECT_REFUSED(bad, ({"context handle"}),
                       cardea_memory_register(wrong, &count, sizeof count, CARDEA_MEMORY_HOST, &memory));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_memory_wait_unmapped(wrong, &count, sizeof count, 0));
        EXPECT_REFUSED(bad, ({"context handle"}), cardea_slab_create(wrong, &slab_desc, &slab));
      }
      if (id != rank.job.all.id) {
        const cardea_group_t wrong{id};
        EXPECT_REFUSED(bad, ({"group handle"}), cardea_group_destroy(wrong));
        EXPECT_REFUSED(bad, ({"group handle"}), cardea_group_query(wrong, &group_info));
        EXPECT_REFUSED(bad, ({"group handle"}), cardea_layer_create(wrong, &layer_desc, &made));
      }
      if (id != layer.memory.id) {
        const cardea_memory_t wrong{id};
        EXPECT_REFUSED(bad, ({"memory handle"}), cardea_memory_query(wrong, &memory_info));
        EXPECT_REFUSED(bad, ({"memory handle"}), cardea_memory_free(wrong));
      }
      if (id != layer.handle.id) {
        const cardea_layer_t wrong{id};
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_layer_destroy(wrong));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_layer_query(wrong, &layer_info));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_expert_query(wrong, 0, &expert_info));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_layer_table(wrong, &table));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_layer_device_table(wrong, &device_table));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_publish(wrong, 1, nullptr));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_finish(wrong, 1, nullptr));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_collect(wrong, 1, nullptr, 0));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_fetch(wrong, &fetch_desc, &fetched));
        EXPECT_REFUSED(bad, ({"layer handle"}), cardea_prefetch(wrong, &fetch_desc, &fetched));
      }
      if (id != layer.slab.handle.id) {
        const cardea_slab_t wrong{id};
        EXPECT_REFUSED(bad, ({"slab handle"}), cardea_slab_destroy(wrong));
        EXPECT_REFUSED(bad, ({"slab handle"}), cardea_slab_query(wrong, &slab_info));
        if (id != 0) {
          const std::vector<std::uint32_t> first = {0};
          cardea_fetch_desc_t into = layer.want(1, first);
          into.slab = wrong;
          EXPECT_REFUSED(bad, ({"slab"}), cardea_fetch(layer.handle, &into, &fetched));
        }
      }
      if (id != fetch.id) {
        const cardea_fetch_t wrong{id};
        EXPECT_REFUSED(bad, ({"fetch handle"}), cardea_next(wrong, &view, 1, &count, 0));
        EXPECT_REFUSED(bad, ({"fetch handle"}), cardea_wait(wrong, 0));
        EXPECT_REFUSED(bad, ({"fetch handle"}), cardea_fetch_query(wrong, &fetch_info));
        EXPECT_REFUSED(bad, ({"fetch handle"}), cardea_cancel(wrong));
        EXPECT_REFUSED(bad, ({"fetch handle"}), cardea_fetch_destroy(wrong));
      }
      if (id != 0) {
        cardea_view_t of = CARDEA_VIEW_INIT;
        of.id = id;
        EXPECT_REFUSED(bad, ({"view"}), cardea_release(&of, 1));
      }
    }
    // Nothing was touched: all of it still answers.
    EXPECT_EQ(info_of(fetch).parked, 1u);
    EXPECT_EQ(cardea_layer_query(layer.handle, &layer_info), CARDEA_OK);
    EXPECT_EQ(cardea_memory_query(layer.memory, &memory_info), CARDEA_OK);
    EXPECT_EQ(cardea_group_query(rank.job.all, &group_info), CARDEA_OK);
  });
}

TEST(Misuse, ADestroyedHandleOfEveryKindIsFoundOut) {
  alone([](Alone& rank) {
    const auto bad = CARDEA_ERR_INVALID_HANDLE;
    Layer layer(rank.job, {});
    layer.publish(1);
    const cardea_fetch_t fetch = layer.fetch(1, {0, 1});
    const std::vector<cardea_view_t> views = drain(fetch);
    ASSERT_EQ(views.size(), 2u);

    release({views[0]});
    EXPECT_REFUSED(bad, ({"view"}), cardea_release(views.data(), 1));
    EXPECT_REFUSED(bad, ({"view"}), cardea_release(views.data(), 2)) << "and the second one is released nevertheless";
    EXPECT_REFUSED(bad, ({"view"}), cardea_release(&views[1], 1));

    CARDEA_MUST(cardea_fetch_destroy(fetch));
    cardea_fetch_info_t fetch_info = CARDEA_FETCH_INFO_INIT;
    EXPECT_REFUSED(bad, ({"fetch", "destroyed"}), cardea_fetch_query(fetch, &fetch_info));
    EXPECT_REFUSED(bad, ({"fetch"}), cardea_fetch_destroy(fetch));

    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({"layer"}), cardea_group_destroy(rank.job.all));
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({""}), cardea_slab_destroy(layer.slab.handle));
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({""}), cardea_memory_free(layer.memory));
    CARDEA_MUST(cardea_layer_destroy(layer.handle));
    cardea_layer_info_t layer_info = CARDEA_LAYER_INFO_INIT;
    EXPECT_REFUSED(bad, ({"layer", "destroyed"}), cardea_layer_query(layer.handle, &layer_info));
    EXPECT_REFUSED(bad, ({"layer"}), cardea_layer_destroy(layer.handle));

    CARDEA_MUST(cardea_slab_destroy(layer.slab.handle));
    EXPECT_REFUSED(bad, ({"slab", "destroyed"}), cardea_slab_destroy(layer.slab.handle));
    CARDEA_MUST(cardea_memory_free(layer.memory));
    EXPECT_REFUSED(bad, ({"memory", "destroyed"}), cardea_memory_free(layer.memory));
    CARDEA_MUST(cardea_group_destroy(rank.job.all));
    EXPECT_REFUSED(bad, ({"group", "destroyed"}), cardea_group_destroy(rank.job.all));

    CARDEA_MUST(rank.job.leave());
    cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
    EXPECT_REFUSED(bad, ({"context", "destroyed"}), cardea_context_query(rank.job.context, &info));
    EXPECT_REFUSED(bad, ({"context"}), cardea_context_destroy(rank.job.context));
    EXPECT_REFUSED(bad, ({"destroyed"}), cardea_release(&views[1], 1));
  });
}

TEST(Misuse, HandlesOfAnotherContextDoNotServeHere) {
  run_ranks(1, [](unsigned) {
    Alone first, second;
    const Slab slab(first.job, {64}, 1);
    Shape shape{.slots = 0, .segments = {64}};
    const Layer layer(second.job, shape);
    const std::vector<std::uint32_t> experts = {0};
    cardea_fetch_desc_t desc = layer.want(1, experts);
    desc.slab = slab.handle;
    cardea_fetch_t fetch{};
    EXPECT_REFUSED(CARDEA_ERR_INVALID_HANDLE, ({"slab"}), cardea_fetch(layer.handle, &desc, &fetch));
  });
}

/// Calls with sizes that no struct has, with larger ones whose tail is zero, and with larger ones whose tail is not.
template <typename Struct>
void check_sizes(const char* name, const Struct& good, bool input, const std::function<cardea_status_t(Struct*)>& call) {
  SCOPED_TRACE(name);
  struct Larger {
    Struct known;
    unsigned char tail[24];
  };
  for (const std::size_t size : {std::size_t{0}, sizeof(std::size_t), sizeof(Struct) - 1, std::size_t{1} << 40}) {
    Larger larger{good, {}};
    larger.known.size = size;
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({name, "size"}), call(&larger.known)) << size;
  }
  Larger larger{good, {}};
  larger.known.size = sizeof(Larger);
  EXPECT_EQ(call(&larger.known), CARDEA_OK) << "a newer caller that uses nothing new: " << last_error().message;
  EXPECT_EQ(larger.known.size, sizeof(Larger)) << "the caller's size was changed";
  larger = {good, {}};
  larger.known.size = sizeof(Larger);
  std::memset(larger.tail, 0x5A, sizeof larger.tail);
  const cardea_status_t status = call(&larger.known);
  if (input) {
    EXPECT_TRUE(refused(CARDEA_ERR_INVALID_ARGUMENT, {name, "does not know"}, status));
  } else {
    EXPECT_EQ(status, CARDEA_OK);
  }
  for (const unsigned char byte : larger.tail) EXPECT_EQ(byte, 0x5A) << "written beyond what the library knows";
}

TEST(Misuse, EveryStructsSizeIsChecked) {
  alone([](Alone& rank) {
    const cardea_context_t context = rank.job.context;
    Layer layer(rank.job, {});
    layer.publish(1);
    const cardea_fetch_t fetch = layer.fetch(1, {0});
    const std::vector<std::uint32_t> experts = {0};
    const std::vector<cardea_segment_t> segments = segments_of({64});

    check_sizes<cardea_version_info_t>("info", CARDEA_VERSION_INFO_INIT, false, cardea_version);
    check_sizes<cardea_context_info_t>("info", CARDEA_CONTEXT_INFO_INIT, false,
                                       [&](auto* s) { return cardea_context_query(context, s); });
    check_sizes<cardea_rank_info_t>("info", CARDEA_RANK_INFO_INIT, false,
                                    [&](auto* s) { return cardea_rank_query(context, 0, s); });
    check_sizes<cardea_counters_t>("counters", CARDEA_COUNTERS_INIT, false,
                                   [&](auto* s) { return cardea_counters_query(context, s); });
    check_sizes<cardea_traffic_t>("rows[0]", CARDEA_TRAFFIC_INIT, false, [&](auto* s) {
      std::uint32_t count = 0;
      return cardea_traffic_query(context, s, 1, &count);
    });
    check_sizes<cardea_group_info_t>("info", CARDEA_GROUP_INFO_INIT, false,
                                     [&](auto* s) { return cardea_group_query(rank.job.all, s); });
    check_sizes<cardea_memory_info_t>("info", CARDEA_MEMORY_INFO_INIT, false,
                                      [&](auto* s) { return cardea_memory_query(layer.memory, s); });
    check_sizes<cardea_layer_info_t>("info", CARDEA_LAYER_INFO_INIT, false,
                                     [&](auto* s) { return cardea_layer_query(layer.handle, s); });
    check_sizes<cardea_expert_info_t>("info", CARDEA_EXPERT_INFO_INIT, false,
                                      [&](auto* s) { return cardea_expert_query(layer.handle, 0, s); });
    check_sizes<cardea_expert_table_t>("table", CARDEA_EXPERT_TABLE_INIT, false,
                                       [&](auto* s) { return cardea_layer_table(layer.handle, s); });
    if (cardea_device_table_t table = CARDEA_DEVICE_TABLE_INIT;
        cardea_layer_device_table(layer.handle, &table) == CARDEA_OK) {
      check_sizes<cardea_device_table_t>("table", CARDEA_DEVICE_TABLE_INIT, false,
                                         [&](auto* s) { return cardea_layer_device_table(layer.handle, s); });
    } else {
      EXPECT_EQ(last_error().status, CARDEA_ERR_UNSUPPORTED) << "without a GPU";
      table.size = 1;
      EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"table", "size"}), cardea_layer_device_table(layer.handle, &table));
    }
    check_sizes<cardea_slab_info_t>("info", CARDEA_SLAB_INFO_INIT, false,
                                    [&](auto* s) { return cardea_slab_query(layer.slab.handle, s); });
    check_sizes<cardea_fetch_info_t>("info", CARDEA_FETCH_INFO_INIT, false,
                                     [&](auto* s) { return cardea_fetch_query(fetch, s); });
    check_sizes<cardea_view_t>("views[0]", CARDEA_VIEW_INIT, false, [&](auto* s) {
      const cardea_fetch_t one = layer.fetch(1, {0});
      std::uint32_t count = 0;
      const cardea_status_t status = cardea_next(one, s, 1, &count, 0);
      EXPECT_EQ(cardea_release(s, count), CARDEA_OK);
      cardea_fetch_destroy(one);
      return status;
    });

    check_sizes<cardea_fetch_desc_t>("desc", layer.want(1, experts), true, [&](auto* s) {
      cardea_fetch_t made{};
      const cardea_status_t status = cardea_fetch(layer.handle, s, &made);
      if (status == CARDEA_OK) cardea_fetch_destroy(made);
      return status;
    });
    cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    slab.segments = segments.data();
    slab.num_segments = 1;
    slab.num_slots = 1;
    const auto make_slab = [&](const cardea_slab_desc_t* s) {
      cardea_slab_t made{};
      const cardea_status_t status = cardea_slab_create(context, s, &made);
      if (status == CARDEA_OK) cardea_slab_destroy(made);
      return status;
    };
    check_sizes<cardea_slab_desc_t>("desc", slab, true, make_slab);
    check_sizes<cardea_segment_t>("segments[0]", segments[0], true, [&](auto* s) {
      slab.segments = s;
      return make_slab(&slab);
    });
    slab.segments = segments.data();
    std::vector<std::byte> rows(64);
    cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
    placement.base = rows.data();
    placement.stride = 64;
    check_sizes<cardea_placement_t>("placements[0]", placement, true, [&](auto* s) {
      slab.placements = s;
      return make_slab(&slab);
    });
    cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
    const std::uint32_t zero = 0;
    desc.layer_id = 9;
    desc.num_experts = 1;
    desc.segments = segments.data();
    desc.num_segments = 1;
    desc.num_local = 1;
    desc.local_experts = &zero;
    desc.placements = &placement;
    check_sizes<cardea_layer_desc_t>("desc", desc, true, [&](auto* s) {
      cardea_layer_t made{};
      const cardea_status_t status = cardea_layer_create(rank.job.all, s, &made);
      if (status == CARDEA_OK) cardea_layer_destroy(made);
      return status;
    });
    std::uint64_t version = 0;
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    check_sizes<cardea_finish_desc_t>("desc", CARDEA_FINISH_DESC_INIT, true,
                                      [&](auto* s) { return cardea_finish(layer.handle, version++, s); });
    check_sizes<cardea_config_t>("config", SharedExchange(1).config(0), true, [&](auto* s) {
      SharedExchange exchange(1);
      const std::size_t size = s->size;
      s->exchange_user = exchange.config(0).exchange_user;
      s->size = size;
      cardea_context_t made{};
      const cardea_status_t status = cardea_context_create(s, &made);
      if (status == CARDEA_OK) cardea_context_destroy(made);
      return status;
    });
  });
}

TEST(Misuse, AViewArrayOfMixedSizesDeliversNothing) {
  alone([](Alone& rank) {
    Layer layer(rank.job, {});
    layer.publish(1);
    const cardea_fetch_t fetch = layer.fetch(1, {0, 1});
    cardea_view_t views[2] = {CARDEA_VIEW_INIT, CARDEA_VIEW_INIT};
    std::uint32_t count = 7;
    views[1].size = 0;
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"views[1]"}), cardea_next(fetch, views, 2, &count, 0));
    EXPECT_EQ(count, 0u);
    EXPECT_EQ(info_of(fetch).ready, 2u) << "a refused call consumed experts";
    EXPECT_EQ(read_all(layer, fetch, 1), 2u);
  });
}

TEST(Misuse, ExpertsOutOfRangeOrTwiceAreNamed) {
  alone([](Alone& rank) {
    const Layer layer(rank.job, {.layer_id = 5});
    cardea_fetch_t fetch{};
    const auto wrong = CARDEA_ERR_INVALID_ARGUMENT;
    const auto submit = [&](const std::vector<std::uint32_t>& experts) {
      const cardea_fetch_desc_t desc = layer.want(1, experts);
      return cardea_fetch(layer.handle, &desc, &fetch);
    };
    EXPECT_REFUSED(wrong, ({"expert 2", "layer 5"}), submit({0, 2}));
    EXPECT_EQ(last_error().expert, 2u);
    EXPECT_EQ(last_error().layer, 5u);
    EXPECT_REFUSED(wrong, ({"expert 4294967295"}), submit({UINT32_MAX}));
    EXPECT_REFUSED(wrong, ({"expert 1", "twice"}), submit({1, 1}));
    EXPECT_REFUSED(wrong, ({"no experts"}), submit({}));
    EXPECT_REFUSED(wrong, ({"3 experts of 2"}), submit({0, 1, 0}));
    cardea_expert_info_t info = CARDEA_EXPERT_INFO_INIT;
    EXPECT_REFUSED(wrong, ({"expert 2"}), cardea_expert_query(layer.handle, 2, &info));
    const std::vector<std::uint32_t> first = {0};
    cardea_fetch_desc_t desc = layer.want(1, first);
    desc.segment_mask = 8;
    EXPECT_REFUSED(wrong, ({"segment_mask 0x8"}), cardea_fetch(layer.handle, &desc, &fetch));
    desc = layer.want(1, first, 64);
    EXPECT_REFUSED(wrong, ({"flags 0x40"}), cardea_fetch(layer.handle, &desc, &fetch));
    desc = layer.want(UINT64_MAX, first);
    EXPECT_REFUSED(wrong, ({"version"}), cardea_fetch(layer.handle, &desc, &fetch));
    EXPECT_EQ(fetch.id, 0u);
  });
}

TEST(Misuse, DescriptionsThatContradictThemselvesAreNamed) {
  alone([](Alone& rank) {
    const auto wrong = CARDEA_ERR_INVALID_ARGUMENT;
    const cardea_context_t context = rank.job.context;
    std::vector<cardea_segment_t> segments = segments_of({64, 32});
    std::vector<std::byte> bytes(4096);
    const std::uint32_t experts[] = {0, 1};
    std::vector<cardea_placement_t> places(2, cardea_placement_t CARDEA_PLACEMENT_INIT);
    for (cardea_placement_t& place : places) {
      place.base = bytes.data();
      place.stride = 64;
    }
    const auto create = [&](const std::function<void(cardea_layer_desc_t&)>& change) {
      cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
      desc.layer_id = 3;
      desc.num_experts = 2;
      desc.segments = segments.data();
      desc.num_segments = 2;
      desc.num_local = 2;
      desc.local_experts = experts;
      desc.placements = places.data();
      change(desc);
      cardea_layer_t layer{};
      const cardea_status_t status = cardea_layer_create(rank.job.all, &desc, &layer);
      EXPECT_EQ(status == CARDEA_OK, layer.id != 0);
      return status;
    };
    const std::uint32_t twice[] = {1, 1}, beyond[] = {0, 2};
    EXPECT_REFUSED(wrong, ({"num_experts is 0"}), create([](auto& d) { d.num_experts = 0; }));
    EXPECT_REFUSED(wrong, ({"num_experts is 65537"}), create([](auto& d) { d.num_experts = 65537; }));
    EXPECT_REFUSED(wrong, ({"num_segments is 0"}), create([](auto& d) { d.num_segments = 0; }));
    EXPECT_REFUSED(wrong, ({"num_segments is 17"}), create([](auto& d) { d.num_segments = 17; }));
    EXPECT_REFUSED(wrong, ({"segments[0] is null"}), create([](auto& d) { d.segments = nullptr; }));
    EXPECT_REFUSED(wrong, ({"num_local is 3"}), create([](auto& d) { d.num_local = 3; }));
    EXPECT_REFUSED(wrong, ({"local_experts is null"}), create([](auto& d) { d.local_experts = nullptr; }));
    EXPECT_REFUSED(wrong, ({"local_experts", "expert 1 twice"}), create([&](auto& d) { d.local_experts = twice; }));
    EXPECT_REFUSED(wrong, ({"local_experts[1] is 2"}), create([&](auto& d) { d.local_experts = beyond; }));
    EXPECT_REFUSED(wrong, ({"placements[0] is null"}), create([](auto& d) { d.placements = nullptr; }));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_HANDLE, ({"slab"}), create([&](auto& d) { d.slab.id = context.id; }));

    places[1].stride = 31;
    EXPECT_REFUSED(wrong, ({"placements[1]", "stride 31"}), create([](auto&) {}));
    places[1].stride = UINT64_MAX / 2;
    EXPECT_REFUSED(wrong, ({"placements[1]", "stride"}), create([](auto&) {}));
    places[1].stride = 64;
    void* pointers[] = {bytes.data(), nullptr};
    places[1].pointers = pointers;
    EXPECT_REFUSED(wrong, ({"placements[1]", "exactly one of base and pointers"}), create([](auto&) {}));
    places[1].base = nullptr;
    EXPECT_REFUSED(wrong, ({"placements[1]", "pointers[1] is null"}), create([](auto&) {}));
    pointers[1] = bytes.data();
    segments[1].bytes = 0;
    EXPECT_REFUSED(wrong, ({"w1", "bytes"}), create([](auto&) {}));
    segments[1].bytes = 32;
    segments[1].alignment = 48;
    EXPECT_REFUSED(wrong, ({"w1", "alignment"}), create([](auto&) {}));
    segments[1].alignment = 8192;
    EXPECT_REFUSED(wrong, ({"w1", "alignment"}), create([](auto&) {}));
    segments[1].alignment = 0;
    EXPECT_EQ(create([](auto&) {}), CARDEA_OK) << last_error().message;
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({"layer 3"}), create([](auto&) {})) << "the layer_id is in use";

    const Slab other(rank.job, {64, 16}, 1);
    EXPECT_REFUSED(CARDEA_ERR_MISMATCH, ({"slab"}), create([&](auto& d) {
                     d.layer_id = 4;
                     d.slab = other.handle;
                   }));

    cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    cardea_slab_t made{};
    slab.segments = segments.data();
    slab.num_segments = 2;
    EXPECT_REFUSED(wrong, ({"num_slots is 0"}), cardea_slab_create(context, &slab, &made));
    slab.num_slots = 2;
    slab.first_slot = 1;
    EXPECT_REFUSED(wrong, ({"first_slot", "placements"}), cardea_slab_create(context, &slab, &made));
    slab.placements = places.data();
    EXPECT_REFUSED(wrong, ({"placements[1]", "base and stride"}), cardea_slab_create(context, &slab, &made));

    cardea_memory_t memory{};
    EXPECT_REFUSED(wrong, ({"bytes is 0"}), cardea_memory_alloc(context, 0, CARDEA_MEMORY_HOST, &memory));
    EXPECT_REFUSED(CARDEA_ERR_NO_MEMORY, ({""}), cardea_memory_alloc(context, UINT64_MAX / 2, CARDEA_MEMORY_HOST, &memory));
    EXPECT_REFUSED(wrong, ({"address space"}),
                   cardea_memory_register(context, bytes.data(), UINT64_MAX, CARDEA_MEMORY_HOST, &memory));

    cardea_group_t group{};
    const std::uint32_t ranks[] = {0, 0}, elsewhere[] = {1};
    EXPECT_REFUSED(wrong, ({"2 ranks in a job of 1"}), cardea_group_create(context, ranks, 2, &group));
    EXPECT_REFUSED(wrong, ({"rank 1"}), cardea_group_create(context, elsewhere, 1, &group));
    cardea_rank_info_t info = CARDEA_RANK_INFO_INIT;
    EXPECT_REFUSED(wrong, ({"rank 1"}), cardea_rank_query(context, 1, &info));
  });
}

TEST(Misuse, VersionsOutOfOrderAreRefused) {
  alone([](Alone& rank) {
    Layer layer(rank.job, {});
    const auto publish = [&](std::uint64_t version) { return cardea_publish(layer.handle, version, nullptr); };
    const auto finish = [&](std::uint64_t version) { return cardea_finish(layer.handle, version, nullptr); };
    const auto collect = [&](std::uint64_t version) { return cardea_collect(layer.handle, version, nullptr, 0); };
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"version"}), publish(UINT64_MAX));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"version 5"}), collect(5));
    layer.publish(5);
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({"version 5", "not collected"}), publish(5));
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({"version 5", "not collected"}), publish(6));
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({"not finished"}), collect(5));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"version 4"}), collect(4));

    const cardea_fetch_t fetch = layer.fetch(5, {0});
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({""}), finish(5)) << "an expert is ready and not delivered";
    const std::vector<cardea_view_t> views = drain(fetch);
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({""}), finish(5)) << "a view is open";
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({""}), finish(5)) << "a view is open, though its fetch is gone";
    EXPECT_REFUSED(CARDEA_ERR_BUSY, ({""}), cardea_layer_destroy(layer.handle));
    release(views);
    EXPECT_EQ(finish(5), CARDEA_OK);
    EXPECT_REFUSED(CARDEA_ERR_STALE, ({"version 5"}), finish(5));
    EXPECT_REFUSED(CARDEA_ERR_STALE, ({"version 4"}), finish(4));

    const std::vector<std::uint32_t> experts = {0};
    const cardea_fetch_desc_t desc = layer.want(5, experts);
    cardea_fetch_t late{};
    EXPECT_REFUSED(CARDEA_ERR_STALE, ({"version 5"}), cardea_fetch(layer.handle, &desc, &late));
    EXPECT_EQ(collect(5), CARDEA_OK);
    EXPECT_REFUSED(CARDEA_ERR_STALE, ({"version 5"}), collect(5));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"version 5"}), publish(5));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"version 4"}), publish(4));
    EXPECT_EQ(publish(7), CARDEA_OK) << "versions may leave some out";
  });
}

TEST(Misuse, WhatComesLaterIsUnsupportedAndSoAreGpusThatAreNotThere) {
  cardea_version_info_t found = CARDEA_VERSION_INFO_INIT;
  CARDEA_MUST(cardea_version(&found));
  if (found.cuda_driver[0] != '\0') GTEST_SKIP() << "there is a CUDA driver here";
  alone([](Alone& rank) {
    Layer layer(rank.job, {});
    int some = 0;
    void* const stream = CARDEA_STREAM_DEFAULT;
    const auto not_yet = CARDEA_ERR_UNSUPPORTED;
    EXPECT_REFUSED(not_yet, ({"stream"}), cardea_publish(layer.handle, 1, stream));
    layer.publish(1);
    cardea_finish_desc_t finish = CARDEA_FINISH_DESC_INIT;
    finish.stream = stream;
    EXPECT_REFUSED(not_yet, ({"stream"}), cardea_finish(layer.handle, 1, &finish));
    finish = CARDEA_FINISH_DESC_INIT;
    finish.micro_batches = 1;
    EXPECT_REFUSED(not_yet, ({"micro_batches"}), cardea_finish(layer.handle, 1, &finish));
    finish = CARDEA_FINISH_DESC_INIT;
    const std::uint8_t contributes = 1;
    finish.contributes = &contributes;
    EXPECT_REFUSED(not_yet, ({"contributes"}), cardea_finish(layer.handle, 1, &finish));
    EXPECT_REFUSED(not_yet, ({"stream"}), cardea_collect(layer.handle, 1, stream, 0));
    const std::vector<std::uint32_t> experts = {0};
    cardea_fetch_desc_t desc = layer.want(1, experts);
    desc.stream = stream;
    cardea_fetch_t fetch{};
    EXPECT_REFUSED(not_yet, ({"stream"}), cardea_fetch(layer.handle, &desc, &fetch));
    EXPECT_REFUSED(not_yet, ({"stream"}), cardea_prefetch(layer.handle, &desc, &fetch));

    cardea_memory_t memory{};
    EXPECT_REFUSED(not_yet, ({"no CUDA driver"}), cardea_memory_alloc(rank.job.context, 64, CARDEA_MEMORY_CUDA, &memory));
    EXPECT_REFUSED(not_yet, ({"no CUDA driver"}),
                   cardea_memory_register(rank.job.context, &some, sizeof some, CARDEA_MEMORY_CUDA, &memory));
    EXPECT_REFUSED(CARDEA_ERR_INVALID_ARGUMENT, ({"kind 5"}),
                   cardea_memory_alloc(rank.job.context, 64, static_cast<cardea_memory_kind_t>(5), &memory));
    const std::vector<cardea_segment_t> segments = segments_of({64});
    cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    slab.segments = segments.data();
    slab.num_segments = 1;
    slab.num_slots = 1;
    slab.kind = CARDEA_MEMORY_CUDA;
    cardea_slab_t made{};
    EXPECT_REFUSED(not_yet, ({"no CUDA driver"}), cardea_slab_create(rank.job.context, &slab, &made));

    CARDEA_MUST(cardea_prefetch(layer.handle, &(desc = layer.want(1, experts)), &fetch));
    cardea_view_t view = CARDEA_VIEW_INIT;
    std::uint32_t count = 0;
    EXPECT_REFUSED(not_yet, ({"prefetch"}), cardea_next(fetch, &view, 1, &count, 0));
  });
}

TEST(Misuse, WrongConfigurationsAreNamed) {
  run_ranks(1, [](unsigned) {
    const auto wrong = CARDEA_ERR_INVALID_ARGUMENT;
    SharedExchange exchange(1);
    cardea_context_t context{};
    const auto create = [&](const std::function<void(cardea_config_t&)>& change) {
      cardea_config_t config = exchange.config(0);
      change(config);
      return cardea_context_create(&config, &context);
    };
    EXPECT_REFUSED(wrong, ({"exchange"}), create([](auto& c) { c.exchange = nullptr; }));
    EXPECT_REFUSED(wrong, ({"unique_id"}), create([](auto& c) { c.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID; }));
    EXPECT_REFUSED(wrong, ({"bootstrap is 9"}), create([](auto& c) { c.bootstrap = static_cast<cardea_bootstrap_t>(9); }));
    EXPECT_REFUSED(wrong, ({"rank"}), create([](auto& c) { c.rank = 1; }));
    EXPECT_REFUSED(wrong, ({"world"}), create([](auto& c) { c.world_size = 0; }));
    EXPECT_REFUSED(wrong, ({"chunk_bytes is 100"}), create([](auto& c) { c.chunk_bytes = 100; }));
    EXPECT_REFUSED(wrong, ({"chunks_in_flight is 5000"}), create([](auto& c) { c.chunks_in_flight = 5000; }));
    cardea_unique_id_t garbage{};
    std::memset(garbage.bytes, 0x7F, sizeof garbage.bytes);
    EXPECT_REFUSED(wrong, ({"unique"}), create([&](auto& c) {
                     c.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID;
                     c.unique_id = &garbage;
                   }));
    EXPECT_REFUSED(wrong, ({"no.such.host.invalid"}), cardea_unique_id_create("no.such.host.invalid", &garbage));
    EXPECT_REFUSED(CARDEA_ERR_TRANSPORT, ({"exchange"}),
                   create([](auto& c) { c.exchange = [](void*, const void*, std::size_t, void*) { return 3; }; }));
    EXPECT_EQ(context.id, 0u);
  });
}

TEST(Misuse, EachThreadHasALastErrorOfItsOwn) {
  alone([](Alone&) {
    EXPECT_REFUSED(CARDEA_ERR_INVALID_HANDLE, ({"fetch"}), cardea_cancel({0}));
    std::thread([] {
      EXPECT_EQ(last_error().status, CARDEA_OK) << "the failure was another thread's";
      EXPECT_REFUSED(CARDEA_ERR_INVALID_HANDLE, ({"memory"}), cardea_memory_free({0}));
    }).join();
    EXPECT_NE(std::strstr(last_error().message, "fetch"), nullptr);
    cardea_version_info_t info = CARDEA_VERSION_INFO_INIT;
    EXPECT_EQ(cardea_version(&info), CARDEA_OK);
    EXPECT_NE(std::strstr(last_error().message, "fetch"), nullptr) << "a success must not clear it";
  });
}

}  // namespace
}  // namespace cardea::test
