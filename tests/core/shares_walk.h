// SPDX-License-Identifier: Apache-2.0
// Three GPUs of a node that fetch at random what lies in the node's host memory and what comes over the network, with few
// slots, gates and landings, little node cache, news that come late, copies that fail, and ranks that die over it. The GPUs
// are played, with real bytes: copies wait in queues, behind gates and behind the last use of their slot, and pull out of
// one another's slots when they get there. So whoever reads a slot too early, or fills it too early, sees wrong bytes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>

#include "lib/core/core.h"
#include "tests/cache/plain_memory.h"
#include "tests/core/played_gpu.h"
#include "tests/core/seeds.h"

namespace cardea::core {

struct Seen {
  std::uint64_t pulled = 0, gated = 0, failed_gates = 0, pulled_after_gate = 0, deaths = 0, read = 0, failed_copies = 0,
                versions = 0, finished = 0, advanced = 0;
};

class SharesWalk {
 public:
  SharesWalk(std::uint64_t seed, bool deaths, Seen& seen)
      : seen_(seen), random_(seed), deaths_(deaths), memory_((2 + random_.below(5)) * kEntry, kChunk) {
    const bool pinned = random_.chance(80);
    const cache::LocalMask mapped = random_.chance(80) ? 0b111 : 0b011;
    for (Rank rank = 0; rank < kGpus; ++rank) make(rank, pinned, mapped);
    publish(1);
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
    if (!testing::Test::HasFailure()) come_to_rest();
  }

 private:
  static constexpr LaneNumber kPull = 1, kUpload = 2, kNetwork = 3;
  // Three ranks with a GPU, one of their node whose experts lie in host memory, and two elsewhere.
  static constexpr Rank kGpus = 3, kHome = 3, kFar = 4, kRanks = 6;
  static constexpr ExpertIndex kExperts = 10;
  static constexpr std::uint64_t kChunk = 256, kEntry = 4096;  // what an expert takes of the node cache

  struct Gpu {
    Rank rank = 0;
    bool alive = true;
    std::unique_ptr<cache::NodeCache> cache;
    std::unique_ptr<Core> core;
    LayerNumber layer = 0;
    std::vector<SlabNumber> slabs;  // the first one's slots are for others to pull from
    PlayedGpu device;
    std::set<FetchNumber> fetches;
    std::map<FetchNumber, FetchSpec> specs;
    struct Held {
      FetchNumber fetch = 0;
      bool on_stream = false;
      GpuWork read;
    };
    std::map<ViewNumber, Held> views;
    std::map<ChunkNumber, StartChunk> network;  // on the way
    std::map<ChunkNumber, cache::EntryIndex> gated_from;
    std::deque<StartChunk> to_queue;
    std::vector<std::pair<ChunkNumber, Status>> done;  // not told to the core
    std::set<FetchNumber> read_spoilt;
    std::deque<std::pair<Rank, Notice>> notices;  // to this rank
    std::deque<std::pair<Rank, cache::EntryIndex>> news;
    std::deque<Rank> losses;
    std::optional<Version> finished;
  };

  static SegmentLayout layout() {
    return SegmentLayout::make({{"w13", kFirstSegment, 8}, {"w2", kSecondSegment, 8}}).value();
  }

