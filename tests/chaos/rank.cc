// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/rank.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "cardea/cardea.h"
#include "perf/expert_pattern.h"
#include "perf/simulator/random.h"

namespace cardea::chaos {
namespace {

constexpr std::uint64_t kMilli = 1'000'000, kSecond = 1'000'000'000;
constexpr std::uint64_t kPatience = 60;  // seconds without any progress: a hang
constexpr std::byte kPoison{0xDD};

/// What ends a rank: something that must not be.
struct Wrong {
  std::string text;
};

std::string last_error() {
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&info);
  return info.message;
}

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

class Rank {
 public:
  Rank(const JobPlan& plan, std::uint32_t rank, Place& place)
      : plan_(plan), rank_(rank), place_(place), random_(plan.seed, 1000 + rank) {}

  void run(const std::string& root) {
    if (!join(root)) return;
    for (std::uint32_t i = 0; i < plan_.layers.size(); ++i) create(i);
    for (const std::uint64_t version : plan_.versions) step(version);
    for (Layer& layer : layers_) destroy(layer);
    say(Doing::kLeaving);
    expect(cardea_context_destroy(context_), "cardea_context_destroy");
    say(Doing::kDone);
  }

 private:
  struct Layer {
    std::uint32_t index = 0;
    const LayerPlan* plan = nullptr;
    cardea_group_t group{};
    cardea_layer_t handle{};
    cardea_slab_t slab{};
    bool there = false;
    bool lost = false;  // a member died: what is left of it is of no interest
    std::vector<std::uint32_t> local;
    std::vector<std::vector<std::byte>> own;   // weights in the caller's memory, by segment
    std::vector<std::byte*> base;              // of the weights, by segment
    std::vector<std::vector<std::byte>> rows;  // of the slab
  };
  struct Open {
    cardea_fetch_t handle{};
    Layer* layer = nullptr;
    std::uint64_t version = 0;
    std::uint64_t mask = 0;
    bool prefetch = false, canceled = false, deadline = false, gang = false;
    std::size_t left = 0;  // experts that have not been delivered
  };
  struct Held {
    cardea_view_t view;
    Layer* layer;
    std::uint64_t mask;
  };

  void say(Doing doing, const Layer* layer = nullptr, std::uint64_t version = 0) {
    place_.doing.store(doing);
    if (layer != nullptr) {
      place_.layer.store(layer->index);
      place_.version.store(version);
    }
    place_.steps.fetch_add(1);
  }
  cardea_status_t noted(cardea_status_t status) {
    place_.last_status.store(status);
    return status;
  }
  /// The call must succeed.
  void expect(cardea_status_t status, const char* call) {
    if (noted(status) != CARDEA_OK)
      throw Wrong{fmt::format("{}: {} ({})", call, cardea_status_string(status), last_error())};
  }
  bool may_lose(const Layer& layer) const { return plan_.touches(*layer.plan); }
  /// True if the call succeeded; false if the layer has lost a member, which the plan must allow.
  bool expect_or_lost(Layer& layer, cardea_status_t status, const char* call) {
    if (noted(status) == CARDEA_OK) return true;
    if (status != CARDEA_ERR_PEER_LOST || !may_lose(layer))
      throw Wrong{fmt::format("layer {}: {}: {} ({})", layer.index, call, cardea_status_string(status), last_error())};
    lose(layer);
    return false;
  }
  void lose(Layer& layer) {
    if (!layer.lost) place_.lost_layers.fetch_add(1);
    layer.lost = true;
  }

  bool join(const std::string& root) {
    say(Doing::kJoining);
    setenv("CARDEA_RANK", std::to_string(rank_).c_str(), 1);
    setenv("CARDEA_WORLD_SIZE", std::to_string(plan_.ranks).c_str(), 1);
    setenv("CARDEA_ROOT", root.c_str(), 1);
    const std::string node = fmt::format("chaos-{}", plan_.node_of[rank_]);
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.node_id = node.c_str();
    const bool dies = plan_.fault == Fault::kKill || plan_.fault == Fault::kStopKill;
    config.setup_timeout = (dies ? 8 : 40) * kSecond;  // who dies before it was there is missed at its end only
    config.chunk_bytes = plan_.chunk_bytes;
    config.chunks_in_flight = plan_.chunks_in_flight;
    config.cache_bytes = plan_.cache_bytes;
    const cardea_status_t status = noted(cardea_context_create(&config, &context_));
    if (dies && (status == CARDEA_ERR_PEER_LOST || status == CARDEA_ERR_TIMEOUT)) return false;
    expect(status, "cardea_context_create");
    return true;
  }

