// SPDX-License-Identifier: Apache-2.0
// Gates whose bytes never come: they open all the same, what lies in the slots is no weights, and the fetch says so.

#include "tests/cuda/gate_scene.h"

namespace cardea::test {
namespace {

TEST_F(GpuGate, ASourceThatDiesBehindShutGates) {
  reader_and_source(
      [&](Scene& scene) {
        Stopped source(scene.board.get(kSource));
        std::vector<cardea_view_t> views;
        const cardea_fetch_t fetch = take_all(scene, source, views);
        const cuda::EventHandle read = scene.gpu.mark();
        usleep(20000);
        EXPECT_FALSE(scene.gpu.passed(read)) << "the gates are to be shut when it dies";
        EXPECT_TRUE(source.still());
        source.die();
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_PEER_LOST) << last_error().message;
        scene.gpu.synchronize();
        for (const cardea_view_t& view : views) EXPECT_TRUE(poisoned(scene.gpu, view, sizes_));
        release(views);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
        await_free_slots(scene);
        EXPECT_EQ(cardea_wait(scene.layer.fetch(1, scene.experts, scene.gpu.stream()), kPatience), CARDEA_ERR_PEER_LOST);
      },
      {}, nullptr, nullptr, true);
}

TEST_F(GpuGate, CanceledBehindShutGates) {
  reader_and_source([&](Scene& scene) {
    std::vector<cardea_view_t> views;
    {
      Stopped source(scene.board.get(kSource));
      const cardea_fetch_t fetch = take_all(scene, source, views);
      CARDEA_MUST(cardea_cancel(fetch));
      EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_CANCELED) << last_error().message;
      scene.gpu.synchronize();
      EXPECT_TRUE(source.still()) << "the gates were opened by the cancel";
      for (const cardea_view_t& view : views) EXPECT_TRUE(poisoned(scene.gpu, view, sizes_));
      CARDEA_MUST(cardea_fetch_destroy(fetch));
    }
    release(views);
    // What is asked for again comes, and is right.
    EXPECT_EQ(scene.layer.read(1, scene.experts, CARDEA_PATH_NETWORK), 4u);
  });
}

TEST_F(GpuGate, DestroyedBehindShutGatesAFetchLeavesItsViewsTheirBytes) {
  reader_and_source([&](Scene& scene) {
    Stopped source(scene.board.get(kSource));
    std::vector<cardea_view_t> views;
    CARDEA_MUST(cardea_fetch_destroy(take_all(scene, source, views)));
    const cuda::EventHandle read = scene.gpu.mark();
    usleep(20000);
    EXPECT_FALSE(scene.gpu.passed(read));
    source.go_on();
    for (const cardea_view_t& view : views) EXPECT_TRUE(scene.layer.right(view, 1));
    release(views);
  });
}

TEST_F(GpuGate, TheContextsEndOpensAllGates) {
  for (const bool abort_first : {false, true}) {
    reader_and_source([&](Scene& scene) {
      Stopped source(scene.board.get(kSource));
      std::vector<cardea_view_t> views;
      const cardea_fetch_t fetch = take_all(scene, source, views);
      const cuda::EventHandle read = scene.gpu.mark();
      if (abort_first) {
        CARDEA_MUST(cardea_context_abort(scene.job.context));
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_CANCELED);
        scene.gpu.synchronize();
      }
      CARDEA_MUST(scene.job.leave());
      scene.gpu.synchronize();
      EXPECT_TRUE(scene.gpu.passed(read));
      EXPECT_TRUE(source.still()) << "nothing has come meanwhile";
    });
  }
}

TEST_F(GpuGate, WithoutStreamMemoryOperationsAHostWaitsForWhatComesOverTheNetwork) {
  if (!fake_gpus()) GTEST_SKIP() << "takes a driver that has none";
  // This one fails the calls; ctest runs the test on one that has no such functions, too.
  reader_and_source(
      [&](Scene& scene) {
        Stopped source(scene.board.get(kSource));
        const cardea_fetch_t fetch = scene.layer.fetch(1, scene.experts, scene.gpu.stream());
        cardea_status_t status = CARDEA_OK;
        EXPECT_TRUE(next(fetch, 4, 100 * kMilli, &status).empty());
        EXPECT_EQ(status, CARDEA_ERR_TIMEOUT);
        EXPECT_TRUE(source.still());
        source.go_on();
        const std::vector<cardea_view_t> views = drain(fetch);
        EXPECT_EQ(views.size(), 4u);
        for (const cardea_view_t& view : views) EXPECT_TRUE(scene.layer.right(view, 1));
        release(views);
        EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK);
        CARDEA_MUST(cardea_fetch_destroy(fetch));
      },
      {}, "FAKE_CUDA_FAIL", "cuStreamWaitValue32_v2:1:801");
}

}  // namespace
}  // namespace cardea::test