  // ---- set-up
  void make(Rank rank, bool pinned, cache::LocalMask mapped) {
    Gpu& gpu = gpus_[rank];
    gpu.rank = rank;
    cache::NodeCacheOptions cached;
    cached.local = rank;
    cached.locals = kGpus + 1;
    cached.process_ended = [this](std::uint32_t local) { return local < kGpus && !gpus_[local].alive; };
    gpu.cache = std::make_unique<cache::NodeCache>(memory_.directory(), lock_, cached);
    CoreOptions options;
    options.chunk_bytes = kChunk;
    options.swap.lane = kPull;
    options.swap.on_device = true;
    options.node_ranks = {0, 1, 2, kHome};
    const LaneLimits whole{.chunks = 1000, .chunk_bytes = 1 << 20};
    gpu.core = std::make_unique<Core>(options, std::vector<LaneLimits>{{.chunks = 2}, whole, whole, {.chunks = 4}},
                                      gpu.cache.get());
    gpu.layer = gpu.core->add_layer({7, Membership(rank, {0, 1, 2, 3, 4, 5}, {0, 0, 0, 0, 1, 1}), layout(), {1, 7}});
    std::vector<ExpertSources> experts;
    for (ExpertIndex e = 0; e < kExperts; ++e) {
      if (e % 2 == 0) {
        experts.push_back({kHome, {{kHome, CARDEA_PATH_NODE_MAPPED, 0}}});
      } else {
        const Rank far = kFar + e / 2 % 2;
        experts.push_back({far, {{far, CARDEA_PATH_NETWORK, kNetwork}}});
      }
    }
    gpu.core->set_sources(gpu.layer, std::move(experts));
    for (unsigned i = 0; i < 2; ++i) {
      const auto slots = 1 + static_cast<std::uint32_t>(random_.below(6));
      const GateLimits limits{static_cast<std::uint32_t>(random_.below(slots + 1)),
                              static_cast<std::uint32_t>(random_.below(3))};
      gpu.slabs.push_back(gpu.core->add_slab(slots, kUpload, limits));
    }
    if (pinned) gpu.core->cache_is_pinned();
    const cache::LocalMask self = cache::LocalMask{1} << rank;
    gpu.core->set_swap_peers(gpu.layer, gpu.slabs[0], (mapped & self) != 0 ? mapped & ~self : 0);
  }
  void publish(Version version) {
    published_ = version;
    for (Gpu& gpu : gpus_) {
      for (const Rank rank : {kHome, kFar, kFar + 1})
        gpu.notices.emplace_back(rank, Notice{0, Notice::Kind::kPublished, 0, version});
    }
  }

  // ---- steps
  Gpu* any_gpu() {
    Gpu& gpu = gpus_[random_.below(kGpus)];
    return gpu.alive ? &gpu : nullptr;
  }
  void step() {
    now_ += std::chrono::microseconds(random_.below(random_.chance(1) ? 400000 : 500));
    Gpu* const gpu = any_gpu();
    if (gpu == nullptr) return;
    if (deaths_ && random_.below(4000) == 0) return kill(static_cast<Rank>(random_.below(kRanks)));
    const std::uint64_t what = random_.below(100);
    if (what < 6) return fetch(*gpu);
    if (what < 18) return queue_next(*gpu);
    if (what < 32) return carry(*gpu);
    if (what < 52) return execute(*gpu);
    if (what < 64) return tell_done(*gpu);
    if (what < 73) return take(*gpu);
    if (what < 84) return release_one(*gpu);
    if (what < 94) return hear(*gpu);
    if (what < 96) return finish_version(*gpu);
    if (what < 98) return end_one(*gpu);
    gpu->core->time_passed(now_);
    look(*gpu);
  }

  void fetch(Gpu& gpu) {
    FetchSpec spec;
    spec.layer = gpu.layer;
    spec.version = published_;
    spec.segments = random_.chance(90) ? 3 : 1 + random_.below(2);
    spec.slab = gpu.slabs[random_.chance(85) ? 0 : 1];
    spec.into_slots = true;
    spec.wants_views = random_.chance(90);
    spec.on_stream = spec.wants_views && random_.chance(75);
    spec.urgency = spec.wants_views ? Class::kDemand : Class::kPrefetch;
    spec.gang = random_.chance(5);
    if (random_.chance(5)) spec.deadline = now_ + std::chrono::milliseconds(random_.below(50));
    std::set<ExpertIndex> experts;
    const std::uint64_t count = 1 + random_.below(5);
    while (experts.size() < count) experts.insert(static_cast<ExpertIndex>(random_.below(kExperts)));
    spec.experts.assign(experts.begin(), experts.end());
    const Result<FetchNumber> number = gpu.core->fetch(spec, now_);
    look(gpu);
    if (!number.ok()) return;
    gpu.fetches.insert(*number);
    gpu.specs.emplace(*number, spec);
  }

