// SPDX-License-Identifier: Apache-2.0
// Three GPUs of a node that fetch at random what lies in the node's host memory and what comes over the network, with few
// slots, gates and landings, little node cache, news that come late, copies that fail, and ranks that die over it. The GPUs
// are played, with real bytes: copies wait in queues, behind gates and behind the last use of their slot, and pull out of
// one another's slots when they get there. So whoever reads a slot too early, or fills it too early, sees wrong bytes.
#include <algorithm>
#include <array>
#include <deque>
#include <memory>

#include "lib/core/core.h"
#include "tests/cache/plain_memory.h"
#include "tests/core/seeds.h"

namespace cardea::core {
namespace {

using test::Random;

constexpr LaneNumber kPull = 1, kUpload = 2, kNetwork = 3;
constexpr Rank kGpus = 3, kHome = 3, kFar = 4,
               kRanks = 6;  // kHome: in host memory of the node; kFar and the next: elsewhere
constexpr ExpertIndex kExperts = 10;
constexpr std::uint64_t kFirst = 512, kSecond = 256, kExpert = kFirst + kSecond, kChunk = 256;
constexpr std::uint64_t kEntry = 4096;  // what one takes of the node cache

std::byte byte_of(ExpertIndex expert, Version version, std::uint64_t at) {
  return static_cast<std::byte>((expert * 31 + version * 101 + at / 64 * 7 + at) % 251);
}
using Bytes = std::array<std::byte, kExpert>;

struct Seen {
  std::uint64_t pulled = 0, gated = 0, failed_gates = 0, pulled_after_gate = 0, deaths = 0, taken_over = 0, read = 0,
                failed_copies = 0, versions = 0, finished = 0;
};

class SharesWalk {
 public:
  SharesWalk(std::uint64_t seed, bool deaths)
      : random_(seed), deaths_(deaths), memory_((2 + random_.below(5)) * kEntry, kChunk) {
    const bool pinned = random_.chance(80);
    const cache::LocalMask mapped = random_.chance(80) ? 0b111 : 0b011;
    for (Rank rank = 0; rank < kGpus; ++rank) make(rank, pinned, mapped);
    publish(1);
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
    if (!testing::Test::HasFailure()) come_to_rest();
  }
  Seen seen;

 private:
  /// Something that a GPU does to a slot, in its turn.
  struct Op {
    bool reads = false;
    StartChunk start;  // of a read: expert, version, slab, slot and range
    bool ordered = true;
    Bytes bounce{};  // what is copied, if it is not ordered: it has come over the network
    FetchNumber fetch = 0;
  };
  using SlotOf = std::pair<SlabNumber, SlotIndex>;
  struct Gpu {
    Rank rank = 0;
    bool alive = true;
    std::unique_ptr<cache::NodeCache> cache;
    std::unique_ptr<Core> core;
    LayerNumber layer = 0;
    std::vector<SlabNumber> slabs;  // the first one's slots are for others to pull from
    std::map<SlotOf, Bytes> slots;
    std::set<SlotOf> spoilt;        // by a copy that failed
    std::set<SlotOf> came_by_gate;  // what is in it
    std::map<std::pair<SlabNumber, std::uint32_t>, Bytes> landings;
    std::set<FetchNumber> fetches;
    std::map<FetchNumber, FetchSpec> specs;
    struct Held {
      FetchNumber fetch = 0;
      bool on_stream = false;
      Op read;
    };
    std::map<ViewNumber, Held> views;
    std::map<ChunkNumber, StartChunk> network;  // on the way
    std::deque<StartChunk> to_queue;
    std::map<ChunkNumber, Status> gates;  // opened, with why
    std::map<std::uint64_t, Op> ops;
    std::map<unsigned, std::deque<std::uint64_t>> queues;
    std::map<SlotOf, std::deque<std::uint64_t>> turns;
    std::vector<std::pair<ChunkNumber, Status>> done;  // not told to the core
    std::set<FetchNumber> read_spoilt;
    std::deque<std::pair<Rank, Notice>> notices;  // to this rank
    std::deque<std::pair<Rank, cache::EntryIndex>> news;
    std::deque<Rank> losses;
    std::optional<Version> finished;
  };

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
    gpu.layer = gpu.core->add_layer({7,
                                     Membership(rank, {0, 1, 2, 3, 4, 5}, {0, 0, 0, 0, 1, 1}),
                                     SegmentLayout::make({{"w13", kFirst, 8}, {"w2", kSecond, 8}}).value(),
                                     {1, 7}});
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
    switch (random_.below(16)) {
      case 0:
      case 1:
        return fetch(*gpu);
      case 2:
      case 3:
        return queue_next(*gpu);
      case 4:
      case 5:
        return carry(*gpu);
      case 6:
      case 7:
      case 8:
        return execute(*gpu);
      case 9:
        return tell_done(*gpu);
      case 10:
        return take(*gpu);
      case 11:
        return release_one(*gpu);
      case 12:
        return hear(*gpu);
      case 13:
        return finish_version(*gpu);
      case 14:
        return end_one(*gpu);
      case 15:
        if (deaths_ && random_.chance(2)) return kill(static_cast<Rank>(random_.below(kRanks)));
        gpu->core->time_passed(now_);
        return look(*gpu);
    }
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
  static SlotOf slot_of(const StartChunk& start) { return {start.slab, start.slot}; }

