// SPDX-License-Identifier: Apache-2.0
// One lane's queue: which transfer may start its next chunk. Classes go in strict order, save that at most one chunk in
// twenty (5%) goes to a class that was passed over, the one passed over most; classes other than demand keep at most two
// chunks on the lane, and prefetches and placements one, since what is on its way cannot be called back. Within a class
// transfers go in the order that they are given, not in that of their coming: what had to wait for its source to publish
// takes the place that it would have had. Plain data structure: no threads, no I/O, no clock.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "lib/core/index_list.h"

namespace cardea::core {

/// Urgency of a transfer, most urgent first.
enum class Class : std::uint8_t { kDemand = 0, kGradient = 1, kPrefetch = 2, kPlacement = 3 };
inline constexpr std::size_t kClasses = 4;

using TransferNumber = std::uint64_t;

inline constexpr std::uint32_t kNoNic = UINT32_MAX;

struct LaneLimits {
  std::uint32_t chunks = 8;             // on the lane at one time, over all classes
  std::uint32_t background_chunks = 2;  // of them, of each class but demand
  std::uint32_t idle_chunks = 1;        // of them, of each class that uses idle lanes only: prefetch and placement
  std::uint32_t aging = 20;             // every so many chunks, one goes to a class that was passed over; 0: never
  std::uint64_t chunk_bytes = 0;        // at most; 0: CoreOptions'
  std::uint32_t nic = kNoNic;           // of the node, through which the lane goes; shared with the node's other ranks
};

class Lane {
 public:
  /// Of transfers in a class: lower ones first, equal ones as they came.
  using Order = std::uint64_t;
  struct Queued {
    TransferNumber transfer = 0;
    Order order = 0;
  };
  using Place = IndexList<Queued>::Place;

  explicit Lane(LaneLimits limits) : limits_(limits) {}

  /// From the back, where most belong.
  Place add(TransferNumber transfer, Class urgency, Order order = UINT64_MAX) {
    auto& queue = queues_[index(urgency)];
    auto next = queue.kEnd;
    for (auto at = queue.last(); at != queue.kEnd && queue[at].order > order; at = queue.previous(at)) next = at;
    ++waiting_;
    return queue.insert_before(next, {transfer, order});
  }
  void remove(Place place, Class urgency) {
    --waiting_;
    queues_[index(urgency)].remove(place);
  }

  /// Whose chunk goes next, if any may; the caller then calls started().
  struct Choice {
    TransferNumber transfer;
    Class urgency;
  };
  /// Classes from `held` on are held back.
  std::optional<Choice> next(std::size_t held = kClasses) const {
    if (waiting_ == 0 || in_flight_total_ >= limits_.chunks) return std::nullopt;
    std::size_t chosen = kClasses;
    for (std::size_t c = 0; c < kClasses; ++c) {
      if (!may_start(c)) continue;
      if (c >= held) break;
      if (chosen == kClasses) {
        chosen = c;
        if (limits_.aging == 0 || since_jump_ + 1 < limits_.aging) break;
      } else if (passed_over_[c] > passed_over_[chosen]) {
        chosen = c;
      }
    }
    if (chosen == kClasses) return std::nullopt;
    return Choice{queues_[chosen].front().transfer, static_cast<Class>(chosen)};
  }
  void started(Class urgency) {
    ++in_flight_total_;
    ++in_flight_[index(urgency)];
    if (waiting_ == 0) {
      passed_over_[index(urgency)] = 0;
      since_jump_ = 0;
      return;
    }
    bool jumped = false;
    for (std::size_t c = 0; c < index(urgency); ++c) jumped |= may_start(c);
    bool somebody_waits = false;
    for (std::size_t c = index(urgency) + 1; c < kClasses; ++c) {
      if (queues_[c].empty()) continue;
      somebody_waits = true;
      ++passed_over_[c];
    }
    passed_over_[index(urgency)] = 0;
    // Counts only while somebody waits behind; a chunk that jumped the queue pays for the next nineteen.
    since_jump_ = somebody_waits && !jumped ? since_jump_ + 1 : 0;
  }
  void finished(Class urgency) {
    --in_flight_total_;
    --in_flight_[index(urgency)];
  }

  bool anybody_waits() const { return waiting_ != 0; }
  /// The classes that have something to start now, less urgent than demand.
  bool background_waits(std::size_t c) const { return c != index(Class::kDemand) && may_start(c); }
  const LaneLimits& limits() const { return limits_; }
  void set_nic(std::uint32_t nic) { limits_.nic = nic; }
  /// Class of the most urgent transfer that waits.
  std::optional<Class> most_urgent() const {
    for (std::size_t c = 0; c < kClasses; ++c) {
      if (!queues_[c].empty()) return static_cast<Class>(c);
    }
    return std::nullopt;
  }
  std::uint32_t in_flight() const { return in_flight_total_; }
  std::uint32_t in_flight(Class urgency) const { return in_flight_[index(urgency)]; }

 private:
  static std::size_t index(Class urgency) { return static_cast<std::size_t>(urgency); }
  bool may_start(std::size_t c) const {
    if (queues_[c].empty() || c == index(Class::kDemand)) return !queues_[c].empty();
    const bool idle_only = c >= index(Class::kPrefetch);
    return in_flight_[c] <
           (idle_only ? std::min(limits_.idle_chunks, limits_.background_chunks) : limits_.background_chunks);
  }

  LaneLimits limits_;
  std::array<IndexList<Queued>, kClasses> queues_;
  std::size_t waiting_ = 0;  // in all of them
  std::array<std::uint32_t, kClasses> in_flight_{};
  std::uint32_t in_flight_total_ = 0;
  std::array<std::uint32_t, kClasses> passed_over_{};  // chunks of higher classes started while it waited
  std::uint32_t since_jump_ = 0;
};

}  // namespace cardea::core
