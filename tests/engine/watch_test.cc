// SPDX-License-Identifier: Apache-2.0
// Runtimes that watch each other, in virtual time: progress is apart from liveness, losses reach ranks that never had to do
// with the lost one, and a rank that was fenced cancels what it has open.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "lib/engine/runtime.h"
#include "lib/transport/sim/sim_network.h"
#include "lib/transport/sim/sim_transport.h"
#include "tests/telemetry/dump_text.h"

namespace cardea::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr std::uint64_t kBytes = 1'000'000;

class Member final : public Observer {
 public:
  Member(sim::SimNetwork& network, Rank rank, const std::vector<Node>& node_of, const WatchOptions& watch)
      : rank_(rank), memory_(kBytes), runtime(network.executor(rank), *this, options(rank, node_of, watch)) {
    transport_ = sim::make_sim_transport(network, runtime, rank);
    std::vector<transport::Transport*> route(node_of.size(), transport_.get());
    route[rank] = nullptr;
    runtime.attach(std::move(route));
  }

  Bytes address() const { return transport_->address(); }
  void connect(const std::vector<std::pair<Rank, Bytes>>& peers) { EXPECT_TRUE(transport_->connect(peers).ok()); }

  /// A layer of the ranks, of which each is home of one expert.
  void begin(const std::vector<Rank>& ranks) {
    const auto held = runtime.lock();
    const auto layout = core::SegmentLayout::make({{"w", kBytes, 8}}).value();
    SlabMemory memory;
    memory.landing = Runtime::make_landing_memory(layout, 2).value();
    slab = runtime.create_slab(layout, 2, 0, {}, std::move(memory)).value();
    LayerRequest request;
    request.ranks = ranks;
    request.num_experts = static_cast<std::uint32_t>(ranks.size());
    request.layout = layout;
    request.experts = {static_cast<ExpertIndex>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin())};
    request.is_home = {1};
    request.places = {{memory_.data(), kBytes, {}}};
    request.slab = slab;
    layer = runtime.begin_layer(std::move(request)).value();
  }
  core::FetchNumber fetch(ExpertIndex expert, Version version) {
    const auto held = runtime.lock();
    core::FetchSpec spec;
    spec.layer = layer->number;
    spec.version = version;
    spec.experts = {expert};
    spec.segments = 1;
    spec.slab = slab->number;
    return runtime.fetch(spec).value();
  }
  Status failure(core::FetchNumber fetch) {
    const auto held = runtime.lock();
    return runtime.core().first_failure(fetch);
  }
  void publish(Version version) {
    const auto held = runtime.lock();
    EXPECT_TRUE(runtime.publish(*layer, version).ok());
  }
  bool alive(Rank rank) {
    const auto held = runtime.lock();
    return runtime.alive(rank);
  }
  void close() {
    const auto held = runtime.lock();
    runtime.say_goodbye([this] { transport_->close([] {}); });
  }

  void on_progress(core::FetchNumber, bool) override {}
  void on_change() override { ++changes; }
  void on_expelled(const Status& why) override { expelled = why; }

 private:
  RuntimeOptions options(Rank rank, const std::vector<Node>& node_of, const WatchOptions& watch) {
    RuntimeOptions options{rank, node_of};
    options.record = 256;
    options.watch = watch;
    options.watch->on_dump = [this](const std::string& text) { dumps.push_back(test::parse_dumps(text).at(0)); };
    return options;
  }

  const Rank rank_;
  std::vector<std::byte> memory_;

 public:
  std::vector<test::DumpText> dumps;
  Runtime runtime;
  std::shared_ptr<SlabRecord> slab;
  std::shared_ptr<LayerRecord> layer;
  Status expelled;
  int changes = 0;

 private:
  std::unique_ptr<transport::Transport> transport_;
};

