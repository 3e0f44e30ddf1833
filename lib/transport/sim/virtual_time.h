// SPDX-License-Identifier: Apache-2.0
// Time that passes only by running events. Starts at the clock's epoch; integer nanoseconds. Events at one time run in the
// order in which they were set, so a run is a function of its inputs. No thread, no wall clock; not thread-safe.
//
// A function may set, move and cancel events, its own included (which is then gone already), but not run others.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "lib/base/executor.h"

namespace cardea::sim {

class VirtualTime final : public Executor {
 public:
  Clock::time_point now() const override { return now_; }
  void post(std::function<void()> work) override { (void)at(now_, std::move(work)); }
  TimerId at(Clock::time_point when, std::function<void()> work) override;
  bool cancel(TimerId timer) override;
  /// Moves a pending event, behind those set for its new time; false as for cancel().
  bool move(TimerId timer, Clock::time_point when);

  /// Runs the next event, at its time; false if there is none.
  bool run_one();
  /// Runs events until `done`, which is asked before each; false if they ran out first.
  bool run_until(const std::function<bool()>& done);
  void run_until_idle();
  /// Runs all events up to and including `end`, and leaves the time there.
  void run_to(Clock::time_point end);

  std::size_t pending() const { return heap_.size(); }
  std::uint64_t events_run() const { return events_run_; }

 private:
  struct Slot {
    std::function<void()> work;
    std::uint32_t generation = 0;
    std::uint32_t place = kFree;  // in the heap
  };
  struct Entry {
    Clock::time_point when;
    std::uint64_t sequence;
    std::uint32_t slot;
    bool before(const Entry& other) const { return when != other.when ? when < other.when : sequence < other.sequence; }
  };
  static constexpr std::uint32_t kFree = UINT32_MAX;

  Slot* find(TimerId timer);
  void put(std::size_t place, const Entry& entry);
  void sift_up(std::size_t place);
  void sift_down(std::size_t place);
  void remove(std::size_t place);

  Clock::time_point now_{};
  std::uint64_t last_sequence_ = 0;
  std::uint64_t events_run_ = 0;
  std::vector<Entry> heap_;  // four children per entry; slots know their place, so that events can be moved and removed
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
};

}  // namespace cardea::sim