  void create(std::uint32_t index) {
    layers_.reserve(plan_.layers.size());
    Layer& layer = layers_.emplace_back();
    layer.index = index;
    layer.plan = &plan_.layers[index];
    const LayerPlan& plan = *layer.plan;
    if (!plan.has(rank_)) return;
    say(Doing::kCreatingLayer, &layer);
    expect(cardea_group_create(context_, plan.ranks.data(), static_cast<std::uint32_t>(plan.ranks.size()), &layer.group),
           "cardea_group_create");
    for (std::uint32_t expert = 0; expert < plan.experts(); ++expert) {
      if (plan.home(expert) == rank_) layer.local.push_back(expert);
    }
    std::vector<cardea_segment_t> segments(plan.segments.size(), cardea_segment_t CARDEA_SEGMENT_INIT);
    std::vector<cardea_placement_t> weights(segments.size(), cardea_placement_t CARDEA_PLACEMENT_INIT);
    std::vector<cardea_placement_t> rows = weights;
    std::uint64_t total = 0;
    for (const std::uint64_t bytes : plan.segments) total += aligned(bytes) * layer.local.size();
    std::byte* memory = nullptr;
    if (plan.mapped) {
      cardea_memory_t handle{};
      expect(cardea_memory_alloc(context_, total, CARDEA_MEMORY_HOST, &handle), "cardea_memory_alloc");
      cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
      expect(cardea_memory_query(handle, &info), "cardea_memory_query");
      memory = static_cast<std::byte*>(info.address);
    }
    static constexpr const char* kNames[] = {"a", "b", "c", "d"};
    for (std::size_t s = 0; s < segments.size(); ++s) {
      segments[s].name = kNames[s];
      segments[s].bytes = plan.segments[s];
      segments[s].alignment = 64;
      const std::uint64_t stride = aligned(plan.segments[s]);
      if (plan.mapped) {
        layer.base.push_back(memory);
        memory += stride * layer.local.size();
      } else {
        layer.base.push_back(layer.own.emplace_back(stride * layer.local.size()).data());
      }
      weights[s].base = layer.base.back();
      weights[s].stride = stride;
      if (plan.own_rows) rows[s].base = layer.rows.emplace_back(stride * plan.slots).data();
      rows[s].stride = stride;
    }
    cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    slab.segments = segments.data();
    slab.num_segments = static_cast<std::uint32_t>(segments.size());
    slab.num_slots = plan.slots;
    if (plan.own_rows) slab.placements = rows.data();
    expect(cardea_slab_create(context_, &slab, &layer.slab), "cardea_slab_create");
    cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
    desc.layer_id = index;
    desc.num_experts = plan.experts();
    desc.segments = segments.data();
    desc.num_segments = slab.num_segments;
    desc.num_local = static_cast<std::uint32_t>(layer.local.size());
    desc.local_experts = layer.local.data();
    desc.placements = weights.data();
    desc.slab = layer.slab;
    layer.there = expect_or_lost(layer, cardea_layer_create(layer.group, &desc, &layer.handle), "cardea_layer_create");
  }

  bool usable(const Layer& layer) const { return layer.there && !layer.lost; }

  void step(std::uint64_t version) {
    for (Layer& layer : layers_) {
      if (usable(layer)) publish(layer, version);
    }
    submit_all(version);
    serve_all();
    for (Layer& layer : layers_) {
      if (layer.there) finish(layer, version);
    }
    for (Layer& layer : layers_) {
      if (usable(layer)) collect(layer, version);
    }
  }

