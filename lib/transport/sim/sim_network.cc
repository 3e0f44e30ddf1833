// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/sim/sim_network.h"

#include <algorithm>
#include <utility>

#include "lib/transport/sim/sim_transport.h"

namespace cardea::sim {

/// Keeps its timers in a table of its own, so that one which fell due while the rank was stopped can still be cancelled.
class SimNetwork::RankExecutor final : public Executor {
 public:
  RankExecutor(SimNetwork& network, Rank rank) : network_(network), rank_(rank) {}

  Clock::time_point now() const override { return network_.time_.now(); }
  void post(std::function<void()> work) override { network_.post_as(rank_, std::move(work)); }
  TimerId at(Clock::time_point when, std::function<void()> work) override {
    const TimerId id = ++last_;
    const TimerId event = network_.time_.at(when, [this, id] { network_.run_as(rank_, [this, id] { run(id); }); });
    timers_.emplace(id, Timer{event, std::move(work)});
    return id;
  }
  bool cancel(TimerId timer) override {
    const auto node = timers_.extract(timer);
    if (node.empty()) return false;
    network_.time_.cancel(node.mapped().event);
    return true;
  }

 private:
  struct Timer {
    TimerId event;
    std::function<void()> work;
  };
  void run(TimerId id) {
    const auto node = timers_.extract(id);
    if (!node.empty()) node.mapped().work();
  }

