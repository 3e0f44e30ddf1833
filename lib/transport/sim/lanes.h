// SPDX-License-Identifier: Apache-2.0
// The bandwidth model of simulations: lanes, which are one direction of one physical path, and transfers, each over one
// lane (a copy within a node), two (out of one NIC and into another) or more (PCIe switches on the way). Integer
// arithmetic; not thread-safe.
//
// kFair, the default, is a fluid model. A transfer moves at the least of bandwidth / transfers over its lanes, from the
// moment it is started; what one lane denies it, the other does not give to others (so a rate is a lower bound of the
// max-min fair one, and is equal to it where all transfers of a lane are held back by that lane, or none is). It leaves when
// its bytes have moved and arrives `latency` later.
//
// kFifo serves one transfer at a time on each lane. The first lane serves in order of start. The first byte comes to the
// next lane `latency` after the lane before began with it, and queues there in order of that arrival; the transfer passes
// on while it still comes in (cut-through), no faster than any lane, and what waits between lanes waits in a network
// without limits, so that a slow receiver does not hold back its senders' other transfers.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "lib/transport/sim/virtual_time.h"

namespace cardea::sim {

enum class Sharing { kFair, kFifo };

using LaneId = std::uint32_t;
inline constexpr LaneId kNoLane = UINT32_MAX;
using TransferId = std::uint64_t;  // never reused; 0 is none

/// A lane of a transfer's path, and what its first byte takes from there to the next lane, or from the last one to its end.
struct Hop {
  LaneId lane = kNoLane;
  Nanoseconds latency{0};
};

struct LaneStatistics {
  std::uint64_t transfers = 0;  // begun
  std::uint64_t bytes = 0;      // moved so far; with kFifo, of transfers begun
  Nanoseconds busy{0};          // time so far with at least one transfer in it
};

class Lanes {
 public:
  Lanes(VirtualTime& time, Sharing sharing) : time_(time), sharing_(sharing) {}
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  /// `bytes_per_second` from 10^6 to 2^43.
  LaneId add(std::uint64_t bytes_per_second);
  /// `left` runs when the last byte has left the first lane, `arrived` when it is there, both as events, in this order.
  TransferId start(std::vector<Hop> path, std::uint64_t bytes, std::function<void()> left, std::function<void()> arrived);
  /// Over one lane (`second` is kNoLane), or two with the latency between them.
  TransferId start(LaneId first, LaneId second, std::uint64_t bytes, Nanoseconds latency, std::function<void()> left,
                   std::function<void()> arrived) {
    std::vector<Hop> path = {{first, latency}};
    if (second != kNoLane) path.push_back({second, Nanoseconds(0)});
    return start(std::move(path), bytes, std::move(left), std::move(arrived));
  }
  /// Ends a transfer: nothing of it runs any more. False if it has left or is unknown. With kFifo it keeps its place: the
  /// bytes were queued.
  bool abort(TransferId transfer);

  LaneStatistics statistics(LaneId lane) const;

 private:
  struct Lane {
    std::uint64_t bytes_per_second = 0;
    LaneStatistics counted;
    std::vector<std::uint32_t> active;  // kFair: slots of transfers
    bool dirty = false;                 // kFair: among dirty_
    Clock::time_point busy_since{};     // kFair, while any is active
    Clock::time_point free_at{};        // kFifo
  };
  struct Transfer {
    std::uint32_t generation = 0;
    std::vector<Hop> path;
    std::size_t entered = 0;  // kFifo: lanes of the path
    std::uint64_t bytes = 0;
    TimerId leaving = kNoTimer;     // not kNoTimer from start to leaving or abort
    bool between_lanes = false;     // kFifo: the first byte is on its way to another lane, and needs this slot
    TimerId arriving = kNoTimer;    // kFifo, since the last lane was entered
    std::uint64_t rate = 0;         // kFair: kUnit-th bytes per ns
    std::uint64_t done = 0;         // kFair: bytes that statistics have counted
    Clock::time_point settled{};    // kFair: when the remainder was true
    unsigned __int128 remaining{};  // kFair: in kUnit-th bytes
    std::function<void()> on_left, on_arrived;
  };

  Transfer* find(TransferId transfer);
  void release(std::uint32_t slot);

  void start_fair(std::uint32_t slot);
  void leave_fair(std::uint32_t slot);
  void settle(Transfer& transfer);
  void join(LaneId lane, std::uint32_t slot);
  void part(const Transfer& transfer, std::uint32_t slot);
  void reshare_later(LaneId lane);
  void reshare(LaneId lane);

  void enter(std::uint32_t slot, Clock::time_point last_byte);
  void leave_fifo(std::uint32_t slot);

  VirtualTime& time_;
  const Sharing sharing_;
  std::vector<Lane> lanes_;
  std::vector<Transfer> transfers_;
  std::vector<std::uint32_t> free_;
  std::vector<LaneId> dirty_;  // kFair: lanes whose transfers need new rates before time passes
};

}  // namespace cardea::sim