  /// The host queues the oldest copy that it has not queued.
  void queue_next(Gpu& gpu) {
    if (gpu.to_queue.empty()) return;
    const StartChunk start = gpu.to_queue.front();
    gpu.to_queue.pop_front();
    if (random_.chance(1)) {
      gpu.core->chunk_done(start.chunk, Status(CARDEA_ERR_DEVICE, "it could not be queued"), now_);
      return look(gpu);
    }
    GpuWork copy;
    copy.start = start;
    gpu.device.enqueue(std::move(copy), start.gated ? 10 + start.source % 2 : start.lane);
    gpu.core->chunk_queued(start.chunk, now_);
    look(gpu);
  }
  /// A chunk of the network arrives, or fails.
  void carry(Gpu& gpu) {
    if (gpu.network.empty()) return;
    auto at = gpu.network.begin();
    std::advance(at, random_.below(gpu.network.size()));
    const StartChunk start = at->second;
    gpu.network.erase(at);
    const auto arrives = [&](std::byte* whole) { write_range(whole, start.expert, start.version, start.range); };
    Status status;
    if (dead_.contains(start.source) || random_.chance(1)) {
      status = Status(CARDEA_ERR_PEER_LOST, "the chunk failed");
    } else if (start.into != cache::kNoEntry) {
      arrives(gpu.cache->payload(start.into));
    } else if (start.lands) {
      arrives(gpu.device.landings[{start.lands.slab, start.lands.index}].data());
    } else {
      GpuWork copy;
      copy.start = start;
      copy.arrived = true;
      arrives(copy.bounce.data());
      return gpu.device.enqueue(std::move(copy), kUpload);  // the core hears of it when it is in the slot
    }
    gpu.core->chunk_done(start.chunk, status, now_);
    look(gpu);
  }

  void execute(Gpu& gpu) {
    const std::optional<GpuWork> work = gpu.device.next(random_);
    if (!work) return;
    if (work->reads) return read(gpu, *work);
    gpu.done.emplace_back(work->start.chunk, copy(gpu, *work));
  }
  Status copy(Gpu& gpu, const GpuWork& work) {
    const StartChunk& start = work.start;
    gpu.device.came_by_gate.erase(PlayedGpu::slot_of(start));
    Status failed;
    if (start.gated) failed = gpu.device.gates.at(start.chunk);
    if (failed.ok() && random_.chance(1)) failed = Status(CARDEA_ERR_DEVICE, "the test said so");
    if (!failed.ok()) {
      ++seen_.failed_copies;
      gpu.device.spoil(start);
      return failed;
    }
    ExpertBytes home;
    const std::byte* from = nullptr;
    if (work.arrived) {
      from = work.bounce.data();
    } else if (start.peer != kNoRank) {
      ++seen_.pulled;
      Gpu& peer = gpus_[start.peer];
      EXPECT_EQ(start.peer_slab, peer.slabs[0]);
      from = peer.device.slots[{start.peer_slab, start.peer_slot}].data();
      seen_.pulled_after_gate += peer.device.came_by_gate.contains({start.peer_slab, start.peer_slot}) ? 1 : 0;
    } else if (start.landed) {
      from = gpu.device.landings[{start.landed.slab, start.landed.index}].data();
    } else if (start.from != cache::kNoEntry) {
      from = gpu.cache->payload(start.from);
    } else {  // where it lies, which is written anew when all have finished the version
      write_range(home.data(), start.expert, published_, start.range);
      from = home.data();
    }
    gpu.device.fill(start, from);
    EXPECT_TRUE(gpu.device.holds(start)) << "rank " << gpu.rank << " has copied something else than expert " << start.expert
                                         << (start.peer != kNoRank ? " out of a peer's slot" : "");
    return {};
  }
  void read(Gpu& gpu, const GpuWork& work) {
    ++seen_.read;
    if (gpu.device.holds(work.start)) return;
    EXPECT_TRUE(gpu.device.spoilt.contains(PlayedGpu::slot_of(work.start)))
        << "rank " << gpu.rank << " reads something else than expert " << work.start.expert;
    if (gpu.fetches.contains(work.fetch)) gpu.read_spoilt.insert(work.fetch);
  }
  void tell_done(Gpu& gpu) {
    if (gpu.done.empty()) return;
    const auto at = gpu.done.begin() + static_cast<std::ptrdiff_t>(random_.below(gpu.done.size()));
    const auto [chunk, status] = *at;
    gpu.done.erase(at);
    gpu.core->chunk_done(chunk, status, now_);
    look(gpu);
  }

