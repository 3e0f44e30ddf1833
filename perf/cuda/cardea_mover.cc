// SPDX-License-Identifier: Apache-2.0
// Cardea by its public interface: one fetch on a stream for each transfer, every view taken and released without a wait of
// the host.
//
// Between nodes (net-…, which two ranks of this machine play) each transfer is a version of its own, that its source
// publishes when the one before is collected: else a source would have copied its experts out of the GPU once for all
// transfers. net-host has weights and slots in host memory, for comparison, net-gpu in the GPUs' and all stays in host
// memory on its way, net-direct goes straight into the slots.
#include <algorithm>
#include <cstring>

#include "cardea/cardea.h"
#include "perf/cuda/mover.h"

namespace cardea::perf {
namespace {

void check(cardea_status_t status, const char* call) {
  if (status >= 0) return;
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  cardea_last_error(&info);
  throw std::runtime_error(std::string(call) + ": " + cardea_status_string(status) + ": " + info.message);
}

class CardeaMover final : public Mover {
 public:
  CardeaMover(const std::string& name, Link& link, const Load& load)
      : Mover(link, load),
        network_(name != "cardea"),
        host_(name == "net-host"),
        direct_(name == "net-direct"),
        views_(load.experts),
        slots_of_(load.experts) {
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.bootstrap = CARDEA_BOOTSTRAP_EXCHANGE;
    config.rank = link_.rank();
    config.world_size = 2;
    config.exchange = exchange;
    config.exchange_user = this;
    if (network_) config.node_id = link_.rank() == 0 ? "zero" : "one";
    check(cardea_context_create(&config, &context_), "cardea_context_create");
    cardea_group_t group{};
    check(cardea_group_create(context_, nullptr, 0, &group), "cardea_group_create");
    std::vector<cardea_segment_t> segments(load_.segments, cardea_segment_t CARDEA_SEGMENT_INIT);
    std::vector<cardea_placement_t> home(load_.segments, cardea_placement_t CARDEA_PLACEMENT_INIT), slots = home;
    std::vector<std::string> names;
    for (unsigned s = 0; s < load_.segments; ++s) names.push_back("s" + std::to_string(s));
    for (unsigned s = 0; s < load_.segments; ++s) {
      segments[s].name = names[s].c_str();
      segments[s].bytes = home[s].stride = slots[s].stride = load_.segment();
      home[s].base = home_.base(s);
      slots[s].base = slots_.base(s);
    }
    const unsigned local = kParts * load_.experts;
    if (host_) copy_home_to_host(home, local);
    cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    slab.segments = segments.data();
    slab.num_segments = load_.segments;
    slab.num_slots = 2 * load_.experts;
    slab.placements = host_ ? nullptr : slots.data();
    slab.kind = host_ ? CARDEA_MEMORY_HOST : CARDEA_MEMORY_CUDA;
    cardea_layer_desc_t layer = CARDEA_LAYER_DESC_INIT;
    check(cardea_slab_create(context_, &slab, &layer.slab), "cardea_slab_create");
    check(cardea_slab_query(layer.slab, &slab_), "cardea_slab_query");
    std::vector<std::uint32_t> mine;
    for (unsigned e = 0; e < local; ++e) mine.push_back(link_.rank() * local + e);
    layer.num_experts = 2 * local;
    layer.segments = segments.data();
    layer.num_segments = load_.segments;
    layer.num_local = local;
    layer.local_experts = mine.data();
    layer.placements = home.data();
    check(cardea_layer_create(group, &layer, &layer_), "cardea_layer_create");
    check(cardea_publish(layer_, version_, nullptr), "cardea_publish");
    link_.meet();
  }
  ~CardeaMover() override {
    try {
      link_.meet();  // nobody leaves while the other still fetches
    } catch (const std::exception&) {
    }
    cardea_context_destroy(context_);
  }