  SimNetwork& network_;
  const Rank rank_;
  TimerId last_ = kNoTimer;
  std::unordered_map<TimerId, Timer> timers_;
};

SimNetwork::SimNetwork(VirtualTime& time, NetworkOptions options)
    : time_(time), options_(std::move(options)), lanes_(time, options_.sharing), random_(options_.seed) {
  struct NodeLanes {
    LaneId copy;
    std::vector<std::pair<LaneId, LaneId>> nics;  // out, in
    unsigned ranks = 0;
  };
  std::map<Node, NodeLanes> nodes;
  ranks_.resize(options_.node_of_rank.size());
  for (Rank rank = 0; rank < rank_count(); ++rank) {
    const Node node = options_.node_of_rank[rank];
    auto [found, fresh] = nodes.try_emplace(node);
    NodeLanes& lanes = found->second;
    if (fresh) {
      lanes.copy = lanes_.add(options_.copy_bytes_per_second);
      for (unsigned nic = 0; nic < std::max(1u, options_.nics_per_node); ++nic) {
        const LaneId out = lanes_.add(options_.nic_bytes_per_second);
        lanes.nics.emplace_back(out, lanes_.add(options_.nic_bytes_per_second));
      }
    }
    RankState& state = ranks_[rank];
    state.node = node;
    state.copy = lanes.copy;
    std::tie(state.nic_out, state.nic_in) = lanes.nics[lanes.ranks++ % lanes.nics.size()];
    state.executor = std::make_unique<RankExecutor>(*this, rank);
  }
}

SimNetwork::~SimNetwork() = default;

Executor& SimNetwork::executor(Rank rank) {
  return *ranks_[rank].executor;
}

void SimNetwork::run_as(Rank rank, std::function<void()> work) {
  RankState& state = ranks_[rank];
  if (!state.alive) return;
  if (state.stopped) {
    state.held.push_back(std::move(work));
  } else {
    work();
  }
}

void SimNetwork::post_as(Rank rank, std::function<void()> work) {
  time_.post([this, rank, work = std::move(work)]() mutable { run_as(rank, std::move(work)); });
}

void SimNetwork::kill(Rank rank) {
  RankState& state = ranks_[rank];
  if (!state.alive) return;
  trace(TraceEvent::kKilled, rank);
  if (state.transport) state.transport->abandon();
  state.alive = false;
  state.held.clear();
  // Whoever serves it stops at once; its own lane time is free again.
  for (Rank other = 0; other < rank_count(); ++other) {
    if (other == rank) continue;
    if (SimTransport* transport = this->transport(other)) transport->stop_serving(rank);
    const Nanoseconds notice = same_node(rank, other) ? options_.node_notice : options_.network_notice;
    if (notice == kNeverNoticed) continue;
    (void)time_.at(time_.now() + notice, [this, rank, other] {
      run_as(other, [this, rank, other] {
        if (SimTransport* transport = this->transport(other)) transport->peer_gone(rank, "was killed");
      });
    });
  }
}

void SimNetwork::stop(Rank rank) {
  RankState& state = ranks_[rank];
  if (!state.alive) return;
  time_.cancel(std::exchange(state.resuming, kNoTimer));
  if (!std::exchange(state.stopped, true)) trace(TraceEvent::kStopped, rank);
}

void SimNetwork::resume(Rank rank) {
  RankState& state = ranks_[rank];
  if (!state.alive || !state.stopped || state.resuming != kNoTimer) return;
  state.resuming = time_.at(time_.now(), [this, rank] {
    RankState& resumed = ranks_[rank];
    resumed.resuming = kNoTimer;
    resumed.stopped = false;
    trace(TraceEvent::kResumed, rank);
    while (!resumed.stopped && resumed.alive && !resumed.held.empty()) {
      const std::function<void()> work = std::move(resumed.held.front());
      resumed.held.pop_front();
      work();
    }
  });
}

void SimNetwork::kill_at(Clock::time_point when, Rank rank) {
  (void)time_.at(when, [this, rank] { kill(rank); });
}

void SimNetwork::stop_at(Clock::time_point when, Rank rank, Nanoseconds duration) {
  (void)time_.at(when, [this, rank] { stop(rank); });
  (void)time_.at(when + duration, [this, rank] { resume(rank); });
}

Nanoseconds SimNetwork::latency(Rank from, Rank to) {
  const Nanoseconds fixed = same_node(from, to) ? options_.node_latency : options_.network_latency;
  if (options_.jitter.count() <= 0) return fixed;
  random_ += 0x9e3779b97f4a7c15;  // splitmix64
  std::uint64_t x = random_;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  x ^= x >> 31;
  return fixed + Nanoseconds(static_cast<std::int64_t>(x % (static_cast<std::uint64_t>(options_.jitter.count()) + 1)));
}

void SimNetwork::send_parcel(Rank from, Rank to, std::uint64_t bytes, Arrival arrival) {
  if (!ranks_[from].alive) return;
  trace(TraceEvent::kParcelSent, from, to, bytes);
  channels_[pair(from, to)].waiting.push_back({bytes, std::move(arrival)});
  ++ranks_[from].waiting_parcels;
  pump(from, to);
}

void SimNetwork::pump(Rank from, Rank to) {
  Channel& channel = channels_[pair(from, to)];
  const bool inside = same_node(from, to);
  while (!channel.waiting.empty() && !channel.large_in_lane) {
    Parcel parcel = std::move(channel.waiting.front());
    channel.waiting.pop_front();
    const std::uint64_t bytes = parcel.bytes;
    auto arrived = [this, from, to, number = ++channel.last_sent, parcel = std::move(parcel)]() mutable {
      arrive(from, to, number, std::move(parcel));
    };
    if (bytes <= options_.small_parcel_bytes) {
      --ranks_[from].waiting_parcels;
      const std::uint64_t rate = inside ? options_.copy_bytes_per_second : options_.nic_bytes_per_second;
      const Nanoseconds wire(static_cast<std::int64_t>(bytes * 1'000'000'000 / rate));
      (void)time_.at(time_.now() + latency(from, to) + wire, std::move(arrived));
      continue;
    }
    channel.large_in_lane = true;
    const auto left = [this, from, to] {
      channels_[pair(from, to)].large_in_lane = false;
      --ranks_[from].waiting_parcels;
      if (ranks_[from].alive) pump(from, to);
    };
    lanes_.start(inside ? ranks_[from].copy : ranks_[from].nic_out, inside ? kNoLane : ranks_[to].nic_in, bytes,
                 latency(from, to), left, std::move(arrived));
  }
}

void SimNetwork::arrive(Rank from, Rank to, std::uint64_t number, Parcel parcel) {
  Channel& channel = channels_[pair(from, to)];
  channel.early.emplace(number, std::move(parcel));
  while (!channel.early.empty() && channel.early.begin()->first == channel.last_arrived + 1) {
    ++channel.last_arrived;
    Parcel next = std::move(channel.early.begin()->second);
    channel.early.erase(channel.early.begin());
    trace(TraceEvent::kParcelArrived, from, to, next.bytes);
    run_as(to, [this, to, arrival = std::move(next.arrival)] {
      if (SimTransport* transport = this->transport(to)) arrival(*transport);
    });
  }
}

TransferId SimNetwork::send_payload(Rank from, Rank to, std::uint64_t bytes, std::function<void()> left, Arrival arrived) {
  trace(TraceEvent::kPayloadStarted, from, to, bytes);
  const bool inside = same_node(from, to);
  auto on_arrival = [this, from, to, bytes, arrived = std::move(arrived)]() mutable {
    trace(TraceEvent::kPayloadArrived, from, to, bytes);
    run_as(to, [this, to, arrived = std::move(arrived)] {
      if (SimTransport* transport = this->transport(to)) arrived(*transport);
    });
  };
  return lanes_.start(inside ? ranks_[from].copy : ranks_[from].nic_out, inside ? kNoLane : ranks_[to].nic_in, bytes,
                      latency(from, to), std::move(left), std::move(on_arrival));
}

void SimNetwork::trace(TraceEvent::Kind kind, Rank from, Rank to, std::uint64_t bytes) {
  if (trace_) trace_({kind, time_.now(), from, to, bytes});
}

}  // namespace cardea::sim
