// SPDX-License-Identifier: Apache-2.0
// Being told instead of asking: the event descriptor and the callbacks of fetches.
#include <poll.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

/// Rank 0 asks, rank 1 (on another node) publishes when the board's number 0 is 1. Version 1.
void asker_and_source(const std::function<void(Job&, Layer&, SharedBoard&)>& ask) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first");
    Layer layer(job, {});
    if (rank == 0) {
      ask(job, layer, board);
    } else {
      EXPECT_TRUE(board.wait_for(0, 1));
      layer.publish(1);
    }
    EXPECT_TRUE(board.barrier(255, 2));
  });
}

bool readable(int descriptor, int milliseconds) {
  pollfd entry{descriptor, POLLIN, 0};
  return poll(&entry, 1, milliseconds) == 1 && (entry.revents & POLLIN) != 0;
}

TEST(Events, TheDescriptorTellsWhenExpertsAreReadyAndCollectsComplete) {
  asker_and_source([](Job& job, Layer& layer, SharedBoard& board) {
    int descriptor = -1;
    CARDEA_MUST(cardea_event_descriptor(job.context, &descriptor));
    const cardea_fetch_t fetch = layer.fetch(1, {2, 3});
    CARDEA_MUST(cardea_event_clear(job.context));
    EXPECT_FALSE(readable(descriptor, 20)) << "nothing has happened";
    board.set(0, 1);
    // As a framework's loop does it: clear first, then look.
    std::vector<cardea_view_t> all;
    while (all.size() < 2) {
      ASSERT_TRUE(readable(descriptor, 30000)) << "experts became ready and the descriptor did not tell";
      CARDEA_MUST(cardea_event_clear(job.context));
      for (;;) {
        cardea_status_t status = CARDEA_OK;
        const std::vector<cardea_view_t> views = next(fetch, 1, 0, &status);
        if (views.empty()) break;
        EXPECT_TRUE(layer.right(views[0], 1));
        all.push_back(views[0]);
      }
    }
    release(all);
    CARDEA_MUST(cardea_fetch_destroy(fetch));

    EXPECT_TRUE(refused(CARDEA_ERR_INVALID_ARGUMENT, {"version 1"}, cardea_collect(layer.handle, 1, nullptr, 0)));
    layer.publish(1);
    layer.finish(1);
    EXPECT_EQ(cardea_collect(layer.handle, 1, nullptr, 0), CARDEA_IN_PROGRESS);
  });
}

TEST(Events, TheDescriptorTellsOfACollect) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first");
    Layer layer(job, {});
    layer.publish(1);
    if (rank == 0) {
      layer.finish(1);
      int descriptor = -1;
      CARDEA_MUST(cardea_event_descriptor(job.context, &descriptor));
      EXPECT_EQ(cardea_collect(layer.handle, 1, nullptr, 0), CARDEA_IN_PROGRESS);
      board.set(0, 1);
      for (;;) {
        CARDEA_MUST(cardea_event_clear(job.context));
        const cardea_status_t status = cardea_collect(layer.handle, 1, nullptr, 0);
        if (status == CARDEA_OK) break;
        ASSERT_EQ(status, CARDEA_IN_PROGRESS);
        ASSERT_TRUE(readable(descriptor, 30000)) << "nothing told that the collect is complete";
      }
    } else {
      EXPECT_TRUE(board.wait_for(0, 1));
      layer.finish(1);
    }
    EXPECT_TRUE(board.barrier(255, 2));
  });
}

struct Told {
  Layer* layer = nullptr;
  std::thread::id caller;
  std::mutex mutex;
  std::condition_variable changed;
  unsigned calls = 0, done = 0, after_done = 0, views = 0;
  bool on_another_thread = true, waiting_refused = false;
  std::function<void(cardea_fetch_t)> also;

  static void on_ready(void* user, cardea_fetch_t fetch, int done) {
    Told& told = *static_cast<Told*>(user);
    const std::unique_lock held(told.mutex);
    ++told.calls;
    if (told.done != 0) ++told.after_done;
    if (std::this_thread::get_id() == told.caller) told.on_another_thread = false;
    for (;;) {
      cardea_status_t status = CARDEA_OK;
      const std::vector<cardea_view_t> views = next(fetch, 1, 0, &status);
      if (views.empty()) break;
      EXPECT_TRUE(views[0].status == CARDEA_ERR_CANCELED || told.layer->right(views[0], 1));
      release(views);
      ++told.views;
    }
    if (told.also) told.also(fetch);
    if (done) ++told.done;
    told.changed.notify_all();
  }
  bool wait_until_done() {
    std::unique_lock held(mutex);
    return changed.wait_for(held, std::chrono::seconds(30), [&] { return done != 0; });
  }
};

