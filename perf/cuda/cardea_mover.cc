// SPDX-License-Identifier: Apache-2.0
// Cardea by its public interface: one fetch on a stream for each transfer, every view taken and released without a wait of
// the host.
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
  CardeaMover(Link& link, const Load& load) : Mover(link, load), views_(load.experts), slots_of_(load.experts) {
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.bootstrap = CARDEA_BOOTSTRAP_EXCHANGE;
    config.rank = link_.rank();
    config.world_size = 2;
    config.exchange = exchange;
    config.exchange_user = this;
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
    cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
    slab.segments = segments.data();
    slab.num_segments = load_.segments;
    slab.num_slots = 2 * load_.experts;
    slab.placements = slots.data();
    slab.kind = CARDEA_MEMORY_CUDA;
    cardea_layer_desc_t layer = CARDEA_LAYER_DESC_INIT;
    check(cardea_slab_create(context_, &slab, &layer.slab), "cardea_slab_create");
    const unsigned local = kParts * load_.experts;
    std::vector<std::uint32_t> mine;
    for (unsigned e = 0; e < local; ++e) mine.push_back(link_.rank() * local + e);
    layer.num_experts = 2 * local;
    layer.segments = segments.data();
    layer.num_segments = load_.segments;
    layer.num_local = local;
    layer.local_experts = mine.data();
    layer.placements = home.data();
    check(cardea_layer_create(group, &layer, &layer_), "cardea_layer_create");
    check(cardea_publish(layer_, 1, nullptr), "cardea_publish");
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
    desc.version = 1;
    desc.experts = wanted_.data();
    desc.num_experts = load_.experts;
    desc.flags = CARDEA_FETCH_SLOTS;
    desc.stream = stream_;
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
    check(cardea_fetch_destroy(fetch), "cardea_fetch_destroy");
  }
  unsigned slot_of(unsigned i) const override { return slots_of_[i]; }

 private:
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

  cardea_context_t context_{};
  cardea_layer_t layer_{};
  std::vector<std::uint32_t> wanted_;
  std::vector<cardea_view_t> views_;
  std::vector<unsigned> slots_of_;
};

}  // namespace

std::unique_ptr<Mover> make_cardea_mover(Link& link, const Load& load) {
  return std::make_unique<CardeaMover>(link, load);
}

}  // namespace cardea::perf
