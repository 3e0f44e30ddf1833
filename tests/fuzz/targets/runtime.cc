// SPDX-License-Identifier: Apache-2.0
// A rank's runtime among two hostile peers, one of its node and one of another: any messages in any order, announcements of
// layers included, requests for chunks, chunks that come or fail, while this rank publishes, fetches, reads its views and
// ends its layer. What may be read of a view is what the peer has offered; the transport holds real memory of that size.
#include "lib/engine/runtime.h"

#include <cstring>

#include "tests/cache/plain_memory.h"
#include "tests/engine/played_peers.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace engine;  // NOLINT(google-build-using-namespace)
using test::ManualExecutor;
using test::Nobody;
using test::PlayedPeers;

constexpr Rank kSelf = 0, kNear = 1, kFar = 2;
constexpr std::uint64_t kGroup = 7;
constexpr std::uint32_t kLayer = 3, kExperts = 4, kSlots = 2;
constexpr std::uint64_t kRegion = 4096;

enum Op : std::uint8_t {
  kMessage,
  kBegin,
  kFetch,
  kTake,
  kRelease,
  kPublish,
  kFinish,
  kCollect,
  kChunkDone,
  kLend,
  kGiveBack,
  kLose,
  kEnd,
  kLater,
  kOps
};

core::SegmentLayout layout() {
  return core::SegmentLayout::make({{"w13", 1000, 64}, {"w2", 300, 16}}).value();
}

class Scene {
 public:
  Scene()
      : cache_memory_(64 << 10, 4096),
        cache_(cache_memory_.directory(), lock_, {.local = 0, .locals = 2}),
        runtime_(queue_, nobody_, options()) {
    runtime_.attach({nullptr, &wire_, &wire_});
    const auto held = runtime_.lock();
    slab_ = *runtime_.create_slab(layout(), kSlots, 0, {{rows_[0].data(), 1024, {}}, {rows_[1].data(), 320, {}}});
  }

  bool run(Draw draw) {
    while (!draw.empty()) {
      step(draw);
      drain();
    }
    const bool good = views_taken_ > 0;
    for (const Rank peer : {kNear, kFar}) runtime_.on_peer_lost(peer, Status(CARDEA_ERR_PEER_LOST, "the end"));
    drain();
    while (!wire_.orders.empty()) finish_chunk(0, false);
    {
      const auto held = runtime_.lock();
      for (const core::FetchNumber fetch : fetches_) runtime_.destroy_fetch(fetch);
      for (const core::ViewNumber view : std::exchange(views_, {})) static_cast<void>(runtime_.release(view).ok());
      for (const std::uint64_t lease : std::exchange(leases_, {})) give_back_unlocked_.push_back(lease);
    }
    for (const std::uint64_t lease : give_back_unlocked_) runtime_.give_back(lease, 0);
    drain();
    require(queue_.pass(std::chrono::seconds(10)), "timers come to rest");
    drain();
    const auto held = runtime_.lock();
    if (layer_) require(runtime_.end_layer(*layer_).ok(), "without peers, fetches and views a layer can be ended");
    return good;
  }

  LayerKey key() {
    begin();
    return layer_->key;
  }

