// SPDX-License-Identifier: Apache-2.0
// What the simulated network promises about time, and its faults: every expected finish is computed by hand.
#include "lib/transport/sim/sim_network.h"

#include <gtest/gtest.h>

#include "lib/transport/sim/sim_transport.h"
#include "tests/transport/suite_recorder.h"

namespace cardea::sim {
namespace {

constexpr std::uint64_t kGigabyte = 1'000'000'000;  // a second, or a byte per nanosecond

/// Ranks with nodes of their own unless told otherwise; 1 byte per ns each way, 1 us latency.
struct Machine {
  explicit Machine(std::vector<Node> nodes, const std::function<void(NetworkOptions&)>& change = {}) {
    NetworkOptions options;
    options.node_of_rank = std::move(nodes);
    options.nic_bytes_per_second = kGigabyte;
    options.copy_bytes_per_second = 4 * kGigabyte;
    options.network_latency = Nanoseconds(1000);
    options.node_latency = Nanoseconds(100);
    options.move_bytes = false;
    if (change) change(options);
    network = std::make_unique<SimNetwork>(time, options);
    for (Rank rank = 0; rank < network->rank_count(); ++rank) {
      recorders.push_back(std::make_unique<test::Recorder>(rank));
      transports.push_back(std::make_unique<SimTransport>(*network, *recorders.back(), rank));
    }
    for (Rank rank = 0; rank < network->rank_count(); ++rank) {
      std::vector<std::pair<Rank, Bytes>> peers;
      for (Rank peer = 0; peer < network->rank_count(); ++peer) {
        if (peer != rank) peers.emplace_back(peer, transports[peer]->address());
      }
      EXPECT_TRUE(transports[rank]->connect(peers).ok());
    }
  }

  /// Notes in `arrivals` when each payload is there.
  void payload(Rank from, Rank to, std::uint64_t bytes) {
    const std::size_t index = arrivals.size();
    arrivals.push_back(-1);
    network->send_payload(from, to, bytes, nullptr, [this, index](SimTransport&) { arrivals[index] = now(); });
  }
  std::int64_t now() const { return time.now().time_since_epoch().count(); }

