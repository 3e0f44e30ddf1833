// SPDX-License-Identifier: Apache-2.0
// A rank that asks for what a log says: its requests in the log's order, none before its time. One that cannot be made yet
// (a release of what has not come, a collect that is in progress, a finish while something is open) waits, and those behind
// it wait with it.
#pragma once

#include <deque>
#include <map>

#include "perf/simulator/rank.h"

namespace cardea::simulator {

class Replay final : public Script {
 public:
  Replay(World& world, SimulatedRank& rank, std::vector<LoggedRequest> requests);
  void go_on() override;
  bool done() const override { return next_ == requests_.size(); }
  double progress() const override;
  std::string waits_for() const override;

 private:
  bool make(const LoggedRequest& request);
  bool wait(core::FetchNumber fetch);
  bool take(std::uint64_t id, std::size_t count);
  core::FetchNumber number(std::uint64_t id) const;

  World& world_;
  SimulatedRank& rank_;
  std::vector<LoggedRequest> requests_;
  std::size_t next_ = 0;
  bool armed_ = false, waited_ = false;
  std::map<std::uint64_t, core::FetchNumber> fetches_;         // by the log's number
  std::map<std::uint64_t, std::uint64_t> delivered_;           // how many of each
  std::map<std::uint64_t, std::deque<core::Delivery>> views_;  // not released, by the log's number
};

}  // namespace cardea::simulator