  /// The host queues the oldest copy that it has not queued.
  void queue_next(Gpu& gpu) {
    if (gpu.to_queue.empty()) return;
    const StartChunk start = gpu.to_queue.front();
    gpu.to_queue.pop_front();
    if (random_.chance(1)) {
      gpu.core->chunk_done(start.chunk, Status(CARDEA_ERR_DEVICE, "it could not be queued"), now_);
      return look(gpu);
    }
    Op op;
    op.start = start;
    const unsigned queue = start.gated ? 10 + start.source % 2 : start.lane;
    enqueue(gpu, std::move(op), queue);
    gpu.core->chunk_queued(start.chunk, now_);
    look(gpu);
  }
  void enqueue(Gpu& gpu, Op op, unsigned queue) {
    const std::uint64_t id = next_op_++;
    gpu.turns[slot_of(op.start)].push_back(id);
    if (!op.reads) gpu.queues[queue].push_back(id);
    gpu.ops.emplace(id, std::move(op));
  }
  /// A chunk of the network arrives, or fails.
  void carry(Gpu& gpu) {
    if (gpu.network.empty()) return;
    auto at = gpu.network.begin();
    std::advance(at, random_.below(gpu.network.size()));
    const StartChunk start = at->second;
    gpu.network.erase(at);
    const auto arrives = [&](std::byte* whole) {
      for (std::uint64_t i = 0; i < start.range.bytes; ++i) {
        whole[start.range.offset + i] = byte_of(start.expert, start.version, start.range.offset + i);
      }
    };
    Status status;
    if (dead_.contains(start.source) || random_.chance(1)) {
      status = Status(CARDEA_ERR_PEER_LOST, "the chunk failed");
    } else if (start.into != cache::kNoEntry) {
      arrives(gpu.cache->payload(start.into));
    } else if (start.lands) {
      arrives(gpu.landings[{start.lands.slab, start.lands.index}].data());
    } else {
      Op op;
      op.start = start;
      op.ordered = false;
      arrives(op.bounce.data());
      return enqueue(gpu, std::move(op), kUpload);  // the core hears of it when it is in the slot
    }
    gpu.core->chunk_done(start.chunk, status, now_);
    look(gpu);
  }