  void take(Gpu& gpu) {
    if (gpu.fetches.empty()) return;
    take(gpu, any_fetch(gpu), 1 + random_.below(3));
  }
  void take(Gpu& gpu, FetchNumber fetch, std::size_t most) {
    const FetchSpec& spec = gpu.specs.at(fetch);
    for (const Delivery& delivery : gpu.core->take(fetch, most)) {
      if (delivery.view == 0) continue;
      ASSERT_TRUE(delivery.slot);
      GpuWork read;
      read.reads = true;
      read.fetch = fetch;
      read.start.expert = delivery.expert;
      read.start.version = spec.version;
      read.start.slab = delivery.slab;
      read.start.slot = *delivery.slot;
      read.start.range.offset = spec.segments == 2 ? kFirstSegment : 0;
      read.start.range.bytes = spec.segments == 3 ? kExpertBytes : spec.segments == 1 ? kFirstSegment : kSecondSegment;
      EXPECT_TRUE(spec.on_stream || gpu.device.holds(read.start)) << "without a stream it is ready when it is there";
      gpu.views.emplace(delivery.view, Gpu::Held{fetch, spec.on_stream, std::move(read)});
    }
    look(gpu);
  }
  FetchNumber any_fetch(Gpu& gpu) {
    auto at = gpu.fetches.begin();
    std::advance(at, random_.below(gpu.fetches.size()));
    return *at;
  }
  void release_one(Gpu& gpu) {
    if (gpu.views.empty()) return;
    auto at = gpu.views.begin();
    std::advance(at, random_.below(gpu.views.size()));
    release(gpu, at);
  }
  void release(Gpu& gpu, std::map<ViewNumber, Gpu::Held>::iterator at) {
    const ViewNumber view = at->first;
    Gpu::Held held = std::move(at->second);
    gpu.views.erase(at);
    if (held.on_stream) {
      gpu.device.enqueue(std::move(held.read), 0);  // kernels of the stream, before whatever comes into the slot next
    } else {
      EXPECT_TRUE(gpu.device.holds(held.read.start)) << "a slot was filled under a view";
    }
    EXPECT_TRUE(gpu.core->release(view, now_).ok());
    look(gpu);
  }
  void end_one(Gpu& gpu) {
    if (gpu.fetches.empty() || random_.chance(60)) return;
    const FetchNumber fetch = any_fetch(gpu);
    if (random_.chance(40)) {
      gpu.core->cancel(fetch, Status(CARDEA_ERR_CANCELED, "the test said so"), now_);
      return look(gpu);
    }
    if (random_.chance(50)) {
      (void)gpu.core->would_deadlock(fetch, {fetch}, now_);
      return look(gpu);
    }
    destroy(gpu, fetch);
  }
  void destroy(Gpu& gpu, FetchNumber fetch) {
    gpu.fetches.erase(fetch);
    gpu.read_spoilt.erase(fetch);
    gpu.core->destroy(fetch, now_);
    look(gpu);
  }

