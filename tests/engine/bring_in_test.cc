// SPDX-License-Identifier: Apache-2.0
// Peers' memory that is mapped is brought in part by part: between two parts the executor does what else there is to do, and
// the layer is formed when all of it is there.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "lib/engine/runtime.h"
#include "lib/transport/sim/sim_network.h"
#include "lib/transport/sim/sim_transport.h"

namespace cardea::engine {
namespace {

using std::chrono::seconds;
using transport::RegionKey;

constexpr std::uint64_t kBytes = 100'000;

/// A simulated transport whose mappings take their time.
class SlowMapping final : public transport::Transport {
 public:
  SlowMapping(std::unique_ptr<Transport> inner, Executor& executor) : inner_(std::move(inner)), executor_(executor) {}

  Result<bool> bring_in(RegionKey region, std::uint64_t bytes) override {
    EXPECT_GT(bytes, 0u);
    EXPECT_TRUE(between_) << "nothing else could run since the part before";
    between_ = false;
    executor_.post([this] { between_ = true; });
    ++parts;
    if (fails) return Status(CARDEA_ERR_NO_MEMORY, "a test says so");
    return ++done_[region.region] >= parts_of_a_region;
  }

  std::string_view name() const override { return inner_->name(); }
  Bytes address() const override { return inner_->address(); }
  Status connect(std::span<const std::pair<Rank, Bytes>> peers) override { return inner_->connect(peers); }
  void send(Rank peer, Bytes message) override { inner_->send(peer, std::move(message)); }
  Result<Bytes> offer(std::uint32_t region, void* base, std::uint64_t bytes, int memfd,
                      std::span<const Rank> peers) override {
    return inner_->offer(region, base, bytes, memfd, peers);
  }
  void withdraw(std::uint32_t region) override { inner_->withdraw(region); }
  Status accept(RegionKey region, std::uint64_t bytes, ByteView descriptor) override {
    return inner_->accept(region, bytes, descriptor);
  }
  void forget(RegionKey region) override { inner_->forget(region); }
  const std::byte* mapped(RegionKey region) const override { return inner_->mapped(region); }
  void start(transport::ChunkOrder order) override { inner_->start(std::move(order)); }
  void disconnect(Rank peer) override { inner_->disconnect(peer); }
  void close(std::function<void()> done) override { inner_->close(std::move(done)); }

  int parts_of_a_region = 100, parts = 0;
  bool fails = false;

 private:
  std::unique_ptr<Transport> inner_;
  Executor& executor_;
  bool between_ = true;
  std::map<std::uint32_t, int> done_;
};

class Member final : public Observer {
 public:
  Member(sim::SimNetwork& network, Rank rank) : rank_(rank), runtime(network.executor(rank), *this, {rank, {0, 0}}) {
    mapping = std::make_unique<SlowMapping>(sim::make_sim_transport(network, runtime, rank), network.executor(rank));
    std::vector<transport::Transport*> route(2, mapping.get());
    route[rank] = nullptr;
    runtime.attach(std::move(route));
  }
  std::shared_ptr<LayerRecord> begin(std::uint32_t layer_id) {
    const auto held = runtime.lock();
    const RegionNumber memory = runtime.allocate(kBytes).value();
    LayerRequest request;
    request.ranks = {0, 1};
    request.layer_id = layer_id;
    request.num_experts = 2;
    request.layout = core::SegmentLayout::make({{"w", kBytes, 8}}).value();
    request.experts = {rank_};
    request.is_home = {1};
    request.places = {{runtime.region(memory).base, kBytes, {}}};
    return runtime.begin_layer(std::move(request)).value();
  }
  Status formed(const LayerRecord& layer) {
    const auto held = runtime.lock();
    return runtime.formed(layer);
  }
  void on_progress(core::FetchNumber, bool) override {}
  void on_change() override {}

 private:
  const Rank rank_;

 public:
  Runtime runtime;
  std::unique_ptr<SlowMapping> mapping;
};

class BringingIn : public ::testing::Test {
 protected:
  BringingIn() {
    sim::NetworkOptions options;
    options.node_of_rank = {0, 0};
    network_ = std::make_unique<sim::SimNetwork>(time_, options);
    for (Rank rank = 0; rank < 2; ++rank) ranks_.push_back(std::make_unique<Member>(*network_, rank));
    for (Rank rank = 0; rank < 2; ++rank) {
      const std::vector<std::pair<Rank, Bytes>> peers = {{1 - rank, ranks_[1 - rank]->mapping->address()}};
      EXPECT_TRUE(ranks_[rank]->mapping->connect(peers).ok());
    }
  }
  void run() { time_.run_to(time_.now() + seconds(1)); }

  sim::VirtualTime time_;
  std::unique_ptr<sim::SimNetwork> network_;
  std::vector<std::unique_ptr<Member>> ranks_;
};

TEST_F(BringingIn, TakesAsManyTurnsAsItHasPartsAndThenTheLayerIsFormed) {
  const auto here = ranks_[0]->begin(0), there = ranks_[1]->begin(0);
  EXPECT_EQ(ranks_[0]->formed(*here).code(), CARDEA_IN_PROGRESS);
  run();
  // The weights' region, and that of the stamp.
  EXPECT_EQ(ranks_[0]->mapping->parts, 200);
  EXPECT_TRUE(ranks_[0]->formed(*here).ok());
  EXPECT_TRUE(ranks_[1]->formed(*there).ok());
}

TEST_F(BringingIn, LayersThatBeginMeanwhileWaitForWhatIsTheirs) {
  std::vector<std::shared_ptr<LayerRecord>> layers;
  for (std::uint32_t id = 0; id < 3; ++id) layers.push_back(ranks_[0]->begin(id));
  for (std::uint32_t id = 0; id < 3; ++id) ranks_[1]->begin(id);
  run();
  for (const auto& layer : layers) EXPECT_TRUE(ranks_[0]->formed(*layer).ok());
  EXPECT_EQ(ranks_[0]->mapping->parts, 400) << "three of weights, one of stamps, each once";
}

TEST_F(BringingIn, OfMemoryThatCannotBeHadFailsTheLayerAndNotThePeer) {
  ranks_[0]->mapping->fails = true;
  const auto here = ranks_[0]->begin(0);
  ranks_[1]->begin(0);
  run();
  EXPECT_EQ(ranks_[0]->formed(*here).code(), CARDEA_ERR_NO_MEMORY);
  EXPECT_EQ(ranks_[0]->formed(*here).detail().peer, 1u);
  const auto held = ranks_[0]->runtime.lock();
  EXPECT_TRUE(ranks_[0]->runtime.alive(1));
}

}  // namespace
}  // namespace cardea::engine