 private:
  void drain() { require(queue_.drain(), "the runtime comes to rest"); }
  RuntimeOptions options() {
    RuntimeOptions made{.self = kSelf, .node_of = {0, 0, 1}, .chunk_bytes = 512};
    made.cache = &cache_;
    made.node_ranks = {kSelf, kNear};
    return made;
  }
  void begin() {
    if (layer_) return;
    LayerRequest request{.group = kGroup, .ranks = {kSelf, kNear, kFar}, .layer_id = kLayer, .num_experts = kExperts};
    request.layout = layout();
    request.experts = {0};
    request.is_home = {1};
    request.places = {{own_[0].data(), 1024, {}}, {own_[1].data(), 320, {}}};
    request.slab = slab_;
    const auto held = runtime_.lock();
    const auto begun = runtime_.begin_layer(std::move(request));
    require(begun.ok(), "a layer begins");
    layer_ = *begun;
  }
  void finish_chunk(std::size_t index, bool ok) {
    const auto at = wire_.orders.begin() + static_cast<std::ptrdiff_t>(index);
    const transport::ChunkOrder order = std::move(*at);
    wire_.orders.erase(at);
    for (const iovec& piece : order.destination) {
      if (ok) std::memset(piece.iov_base, 0x5a, piece.iov_len);  // lies in a slot or in the cache, or the sanitizer tells
    }
    runtime_.on_chunk_done(order.token, ok ? Status() : Status(CARDEA_ERR_PEER_LOST, "no more"));
    drain();
  }
  void read(const Spot& spot, core::SegmentMask segments) {
    for (std::size_t i = 0; i < layer_->layout.count(); ++i) {
      if ((segments >> i & 1) == 0) continue;
      const auto* bytes = static_cast<const volatile std::byte*>(spot.segments[i]);
      require(bytes != nullptr, "a view has the segments that were asked for");
      for (std::uint64_t at = 0; at < layer_->layout.segments()[i].bytes; at += 37) static_cast<void>(bytes[at]);
      static_cast<void>(bytes[layer_->layout.segments()[i].bytes - 1]);
    }
  }
  void take() {
    const auto held = runtime_.lock();
    for (const core::FetchNumber fetch : fetches_) {
      for (const Runtime::Delivered& one : runtime_.take(*layer_, fetch, 8)) {
        if (one.delivery.view == 0) continue;
        read(one.spot, one.delivery.segments);
        views_.push_back(one.delivery.view);
        ++views_taken_;
      }
    }
  }
  void step(Draw& draw) {
    const std::uint8_t op = draw.byte();
    const Rank peer = (op & 0x80) != 0 ? kFar : kNear;
    switch ((op & 0x7f) % kOps) {
      case kMessage:
        return runtime_.on_message(peer, draw.blob());
      case kBegin:
        return begin();
      case kFetch: {
        const std::uint8_t kind = draw.byte();
        if (!layer_ || !layer_->formed) return;
        core::FetchSpec spec{.layer = layer_->number, .version = draw.number(1)};
        for (ExpertIndex expert = 0; expert < kExperts; ++expert) {
          if ((kind >> expert & 1) != 0) spec.experts.push_back(expert);
        }
        spec.segments = (kind & 0x80) != 0 ? 1 : 3;
        spec.slab = slab_->number;
        spec.into_slots = (kind & 0x40) != 0;
        spec.gang = (kind & 0x20) != 0;
        spec.wants_views = (kind & 0x10) == 0;
        if (!spec.wants_views) spec.urgency = core::Class::kPrefetch;
        if (spec.experts.empty()) return;
        const auto held = runtime_.lock();
        if (const auto fetch = runtime_.fetch(spec); fetch.ok()) fetches_.push_back(*fetch);
        return;
      }
      case kTake:
        if (layer_) take();
        return;
      case kRelease: {
        if (views_.empty()) return;
        const auto held = runtime_.lock();
        require(runtime_.release(views_.back()).ok(), "a view that was delivered can be released");
        views_.pop_back();
        return;
      }
      case kPublish: {
        const Version version = draw.number(1);
        if (!layer_ || !layer_->formed) return;
        const auto held = runtime_.lock();
        static_cast<void>(runtime_.publish(*layer_, version).ok());
        return;
      }
      case kFinish: {
        const Version version = draw.number(1);
        if (!layer_ || !layer_->formed) return;
        const auto held = runtime_.lock();
        static_cast<void>(runtime_.finish(*layer_, version).ok());
        return;
      }
      case kCollect: {
        const Version version = draw.number(1);
        if (!layer_ || !layer_->formed) return;
        const auto held = runtime_.lock();
        static_cast<void>(runtime_.collect(*layer_, version).ok());
        return;
      }
      case kChunkDone: {
        const std::uint8_t which = draw.byte();
        if (!wire_.orders.empty()) finish_chunk(which % wire_.orders.size(), (which & 0x80) == 0);
        return;
      }
      case kLend: {
        transport::ExpertAddress expert;
        if (layer_ && draw.byte() != 0) expert.layer = layer_->key;
        expert.expert = static_cast<ExpertIndex>(draw.number(1));
        expert.version = draw.number(1);
        const std::uint64_t offset = draw.number(8), bytes = draw.number(8);
        const auto lease = runtime_.lend(peer, expert, offset, bytes);
        if (!lease.ok()) return;
        for (const iovec& piece : lease->pieces) {
          const auto* at = static_cast<const volatile std::byte*>(piece.iov_base);
          if (piece.iov_len != 0) static_cast<void>(at[0]), static_cast<void>(at[piece.iov_len - 1]);
        }
        leases_.push_back(lease->id);
        return;
      }
      case kGiveBack:
        if (leases_.empty()) return;
        runtime_.give_back(leases_.back(), 1);
        leases_.pop_back();
        return;
      case kLose:
        return runtime_.on_peer_lost(peer, Status(CARDEA_ERR_PEER_LOST, "gone"));
      case kEnd: {
        if (!layer_) return;
        const auto held = runtime_.lock();
        if (!runtime_.end_layer(*layer_).ok()) return;
        layer_.reset();
        require(views_.empty(), "a layer with open views does not end");
        for (const core::FetchNumber fetch : std::exchange(fetches_, {})) runtime_.destroy_fetch(fetch);
        return;
      }
      default:
        return require(queue_.pass(std::chrono::milliseconds(draw.byte() * 20)), "timers come to rest");
    }
  }