  // ---- what ranks tell one another
  void hear(Gpu& gpu) {
    if (!gpu.losses.empty() && random_.chance(50)) {
      const Rank rank = gpu.losses.front();
      gpu.losses.pop_front();
      // What it has said before is not heard any more.
      std::erase_if(gpu.notices, [&](const auto& notice) { return notice.first == rank; });
      gpu.core->peer_lost(rank, false, Status(CARDEA_ERR_PEER_LOST, "killed"), now_);
    } else if (!gpu.notices.empty() && random_.chance(50)) {
      const auto [from, notice] = gpu.notices.front();
      gpu.notices.pop_front();
      const Status status = gpu.core->receive(gpu.layer, from, notice, now_);
      EXPECT_TRUE(status.ok()) << "from " << from << ": " << status.message();
    } else if (!gpu.news.empty()) {
      const auto [from, entry] = gpu.news.front();
      gpu.news.pop_front();
      gpu.core->entry_changed(entry, now_);
    }
    look(gpu);
  }
  /// That so much of the entry is there.
  void look_at_entry(const Gpu& gpu, cache::EntryIndex entry, std::uint64_t bytes) {
    const SegmentLayout expert = layout();
    std::uint32_t chunk = 0;
    for (const ChunkRange& range : expert.chunks(expert.all(), kChunk)) {
      if (range.offset >= bytes) break;
      EXPECT_TRUE(gpu.cache->done(entry, chunk++)) << "what is said to be there is not";
      ++seen_.advanced;
    }
  }
  void look(Gpu& gpu) {
    for (const Action& action : gpu.core->take_actions()) {
      if (const auto* start = std::get_if<StartChunk>(&action)) {
        if (start->lane == kNetwork) {
          gpu.network.emplace(start->chunk, *start);
        } else {
          EXPECT_EQ(start->lane, start->peer == kNoRank ? kUpload : kPull);
          EXPECT_FALSE(start->gated && start->peer != kNoRank);
          seen_.gated += start->gated ? 1 : 0;
          if (start->gated && start->from != cache::kNoEntry) gpu.gated_from[start->chunk] = start->from;
          gpu.to_queue.push_back(*start);
        }
      } else if (const auto* open = std::get_if<OpenGate>(&action)) {
        EXPECT_TRUE(gpu.device.gates.emplace(open->chunk, open->why).second) << "a gate was opened twice";
        seen_.failed_gates += open->why.ok() ? 0 : 1;
      } else if (const auto* advance = std::get_if<AdvanceGate>(&action)) {
        EXPECT_FALSE(gpu.device.gates.contains(advance->chunk)) << "it is open";
        if (const auto from = gpu.gated_from.find(advance->chunk); from != gpu.gated_from.end())
          look_at_entry(gpu, from->second, advance->bytes);
      } else if (const auto* tell = std::get_if<TellNode>(&action)) {
        for (Rank to = 0; to < kGpus; ++to) {
          if ((tell->to >> to & 1) != 0 && to != gpu.rank && tell->entry != cache::kNoEntry)
            gpus_[to].news.emplace_back(gpu.rank, tell->entry);
        }
      } else if (const auto* told = std::get_if<Tell>(&action)) {
        if (told->notice.to < kGpus) {
          gpus_[told->notice.to].notices.emplace_back(gpu.rank, told->notice);
        } else if (told->notice.kind == Notice::Kind::kNodeFinished) {
          finished_by_node_ = std::max(finished_by_node_, told->notice.version);
        }
      }
    }
  }
  void finish_version(Gpu& gpu) {
    if (finished_by_node_ == published_ && published_ < 1000) {
      ++seen_.versions;
      return publish(published_ + 1);
    }
    if (gpu.finished == published_ || !random_.chance(5)) return;
    while (!gpu.views.empty()) release(gpu, gpu.views.begin());
    while (!gpu.fetches.empty()) destroy(gpu, *gpu.fetches.begin());
    const Status status = gpu.core->finish(gpu.layer, published_, now_);
    ASSERT_TRUE(status.ok()) << status.message();
    gpu.finished = published_;
    look(gpu);
    const auto has = [&](const Gpu& other) { return other.finished == published_; };
    // The home reads nothing, and finishes last.
    if (!std::all_of(gpus_.begin(), gpus_.end(), has)) return;
    const auto leader = std::find_if(gpus_.begin(), gpus_.end(), [](const Gpu& other) { return other.alive; });
    if (leader != gpus_.end() && dead_.empty())
      leader->notices.emplace_back(kHome, Notice{leader->rank, Notice::Kind::kRankFinished, 0, published_});
  }
  void kill(Rank rank) {
    if (dead_.size() > 1 || !dead_.insert(rank).second) return;
    ++seen_.deaths;
    if (rank < kGpus) gpus_[rank].alive = false;
    for (Gpu& gpu : gpus_) gpu.losses.push_back(rank);
  }