TEST(Events, ACallbackRunsOnTheEngineThreadAndIsToldOfTheEndOnce) {
  asker_and_source([](Job&, Layer& layer, SharedBoard& board) {
    Told told;
    told.layer = &layer;
    told.caller = std::this_thread::get_id();
    const std::vector<std::uint32_t> experts = {0, 2, 3};
    cardea_fetch_desc_t desc = layer.want(1, experts);
    desc.on_ready = &Told::on_ready;
    desc.user = &told;
    cardea_fetch_t fetch{};
    CARDEA_MUST(cardea_fetch(layer.handle, &desc, &fetch));
    layer.publish(1);
    board.set(0, 1);
    EXPECT_TRUE(told.wait_until_done());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    {
      const std::unique_lock held(told.mutex);
      EXPECT_EQ(told.done, 1u);
      EXPECT_EQ(told.after_done, 0u) << "called again after the end";
      EXPECT_EQ(told.views, 3u);
      EXPECT_TRUE(told.on_another_thread);
    }
    CARDEA_MUST(cardea_fetch_destroy(fetch));
  });
}

TEST(Events, ACallbackThatIsReadyAtOnceStillRunsElsewhere) {
  asker_and_source([](Job&, Layer& layer, SharedBoard& board) {
    layer.publish(1);
    Told told;
    told.layer = &layer;
    told.caller = std::this_thread::get_id();
    const std::vector<std::uint32_t> experts = {0, 1};
    cardea_fetch_desc_t desc = layer.want(1, experts);
    desc.on_ready = &Told::on_ready;
    desc.user = &told;
    cardea_fetch_t fetch{};
    CARDEA_MUST(cardea_fetch(layer.handle, &desc, &fetch));
    EXPECT_TRUE(told.wait_until_done());
    const std::unique_lock held(told.mutex);
    EXPECT_EQ(told.views, 2u);
    EXPECT_TRUE(told.on_another_thread);
    board.set(0, 1);
  });
}

TEST(Events, ACallbackMustNotWait) {
  asker_and_source([](Job& job, Layer& layer, SharedBoard& board) {
    layer.publish(1);
    layer.finish(1);
    const cardea_fetch_t parked = layer.fetch(2, {2});
    Told told;
    told.layer = &layer;
    told.also = [&](cardea_fetch_t) {
      cardea_view_t view = CARDEA_VIEW_INIT;
      std::uint32_t count = 0;
      const auto no = CARDEA_ERR_UNSUPPORTED;
      EXPECT_REFUSED(no, ({"callback"}), cardea_next(parked, &view, 1, &count, kSecond));
      EXPECT_REFUSED(no, ({"callback"}), cardea_next(parked, &view, 1, &count, CARDEA_FOREVER));
      EXPECT_EQ(cardea_next(parked, &view, 1, &count, 0), CARDEA_IN_PROGRESS);
      EXPECT_REFUSED(no, ({"callback"}), cardea_wait(parked, kSecond));
      EXPECT_REFUSED(no, ({"callback"}), cardea_collect(layer.handle, 1, nullptr, kSecond));
      EXPECT_REFUSED(no, ({"callback"}), cardea_context_destroy(job.context));
      const cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
      cardea_layer_t made{};
      EXPECT_REFUSED(no, ({"callback"}), cardea_layer_create(job.all, &desc, &made));
      told.waiting_refused = true;
    };
    const std::vector<std::uint32_t> experts = {2};
    cardea_fetch_desc_t desc = layer.want(3, experts);
    desc.on_ready = &Told::on_ready;
    desc.user = &told;
    cardea_fetch_t fetch{};
    CARDEA_MUST(cardea_fetch(layer.handle, &desc, &fetch));
    CARDEA_MUST(cardea_cancel(fetch));
    board.set(0, 1);
    const bool told_done = [&] {
      std::unique_lock held(told.mutex);
      return told.changed.wait_for(held, std::chrono::seconds(30), [&] { return told.done != 0; });
    }();
    EXPECT_TRUE(told_done);
    EXPECT_TRUE(told.waiting_refused);
  });
}

TEST(Events, ACallbackMayDestroyItsFetchAndAskAgain) {
  asker_and_source([](Job&, Layer& layer, SharedBoard& board) {
    layer.publish(1);
    Told second;
    second.layer = &layer;
    Told first;
    first.layer = &layer;
    cardea_fetch_t chained{};
    first.also = [&](cardea_fetch_t fetch) {
      EXPECT_EQ(cardea_fetch_destroy(fetch), CARDEA_OK);
      const std::vector<std::uint32_t> experts = {2, 3};
      cardea_fetch_desc_t desc = layer.want(1, experts);
      desc.on_ready = &Told::on_ready;
      desc.user = &second;
      EXPECT_EQ(cardea_fetch(layer.handle, &desc, &chained), CARDEA_OK);
    };
    const std::vector<std::uint32_t> experts = {0};
    cardea_fetch_desc_t desc = layer.want(1, experts);
    desc.on_ready = &Told::on_ready;
    desc.user = &first;
    cardea_fetch_t fetch{};
    CARDEA_MUST(cardea_fetch(layer.handle, &desc, &fetch));
    board.set(0, 1);
    EXPECT_TRUE(first.wait_until_done());
    EXPECT_TRUE(second.wait_until_done());
    EXPECT_EQ(second.views, 2u);
    CARDEA_MUST(cardea_fetch_destroy(chained));
  });
}

}  // namespace
}  // namespace cardea::test