  ManualExecutor queue_;
  Nobody nobody_;
  PlayedPeers wire_{kRegion, [](bool kept, const char* promise) { require(kept, promise); }};
  cache::PlainMemory cache_memory_;
  cache::NoLock lock_;
  cache::NodeCache cache_;
  Bytes own_[2] = {Bytes(1024), Bytes(320)};
  Bytes rows_[2] = {Bytes(kSlots * 1024), Bytes(kSlots * 320)};
  Runtime runtime_;
  std::shared_ptr<SlabRecord> slab_;
  std::shared_ptr<LayerRecord> layer_;
  std::vector<core::FetchNumber> fetches_;
  std::vector<core::ViewNumber> views_;
  std::vector<std::uint64_t> leases_, give_back_unlocked_;
  std::size_t views_taken_ = 0;
};

bool run(ByteView input) {
  return Scene().run(Draw(input));
}

Bytes announcement(const LayerKey& key, std::vector<ExpertIndex> experts, bool mappable) {
  LayerAnnounce announce;
  announce.layer = key;
  announce.num_experts = kExperts;
  announce.layout = layout();
  announce.is_home.assign(experts.size(), 1);
  announce.places = {{true, {5, 0}, 1024, {}}, {false, {}, 0, {}}};
  for (std::size_t i = 0; i < experts.size(); ++i) announce.places[1].spots.push_back({5, 2048 + 320 * i});
  announce.experts = std::move(experts);
  announce.regions = {{5, kRegion, Bytes(mappable ? 1 : 0)}, {6, 64, {}}};
  announce.stamp_region = 6;
  announce.stamp_offset = 8;
  return encode(announce);
}

std::vector<Seed> seeds() {
  const LayerKey key = Scene().key();
  const auto far = static_cast<std::uint8_t>(0x80 | kMessage);
  const auto formed = [&](bool mappable) {
    Script script;
    script.byte(kMessage).blob(announcement(key, {1}, mappable)).byte(kBegin);
    script.byte(far).blob(announcement(key, {2, 3}, false));
    script.byte(kPublish).number(1, 1);
    for (const std::uint8_t from : {std::uint8_t{kMessage}, far})
      script.byte(from).blob(encode(LayerNotice{key, {kNoRank, core::Notice::Kind::kPublished, 0, 1}}));
    return script;
  };
  Script mapped = formed(true);
  mapped.byte(kFetch).byte(0x03).number(1, 1).byte(kTake).byte(kRelease).byte(kRelease);
  mapped.byte(kLend).byte(1).byte(0).byte(1).number(0, 8).number(500, 8).byte(kGiveBack);
  mapped.byte(kFinish).number(1, 1);
  mapped.byte(kMessage).blob(encode(LayerNotice{key, {kNoRank, core::Notice::Kind::kRankFinished, 0, 1}}));
  mapped.byte(far).blob(encode(LayerNotice{key, {kNoRank, core::Notice::Kind::kNodeFinished, 1, 1}}));
  mapped.byte(kCollect).number(1, 1).byte(kEnd);
  Script cached = formed(false);
  cached.byte(kFetch).byte(0x0f).number(1, 1);
  for (int i = 0; i < 12; ++i) cached.byte(kChunkDone).byte(0);
  cached.byte(kTake).byte(kMessage).blob(encode(NodeNotice{0, 0})).byte(kLater).byte(200).byte(kRelease);
  Script slots = formed(false);
  slots.byte(kFetch).byte(0x6c).number(1, 1);
  for (int i = 0; i < 12; ++i) slots.byte(kChunkDone).byte(0);
  slots.byte(kTake).byte(kFetch).byte(0x1c).number(1, 1).byte(kLater).byte(100);
  slots.byte(kMessage).blob(encode(RegionsUnmapped{{77}})).byte(kMessage).blob(encode(RegionsGone{{5, 6, 78}}));
  slots.byte(far).blob(encode(LayerLeft{key, {}})).byte(kMessage).blob(encode(Goodbye{}));
  // Of device memory, freed before this rank has begun the layer.
  LayerAnnounce device = std::get<LayerAnnounce>(*decode(announcement(key, {1}, false)));
  cuda::Export told;
  told.allocation = kRegion;
  device.regions[0].descriptor = told.encode();
  Script freed;
  freed.byte(kMessage).blob(encode(device)).byte(kMessage).blob(encode(RegionsGone{{5}})).byte(kBegin);
  freed.byte(far).blob(announcement(key, {2, 3}, false)).byte(kMessage).blob(encode(LayerLeft{key, {}})).byte(kEnd);
  return {{"freed", freed.bytes()}, {"mapped", mapped.bytes()}, {"cached", cached.bytes()}, {"slots", slots.bytes()}};
}

}  // namespace

Target runtime() {
  return {"runtime", "everything that peers may say to a rank's runtime, and ask of it", run, seeds, 4096};
}

}  // namespace cardea::fuzz