  std::span<std::byte> weights(const Layer& layer, std::size_t local, std::size_t segment) const {
    const std::uint64_t bytes = layer.plan->segments[segment];
    return {layer.base[segment] + aligned(bytes) * local, bytes};
  }
  void publish(Layer& layer, std::uint64_t version) {
    say(Doing::kPublishing, &layer, version);
    for (std::size_t i = 0; i < layer.local.size(); ++i) {
      for (std::uint32_t s = 0; s < layer.plan->segments.size(); ++s)
        perf::write_pattern({layer.index, layer.local[i], s, version ^ plan_.seed << 20}, weights(layer, i, s));
    }
    expect(cardea_publish(layer.handle, version, nullptr), "cardea_publish");
  }

  void submit_all(std::uint64_t version) {
    for (Layer& layer : layers_) {
      if (!usable(layer)) continue;
      for (std::uint64_t fetches = random_.below(4); fetches > 0; --fetches) submit(layer, version);
      if (random_.below(3) == 0) serve_some();
    }
  }
  void submit(Layer& layer, std::uint64_t version) {
    say(Doing::kFetching, &layer, version);
    const LayerPlan& plan = *layer.plan;
    std::vector<std::uint32_t> experts(plan.experts());
    for (std::uint32_t i = 0; i < experts.size(); ++i) experts[i] = i;
    for (std::size_t i = experts.size(); i > 1; --i) std::swap(experts[i - 1], experts[random_.below(i)]);
    experts.resize(1 + random_.below(experts.size()));
    Open open{.layer = &layer, .version = version, .left = experts.size()};
    cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
    desc.version = version;
    desc.experts = experts.data();
    desc.num_experts = static_cast<std::uint32_t>(experts.size());
    if (random_.below(3) == 0) desc.flags |= CARDEA_FETCH_SLOTS;
    if (random_.below(5) == 0) desc.flags |= CARDEA_FETCH_GANG;
    if (random_.below(4) == 0) desc.segment_mask = 1 + random_.below((std::uint64_t{1} << plan.segments.size()) - 1);
    open.mask = desc.segment_mask != 0 ? desc.segment_mask : (std::uint64_t{1} << plan.segments.size()) - 1;
    if (random_.below(8) == 0) desc.deadline = 1 + random_.below(30 * kMilli);
    open.deadline = desc.deadline != 0;
    open.prefetch = random_.below(4) == 0;
    const bool gang = (desc.flags & CARDEA_FETCH_GANG) != 0;
    const cardea_status_t status = noted(open.prefetch ? cardea_prefetch(layer.handle, &desc, &open.handle)
                                                       : cardea_fetch(layer.handle, &desc, &open.handle));
    // A gang that the slab can never hold, and a prefetch of more than it has slots, are refused.
    if (status == CARDEA_ERR_LIMIT && (gang || open.prefetch)) return;
    if (!expect_or_lost(layer, status, open.prefetch ? "cardea_prefetch" : "cardea_fetch")) return;
    place_.fetches.fetch_add(1);
    if (open.prefetch) place_.prefetches.fetch_add(1);
    if (gang) place_.gangs.fetch_add(1);
    if (open.deadline) place_.deadlines.fetch_add(1);
    open.gang = gang;
    open_.push_back(open);
  }

  void serve_all() {
    auto progress = std::chrono::steady_clock::now();
    std::uint64_t before = place_.steps.load();
    while (!open_.empty()) {
      serve_some();
      const std::uint64_t now = place_.steps.load();
      if (now != before) progress = std::chrono::steady_clock::now();
      before = now;
      if (std::chrono::steady_clock::now() - progress > std::chrono::seconds(kPatience)) throw Wrong{"hang: " + stuck()};
    }
    release_all();
  }
  std::string stuck() const {
    std::string text;
    for (const Open& open : open_) {
      cardea_fetch_info_t info = CARDEA_FETCH_INFO_INIT;
      cardea_fetch_query(open.handle, &info);
      text += fmt::format(
          "{} of layer {} version {}: {} experts, {} ready, {} delivered, {} failed, {} parked, {} starved, {} moving; ",
          open.prefetch ? "prefetch" : "fetch", open.layer->index, open.version, info.num_experts, info.ready,
          info.delivered, info.failed, info.parked, info.starved, info.moving);
    }
    return text;
  }

