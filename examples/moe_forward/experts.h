// SPDX-License-Identifier: Apache-2.0
// The experts as Cardea keeps them: each rank is home of a contiguous part of every layer, in memory that its node maps, and
// fetches the others when its tokens chose them. One thread.
#pragma once

#include <cardea/cardea.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "forward.h"
#include "model.h"

namespace moe {

/// What fetching cost, over all layers and steps of this rank.
struct FetchTimes {
  std::chrono::nanoseconds span{};     // per fetch from its submission to its last view ready, summed
  std::chrono::nanoseconds blocked{};  // within it, waiting for a view with nothing to compute
  // Share of fetch time hidden behind computation: 1 - blocked / span.
};

/// What came of guessing which experts a layer will want.
struct PrefetchCounts {
  std::uint64_t guessed = 0;  // experts of other nodes that were prefetched
  std::uint64_t chosen = 0;   // of them, those that the layer then wanted
};

class CardeaExperts : public ExpertSource {
 public:
  /// Collective over the group. Makes this rank's experts at version 1 and publishes them. At most `slots` fetched experts
  /// are in the slab at a time, on the way or computed on.
  CardeaExperts(const cardea::api::Context& job, const cardea::api::Group& group, const Shape& shape, std::uint32_t slots);

  void visit(std::uint32_t layer, std::uint64_t version, std::span<const std::uint32_t> experts,
             const Compute& compute) override;

  /// Has the experts of `guess` that lie on other nodes prefetched for `layer`, those with the most rows first and at most
  /// as many as the slab has slots. This begins when the next visit, which is of another layer, has asked for its own
  /// experts, so that they come first; it ends when `layer` is visited or finished.
  void expect(std::uint32_t layer, std::uint64_t version, const Routing& guess);

  /// Says that this rank needs the layer's experts at `version` no longer.
  void finish(std::uint32_t layer, std::uint64_t version);
  /// Waits until no rank does; then this rank's experts may be written to.
  void collect(std::uint32_t layer, std::uint64_t version) { layers_[layer].handle.collect(version); }
  /// Updates this rank's experts of the layer, which were collected, to `version` and publishes them.
  void update(std::uint32_t layer, std::uint64_t version);

  const std::vector<std::uint32_t>& home() const { return home_; }
  const FetchTimes& times() const { return times_; }
  const PrefetchCounts& prefetched() const { return prefetched_; }

 private:
  struct Layer {
    cardea::api::Memory w13, w2;  // [experts at home, ...]; empty without any
    std::span<float> w13_floats, w2_floats;
    cardea::api::Layer handle;
  };

  /// A prefetch of one layer: planned first, then on its way.
  struct Expected {
    std::uint32_t layer;
    std::uint64_t version;
    std::vector<std::uint32_t> experts;
    cardea::api::Fetch prefetch;  // empty while planned
  };

  std::vector<std::uint32_t> home_;  // each expert's rank
  std::uint32_t slots_;
  FetchTimes times_;
  PrefetchCounts prefetched_;
  cardea::api::Slab slab_;
  std::vector<Layer> layers_;  // after the slab, which layers must not outlive
  std::optional<Expected> planned_, under_way_;
};

}  // namespace moe