class Watch : public ::testing::Test {
 protected:
  void start(const std::vector<Node>& node_of, std::uint64_t bytes_per_second, const WatchOptions& watch = {}) {
    sim::NetworkOptions options;
    options.node_of_rank = node_of;
    options.nic_bytes_per_second = bytes_per_second;
    options.network_notice = sim::kNeverNoticed;
    network_ = std::make_unique<sim::SimNetwork>(time_, options);
    for (Rank rank = 0; rank < node_of.size(); ++rank)
      ranks_.push_back(std::make_unique<Member>(*network_, rank, node_of, watch));
    for (Rank rank = 0; rank < ranks_.size(); ++rank) {
      std::vector<std::pair<Rank, Bytes>> peers;
      for (Rank peer = 0; peer < ranks_.size(); ++peer) {
        if (peer != rank) peers.emplace_back(peer, at(peer).address());
      }
      at(rank).connect(peers);
    }
  }
  void run_for(Nanoseconds duration) { time_.run_to(time_.now() + duration); }
  Member& at(Rank rank) { return *ranks_[rank]; }

  sim::VirtualTime time_;
  std::unique_ptr<sim::SimNetwork> network_;
  std::vector<std::unique_ptr<Member>> ranks_;
};

TEST_F(Watch, AChunkThatDoesNotMoveIsGivenUpNamingPeerExpertLaneAndBytesWhileThePeerLives) {
  WatchOptions watch;
  watch.liveness = {milliseconds(20), milliseconds(100)};
  watch.progress_warning = milliseconds(50);
  watch.progress_limit = milliseconds(200);
  start({0, 1}, 1'000'000, watch);  // bytes a second: an expert takes a second; heartbeats pass beside it
  for (auto& rank : ranks_) rank->begin({0, 1});
  run_for(seconds(2));
  at(1).publish(1);
  run_for(seconds(1));
  const core::FetchNumber fetch = at(0).fetch(1, 1);
  run_for(milliseconds(150));
  EXPECT_TRUE(at(0).failure(fetch).ok()) << "not yet";
  run_for(milliseconds(150));
  const Status why = at(0).failure(fetch);
  EXPECT_EQ(why.code(), CARDEA_ERR_TIMEOUT);
  EXPECT_EQ(why.detail().peer, 1u);
  EXPECT_EQ(why.detail().expert, 1u);
  EXPECT_THAT(why.message(), HasSubstr("expert 1 of layer 0 from rank 1"));
  EXPECT_THAT(why.message(), HasSubstr("lane \"network-in\""));
  EXPECT_THAT(why.message(), HasSubstr("1000000 bytes"));
  EXPECT_TRUE(at(0).alive(1));
  {
    const auto held = at(0).runtime.lock();
    EXPECT_EQ(at(0).runtime.core().available_slots(at(0).slab->number), 1u) << "something may still write into it";
  }
  run_for(seconds(2));
  const auto held = at(0).runtime.lock();
  EXPECT_EQ(at(0).runtime.core().available_slots(at(0).slab->number), 2u);
}

