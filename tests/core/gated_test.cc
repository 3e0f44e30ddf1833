// SPDX-License-Identifier: Apache-2.0
// Copies that are queued on a stream before their bytes have come over the network: who is ready when, which gate opens when
// and why, what becomes of slots and landings, and who hears of a failure.
#include "tests/core/core_driver.h"

namespace cardea::core {
namespace {

constexpr LaneNumber kNetwork = 0, kPulls = 2, kUploads = 3;
constexpr ExpertIndex kLocal = 8;  // and from there on: of another GPU of the node

class GatedTest : public testing::Test {
 protected:
  explicit GatedTest(std::uint32_t slots = 2, GateLimits limits = {2, 2},
                     CoreOptions options = {.chunk_bytes = Driver::kChunk})
      : at({{.chunks = 4},
            {.chunks = 2},
            {.chunks = 1000, .chunk_bytes = 1 << 20},
            {.chunks = 1000, .chunk_bytes = 1 << 20}},
           std::move(options)) {
    std::vector<ExpertSources> experts(8, Driver::by_network(1));
    experts.resize(12, {2, {{2, CARDEA_PATH_NODE_GPU, kPulls}}});
    layer = at.add_layer({0, 1, 0}, experts);
    at.published_by(layer, 1, 1);
    at.published_by(layer, 2, 1);
    slab = at.core.add_slab(slots, kUploads, limits);
  }
  FetchNumber fetch(std::vector<ExpertIndex> experts, bool on_stream = true) {
    return at.fetch(into_slots(layer, slab, std::move(experts), on_stream));
  }
  /// What was started and is for the GPU is queued.
  void queue_all() {
    for (; queued_ < at.log.size(); ++queued_) {
      if (at.log[queued_].lane == kNetwork) continue;
      at.core.chunk_queued(at.log[queued_].chunk, at.now);
      at.flying.at(at.log[queued_].chunk).slot = 0xFFFF;  // the GPU keeps its order
      at.look();
    }
  }
  /// The chunk that copies an expert up.
  ChunkNumber upload_of(ExpertIndex expert) {
    for (auto start = at.log.rbegin(); start != at.log.rend(); ++start) {
      if (start->expert == expert && start->lane == kUploads) return start->chunk;
    }
    ADD_FAILURE() << "expert " << expert << " is not copied up";
    return 0;
  }
  bool gated(ExpertIndex expert) {
    return std::any_of(at.log.begin(), at.log.end(),
                       [&](const StartChunk& start) { return start.expert == expert && start.gated; });
  }
  /// All chunks of it come over the network.
  void arrives(ExpertIndex expert, const Status& status = {}) {
    for (;;) {
      const auto chunk = std::find_if(at.flying.begin(), at.flying.end(), [&](const auto& entry) {
        return entry.second.expert == expert && entry.second.lane == kNetwork;
      });
      if (chunk == at.flying.end()) return;
      at.complete(chunk->first, status);
    }
  }
  /// The GPU has passed the gate and copied it.
  void copied(ExpertIndex expert) {
    const ChunkNumber chunk = upload_of(expert);
    ASSERT_TRUE(at.opened.contains(chunk)) << "the GPU waits at a gate that is shut";
    at.complete(chunk, at.opened.at(chunk));
  }
  std::size_t shut() const {
    std::size_t gates = 0;
    for (const StartChunk& start : at.log) gates += start.gated && !at.opened.contains(start.chunk);
    return gates;
  }

  Driver at;
  LayerNumber layer = 0;
  SlabNumber slab = 0;