  void receive(unsigned part, bool) override {
    const unsigned first = (1 - link_.rank()) * kParts * load_.experts + part * load_.experts;
    wanted_.clear();
    for (unsigned i = 0; i < load_.experts; ++i) wanted_.push_back(first + i);
    cardea_fetch_desc_t desc = CARDEA_FETCH_DESC_INIT;
    desc.version = version_;
    desc.experts = wanted_.data();
    desc.num_experts = load_.experts;
    desc.flags = CARDEA_FETCH_SLOTS;
    if (!host_) desc.stream = stream_;
    cardea_fetch_t fetch{};
    check(cardea_fetch(layer_, &desc, &fetch), "cardea_fetch");
    for (unsigned left = load_.experts; left > 0;) {
      for (cardea_view_t& view : views_) view.size = sizeof view;
      std::uint32_t count = 0;
      check(cardea_next(fetch, views_.data(), left, &count, CARDEA_FOREVER), "cardea_next");
      if (count == 0) throw std::runtime_error("cardea_next: no view is left");
      for (unsigned i = 0; i < count; ++i) {
        check(views_[i].status, "view");
        slots_of_[views_[i].expert - first] = static_cast<unsigned>(views_[i].slot);
      }
      check(cardea_release(views_.data(), count), "cardea_release");
      left -= count;
    }
    if (network_) check(cardea_wait(fetch, CARDEA_FOREVER), "cardea_wait");
    check(cardea_fetch_destroy(fetch), "cardea_fetch_destroy");
    next_version();
  }
  void serve(unsigned) override { next_version(); }
  void judge() override {
    cardea_counters_t counters = CARDEA_COUNTERS_INIT;
    check(cardea_counters_query(context_, &counters), "cardea_counters_query");
    // Sources that think the link slow send some of it eagerly, by way of host memory.
    if (direct_ && counters.bytes_network_direct < counters.bytes_network_received / 2)
      throw std::runtime_error("of " + std::to_string(counters.bytes_network_received) + " bytes only " +
                               std::to_string(counters.bytes_network_direct) +
                               " went straight into the GPU: does this UCX have CUDA's memory (UCX_MODULE_DIR, UCX_TLS)?");
    if (!direct_ && counters.bytes_network_direct != 0) throw std::runtime_error("bytes went straight into the GPU");
  }
  unsigned slot_of(unsigned i) const override { return slots_of_[i]; }

 protected:
  void poison_own() override {
    if (!host_) return;
    for (unsigned s = 0; s < load_.segments; ++s) std::memset(slab_.base[s], 0xa5, slab_.stride[s] * slab_.num_slots);
  }
  void bring_own() override {
    if (!host_) return;
    for (unsigned s = 0; s < load_.segments; ++s) {
      for (unsigned slot = 0; slot < slab_.num_slots; ++slot)
        check_cuda(cudaMemcpy(slots_.at(s, slot), static_cast<char*>(slab_.base[s]) + slot * slab_.stride[s],
                              load_.segment(), cudaMemcpyHostToDevice),
                   "cudaMemcpy");
    }
  }

 private:
  /// Every member has done with this version; the next is published.
  void next_version() {
    if (!network_) return;
    check(cardea_finish(layer_, version_, nullptr), "cardea_finish");
    check(cardea_collect(layer_, version_, nullptr, CARDEA_FOREVER), "cardea_collect");
    check(cardea_publish(layer_, ++version_, nullptr), "cardea_publish");
  }
  void copy_home_to_host(std::vector<cardea_placement_t>& home, unsigned local) {
    cardea_memory_t memory{};
    cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
    check(cardea_memory_alloc(context_, load_.segment() * local * load_.segments, CARDEA_MEMORY_HOST, &memory),
          "cardea_memory_alloc");
    check(cardea_memory_query(memory, &info), "cardea_memory_query");
    for (unsigned s = 0; s < load_.segments; ++s) {
      home[s].base = static_cast<char*>(info.address) + s * load_.segment() * local;
      check_cuda(cudaMemcpy(home[s].base, home_.base(s), load_.segment() * local, cudaMemcpyDeviceToHost), "cudaMemcpy");
    }
  }
  static int exchange(void* user, const void* mine, std::size_t bytes, void* all) try {
    const auto& self = *static_cast<CardeaMover*>(user);
    auto* const out = static_cast<unsigned char*>(all);
    const unsigned rank = self.link_.rank();
    self.link_.give(mine, bytes);
    self.link_.take(out + bytes * (1 - rank), bytes);
    std::memcpy(out + bytes * rank, mine, bytes);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }

  const bool network_, host_, direct_;
  cardea_context_t context_{};
  cardea_layer_t layer_{};
  cardea_slab_info_t slab_ = CARDEA_SLAB_INFO_INIT;
  std::uint64_t version_ = 1;
  std::vector<std::uint32_t> wanted_;
  std::vector<cardea_view_t> views_;
  std::vector<unsigned> slots_of_;
};

}  // namespace

std::unique_ptr<Mover> make_cardea_mover(const std::string& name, Link& link, const Load& load) {
  return std::make_unique<CardeaMover>(name, link, load);
}

}  // namespace cardea::perf