  /// Does something to one of the open fetches.
  void serve_some() {
    if (open_.empty()) return;
    const std::size_t which = random_.below(open_.size());
    Open& open = open_[which];
    if (!open.canceled && random_.below(40) == 0) {
      expect(cardea_cancel(open.handle), "cardea_cancel");
      open.canceled = true;
      place_.cancels.fetch_add(1);
      place_.steps.fetch_add(1);
    }
    if (random_.below(60) == 0) {
      if (!open.canceled) place_.cancels.fetch_add(1);
      return end(which);
    }
    place_.doing.store(Doing::kWaiting);
    place_.layer.store(open.layer->index);
    place_.version.store(open.version);
    if (open.prefetch) {
      const cardea_status_t status = noted(cardea_wait(open.handle, 20 * kMilli));
      if (status == CARDEA_ERR_WOULD_DEADLOCK) return release_all();
      if (status != CARDEA_ERR_TIMEOUT || finished(open)) {
        if (status != CARDEA_OK) judge(open, status, "a prefetch");
        end(which);
      }
      return;
    }
    std::vector<cardea_view_t> views(1 + random_.below(4), cardea_view_t CARDEA_VIEW_INIT);
    std::uint32_t count = 0;
    const cardea_status_t status =
        noted(cardea_next(open.handle, views.data(), static_cast<std::uint32_t>(views.size()), &count, 20 * kMilli));
    if (status == CARDEA_ERR_WOULD_DEADLOCK) return release_all();
    if (status == CARDEA_ERR_TIMEOUT) {
      // Others may want the slots of views that are held here; in time, all are released.
      if (random_.below(4) == 0) release_all();
      return;
    }
    expect(status, "cardea_next");
    for (std::uint32_t i = 0; i < count; ++i) take(open, views[i]);
    if (count == 0) {
      if (open.left != 0)
        throw Wrong{fmt::format("layer {}: a fetch ended with {} experts undelivered", open.layer->index, open.left)};
      end(which);
    }
    while (held_.size() > 4 || (!held_.empty() && random_.below(3) == 0)) release_one(random_.below(held_.size()));
  }
  bool finished(const Open& open) const {
    cardea_fetch_info_t info = CARDEA_FETCH_INFO_INIT;
    return cardea_fetch_query(open.handle, &info) == CARDEA_OK && info.parked + info.starved + info.moving == 0;
  }
  void end(std::size_t which) {
    expect(cardea_fetch_destroy(open_[which].handle), "cardea_fetch_destroy");
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(which));
    place_.steps.fetch_add(1);
  }

