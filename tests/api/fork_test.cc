// SPDX-License-Identifier: Apache-2.0
// A process that forks while it has contexts: the child's calls are refused, and the parent notices nothing.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

/// Exit code of a forked child that runs the body; it leaves by exit(), with all that runs then.
int in_child(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
#ifdef __SANITIZE_ADDRESS__
    // The leak check at exit counts what threads of the parent held on their stacks, which do not exist here.
    _exit(::testing::Test::HasFailure() ? 1 : 0);
#endif
    std::exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(Fork, EveryCallWithTheParentsHandlesIsRefusedInTheChildAndTheParentGoesOn) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(exchange, rank, rank == 2 ? "second" : "first");
    Layer layer(job, {.slots = 6});
    layer.publish(1);
    const cardea_fetch_t early = layer.fetch(2, layer.everything());
    const cardea_fetch_t fetch = layer.fetch(1, layer.everything());
    const std::vector<cardea_view_t> held = drain(fetch);
    EXPECT_EQ(in_child([&] {
                const auto forked = CARDEA_ERR_FORKED;
                const cardea_context_t context = job.context;
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
                const cardea_layer_desc_t layer_desc = CARDEA_LAYER_DESC_INIT;
                const cardea_slab_desc_t slab_desc = CARDEA_SLAB_DESC_INIT;
                cardea_group_t group{};
                cardea_memory_t memory{};
                cardea_slab_t slab{};
                cardea_layer_t made{};
                cardea_fetch_t fetched{};
                cardea_view_t view = CARDEA_VIEW_INIT;
                std::uint32_t count = 0;
                int descriptor = 0;
                EXPECT_REFUSED(forked, ({"parent"}), cardea_context_query(context, &context_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_rank_query(context, 0, &rank_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_event_descriptor(context, &descriptor));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_event_clear(context));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_counters_query(context, &counters));
                std::size_t needed = 0;
                EXPECT_REFUSED(forked, ({"parent"}), cardea_traffic_query(context, nullptr, 0, &count));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_metrics_text(context, nullptr, 0, &needed));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_dump_text(context, "", nullptr, 0, &needed));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_group_create(context, nullptr, 0, &group));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_memory_alloc(context, 64, CARDEA_MEMORY_HOST, &memory));
                EXPECT_REFUSED(forked, ({"parent"}),
                               cardea_memory_register(context, &count, sizeof count, CARDEA_MEMORY_HOST, &memory));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_memory_wait_unmapped(context, &count, sizeof count, 0));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_slab_create(context, &slab_desc, &slab));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_group_query(job.all, &group_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_group_destroy(job.all));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_memory_query(layer.memory, &memory_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_memory_free(layer.memory));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_layer_create(job.all, &layer_desc, &made));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_layer_query(layer.handle, &layer_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_expert_query(layer.handle, 0, &expert_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_layer_table(layer.handle, &table));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_layer_device_table(layer.handle, &device_table));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_layer_destroy(layer.handle));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_slab_query(layer.slab.handle, &slab_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_slab_destroy(layer.slab.handle));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_publish(layer.handle, 2, nullptr));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_finish(layer.handle, 1, nullptr));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_collect(layer.handle, 1, nullptr, CARDEA_FOREVER));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_fetch(layer.handle, &fetch_desc, &fetched));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_prefetch(layer.handle, &fetch_desc, &fetched));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_next(early, &view, 1, &count, CARDEA_FOREVER));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_wait(early, CARDEA_FOREVER));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_fetch_query(early, &fetch_info));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_cancel(early));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_fetch_destroy(early));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_release(held.data(), 1));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_context_abort(context));
                EXPECT_REFUSED(forked, ({"parent"}), cardea_context_destroy(context));
              }),
              0);
    for (const cardea_view_t& view : held) EXPECT_TRUE(layer.right(view, 1));
    release(held);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    layer.finish(1);
    layer.collect(1);
    layer.publish(2);
    EXPECT_EQ(read_all(layer, early, 2), 6u) << "a fetch that was open across the fork";
    layer.finish(2);
    layer.collect(2);
    EXPECT_TRUE(board.barrier(0, 3));
    EXPECT_EQ(job.leave(), CARDEA_OK);
  });
}

TEST(Fork, AChildThatLivesOnDoesNotHideItsParentsLeaving) {
  SharedExchange exchange(2);
  SharedBoard board;
  {
    run_ranks(2, [&](unsigned rank) {
      Job job(exchange, rank, rank == 1 ? "second" : "first");
      Layer layer(job, {});
      if (rank == 1) {
        const pid_t child = fork();
        if (child == 0) {
          board.wait_for(0, 1);
          _exit(0);
        }
        job.leave();
        int status = 0;
        EXPECT_EQ(waitpid(child, &status, 0), child);
        return;
      }
      const cardea_fetch_t fetch = layer.fetch(1, {2, 3});
      const std::vector<cardea_view_t> views = drain(fetch);
      ASSERT_EQ(views.size(), 2u);
      for (const cardea_view_t& view : views) EXPECT_EQ(view.status, CARDEA_ERR_PEER_LOST);
      board.set(0, 1);  // only now may the child go
    });
  }
}

TEST(Fork, AChildMayFormAJobOfItsOwn) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer ends a child that starts threads after its parent had some";
#endif
  run_ranks(1, [](unsigned) {
    Alone parent;
    Layer layer(parent.job, {});
    layer.publish(1);
    EXPECT_EQ(in_child([&] {
                Alone child;
                Layer own(child.job, {});
                own.publish(1);
                EXPECT_EQ(read_all(own, own.fetch(1, {0, 1}), 1), 2u);
                EXPECT_NE(child.job.context.id, parent.job.context.id) << "the parent's handle names the child's context";
              }),
              0);
    EXPECT_EQ(read_all(layer, layer.fetch(1, {0, 1}), 1), 2u);
  });
}

}  // namespace
}  // namespace cardea::test
