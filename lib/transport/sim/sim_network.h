// SPDX-License-Identifier: Apache-2.0
// The machine of a simulation: ranks on nodes, the lanes between them, and their faults, in virtual time. Transports
// (sim_transport.h) and executors of its ranks live on it; it outlives them. A run is a function of options, seed and what
// the ranks do. No threads, no wall clock; not thread-safe.
//
// Modelled: per node a copy lane (all copies within the node share it) and `nics_per_node` NICs with a lane in and one out
// each; the node's n-th rank uses NIC n mod nics_per_node. Payload and large messages take up bandwidth as lanes.h tells, a
// payload the source's NIC out and the destination's NIC in. Every parcel takes the one-way latency, plus jitter drawn from
// the seed; parcels of one pair of ranks arrive in order. A killed rank runs nothing more and its payloads end at once;
// parcels that its NIC had begun to send still arrive. Others are told after the time that noticing takes. A stopped rank
// (SIGSTOP) runs nothing, and what reaches it waits in order, while its NIC and its memory go on serving what was begun.
//
// Not modelled: computing time of ranks, memory bandwidth besides the copy lane, topology between nodes (no switch is ever
// congested), loss and retransmission, lanes taken by small parcels (they only take the time their bytes need), NUMA, GPUs.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/base/status.h"
#include "lib/transport/sim/lanes.h"
#include "lib/transport/sim/virtual_time.h"

namespace cardea::sim {

class SimTransport;

struct NetworkOptions {
  std::vector<Node> node_of_rank;  // one entry per rank; numbers need not be dense
  unsigned nics_per_node = 1;
  std::uint64_t nic_bytes_per_second = 50'000'000'000;
  std::uint64_t copy_bytes_per_second = 200'000'000'000;
  Nanoseconds network_latency{2'000};  // one way
  Nanoseconds node_latency{500};
  Nanoseconds jitter{0};  // each parcel and payload takes up to this much longer, evenly distributed
  Sharing sharing = Sharing::kFair;
  std::uint64_t seed = 1;
  std::uint64_t small_parcel_bytes = 4096;    // parcels up to this size take no lane
  Nanoseconds node_notice{1'000'000};         // until ranks of the node know of a death
  Nanoseconds network_notice{5'000'000'000};  // until other ranks do; kNeverNoticed: they never do by themselves
  Nanoseconds close_patience{2'000'000'000};  // how long close() waits for queued messages to leave
  bool move_bytes = true;                     // false: memory is never touched, and may be null; stamps are not checked
};
inline constexpr Nanoseconds kNeverNoticed = Nanoseconds::max();

/// What happened, for logs that must be equal from run to run, and for plots.
struct TraceEvent {
  enum Kind { kParcelSent, kParcelArrived, kPayloadStarted, kPayloadArrived, kKilled, kStopped, kResumed } kind;
  Clock::time_point when;
  Rank from = kNoRank;
  Rank to = kNoRank;
  std::uint64_t bytes = 0;
  friend bool operator==(const TraceEvent&, const TraceEvent&) = default;
};

class SimNetwork {
 public:
  SimNetwork(VirtualTime& time, NetworkOptions options);
  ~SimNetwork();
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  VirtualTime& time() { return time_; }
  const NetworkOptions& options() const { return options_; }
  Rank rank_count() const { return static_cast<Rank>(ranks_.size()); }
  bool same_node(Rank a, Rank b) const { return ranks_[a].node == ranks_[b].node; }
  /// Runs functions as this rank does: not while it is stopped, never once it is dead.
  Executor& executor(Rank rank);

  void kill(Rank rank);
  void stop(Rank rank);
  void resume(Rank rank);
  void kill_at(Clock::time_point when, Rank rank);
  void stop_at(Clock::time_point when, Rank rank, Nanoseconds duration);
  bool alive(Rank rank) const { return ranks_[rank].alive; }
  bool stopped(Rank rank) const { return ranks_[rank].stopped; }

  LaneStatistics nic_out(Rank rank) const { return lanes_.statistics(ranks_[rank].nic_out); }
  LaneStatistics nic_in(Rank rank) const { return lanes_.statistics(ranks_[rank].nic_in); }
  LaneStatistics copy_lane(Rank rank) const { return lanes_.statistics(ranks_[rank].copy); }
  void set_trace(std::function<void(const TraceEvent&)> trace) { trace_ = std::move(trace); }

  // What follows is for SimTransport.

  using Arrival = std::function<void(SimTransport&)>;
  /// Null while the rank has no transport, and once it is dead.
  SimTransport* transport(Rank rank) const { return ranks_[rank].alive ? ranks_[rank].transport : nullptr; }
  void attach(Rank rank, SimTransport* transport) { ranks_[rank].transport = transport; }
  /// Sends what runs at the receiver, behind all earlier parcels of this pair.
  void send_parcel(Rank from, Rank to, std::uint64_t bytes, Arrival arrival);
  /// Parcels of a rank that have not left it yet.
  std::size_t waiting_parcels(Rank from) const { return ranks_[from].waiting_parcels; }
  /// `left` runs when the source need not keep the payload any more, whether its process is stopped or not; `arrived` at
  /// the destination.
  TransferId send_payload(Rank from, Rank to, std::uint64_t bytes, std::function<void()> left, Arrival arrived);
  void abort_payload(TransferId transfer) { lanes_.abort(transfer); }
  /// Runs it as the rank: at once, when the rank is resumed, or never.
  void run_as(Rank rank, std::function<void()> work);
  /// The same, as an event of its own.
  void post_as(Rank rank, std::function<void()> work);

 private:
  class RankExecutor;
  struct Parcel {
    std::uint64_t bytes;
    Arrival arrival;
  };
  struct Channel {  // one direction between two ranks
    std::deque<Parcel> waiting;
    bool large_in_lane = false;
    std::uint64_t last_sent = 0, last_arrived = 0;
    std::map<std::uint64_t, Parcel> early;  // arrived before one that was sent earlier
  };
  struct RankState {
    Node node = 0;
    LaneId nic_out = kNoLane, nic_in = kNoLane, copy = kNoLane;
    bool alive = true;
    bool stopped = false;
    TimerId resuming = kNoTimer;
    SimTransport* transport = nullptr;
    std::size_t waiting_parcels = 0;
    std::deque<std::function<void()>> held;  // while stopped
    std::unique_ptr<RankExecutor> executor;
  };

  Nanoseconds latency(Rank from, Rank to);
  void pump(Rank from, Rank to);
  void arrive(Rank from, Rank to, std::uint64_t number, Parcel parcel);
  void trace(TraceEvent::Kind kind, Rank from, Rank to = kNoRank, std::uint64_t bytes = 0);
  static std::uint64_t pair(Rank from, Rank to) { return std::uint64_t{from} << 32 | to; }

  VirtualTime& time_;
  const NetworkOptions options_;
  Lanes lanes_;
  std::vector<RankState> ranks_;
  std::unordered_map<std::uint64_t, Channel> channels_;
  std::uint64_t random_;
  std::function<void(const TraceEvent&)> trace_;
};

}  // namespace cardea::sim