  /// An expert failed: there must have been a reason. (A prefetch gives way to a demand that needs its slot;
  /// a gang for which the node cache has no room may need more slots than there are.)
  void judge(const Open& open, cardea_status_t status, const char* what) {
    place_.failed_experts.fetch_add(1);
    const bool allowed = (status == CARDEA_ERR_CANCELED && (open.canceled || open.prefetch)) ||
                         (status == CARDEA_ERR_TIMEOUT && open.deadline) ||
                         (status == CARDEA_ERR_LIMIT && (open.prefetch || open.gang)) ||
                         (status == CARDEA_ERR_PEER_LOST && may_lose(*open.layer));
    if (!allowed)
      throw Wrong{fmt::format("layer {} version {}: {} failed: {} ({})", open.layer->index, open.version, what,
                              cardea_status_string(status), last_error())};
  }
  void take(Open& open, const cardea_view_t& view) {
    if (open.left-- == 0) throw Wrong{"more experts were delivered than were asked for"};
    place_.steps.fetch_add(1);
    if (view.status != CARDEA_OK) return judge(open, view.status, fmt::format("expert {}", view.expert).c_str());
    if (view.version != open.version)
      throw Wrong{fmt::format("a view of version {} instead of {}", view.version, open.version)};
    held_.push_back({view, open.layer, open.mask});
    check(held_.back(), "delivered");
    place_.views.fetch_add(1);
  }
  void check(const Held& held, const char* when) {
    const cardea_view_t& view = held.view;
    const LayerPlan& plan = *held.layer->plan;
    for (std::uint32_t s = 0; s < plan.segments.size(); ++s) {
      if ((held.mask >> s & 1) == 0) {
        if (view.segments[s] != nullptr) throw Wrong{fmt::format("segment {} was not asked for, and is there", s)};
        continue;
      }
      if (view.segments[s] == nullptr) throw Wrong{fmt::format("segment {} was asked for, and is not there", s)};
      const std::span bytes(static_cast<const std::byte*>(view.segments[s]), plan.segments[s]);
      const auto wrong = perf::first_wrong_byte({held.layer->index, view.expert, s, view.version ^ plan_.seed << 20}, bytes);
      if (wrong) {
        throw Wrong{
            fmt::format("MISMATCH: layer {} expert {} version {} segment {} byte {} is {:#04x} when it was {} (path {}, "
                        "source {}, slot {})",
                        held.layer->index, view.expert, view.version, s, *wrong, std::to_integer<unsigned>(bytes[*wrong]),
                        when, cardea_path_string(view.path), view.source, view.slot)};
      }
      place_.bytes.fetch_add(bytes.size());
    }
  }
  void release_one(std::size_t which) {
    check(held_[which], "released");
    expect(cardea_release(&held_[which].view, 1), "cardea_release");
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(which));
    place_.steps.fetch_add(1);
  }
  void release_all() {
    while (!held_.empty()) release_one(random_.below(held_.size()));
  }

  void finish(Layer& layer, std::uint64_t version) {
    say(Doing::kFinishing, &layer, version);
    const cardea_status_t status = noted(cardea_finish(layer.handle, version, nullptr));
    if (status != CARDEA_OK) expect_or_lost(layer, status, "cardea_finish");
  }
  void collect(Layer& layer, std::uint64_t version) {
    say(Doing::kCollecting, &layer, version);
    const auto begun = std::chrono::steady_clock::now();
    cardea_status_t status = CARDEA_OK;
    do {
      status = noted(cardea_collect(layer.handle, version, nullptr, 200 * kMilli));
      if (std::chrono::steady_clock::now() - begun > std::chrono::seconds(kPatience))
        throw Wrong{fmt::format("hang: collect of layer {} version {}", layer.index, version)};
    } while (status == CARDEA_ERR_TIMEOUT);
    if (!expect_or_lost(layer, status, "cardea_collect")) return;
    for (std::size_t i = 0; i < layer.local.size(); ++i) {
      for (std::size_t s = 0; s < layer.plan->segments.size(); ++s) {
        const auto bytes = weights(layer, i, s);
        std::memset(bytes.data(), static_cast<int>(kPoison), bytes.size());
      }
    }
  }
  void destroy(Layer& layer) {
    if (!layer.there) return;
    say(Doing::kDestroyingLayer, &layer);
    const cardea_status_t status = noted(cardea_layer_destroy(layer.handle));
    // What a rank that died, or was stopped, has asked for may still be on its way to it.
    if (status == CARDEA_ERR_BUSY && layer.lost) return;
    expect(status, "cardea_layer_destroy");
    expect(cardea_slab_destroy(layer.slab), "cardea_slab_destroy");
    expect(cardea_group_destroy(layer.group), "cardea_group_destroy");
  }

  const JobPlan& plan_;
  const std::uint32_t rank_;
  Place& place_;
  simulator::Random random_;
  cardea_context_t context_{};
  std::vector<Layer> layers_;
  std::vector<Open> open_;
  std::vector<Held> held_;
};

}  // namespace

bool run_rank(const JobPlan& plan, std::uint32_t rank, const std::string& root, Place& place) {
  // Left as it is when something is wrong: its engine may still be writing into its memory.
  auto* const running = new Rank(plan, rank, place);
  try {
    running->run(root);
    delete running;
    return true;
  } catch (const Wrong& wrong) {
    std::strncpy(place.message, wrong.text.c_str(), sizeof place.message - 1);
  } catch (const std::exception& error) {
    std::strncpy(place.message, error.what(), sizeof place.message - 1);
  }
  place.wrong.store(1);
  return false;
}

}  // namespace cardea::chaos