  VirtualTime time;
  std::unique_ptr<SimNetwork> network;
  std::vector<std::unique_ptr<test::Recorder>> recorders;
  std::vector<std::unique_ptr<SimTransport>> transports;
  std::vector<std::int64_t> arrivals;
};

TEST(SimNetwork, ATransferTakesItsBytesOverBandwidthAndThenTheLatency) {
  Machine machine({0, 1, 1});
  machine.payload(0, 1, 50'000);
  machine.payload(1, 2, 50'000);  // in the node: 4 bytes per ns, 100 ns
  machine.time.run_until_idle();
  EXPECT_EQ(machine.arrivals, (std::vector<std::int64_t>{51'000, 12'600}));
}

TEST(SimNetwork, TransfersShareANicFairly) {
  Machine machine({0, 1, 2});
  machine.payload(0, 1, 10'000);
  machine.payload(0, 2, 30'000);
  machine.time.run_until_idle();
  // Half each until the first has moved 10,000 at 20,000; the other then moves its last 20,000 alone.
  EXPECT_EQ(machine.arrivals, (std::vector<std::int64_t>{21'000, 41'000}));
  const LaneStatistics out = machine.network->nic_out(0);
  EXPECT_EQ(out.bytes, 40'000u);
  EXPECT_EQ(out.busy, Nanoseconds(40'000));
  EXPECT_EQ(out.transfers, 2u);
  EXPECT_EQ(machine.network->nic_in(2).bytes, 30'000u);
}

TEST(SimNetwork, TransfersIntoOneNicShareItToo) {
  Machine machine({0, 1, 2});
  machine.payload(0, 2, 10'000);
  machine.payload(1, 2, 10'000);
  machine.payload(2, 0, 10'000);  // the other direction is another lane
  machine.time.run_until_idle();
  EXPECT_EQ(machine.arrivals, (std::vector<std::int64_t>{21'000, 21'000, 11'000}));
}

TEST(SimNetwork, FifoServesOneAfterTheOtherAndCutsThrough) {
  Machine machine({0, 1, 2}, [](NetworkOptions& options) { options.sharing = Sharing::kFifo; });
  machine.payload(0, 2, 10'000);  // out 0-10,000, in 1,000-11,000
  machine.payload(1, 2, 10'000);  // out 0-10,000, in 11,000-21,000
  machine.payload(0, 1, 5'000);   // out 10,000-15,000, in 11,000-16,000
  machine.time.run_until_idle();
  EXPECT_EQ(machine.arrivals, (std::vector<std::int64_t>{11'000, 21'000, 16'000}));
  EXPECT_EQ(machine.network->nic_out(0).busy, Nanoseconds(15'000));
  EXPECT_EQ(machine.network->nic_in(2).busy, Nanoseconds(20'000));
}

TEST(SimNetwork, RanksOfANodeHaveTheirOwnNicsWhereThereAreSome) {
  Machine machine({0, 0, 1, 1}, [](NetworkOptions& options) { options.nics_per_node = 2; });
  machine.payload(0, 2, 10'000);
  machine.payload(1, 3, 10'000);
  machine.time.run_until_idle();
  EXPECT_EQ(machine.arrivals, (std::vector<std::int64_t>{11'000, 11'000}));
}

TEST(SimNetwork, AKilledRanksTransfersFreeTheirLanes) {
  Machine machine({0, 1, 2});
  test::Recorder& asker = *machine.recorders[0];
  test::Region region(1, 1, 8192, test::Memory::kPrivate);
  const auto expert = test::ExpertLayout::whole(1, 1, 0, 3, 64, 4000);
  machine.recorders[1]->add_lendable(expert, region);
  machine.recorders[2]->add_lendable(expert, region);
  test::Landing first(4000), second(4000);
  auto order = test::make_order(1, expert, first);
  asker.note_started(1, 1);
  machine.transports[0]->start(order);
  order.token = 2;
  order.source = 2;
  asker.note_started(2, 2);
  machine.transports[0]->start(order);
  // Requests arrive at 1,064 and the payloads share the NIC; at 3,064 each has moved 1,000, and rank 1 dies.
  machine.network->kill_at(Clock::time_point(Nanoseconds(3064)), 1);
  ASSERT_TRUE(machine.time.run_until([&] { return asker.completions().contains(2); }));
  EXPECT_EQ(machine.now(), 3064 + 3000 + 1000);
  EXPECT_TRUE(asker.completions().at(2).ok());
  EXPECT_TRUE(asker.losses().empty()) << "nobody can know yet";
  machine.time.run_until_idle();
  EXPECT_EQ(asker.completions().at(1).code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(asker.losses().count(1), 1u);
  EXPECT_EQ(machine.now(), 3064 + 5'000'000'000);
}

TEST(SimNetwork, AStoppedRankLendsNothingUntilItGoesOn) {
  Machine machine({0, 1});
  test::Region region(1, 1, 8192, test::Memory::kPrivate);
  const auto expert = test::ExpertLayout::whole(1, 1, 0, 3, 64, 4000);
  machine.recorders[1]->add_lendable(expert, region);
  machine.network->stop_at(Clock::time_point(Nanoseconds(10)), 1, Nanoseconds(1'000'000));
  test::Landing landing(4000);
  machine.recorders[0]->note_started(1, 1);
  machine.transports[0]->start(test::make_order(1, expert, landing));
  machine.time.run_to(Clock::time_point(Nanoseconds(1'000'009)));
  EXPECT_TRUE(machine.recorders[0]->completions().empty());
  EXPECT_TRUE(machine.recorders[1]->events().empty());
  ASSERT_TRUE(machine.time.run_until([&] { return !machine.recorders[0]->completions().empty(); }));
  EXPECT_EQ(machine.now(), 1'000'010 + 4000 + 1000);
  EXPECT_TRUE(machine.recorders[0]->losses().empty());
}

/// A busy run with faults, and all that happened in it.
std::vector<TraceEvent> busy_run(std::uint64_t seed, Sharing sharing) {
  Machine machine({0, 0, 1, 1, 2, 2}, [&](NetworkOptions& options) {
    options.seed = seed;
    options.jitter = Nanoseconds(700);
    options.sharing = sharing;
  });
  std::vector<TraceEvent> trace;
  machine.network->set_trace([&](const TraceEvent& event) { trace.push_back(event); });
  for (Rank from = 0; from < 6; ++from) {
    for (Rank to = 0; to < 6; ++to) {
      if (from == to) continue;
      for (std::uint64_t i = 0; i < 10; ++i) {
        machine.transports[from]->send(to, Bytes(i % 3 == 0 ? 20'000 : 100 * i));
        machine.payload(from, to, 10'000 + i);
      }
    }
  }
  machine.network->kill_at(Clock::time_point(Nanoseconds(30'000)), 5);
  machine.network->stop_at(Clock::time_point(Nanoseconds(10'000)), 3, Nanoseconds(90'000));
  machine.time.run_until_idle();
  return trace;
}

TEST(SimNetwork, TheSameSeedGivesTheSameRunAndAnotherAnother) {
  for (const Sharing sharing : {Sharing::kFair, Sharing::kFifo}) {
    const auto run = busy_run(7, sharing);
    EXPECT_GT(run.size(), 1000u);
    EXPECT_TRUE(run == busy_run(7, sharing));
    EXPECT_FALSE(run == busy_run(8, sharing));
  }
}

TEST(SimNetwork, AThousandRanksExchangeWithoutMemory) {
  std::vector<Node> nodes(1024);
  for (Rank rank = 0; rank < nodes.size(); ++rank) nodes[rank] = rank / 8;
  Machine machine(nodes, [](NetworkOptions& options) { options.nics_per_node = 8; });
  constexpr unsigned kEach = 16;
  for (unsigned i = 0; i < kEach; ++i) {
    for (Rank rank = 0; rank < nodes.size(); ++rank) machine.payload(rank, (rank + 8 * (i + 1)) % 1024, 1 << 20);
  }
  const auto start = std::chrono::steady_clock::now();
  machine.time.run_until_idle();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  RecordProperty("events_per_second", std::to_string(static_cast<double>(machine.time.events_run()) / wall.count()));
  // Every NIC sends and receives 16 MiB, each transfer at a 16th of its rate.
  for (const std::int64_t arrival : machine.arrivals) ASSERT_EQ(arrival, std::int64_t{kEach} << 20 | 1000);
  EXPECT_EQ(machine.network->nic_in(1000).bytes, std::uint64_t{kEach} << 20);
}

}  // namespace
}  // namespace cardea::sim