  // ---- the end
  /// One round of everything that may go on.
  void go_on(Gpu& gpu) {
    for (unsigned i = 0; i < 8; ++i) {
      queue_next(gpu);
      carry(gpu);
      execute(gpu);
      tell_done(gpu);
      hear(gpu);
    }
    gpu.core->time_passed(now_);
    look(gpu);
    for (const FetchNumber fetch : gpu.fetches) take(gpu, fetch, 100);
    while (!gpu.views.empty()) release(gpu, gpu.views.begin());
  }
  bool at_rest(Gpu& gpu) {
    return gpu.network.empty() && gpu.to_queue.empty() && gpu.device.idle() && gpu.done.empty() && gpu.news.empty() &&
           gpu.notices.empty() && gpu.losses.empty() &&
           std::all_of(gpu.fetches.begin(), gpu.fetches.end(), [&](FetchNumber fetch) {
             const FetchCounts counts = gpu.core->counts(fetch);
             return counts.delivered == counts.experts && counts.under_way == 0;
           });
  }
  void come_to_rest() {
    if (random_.chance(30)) {
      for (Gpu& gpu : gpus_) {
        if (!gpu.alive) continue;
        gpu.core->cancel_all(Status(CARDEA_ERR_CANCELED, "the end"), now_);
        look(gpu);
      }
    }
    bool all = false;
    for (unsigned round = 0; round < 2000 && !all && !testing::Test::HasFailure(); ++round) {
      now_ += std::chrono::milliseconds(1 + random_.below(4));
      all = true;
      for (Gpu& gpu : gpus_) {
        if (!gpu.alive) continue;
        go_on(gpu);
        all &= at_rest(gpu);
      }
    }
    ASSERT_TRUE(all) << "somebody waits for ever";
    for (Gpu& gpu : gpus_) {
      if (!gpu.alive) continue;
      for (const FetchNumber fetch : gpu.read_spoilt)
        EXPECT_FALSE(gpu.core->first_failure(fetch).ok()) << "what was read was no expert, and nobody has said so";
      while (!gpu.fetches.empty()) destroy(gpu, *gpu.fetches.begin());
      ++seen_.finished;
    }
    leave_layer();
  }
  void leave_layer() {
    // Slots in which others have something to pull are kept for them, for a while.
    for (unsigned round = 0; round < 20; ++round) {
      now_ += std::chrono::milliseconds(10);
      for (Gpu& gpu : gpus_) {
        if (gpu.alive) go_on(gpu);
      }
    }
    for (Gpu& gpu : gpus_) {
      if (!gpu.alive) continue;
      EXPECT_EQ(gpu.core->draining(gpu.layer), 0u);
      for (const SlabNumber slab : gpu.slabs) EXPECT_EQ(gpu.core->available_slots(slab), gpu.core->slots(slab));
      const Status status = gpu.core->remove_layer(gpu.layer);
      EXPECT_TRUE(status.ok()) << status.message();
      for (const SlabNumber slab : gpu.slabs) {
        const Status removed = gpu.core->remove_slab(slab);
        EXPECT_TRUE(removed.ok()) << removed.message();
      }
    }
    const cache::Directory directory = memory_.directory();
    for (cache::EntryIndex i = 0; i < directory.used_entries(); ++i) {
      const cache::Entry& entry = directory.entry(i);
      if (entry.state.load() == cache::Entry::kEmpty) continue;
      EXPECT_EQ(entry.pins.load(), 0u);
      EXPECT_EQ(entry.pullers.load(), 0u);
      EXPECT_EQ(entry.claim.load(), 0u) << "a claim is left";
    }
  }

  Seen& seen_;
  test::Random random_;
  const bool deaths_;
  cache::PlainMemory memory_;
  cache::NoLock lock_;
  std::array<Gpu, kGpus> gpus_;
  std::set<Rank> dead_;
  Version published_ = 0, finished_by_node_ = 0;
  Clock::time_point now_{std::chrono::seconds(100)};
};

}  // namespace cardea::core
