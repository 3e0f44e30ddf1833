// SPDX-License-Identifier: Apache-2.0
// What a rank of a training job asks for, layer after layer and step after step:
//
//   publish all layers ─► [dense time] ─► fetch layer l, prefetch layer l+1 ─► take, compute, release each ─► finish l ─► …
//                                     collect l whenever it can be ─► [update time] ─► publish its next version
//
// and, as the plan's faults say, cancels, deadlines and early ends of fetches. A rank whose collect fails because another
// died can publish no more: it leaves the job.
#pragma once

#include <deque>
#include <map>

#include "perf/simulator/random.h"
#include "perf/simulator/rank.h"

namespace cardea::simulator {

class Training final : public Script {
 public:
  Training(World& world, SimulatedRank& rank);
  void go_on() override;
  bool done() const override { return over_; }
  double progress() const override;
  std::string waits_for() const override;

 private:
  struct OpenLayer {
    std::uint64_t step = 0, layer = 0;
    std::vector<core::FetchNumber> fetches;
    std::optional<core::FetchNumber> prefetch;
    std::vector<double> tokens;
  };
  struct Held {
    core::FetchNumber fetch;
    core::Delivery view;
    std::uint64_t layer;
  };

  std::uint64_t total() const { return world_.plan.steps * world_.plan.layers; }
  std::uint64_t step_of(std::uint64_t place) const { return place / world_.plan.layers; }
  std::uint64_t layer_of(std::uint64_t place) const { return place % world_.plan.layers; }
  Nanoseconds somewhen() { return Nanoseconds(static_cast<std::int64_t>(random_.below(world_.fault_span + 1))); }

  void publish(std::uint64_t layer, Version version);
  void collect();
  void open_layers();
  void open_layer(std::uint64_t place);
  void prefetch(std::uint64_t place);
  void trouble(core::FetchNumber fetch);
  core::SegmentMask some_segments();
  bool compute_one();
  bool take_from(OpenLayer& open);
  bool look_for_deadlock();
  void release_held(std::size_t keep);
  bool finish_one();
  void rest();

  World& world_;
  SimulatedRank& rank_;
  Random random_;
  std::deque<OpenLayer> open_;
  std::uint64_t next_ = 0;                                 // the next layer to open, counted over all steps
  std::uint64_t finished_ = 0;                             // layers, over all steps
  std::map<std::uint64_t, core::FetchNumber> prefetched_;  // by place, until it is opened
  std::map<std::uint64_t, Version> collecting_;            // by layer
  std::map<std::uint64_t, Version> published_;             // by layer, by this rank
  std::deque<Held> held_;
  bool started_ = false, computing_ = false, resting_ = false, over_ = false;
};

}  // namespace cardea::simulator
