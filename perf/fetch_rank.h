// SPDX-License-Identifier: Apache-2.0
// One of two ranks for tools that measure fetches through the C API: a context, and a layer whose experts are all at home on
// rank 0. What fails throws std::runtime_error. Single-threaded.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cardea/cardea.h"
#include "perf/ucx_raw_am.h"

namespace cardea::perf {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

inline void check(cardea_status_t status, const char* call) {
  if (status >= 0) return;
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&info);
  throw std::runtime_error(std::string(call) + ": " + cardea_status_string(status) + ": " + info.message);
}

/// One of two ranks, with a layer of `experts` experts of `bytes` at home on rank 0.
class FetchRank {
 public:
  FetchRank(int link, std::uint32_t self, bool two_nodes) : link_(link), self_(self) {
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.bootstrap = CARDEA_BOOTSTRAP_EXCHANGE;
    config.rank = self;
    config.world_size = 2;
    config.exchange = exchange;
    config.exchange_user = this;
    config.node_id = two_nodes && self == 1 ? "one" : "zero";
    check(cardea_context_create(&config, &context_), "cardea_context_create");
    check(cardea_group_create(context_, nullptr, 0, &group_), "cardea_group_create");
  }
  ~FetchRank() { cardea_context_destroy(context_); }
  FetchRank(const FetchRank&) = delete;
  FetchRank& operator=(const FetchRank&) = delete;

  void make_layer(std::size_t bytes, std::uint32_t experts, bool with_slab) {
    cardea_segment_t segment = CARDEA_SEGMENT_INIT;
    segment.name = "expert";
    segment.bytes = bytes;
    cardea_layer_desc_t layer = CARDEA_LAYER_DESC_INIT;
    layer.layer_id = 0;
    layer.num_experts = experts;
    layer.segments = &segment;
    layer.num_segments = 1;
    std::vector<std::uint32_t> local;
    cardea_placement_t place = CARDEA_PLACEMENT_INIT;
    if (self_ == 0) {
      check(cardea_memory_alloc(context_, bytes * experts, CARDEA_MEMORY_HOST, &memory_), "cardea_memory_alloc");
      cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
      check(cardea_memory_query(memory_, &info), "cardea_memory_query");
      std::memset(info.address, 1, bytes * experts);
      place.base = info.address;
      place.stride = bytes;
      for (std::uint32_t e = 0; e < experts; ++e) local.push_back(e);
      layer.num_local = experts;
      layer.local_experts = local.data();
      layer.placements = &place;
    } else if (with_slab) {
      cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
      slab.segments = &segment;
      slab.num_segments = 1;
      slab.num_slots = experts;
      check(cardea_slab_create(context_, &slab, &slab_), "cardea_slab_create");
      layer.slab = slab_;
    }
    check(cardea_layer_create(group_, &layer, &layer_), "cardea_layer_create");
  }
  void drop_layer() {
    check(cardea_layer_destroy(layer_), "cardea_layer_destroy");
    if (slab_.id != 0) check(cardea_slab_destroy(slab_), "cardea_slab_destroy");
    if (memory_.id != 0) check(cardea_memory_free(memory_), "cardea_memory_free");
    slab_ = {};
    memory_ = {};
  }
  void publish(std::uint64_t version) { check(cardea_publish(layer_, version, nullptr), "cardea_publish"); }
  void finish(std::uint64_t version) { check(cardea_finish(layer_, version, nullptr), "cardea_finish"); }
  void collect(std::uint64_t version) { check(cardea_collect(layer_, version, nullptr, CARDEA_FOREVER), "cardea_collect"); }

  /// The weights, on rank 0.
  void* weights() const {
    cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
    check(cardea_memory_query(memory_, &info), "cardea_memory_query");
    return info.address;
  }
  /// Until rank 0 has published the version, so that waiting for it is not measured.
  void await(std::uint64_t version) const {
    for (;;) {
      cardea_expert_info_t info = CARDEA_EXPERT_INFO_INIT;
      check(cardea_expert_query(layer_, 0, &info), "cardea_expert_query");
      if (info.published != UINT64_MAX && info.published >= version) return;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  /// As fetch, but views are looked at only when all have come, and that is not timed. Needs a slot for each.
  template <typename Look>
  double fetch_held(std::uint64_t version, std::uint32_t n, Look look, std::uint32_t flags) {
    std::vector<cardea_view_t> held(n, CARDEA_VIEW_INIT);
    std::vector<std::uint32_t> experts;
    for (std::uint32_t e = 0; e < n; ++e) experts.push_back(e);
    cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
    desc.version = version;
    desc.experts = experts.data();
    desc.num_experts = n;
    desc.flags = flags;
    cardea_fetch_t fetch{};
    const auto start = Clock::now();
    check(cardea_fetch(layer_, &desc, &fetch), "cardea_fetch");
    for (std::uint32_t got = 0; got < n;) {
      std::uint32_t count = 0;
      check(cardea_next(fetch, held.data() + got, n - got, &count, CARDEA_FOREVER), "cardea_next");
      got += count;
    }
    const double ready = seconds_since(start);
    for (const cardea_view_t& view : held) {
      check(view.status, "view");
      look(view);
    }
    check(cardea_release(held.data(), n), "cardea_release");
    check(cardea_fetch_destroy(fetch), "cardea_fetch_destroy");
    return ready;
  }

  /// Fetches experts 0 to n - 1 and calls read(view) for each; seconds until the last was ready.
  template <typename Read>
  double fetch(std::uint64_t version, std::uint32_t n, Read read) {
    std::vector<std::uint32_t> experts;
    for (std::uint32_t e = 0; e < n; ++e) experts.push_back(e);
    cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
    desc.version = version;
    desc.experts = experts.data();
    desc.num_experts = n;
    cardea_fetch_t fetch{};
    const auto start = Clock::now();
    check(cardea_fetch(layer_, &desc, &fetch), "cardea_fetch");
    double ready = 0;
    for (std::uint32_t left = n; left > 0;) {
      cardea_view_t view = CARDEA_VIEW_INIT;
      std::uint32_t count = 0;
      check(cardea_next(fetch, &view, 1, &count, CARDEA_FOREVER), "cardea_next");
      check(view.status, "view");
      ready = seconds_since(start);
      read(view);
      check(cardea_release(&view, 1), "cardea_release");
      left -= count;
    }
    check(cardea_fetch_destroy(fetch), "cardea_fetch_destroy");
    return ready;
  }

 private:
  static int exchange(void* user, const void* mine, std::size_t bytes, void* all) try {
    const auto& self = *static_cast<FetchRank*>(user);
    auto* const out = static_cast<unsigned char*>(all);
    give(self.link_, mine, bytes);
    take(self.link_, out + bytes * (1 - self.self_), bytes);
    std::memcpy(out + bytes * self.self_, mine, bytes);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }

  int link_;
  std::uint32_t self_;
  cardea_context_t context_{};
  cardea_group_t group_{};
  cardea_layer_t layer_{};
  cardea_memory_t memory_{};
  cardea_slab_t slab_{};
};

}  // namespace cardea::perf
