// SPDX-License-Identifier: Apache-2.0
#include "experts.h"

#include <algorithm>
#include <utility>

#include "routing.h"

namespace moe {
namespace cx = cardea::api;

CardeaExperts::CardeaExperts(const cx::Context& job, const cx::Group& group, const Shape& shape, std::uint32_t slots)
    : slots_(slots) {
  const cardea_context_info_t me = job.info();
  const std::size_t w13_bytes = shape.w13_floats() * sizeof(float);
  const std::size_t w2_bytes = shape.w2_floats() * sizeof(float);
  const std::vector<cx::Segment> segments = {{.name = "w13", .bytes = w13_bytes, .weight_type = CARDEA_DTYPE_FLOAT32},
                                             {.name = "w2", .bytes = w2_bytes, .weight_type = CARDEA_DTYPE_FLOAT32}};
  std::vector<std::uint32_t> own;
  for (std::uint32_t e = 0; e < shape.experts; ++e) {
    home_.push_back(home_of(e, shape.experts, me.world_size));
    if (home_.back() == me.rank) own.push_back(e);
  }

  slab_ = job.create_slab({.segments = segments, .slots = slots});
  for (std::uint32_t l = 0; l < shape.layers; ++l) {
    Layer layer;
    cx::LayerOptions options{.layer_id = l, .num_experts = shape.experts, .segments = segments, .local_experts = own};
    options.slab = &slab_;
    if (!own.empty()) {
      layer.w13 = job.allocate(own.size() * w13_bytes);
      layer.w2 = job.allocate(own.size() * w2_bytes);
      layer.w13_floats = layer.w13.as<float>().first(own.size() * shape.w13_floats());
      layer.w2_floats = layer.w2.as<float>().first(own.size() * shape.w2_floats());
      for (std::size_t i = 0; i < own.size(); ++i) {
        make_expert(shape, l, own[i], layer.w13_floats.subspan(i * shape.w13_floats(), shape.w13_floats()),
                    layer.w2_floats.subspan(i * shape.w2_floats(), shape.w2_floats()));
      }
      options.placements = {{.base = layer.w13_floats.data(), .stride = w13_bytes},
                            {.base = layer.w2_floats.data(), .stride = w2_bytes}};
    }
    layer.handle = group.create_layer(options);
    layer.handle.publish(1);
    layers_.push_back(std::move(layer));
  }
}

void CardeaExperts::visit(std::uint32_t layer, std::uint64_t version, std::span<const std::uint32_t> experts,
                          const Compute& compute) {
  cx::Fetch fetch = layers_[layer].handle.fetch(version, experts);
  if (under_way_ && under_way_->layer == layer) {
    for (const std::uint32_t e : under_way_->experts) {
      if (std::binary_search(experts.begin(), experts.end(), e)) ++prefetched_.chosen;
    }
    under_way_.reset();  // the fetch has taken over what is on its way and wanted
  }
  if (planned_ && planned_->layer != layer) {
    under_way_ = std::exchange(planned_, std::nullopt);
    under_way_->prefetch = layers_[under_way_->layer].handle.prefetch(under_way_->version, under_way_->experts);
    prefetched_.guessed += under_way_->experts.size();
  }
  std::chrono::nanoseconds span{};
  std::chrono::nanoseconds blocked{};
  for (;;) {
    cx::View view;  // released at the end of each round: its slot is the credit for an expert still to come
    cx::Progress found = fetch.try_next(view);
    if (found == cx::Progress::kPending) {
      const Clock::time_point start = Clock::now();
      found = fetch.try_next(view, cx::forever);
      blocked += Clock::now() - start;
    }
    if (found != cx::Progress::kReady) break;
    view.check();
    span = std::max(span, view.ready_after());
    compute(view.expert(), {view.segment<float>(0), view.segment<float>(1)});
  }
  times_.span += span;
  times_.blocked += std::min(blocked, span);
}

void CardeaExperts::expect(std::uint32_t layer, std::uint64_t version, const Routing& guess) {
  std::vector<std::uint32_t> remote;
  for (const std::uint32_t e : guess.chosen()) {
    const cardea_path_t path = layers_[layer].handle.expert(e).path;
    if (path == CARDEA_PATH_NETWORK || path == CARDEA_PATH_CACHE) remote.push_back(e);
  }
  std::stable_sort(remote.begin(), remote.end(), [&](auto a, auto b) { return guess.rows_of(a) > guess.rows_of(b); });
  if (remote.size() > slots_) remote.resize(slots_);
  planned_.reset();
  if (!remote.empty()) planned_ = Expected{layer, version, std::move(remote), {}};
}

void CardeaExperts::finish(std::uint32_t layer, std::uint64_t version) {
  // Left over if no token chose any expert of it.
  if (planned_ && planned_->layer == layer) planned_.reset();
  if (under_way_ && under_way_->layer == layer) under_way_.reset();
  layers_[layer].handle.finish(version);
}

void CardeaExperts::update(std::uint32_t layer, std::uint64_t version) {
  update_weights(version, layers_[layer].w13_floats);
  update_weights(version, layers_[layer].w2_floats);
  layers_[layer].handle.publish(version);
}

}  // namespace moe
