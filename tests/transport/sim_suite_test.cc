// SPDX-License-Identifier: Apache-2.0
// The transport suite in virtual time. Each rank's body has a thread, of which only one runs at a time: a body that waits
// hands over to the clock, which runs events until what some body waits for has come true.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "lib/transport/sim/sim_transport.h"
#include "tests/transport/suite.h"

namespace cardea::test {
namespace {

struct Killed {};

/// Shared by the ranks of one scenario.
struct World {
  std::mutex mutex;
  std::condition_variable turn_changed;
  int turn = -1;  // whose body may run; -1: the clock
  sim::VirtualTime time;
  std::unique_ptr<sim::SimNetwork> network;
  std::vector<unsigned long> board = std::vector<unsigned long>(1024);
};

class SimHarness : public RankHarness {
 public:
  SimHarness(World& world, Rank rank, unsigned ranks, const Traits& traits)
      : RankHarness(rank, ranks, traits), world_(world) {
    transport_ = sim::make_sim_transport(*world.network, seen(), rank);
    set_transport(*transport_);
  }
  ~SimHarness() override {
    if (thread_.joinable()) thread_.join();
  }

  void start(const Scenario& body) {
    thread_ = std::thread([this, body] {
      await_turn();
      try {
        body(*this);
        close();
        run_for(std::chrono::milliseconds(20));
      } catch (const Killed&) {
        world_.network->kill(rank());
      }
      ended_ = true;
      hand_over(-1);
    });
  }
  bool run_until(const std::function<bool()>& done, Nanoseconds deadline) override {
    if (done()) return true;
    done_ = done;
    deadline_ = world_.time.now() + deadline;
    // The clock must not run past the deadline unnoticed.
    const TimerId alarm = world_.time.at(deadline_, [] {});
    hand_over(-1);
    await_turn();
    world_.time.cancel(alarm);
    return done();
  }
  bool stall_until(const std::function<bool()>& done) override {
    world_.network->stop(rank());
    const bool came = run_until(done, kPatience);
    world_.network->resume(rank());
    return came;
  }
  void die() override { throw Killed(); }
  void add(unsigned index, unsigned long value) override { world_.board[index] += value; }
  unsigned long get(unsigned index) const override { return world_.board[index]; }

  // For the clock.
  bool ended() const { return ended_; }
  bool may_run() const { return !ended_ && (!done_ || done_() || world_.time.now() >= deadline_); }
  void run_body() {
    hand_over(static_cast<int>(rank()));
    std::unique_lock lock(world_.mutex);
    world_.turn_changed.wait(lock, [this] { return world_.turn == -1; });
  }
  transport::Transport& unwatched() { return *transport_; }

 private:
  void hand_over(int turn) {
    const std::lock_guard lock(world_.mutex);
    world_.turn = turn;
    world_.turn_changed.notify_all();
  }
  void await_turn() {
    std::unique_lock lock(world_.mutex);
    world_.turn_changed.wait(lock, [this] { return world_.turn == static_cast<int>(rank()); });
  }

  World& world_;
  std::unique_ptr<transport::Transport> transport_;
  std::thread thread_;
  bool ended_ = false;
  std::function<bool()> done_;
  Clock::time_point deadline_;
};

class SimBackend : public Backend {
 public:
  SimBackend(Traits traits, std::vector<Node> nodes, sim::Sharing sharing, Nanoseconds jitter)
      : traits_(traits), nodes_(std::move(nodes)), sharing_(sharing), jitter_(jitter) {}

  Traits traits() const override { return traits_; }
  void run(unsigned ranks, const Scenario& body, const std::vector<unsigned>& victims) override {
    World world;
    sim::NetworkOptions options;
    options.node_of_rank.assign(nodes_.begin(), nodes_.begin() + ranks);
    options.sharing = sharing_;
    options.jitter = jitter_;
    world.network = std::make_unique<sim::SimNetwork>(world.time, options);
    std::vector<std::unique_ptr<SimHarness>> harnesses;
    for (Rank rank = 0; rank < ranks; ++rank) harnesses.push_back(std::make_unique<SimHarness>(world, rank, ranks, traits_));
    for (const auto& harness : harnesses) {
      std::vector<std::pair<Rank, Bytes>> peers;
      for (const Rank peer : harness->others()) peers.emplace_back(peer, harnesses[peer]->unwatched().address());
      ASSERT_TRUE(harness->unwatched().connect(peers).ok());
    }
    for (const auto& harness : harnesses) harness->start(body);
    const auto all_ended = [&] {
      return std::all_of(harnesses.begin(), harnesses.end(), [](const auto& h) { return h->ended(); });
    };
    while (!all_ended()) {
      bool ran = false;
      for (const auto& harness : harnesses) {
        if (!harness->may_run()) continue;
        harness->run_body();
        ran = true;
      }
      // There is an event as long as somebody waits: the alarm of its deadline.
      if (!ran) world.time.run_one();
    }
    for (Rank rank = 0; rank < ranks; ++rank) {
      const bool victim = std::find(victims.begin(), victims.end(), rank) != victims.end();
      EXPECT_EQ(world.network->alive(rank), !victim) << "rank " << rank;
    }
  }

 private:
  const Traits traits_;
  const std::vector<Node> nodes_;
  const sim::Sharing sharing_;
  const Nanoseconds jitter_;
};

BackendParam backend(std::string name, Traits traits, std::vector<Node> nodes, sim::Sharing sharing, Nanoseconds jitter) {
  return {std::move(name), [=] { return std::make_unique<SimBackend>(traits, nodes, sharing, jitter); }};
}

constexpr Traits kReads{.asks_for_mappable = false, .asks_for_private = false, .maps = true};
constexpr Traits kAsks{.asks_for_mappable = true, .asks_for_private = true, .maps = false};

INSTANTIATE_TEST_SUITE_P(
    Sim, TransportSuite,
    ::testing::Values(backend("OneNode", kReads, {0, 0, 0, 0}, sim::Sharing::kFair, Nanoseconds(0)),
                      backend("ManyNodes", kAsks, {0, 1, 2, 3}, sim::Sharing::kFair, Nanoseconds(0)),
                      backend("ManyNodesFifo", kAsks, {3, 1, 2, 0}, sim::Sharing::kFifo, Nanoseconds(0)),
                      backend("Jitter", kAsks, {0, 1, 2, 3}, sim::Sharing::kFair, std::chrono::microseconds(50))),
    backend_name);

}  // namespace
}  // namespace cardea::test