  /// Something whose turn it is in its queue and in its slot.
  void execute(Gpu& gpu) {
    std::vector<std::uint64_t> may;
    for (const auto& [slot, turns] : gpu.turns) {
      if (turns.empty()) continue;
      const Op& op = gpu.ops.at(turns.front());
      if (op.start.gated && !op.reads && !gpu.gates.contains(op.start.chunk)) continue;
      const bool first = op.reads || std::any_of(gpu.queues.begin(), gpu.queues.end(), [&](const auto& queue) {
                           return !queue.second.empty() && queue.second.front() == turns.front();
                         });
      if (first) may.push_back(turns.front());
    }
    if (may.empty()) return;
    const std::uint64_t id = may[random_.below(may.size())];
    const Op op = gpu.ops.at(id);
    gpu.ops.erase(id);
    gpu.turns[slot_of(op.start)].pop_front();
    if (op.reads) return read(gpu, op);
    for (auto& [number, queue] : gpu.queues) {
      if (!queue.empty() && queue.front() == id) queue.pop_front();
    }
    gpu.done.emplace_back(op.start.chunk, copy(gpu, op));
  }
  Status copy(Gpu& gpu, const Op& op) {
    const StartChunk& start = op.start;
    const SlotOf slot = slot_of(start);
    Bytes& to = gpu.slots[slot];
    gpu.came_by_gate.erase(slot);
    Status failed;
    if (start.gated) failed = gpu.gates.at(start.chunk);
    if (failed.ok() && random_.chance(1)) failed = Status(CARDEA_ERR_DEVICE, "the test said so");
    if (!failed.ok()) {
      ++seen.failed_copies;
      std::fill_n(to.begin() + static_cast<std::ptrdiff_t>(start.range.offset), start.range.bytes, std::byte{0xFF});
      gpu.spoilt.insert(slot);
      return failed;
    }
    Bytes home;
    const std::byte* from = nullptr;
    if (!op.ordered) {
      from = op.bounce.data();
    } else if (start.peer != kNoRank) {
      ++seen.pulled;
      EXPECT_EQ(start.peer_slab, gpus_[start.peer].slabs[0]);
      const SlotOf there{start.peer_slab, start.peer_slot};
      from = gpus_[start.peer].slots[there].data();
      if (gpus_[start.peer].came_by_gate.contains(there)) ++seen.pulled_after_gate;
    } else if (start.landed) {
      from = gpu.landings[{start.landed.slab, start.landed.index}].data();
    } else if (start.from != cache::kNoEntry) {
      from = gpu.cache->payload(start.from);
    } else {
      for (std::uint64_t i = 0; i < kExpert; ++i) home[i] = byte_of(start.expert, published_, i);
      from = home.data();
    }
    std::copy_n(from + start.range.offset, start.range.bytes, to.begin() + static_cast<std::ptrdiff_t>(start.range.offset));
    if (start.range.bytes == kExpert) gpu.spoilt.erase(slot);
    if (start.gated) gpu.came_by_gate.insert(slot);
    EXPECT_TRUE(holds(gpu, start)) << "rank " << gpu.rank << " has copied something else than expert " << start.expert
                                   << (start.peer != kNoRank ? " out of a peer's slot" : "");
    return {};
  }
  static bool holds(Gpu& gpu, const StartChunk& what) {
    const Bytes& is = gpu.slots[slot_of(what)];
    for (std::uint64_t i = what.range.offset; i < what.range.offset + what.range.bytes; ++i) {
      if (is[i] != byte_of(what.expert, what.version, i)) return false;
    }
    return true;
  }
  void read(Gpu& gpu, const Op& op) {
    ++seen.read;
    if (gpu.spoilt.contains(slot_of(op.start))) {
      gpu.read_spoilt.insert(op.fetch);
      return;
    }
    EXPECT_TRUE(holds(gpu, op.start)) << "rank " << gpu.rank << " reads something else than expert " << op.start.expert;
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
      Op op;
      op.reads = true;
      op.fetch = fetch;
      op.start.expert = delivery.expert;
      op.start.version = spec.version;
      op.start.slab = delivery.slab;
      op.start.slot = *delivery.slot;
      op.start.range.offset = spec.segments == 2 ? kFirst : 0;
      op.start.range.bytes = spec.segments == 3 ? kExpert : spec.segments == 1 ? kFirst : kSecond;
      EXPECT_TRUE(spec.on_stream || holds(gpu, op.start)) << "without a stream it is ready when it is there";
      gpu.views.emplace(delivery.view, Gpu::Held{fetch, spec.on_stream, std::move(op)});
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
      enqueue(gpu, std::move(held.read), 0);  // kernels of the stream, before whatever comes into the slot next
    } else {
      EXPECT_TRUE(holds(gpu, held.read.start)) << "a slot was filled under a view";
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
      gpu.core->peer_lost(rank, false, Status(CARDEA_ERR_PEER_LOST, "killed"), now_);
    } else if (!gpu.notices.empty() && random_.chance(50)) {
      const auto [from, notice] = gpu.notices.front();
      gpu.notices.pop_front();
      EXPECT_TRUE(gpu.core->receive(gpu.layer, from, notice, now_).ok());
    } else if (!gpu.news.empty()) {
      const auto [from, entry] = gpu.news.front();
      gpu.news.pop_front();
      gpu.core->entry_changed(entry, now_);
    }
    look(gpu);
  }
  void look(Gpu& gpu) {
    for (const Action& action : gpu.core->take_actions()) {
      if (const auto* start = std::get_if<StartChunk>(&action)) {
        if (start->lane == kNetwork) {
          gpu.network.emplace(start->chunk, *start);
        } else {
          EXPECT_EQ(start->lane, start->peer == kNoRank ? kUpload : kPull);
          EXPECT_FALSE(start->gated && start->peer != kNoRank);
          seen.gated += start->gated ? 1 : 0;
          gpu.to_queue.push_back(*start);
        }
      } else if (const auto* open = std::get_if<OpenGate>(&action)) {
        EXPECT_TRUE(gpu.gates.emplace(open->chunk, open->why).second) << "a gate was opened twice";
        seen.failed_gates += open->why.ok() ? 0 : 1;
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
    if (finished_by_node_ == published_ && published_ < 4) {
      ++seen.versions;
      return publish(published_ + 1);
    }
    if (gpu.finished == published_ || !random_.chance(10) || !gpu.core->finish(gpu.layer, published_, now_).ok()) return;
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
    ++seen.deaths;
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
    return gpu.network.empty() && gpu.to_queue.empty() && gpu.ops.empty() && gpu.done.empty() && gpu.news.empty() &&
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
      ++seen.finished;
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

  Random random_;
  const bool deaths_;
  cache::PlainMemory memory_;
  cache::NoLock lock_;
  std::array<Gpu, kGpus> gpus_;
  std::set<Rank> dead_;
  Version published_ = 0, finished_by_node_ = 0;
  std::uint64_t next_op_ = 1;
  Clock::time_point now_{std::chrono::seconds(100)};
};

Seen walk(std::uint64_t seeds, bool deaths) {
  Seen sum;
  test::for_each_seed(seeds, [&](std::uint64_t seed) {
    SharesWalk walk(seed, deaths);
    walk.run(1500);
    sum.pulled += walk.seen.pulled;
    sum.gated += walk.seen.gated;
    sum.failed_gates += walk.seen.failed_gates;
    sum.pulled_after_gate += walk.seen.pulled_after_gate;
    sum.deaths += walk.seen.deaths;
    sum.read += walk.seen.read;
    sum.failed_copies += walk.seen.failed_copies;
    sum.versions += walk.seen.versions;
    sum.finished += walk.seen.finished;
  });
  EXPECT_GT(sum.pulled, 0u);
  EXPECT_GT(sum.gated, 0u);
  EXPECT_GT(sum.failed_gates, 0u);
  EXPECT_GT(sum.pulled_after_gate, 0u) << "what came behind a gate was never pulled by another";
  EXPECT_GT(sum.read, 0u);
  EXPECT_GT(sum.failed_copies, 0u);
  return sum;
}

TEST(RandomShares, EveryByteIsRightAndNobodyWaitsForEver) {
  const Seen sum = walk(300, false);
  EXPECT_GT(sum.versions, 0u) << "no version was ever over";
}

TEST(RandomShares, ThroughDeaths) {
  const Seen sum = walk(300, true);
  EXPECT_GT(sum.deaths, 0u);
}

}  // namespace
}  // namespace cardea::core