TEST_F(Watch, AStallIsDumpedOnceNamingPeerLaneAndExpertAndAgainWhenAnotherRankIsAtFault) {
  WatchOptions watch;
  watch.liveness = {milliseconds(20), seconds(100)};
  watch.progress_warning = milliseconds(50);
  start({0, 1, 2}, 1'000'000'000, watch);
  for (auto& rank : ranks_) rank->begin({0, 1, 2});
  run_for(seconds(1));
  at(1).publish(1);
  run_for(seconds(1));
  network_->stop(1);
  const core::FetchNumber fetch = at(0).fetch(1, 1);
  run_for(milliseconds(45));
  EXPECT_EQ(at(0).dumps.size(), 0u) << "not yet";
  run_for(milliseconds(300));
  ASSERT_EQ(at(0).dumps.size(), 1u) << "once, and not at each of a dozen looks";
  const test::DumpText& first = at(0).dumps[0];
  EXPECT_EQ(first.wrong, "");
  EXPECT_THAT(first.reason, HasSubstr("at fault: rank 1 (chunks are on the way from it by network on lane network-in)"));
  ASSERT_EQ(first.faults.size(), 1u);
  EXPECT_EQ(first.faults[0].rank, 1u);
  ASSERT_EQ(first.outstanding.size(), 1u);
  EXPECT_EQ(first.outstanding[0].at("fetch"), std::to_string(fetch));
  EXPECT_EQ(first.outstanding[0].at("state"), "moving");
  EXPECT_EQ(first.outstanding[0].at("expert"), "1");
  EXPECT_FALSE(first.recent.empty());
  EXPECT_TRUE(at(0).alive(1));

  at(0).fetch(2, 1);  // rank 2 lives, and publishes nothing
  run_for(milliseconds(100));
  ASSERT_EQ(at(0).dumps.size(), 2u);
  EXPECT_EQ(at(0).dumps[1].faults.size(), 2u);
  network_->resume(1);
  at(2).publish(1);
  run_for(seconds(5));
  EXPECT_EQ(at(0).dumps.size(), 2u);
  EXPECT_EQ(at(2).dumps.size(), 0u) << "who waits for nothing has nothing to tell";
  const auto held = at(0).runtime.lock();
  EXPECT_EQ(at(0).runtime.core().counts(fetch).ready, 1u);
  EXPECT_EQ(at(0).runtime.recorder()->counters().stalls, 2u);
}

TEST_F(Watch, ALossIsKnownToRanksThatNeverHadToDoWithTheLostOne) {
  start({0, 0, 2, 2, 4, 4}, 1'000'000'000);
  at(0).begin({0, 3});
  at(3).begin({0, 3});
  run_for(seconds(10));
  network_->kill(4);  // nobody's transport says anything but that of its node
  const int before = at(1).changes;
  run_for(seconds(3));
  for (const Rank rank : {0u, 1u, 2u, 3u, 5u}) EXPECT_FALSE(at(rank).alive(4)) << "rank " << rank;
  EXPECT_GT(at(1).changes, before) << "whoever sleeps on the event descriptor is waked";
  for (const Rank rank : {0u, 1u, 2u, 3u, 5u}) EXPECT_TRUE(at(rank).expelled.ok());
}

TEST_F(Watch, AStoppedRankIsFencedAndCancelsWhatItHasOpenWhenItComesBack) {
  start({0, 1, 2}, 1'000'000'000);
  for (auto& rank : ranks_) rank->begin({0, 1, 2});
  run_for(seconds(3));
  const core::FetchNumber open = at(2).fetch(0, 7);
  const core::FetchNumber waiting = at(0).fetch(2, 7);
  network_->stop(2);
  run_for(seconds(9));
  EXPECT_EQ(at(0).failure(waiting).code(), CARDEA_ERR_PEER_LOST);
  EXPECT_THAT(at(0).failure(waiting).message(), HasSubstr("rank 2"));
  EXPECT_FALSE(at(1).alive(2));
  EXPECT_TRUE(at(2).expelled.ok()) << "it sleeps";
  network_->resume(2);
  run_for(seconds(1));
  EXPECT_EQ(at(2).expelled.code(), CARDEA_ERR_EXPELLED);
  EXPECT_EQ(at(2).failure(open).code(), CARDEA_ERR_EXPELLED);
  EXPECT_TRUE(at(0).alive(1));
}

TEST_F(Watch, WhoLeavesIsKnownToHaveLeftAndNobodyIsLostOverIt) {
  start({0, 0, 2, 2}, 1'000'000'000);
  run_for(seconds(3));
  at(2).close();
  run_for(seconds(30));
  for (const Rank rank : {0u, 1u, 3u}) {
    EXPECT_FALSE(at(rank).alive(2));
    EXPECT_TRUE(at(rank).expelled.ok());
  }
  EXPECT_TRUE(at(0).alive(3));
}

}  // namespace
}  // namespace cardea::engine