 private:
  std::size_t queued_ = 0;
};

TEST_F(GatedTest, AnExpertOfTheNetworkIsReadyWhenItsCopyIsQueuedBehindAGate) {
  const FetchNumber number = fetch({0});
  EXPECT_TRUE(gated(0));
  queue_all();
  EXPECT_EQ(at.core.counts(number).ready, 1u);
  const std::vector<Delivery> views = at.take(number);
  ASSERT_EQ(views.size(), 1u);
  EXPECT_EQ(views[0].path, CARDEA_PATH_NETWORK);
  EXPECT_TRUE(at.opened.empty()) << "nothing has come";
  arrives(0);
  ASSERT_TRUE(at.opened.contains(upload_of(0)));
  EXPECT_TRUE(at.opened.at(upload_of(0)).ok());
  EXPECT_EQ(at.core.counts(number).under_way, 1u);
  copied(0);
  EXPECT_EQ(at.core.counts(number).under_way, 0u);
  EXPECT_TRUE(at.core.first_failure(number).ok());
}

TEST_F(GatedTest, WhatHasComeFromTheBeginningOnIsToldBeforeTheGateOpens) {
  fetch({0});
  queue_all();
  std::vector<ChunkNumber> chunks;
  std::vector<std::uint64_t> ends;
  for (const auto& [chunk, start] : at.flying) {
    if (start.lane != kNetwork) continue;
    chunks.push_back(chunk);
    ends.push_back(start.range.offset + start.range.bytes);
  }
  ASSERT_EQ(chunks.size(), 3u);
  ASSERT_TRUE(std::is_sorted(ends.begin(), ends.end()));
  const ChunkNumber gate = upload_of(0);
  at.complete(chunks[1]);
  EXPECT_FALSE(at.advanced.contains(gate)) << "the beginning is missing";
  at.complete(chunks[0]);
  EXPECT_EQ(at.advanced[gate], ends[1]);
  EXPECT_FALSE(at.opened.contains(gate));
  at.complete(chunks[2]);
  EXPECT_EQ(at.advanced[gate], ends[1]) << "the rest is told by opening it";
  EXPECT_TRUE(at.opened.at(gate).ok());
  copied(0);
}

TEST_F(GatedTest, AGateThatComesLateHearsWhatIsThereAlready) {
  const FetchNumber first = fetch({kLocal, kLocal + 1});  // both slots
  fetch({0});
  queue_all();
  EXPECT_FALSE(gated(0)) << "there is no slot for it";
  const auto chunk = std::find_if(at.flying.begin(), at.flying.end(), [](const auto& entry) {
    return entry.second.lane == kNetwork && entry.second.range.offset == 0;
  });
  ASSERT_NE(chunk, at.flying.end());
  const std::uint64_t bytes = chunk->second.range.bytes;
  at.complete(chunk->first);
  for (const Delivery& view : at.take(first)) at.release(view.view);
  ASSERT_TRUE(gated(0));
  EXPECT_EQ(at.advanced[upload_of(0)], bytes);
}

TEST_F(GatedTest, WhatIsLocalIsQueuedFirst) {
  const FetchNumber number = fetch({0, kLocal});
  queue_all();
  const std::vector<Delivery> views = at.take(number);
  ASSERT_EQ(views.size(), 2u);
  EXPECT_EQ(views[0].expert, kLocal) << "who computes in the order of views must not wait for the network first";
}

TEST_F(GatedTest, GatesTakeNoSlotThatWhatIsLocalNeeds) {
  const FetchNumber number = fetch({0, kLocal, kLocal + 1});
  EXPECT_FALSE(gated(0));
  EXPECT_TRUE(std::any_of(at.log.begin(), at.log.end(), [](const auto& s) { return s.lands && s.expert == 0; }))
      << "it is on its way all the same";
  queue_all();
  for (const Delivery& view : at.take(number)) at.release(view.view);
  EXPECT_TRUE(gated(0)) << "a slot is free";
}

TEST_F(GatedTest, ASlotWhoseGateIsShutIsNotGivenToOthers) {
  const FetchNumber number = fetch({0, 1});
  queue_all();
  for (const Delivery& view : at.take(number)) at.release(view.view);
  EXPECT_EQ(at.core.available_slots(slab), 0u);
  const FetchNumber local = fetch({kLocal});
  EXPECT_EQ(at.core.counts(local).starved, 1u) << "its copy would wait on the GPU for the network";
  EXPECT_FALSE(at.core.would_deadlock(local, {local}, at.now));
  arrives(0);
  EXPECT_EQ(at.core.counts(local).starved, 0u) << "before the copy is done: the GPU keeps the order from here on";
}

TEST_F(GatedTest, AReleasedExpertThatIsStillToComeIsFoundByTheNextFetch) {
  const FetchNumber first = fetch({0});
  queue_all();
  for (const Delivery& view : at.take(first)) at.release(view.view);
  const FetchNumber second = fetch({0});
  EXPECT_EQ(at.core.counts(second).ready, 1u);
  EXPECT_EQ(at.core.counts(second).under_way, 1u);
  arrives(0);
  copied(0);
  EXPECT_EQ(at.core.counts(second).under_way, 0u);
}

TEST_F(GatedTest, AHostThatWaitsForTheSameExpertWaitsUntilItIsThere) {
  fetch({0});
  const FetchNumber waiting = fetch({0}, false);
  queue_all();
  EXPECT_EQ(at.core.counts(waiting).ready, 0u);
  arrives(0);
  EXPECT_EQ(at.core.counts(waiting).ready, 0u);
  copied(0);
  EXPECT_EQ(at.core.counts(waiting).ready, 1u);
}

TEST_F(GatedTest, ALostSourceOpensItsGatesAndWhoeverDependsOnThemHears) {
  const FetchNumber number = fetch({0, 1});
  queue_all();
  const std::vector<Delivery> one = at.take(number, 1);
  ASSERT_EQ(one.size(), 1u);
  EXPECT_TRUE(one[0].status.ok()) << "nobody knew";
  at.core.peer_lost(1, false, Status(CARDEA_ERR_PEER_LOST, "rank 1 died"), at.now);
  at.look();
  EXPECT_EQ(shut(), 0u);
  for (const auto& [chunk, why] : at.opened) EXPECT_EQ(why.code(), CARDEA_ERR_PEER_LOST);
  const std::vector<Delivery> other = at.take(number);
  ASSERT_EQ(other.size(), 1u);
  EXPECT_EQ(other[0].status.code(), CARDEA_ERR_PEER_LOST) << "it was ready, and not delivered yet";
  EXPECT_EQ(other[0].status.detail().expert, other[0].expert);
  EXPECT_EQ(at.core.counts(number).under_way, 2u) << "the GPU is still to pass";
  at.release(one[0].view);
  for (const ExpertIndex expert : {0u, 1u}) copied(expert);
  EXPECT_EQ(at.core.counts(number).under_way, 0u);
  EXPECT_EQ(at.core.first_failure(number).code(), CARDEA_ERR_PEER_LOST);
  for (auto chunk = at.flying.begin(); chunk != at.flying.end(); chunk = at.flying.begin())
    at.complete(chunk->first, Status(CARDEA_ERR_PEER_LOST, "drained"));
  EXPECT_EQ(at.core.available_slots(slab), 2u);
  at.destroy(number);
  EXPECT_TRUE(at.core.remove_slab(slab).ok());
}

TEST_F(GatedTest, AFailureBeforeTheCopyIsQueuedFailsTheExpert) {
  const FetchNumber number = fetch({0});
  arrives(0, Status(CARDEA_ERR_STALE, "the test said so"));
  EXPECT_EQ(at.core.counts(number).failed, 1u);
  ASSERT_EQ(at.opened.size(), 1u);
  queue_all();
  copied(0);
  EXPECT_EQ(at.core.available_slots(slab), 2u);
}

TEST_F(GatedTest, CancelingOpensTheGatesOfThoseThatNobodyElseWaitsFor) {
  const FetchNumber first = fetch({0, 1});
  queue_all();
  at.take(first);
  const FetchNumber second = fetch({1});
  at.cancel(first);
  ASSERT_EQ(at.opened.size(), 1u);
  EXPECT_EQ(at.opened.begin()->first, upload_of(0));
  EXPECT_EQ(at.opened.begin()->second.code(), CARDEA_ERR_CANCELED);
  EXPECT_EQ(at.core.first_failure(first).code(), CARDEA_ERR_CANCELED);
  EXPECT_EQ(at.core.counts(first).under_way, 0u);
  EXPECT_TRUE(at.core.first_failure(second).ok());
  arrives(1);
  copied(1);
  EXPECT_TRUE(at.core.first_failure(second).ok());
  EXPECT_EQ(at.core.counts(second).under_way, 0u);
}

TEST_F(GatedTest, DeliveredViewsOfADestroyedFetchKeepTheirBytesFromOthersFailures) {
  const FetchNumber first = fetch({0});
  queue_all();
  const std::vector<Delivery> views = at.take(first);
  const FetchNumber second = fetch({0});
  at.destroy(first);
  at.cancel(second);
  EXPECT_TRUE(at.opened.empty()) << "the delivered view's stream waits for it";
  EXPECT_EQ(at.core.first_failure(second).code(), CARDEA_ERR_CANCELED);
  arrives(0);
  EXPECT_TRUE(at.opened.at(upload_of(0)).ok());
  at.release(views[0].view);
}

TEST_F(GatedTest, DestroyedUndeliveredItOpensItsGate) {
  const FetchNumber number = fetch({0});
  queue_all();
  at.destroy(number);
  ASSERT_EQ(at.opened.size(), 1u);
  EXPECT_EQ(at.opened.begin()->second.code(), CARDEA_ERR_CANCELED);
  EXPECT_EQ(at.core.available_slots(slab), 2u);
  copied(0);
  while (!at.flying.empty()) at.complete(at.flying.begin()->first);
  EXPECT_EQ(at.core.draining(layer), 0u);
}

TEST_F(GatedTest, TheEndOfAllOpensAllGates) {
  const FetchNumber one = fetch({0});
  const FetchNumber two = fetch({1});
  queue_all();
  at.take(one);
  at.destroy(one);  // its view is out
  at.core.cancel_all(Status(CARDEA_ERR_CANCELED, "the context was aborted"), at.now);
  at.look();
  EXPECT_EQ(at.opened.size(), 2u);
  EXPECT_EQ(shut(), 0u);
  EXPECT_EQ(at.core.counts(two).failed, 1u);
}

TEST_F(GatedTest, ADeadlineOpensItsGates) {
  FetchSpec spec;
  spec.layer = layer;
  spec.version = 1;
  spec.experts = {0};
  spec.segments = 3;
  spec.slab = slab;
  spec.into_slots = spec.on_stream = true;
  spec.deadline = at.now + std::chrono::seconds(1);
  const FetchNumber number = at.fetch(spec);
  queue_all();
  at.take(number);
  at.now += std::chrono::seconds(2);
  at.core.time_passed(at.now);
  at.look();
  ASSERT_EQ(at.opened.size(), 1u);
  EXPECT_EQ(at.core.first_failure(number).code(), CARDEA_ERR_TIMEOUT);
}

TEST_F(GatedTest, AFinishWaitsUntilTheGpuHasPassed) {
  const FetchNumber number = fetch({0});
  queue_all();
  for (const Delivery& view : at.take(number)) at.release(view.view);
  at.destroy(number);
  ASSERT_TRUE(at.core.finish(layer, 1, at.now).ok());
  arrives(0);
  EXPECT_EQ(at.core.draining(layer), 1u);
  EXPECT_EQ(at.core.collect(layer, 1).code(), CARDEA_IN_PROGRESS);
  copied(0);
  EXPECT_EQ(at.core.draining(layer), 0u);
}

struct FewGatesTest : GatedTest {
  FewGatesTest() : GatedTest(4, {.gates = 1, .landings = 3}) {}
};

TEST_F(FewGatesTest, WithoutAGateItComesUpWhenItIsHere) {
  const FetchNumber number = fetch({0, 1});
  queue_all();
  EXPECT_EQ(shut(), 1u);
  EXPECT_FALSE(gated(1));
  arrives(1);
  queue_all();
  EXPECT_EQ(at.core.counts(number).ready, 2u) << "ungated, as it is whole";
  arrives(0);
  copied(0);
  fetch({2});
  EXPECT_TRUE(gated(2)) << "the gate is free again";
}

struct FewLandingsTest : GatedTest {
  FewLandingsTest() : GatedTest(4, {.gates = 4, .landings = 1}) {}
};

TEST_F(FewLandingsTest, WithoutALandingItComesChunkByChunkIntoASlot) {
  const FetchNumber number = fetch({0, 1});
  queue_all();
  EXPECT_TRUE(gated(0));
  EXPECT_FALSE(gated(1));
  EXPECT_EQ(at.core.counts(number).ready, 1u);
  EXPECT_TRUE(std::any_of(at.log.begin(), at.log.end(),
                          [](const auto& s) { return s.expert == 1 && s.lane == kNetwork && !s.lands; }));
  arrives(0);
  copied(0);
  fetch({2});
  EXPECT_TRUE(gated(2)) << "the landing is free again";
}

struct NoGatesTest : GatedTest {
  NoGatesTest() : GatedTest(4, {}) {}
};

TEST_F(NoGatesTest, NothingIsQueuedBeforeItHasCome) {
  const FetchNumber number = fetch({0});
  queue_all();
  EXPECT_FALSE(gated(0));
  EXPECT_EQ(at.core.counts(number).ready, 0u);
}

class FewCommands : public GatedTest {
 protected:
  FewCommands() : GatedTest(2, {2, 2, 6}, {.chunk_bytes = Driver::kChunk, .gate_commands = 10}) {}
};

TEST_F(FewCommands, GatesOfAllSlabsTakeNoMoreThanThereAre) {
  const SlabNumber second = at.core.add_slab(2, kUploads, {2, 2, 4});
  fetch({0, 1});
  EXPECT_TRUE(gated(0));
  EXPECT_FALSE(gated(1)) << "two would take twelve";
  at.fetch(into_slots(layer, second, {2, 3}, true));
  EXPECT_TRUE(gated(2)) << "six and four are ten";
  EXPECT_FALSE(gated(3));
  queue_all();
  arrives(0);
  EXPECT_FALSE(gated(1) || gated(3)) << "open is not passed";
  copied(0);
  EXPECT_NE(gated(1), gated(3)) << "six are free";
}

}  // namespace
}  // namespace cardea::core
