// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/sim_job.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>

#include "lib/transport/sim/sim_transport.h"

namespace cardea::test {
namespace {

constexpr std::array<std::uint64_t, 2> kSegmentBytes{1000, 300};
constexpr std::array<std::uint64_t, 2> kStride{1024, 320};
constexpr std::uint32_t kFirstSlot = 1;  // rows before it are the framework's own

core::SegmentLayout job_layout() {
  return core::SegmentLayout::make({{"w13", kSegmentBytes[0], 64}, {"w2", kSegmentBytes[1], 16}}).value();
}

/// What a segment of an expert holds at a version.
std::byte weight(std::uint64_t key, std::uint64_t at) {
  return static_cast<std::byte>((key >> (8 * (at % 8))) + at);
}
std::uint64_t weight_key(std::uint32_t layer, ExpertIndex expert, Version version, std::size_t segment) {
  return Random((layer * 1000003ULL + expert) * 1000003ULL + version * 64 + segment)();
}
void fill(std::byte* out, std::uint32_t layer, ExpertIndex expert, Version version, std::size_t segment) {
  const std::uint64_t key = weight_key(layer, expert, version, segment);
  for (std::uint64_t i = 0; i < kSegmentBytes[segment]; ++i) out[i] = weight(key, i);
}
bool holds(const void* at, std::uint32_t layer, ExpertIndex expert, Version version, std::size_t segment) {
  const std::uint64_t key = weight_key(layer, expert, version, segment);
  const auto* bytes = static_cast<const std::byte*>(at);
  for (std::uint64_t i = 0; i < kSegmentBytes[segment]; ++i) {
    if (bytes[i] != weight(key, i)) return false;
  }
  return true;
}

}  // namespace

void JobCounts::add(const JobCounts& other) {
  for (const auto& [path, count] : other.views) views[path] += count;
  for (const auto& [code, count] : other.failures) failures[code] += count;
  parked += other.parked;
  starved += other.starved;
  collected += other.collected;
  prefetches += other.prefetches;
  gangs += other.gangs;
  killed += other.killed;
  network_bytes += other.network_bytes;
  cache_hits += other.cache_hits;
  evicted += other.evicted;
  bypassed += other.bypassed;
  aborted += other.aborted;
}

/// The node cache of one node, in memory of this process.
struct SimJob::NodeMemory {
  static constexpr std::size_t kPage = 4096;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory;
  std::optional<cache::Directory> directory;
  cache::NoLock lock;

  NodeMemory(std::uint64_t capacity, std::uint64_t chunk_bytes) {
    const cache::Shape shape = cache::Shape::of(capacity, chunk_bytes).value();
    memory.reset(static_cast<std::byte*>(std::aligned_alloc(kPage, (shape.total_bytes() + kPage - 1) / kPage * kPage)));
    std::memset(memory.get(), 0, shape.metadata_bytes());
    std::memset(memory.get() + shape.metadata_bytes(), 0xCC, shape.capacity);
    directory = cache::Directory::create(memory.get(), shape);
  }
};

/// One rank: its runtime, and for each layer where the script stands.
class JobRank final : public engine::Observer {
 public:
  JobRank(SimJob& job, Rank rank, std::uint64_t seed)
      : job_(job),
        rank_(rank),
        random_(seed),
        cache_(make_cache(job, rank)),
        runtime_(job.network_->executor(rank), *this, options(job, rank)),
        transport_(sim::make_sim_transport(*job.network_, runtime_, rank)) {}

  transport::Transport& transport() { return *transport_; }

  void begin() {
    runtime_.attach([&] {
      std::vector<transport::Transport*> route(job_.node_of_.size(), transport_.get());
      route[rank_] = nullptr;
      return route;
    }());
    const auto held = runtime_.lock();
    std::vector<engine::Placement> rows;
    for (std::size_t s = 0; s < 2; ++s) {
      slab_memory_[s].resize(kStride[s] * (kFirstSlot + job_.plan_.slots));
      rows.push_back({slab_memory_[s].data(), kStride[s], {}});
    }
    slab_ = *runtime_.create_slab(job_layout(), job_.plan_.slots, kFirstSlot, rows);
    shared_region_ = *runtime_.allocate(job_.plan_.layers * layer_bytes());
    layers_.resize(job_.plan_.layers);
    for (std::uint32_t l = 0; l < layers_.size(); ++l) {
      layers_[l].id = l;
      // Layers begin in one order, but anywhen: a member may be ahead of another by all of them.
      begins_at_ += Nanoseconds(static_cast<std::int64_t>(random_.below(10'000)));
      at(begins_at_ - Clock::time_point{}, [this, l] { begin_layer(layers_[l]); });
    }
  }

  void on_progress(core::FetchNumber, bool) override { poke(); }
  void on_change() override { poke(); }

  bool ended() const { return ended_; }
  /// For whoever asks why nothing happens any more.
  std::string where() const {
    std::string text =
        fmt::format(" {} of {} slots free, {} chunks in flight;", runtime_.core().available_slots(slab_->number),
                    runtime_.core().slots(slab_->number), runtime_.core().chunks_in_flight());
    for (const Layer& layer : layers_) {
      text += fmt::format(" layer {}: phase {} version {} fetches {} to submit {};", layer.id, static_cast<int>(layer.phase),
                          layer.version, layer.open.size(), layer.to_submit);
      for (const Open& open : layer.open) {
        const core::FetchCounts counts = runtime_.core().counts(open.fetch);
        text += fmt::format(" [{}{} of {}: {} parked, {} starved, {} moving, {} ready, {} held]",
                            open.prefetch ? "prefetch " : "", open.fetch, counts.experts, counts.parked, counts.starved,
                            counts.moving, counts.ready, open.held.size());
      }
    }
    return text;
  }

  void look_at_the_end() {
    job_.counts_.network_bytes += runtime_.bytes().network_received;
    job_.counts_.bypassed += runtime_.core().counters().cache_bypassed;
    if (!cache_) return;
    job_.counts_.cache_hits += cache_->counters().hits;
    job_.counts_.evicted += cache_->counters().evicted;
  }

 private:
  static std::optional<cache::NodeCache> make_cache(SimJob& job, Rank rank) {
    if (job.node_memory_.empty()) return std::nullopt;
    SimJob::NodeMemory& memory = *job.node_memory_[job.node_of_[rank]];
    const unsigned per_node = job.plan_.ranks_per_node;
    cache::NodeCacheOptions options;
    options.local = rank % per_node;
    options.locals = per_node;
    options.prefetch_bytes = job.plan_.cache_bytes / 2;
    options.process_ended = [&job, first = rank / per_node * per_node](std::uint32_t local) {
      return !job.network_->alive(first + local);
    };
    return cache::NodeCache(*memory.directory, memory.lock, std::move(options));
  }
  engine::RuntimeOptions options(const SimJob& job, Rank rank) {
    engine::RuntimeOptions options{
        .self = rank, .node_of = job.node_of_, .chunk_bytes = 256 + random_.below(1200), .chunks_in_flight = 3};
    if (!cache_) return options;
    options.cache = &*cache_;
    for (Rank other = 0; other < job.node_of_.size(); ++other) {
      if (job.node_of_[other] == job.node_of_[rank]) options.node_ranks.push_back(other);
    }
    return options;
  }

  enum class Phase { kNew, kForming, kReading, kFinished, kUpdating, kEnding, kEnded };
  struct Held {
    core::ViewNumber view;
    ExpertIndex expert;
    engine::Spot spot;
    core::SegmentMask segments;
  };
  struct Open {
    core::FetchNumber fetch = 0;
    std::set<ExpertIndex> experts;  // still to be delivered; for prefetches empty
    std::map<core::ViewNumber, Held> held;
    bool prefetch = false;
    bool drop = false;  // destroy it, done or not
    bool interfered = false;
    core::SegmentMask segments = 0;
  };
  struct Layer {
    std::uint32_t id = 0;
    Phase phase = Phase::kNew;
    std::shared_ptr<engine::LayerRecord> record;
    std::vector<ExpertIndex> experts;
    std::array<std::vector<std::byte*>, 2> memory;  // by segment, by local expert
    std::vector<std::byte> own;                     // memory that cannot be mapped
    Version version = 0;
    bool published = false;
    unsigned to_submit = 0;
    std::vector<Open> open;
  };

  std::uint64_t local_experts() const { return 2ULL * job_.plan_.experts_per_rank; }
  std::uint64_t layer_bytes() const { return local_experts() * (kStride[0] + kStride[1]); }
  Nanoseconds some_time() { return Nanoseconds(static_cast<std::int64_t>(random_.below(job_.plan_.span.count()))); }
  void at(Nanoseconds delay, std::function<void()> work) {
    job_.network_->executor(rank_).after(delay, [this, work = std::move(work)] {
      const auto held = runtime_.lock();
      work();
      step();
    });
  }
  void poke() {
    if (std::exchange(poked_, true)) return;
    job_.network_->executor(rank_).post([this] {
      const auto held = runtime_.lock();
      poked_ = false;
      step();
    });
  }
  bool killed(Rank rank) const { return rank != kNoRank && !job_.network_->alive(rank); }

  // ---- a layer's life

  void begin_layer(Layer& layer) {
    const auto ranks = static_cast<ExpertIndex>(job_.node_of_.size());
    const unsigned per = job_.plan_.experts_per_rank;
    engine::LayerRequest request{.group = 7,
                                 .ranks = {},
                                 .layer_id = layer.id,
                                 .num_experts = ranks * per,
                                 .layout = job_layout(),
                                 .experts = {},
                                 .is_home = {},
                                 .places = {},
                                 .slab = slab_};
    for (Rank rank = 0; rank < ranks; ++rank) request.ranks.push_back(rank);
    for (unsigned i = 0; i < per; ++i) {
      layer.experts.push_back(i * ranks + rank_);
      request.is_home.push_back(1);
    }
    if (layer.id % 2 == 1) {  // of every other layer each rank is a source of one more, which is at home elsewhere
      layer.experts.push_back((rank_ + 1) % ranks);
      request.is_home.push_back(0);
    }
    request.experts = layer.experts;

    std::byte* base = runtime_.region(shared_region_).base + layer.id * layer_bytes();
    if (random_.chance(40)) {
      layer.own.resize(layer_bytes());
      base = layer.own.data();
    }
    const bool stacked = random_.chance(50);
    for (std::size_t s = 0; s < 2; ++s) {
      engine::Placement place{base, kStride[s], {}};
      for (std::size_t i = 0; i < layer.experts.size(); ++i) {
        layer.memory[s].push_back(base + kStride[s] * i);
        if (!stacked) place.pointers.push_back(layer.memory[s].back());
      }
      base += kStride[s] * layer.experts.size();
      request.places.push_back(std::move(place));
    }
    auto begun = runtime_.begin_layer(std::move(request));
    ASSERT_TRUE(begun.ok()) << begun.status().message();
    layer.record = *begun;
    layer.phase = Phase::kForming;
  }

  void begin_version(Layer& layer, Version version) {
    layer.version = version;
    layer.published = false;
    layer.phase = Phase::kReading;
    layer.to_submit = job_.plan_.fetches;
    at(some_time(), [this, &layer] {
      if (layer.phase != Phase::kReading) return;
      for (std::size_t s = 0; s < 2; ++s) {
        for (std::size_t i = 0; i < layer.experts.size(); ++i)
          fill(layer.memory[s][i], layer.id, layer.experts[i], layer.version, s);
      }
      const Status status = runtime_.publish(*layer.record, layer.version);
      EXPECT_TRUE(status.ok()) << status.message();
      layer.published = true;
    });
    for (unsigned i = 0; i < layer.to_submit; ++i) at(some_time(), [this, &layer] { submit(layer); });
  }

  void submit(Layer& layer) {
    if (layer.phase != Phase::kReading) return;
    --layer.to_submit;
    core::FetchSpec spec;
    spec.layer = layer.record->number;
    spec.version = layer.version;
    spec.segments = random_.chance(70) ? 3 : 1 + random_.below(2);
    spec.slab = slab_->number;
    spec.into_slots = random_.chance(40);
    const unsigned kind = static_cast<unsigned>(random_.below(10));
    spec.wants_views = kind >= 2;
    if (!spec.wants_views) spec.urgency = core::Class::kPrefetch;
    spec.gang = kind == 9;
    Open open;
    open.prefetch = !spec.wants_views;
    open.segments = spec.segments;
    const std::uint64_t most = spec.gang || open.prefetch ? job_.plan_.slots : layer.record->num_experts;
    const std::uint64_t count = 1 + random_.below(most);
    while (open.experts.size() < count)
      open.experts.insert(static_cast<ExpertIndex>(random_.below(layer.record->num_experts)));
    spec.experts.assign(open.experts.begin(), open.experts.end());
    if (job_.plan_.cancels && random_.chance(15)) {
      spec.deadline = runtime_.now() + some_time();
      open.interfered = true;
    }
    const auto fetch = runtime_.fetch(spec);
    ASSERT_TRUE(fetch.ok()) << fetch.status().message();
    open.fetch = *fetch;
    const core::FetchCounts counts = runtime_.core().counts(*fetch);
    job_.counts_.parked += counts.parked;
    job_.counts_.starved += counts.starved;
    (open.prefetch ? job_.counts_.prefetches : job_.counts_.gangs) += open.prefetch || spec.gang ? 1 : 0;
    if (job_.plan_.cancels && random_.chance(30)) {
      open.interfered = true;
      at(some_time() / 4, [this, &layer, number = open.fetch, drop = random_.chance(50)] {
        const auto found =
            std::find_if(layer.open.begin(), layer.open.end(), [&](const Open& o) { return o.fetch == number; });
        if (found == layer.open.end()) return;
        if (drop) {
          found->drop = true;
        } else {
          runtime_.cancel(number, Status(CARDEA_ERR_CANCELED, "the test said so"));
        }
      });
    }
    layer.open.push_back(std::move(open));
  }

  void read(Layer& layer, Open& open) {
    for (const engine::Runtime::Delivered& got : runtime_.take(*layer.record, open.fetch, SIZE_MAX)) {
      const core::Delivery& delivery = got.delivery;
      job_.mix(delivery.expert * 64 + static_cast<unsigned>(delivery.path));
      job_.mix(static_cast<std::uint64_t>(runtime_.now().time_since_epoch().count()));
      if (!open.prefetch) {
        EXPECT_EQ(open.experts.erase(delivery.expert), 1u) << "delivered twice, or never asked for";
      }
      if (delivery.view == 0) {
        failed(layer, open, delivery);
        continue;
      }
      ++job_.counts_.views[delivery.path];
      const Held held{delivery.view, delivery.expert, got.spot, delivery.segments};
      EXPECT_EQ(delivery.segments, open.segments);
      check(layer, held);
      open.held.emplace(delivery.view, held);
      at(some_time() / 8, [this, &layer, fetch = open.fetch, held] { give_up(layer, fetch, held); });
    }
  }

  void failed(const Layer& layer, const Open& open, const core::Delivery& delivery) {
    const cardea_status_t code = delivery.status.code();
    ++job_.counts_.failures[code];
    const bool ours = code == CARDEA_ERR_CANCELED || code == CARDEA_ERR_TIMEOUT;
    if (open.prefetch && code == CARDEA_ERR_LIMIT && cache_) return;  // no room for it
    if (layer.phase == Phase::kEnding || (ours && (open.interfered || open.prefetch))) return;
    // Nothing else fails but by a death: by that of the source, or because its layer's members gave up for one.
    EXPECT_NE(job_.victim_, kNoRank) << delivery.status.message();
    EXPECT_EQ(code, CARDEA_ERR_PEER_LOST) << delivery.status.message();
  }

  void check(const Layer& layer, const Held& held) const {
    for (std::size_t s = 0; s < 2; ++s) {
      if (!(held.segments >> s & 1)) {
        EXPECT_EQ(held.spot.segments[s], nullptr);
      } else {
        EXPECT_TRUE(holds(held.spot.segments[s], layer.id, held.expert, layer.version, s))
            << "rank " << rank_ << " reads something else in layer " << layer.id << ", expert " << held.expert
            << ", version " << layer.version << ", segment " << s;
      }
    }
  }

  void give_up(Layer& layer, core::FetchNumber fetch, const Held& held) {
    check(layer, held);
    const Status status = runtime_.release(held.view);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(runtime_.release(held.view).code(), CARDEA_ERR_INVALID_HANDLE);
    for (Open& open : layer.open) {
      if (open.fetch == fetch) open.held.erase(held.view);
    }
  }

  /// Whether the fetch is over and forgotten.
  bool over(Layer& layer, Open& open) {
    read(layer, open);
    const core::FetchCounts counts = runtime_.core().counts(open.fetch);
    const bool done = counts.delivered == counts.experts;
    if (done && !open.drop && !open.prefetch) {
      EXPECT_TRUE(open.experts.empty());
    }
    if ((!done && !open.drop) || !open.held.empty()) return false;
    runtime_.destroy_fetch(open.fetch);
    return true;
  }

  void step() {
    if (ended_) return;
    bool all = true;
    for (Layer& layer : layers_) {
      while (advance(layer)) {
      }
      all &= layer.phase == Phase::kEnded;
    }
    if (all) end();
  }

  /// True if there may be more to do at once.
  bool advance(Layer& layer) {
    const std::size_t before = layer.open.size();
    std::erase_if(layer.open, [&](Open& open) { return over(layer, open); });
    const bool progressed = layer.open.size() != before;
    switch (layer.phase) {
      case Phase::kNew:
      case Phase::kUpdating:
      case Phase::kEnded:
        return false;
      case Phase::kForming: {
        const Status status = runtime_.formed(*layer.record);
        if (status.code() == CARDEA_IN_PROGRESS) return false;
        if (status.ok()) {
          begin_version(layer, 1);
        } else {
          give_in(layer, status);
        }
        return true;
      }
      case Phase::kReading: {
        if (layer.to_submit != 0 || !layer.published) return progressed;
        const Status status = runtime_.finish(*layer.record, layer.version);
        // Ending one fetch may have made another fail, which is open for this test but not for the core any more.
        const bool all_over = std::all_of(layer.open.begin(), layer.open.end(), [&](const Open& open) {
          const core::FetchCounts counts = runtime_.core().counts(open.fetch);
          return open.held.empty() && counts.parked + counts.starved + counts.moving + counts.ready == 0;
        });
        EXPECT_EQ(status.ok(), all_over) << status.message();
        if (!status.ok()) {
          EXPECT_EQ(status.code(), CARDEA_ERR_BUSY) << status.message();
          return progressed;
        }
        for (const Open& open : layer.open) runtime_.destroy_fetch(open.fetch);
        layer.open.clear();
        layer.phase = Phase::kFinished;
        return true;
      }
      case Phase::kFinished:
        return collect(layer);
      case Phase::kEnding: {
        if (!layer.open.empty()) return progressed;
        const Status status = runtime_.end_layer(*layer.record);
        if (!status.ok()) {
          EXPECT_TRUE(status.code() == CARDEA_ERR_BUSY || status.code() == CARDEA_IN_PROGRESS) << status.message();
          return false;
        }
        layer.phase = Phase::kEnded;
        return true;
      }
    }
    return false;
  }

  bool collect(Layer& layer) {
    const Status status = runtime_.collect(*layer.record, layer.version);
    if (status.code() == CARDEA_IN_PROGRESS) return false;
    if (!status.ok()) {
      give_in(layer, status);
      return true;
    }
    ++job_.counts_.collected;
    for (std::size_t s = 0; s < 2; ++s) {
      for (std::byte* const memory : layer.memory[s]) std::memset(memory, 0xEE, kSegmentBytes[s]);
    }
    layer.phase = Phase::kUpdating;
    at(some_time() / 8, [this, &layer] {
      if (layer.version < job_.plan_.versions) {
        begin_version(layer, layer.version + 1);
      } else {
        layer.phase = Phase::kEnding;
      }
    });
    return true;
  }

  /// A death has ended what this layer was for: this rank ends its part, so that others need not wait for it.
  void give_in(Layer& layer, const Status& why) {
    EXPECT_NE(job_.victim_, kNoRank) << why.message();
    EXPECT_EQ(why.code(), CARDEA_ERR_PEER_LOST) << why.message();
    ++job_.counts_.aborted;
    layer.phase = Phase::kEnding;
    for (Open& open : layer.open) {
      open.drop = true;
      runtime_.cancel(open.fetch, Status(CARDEA_ERR_CANCELED, "the layer is given up"));
    }
  }

  void end() {
    ended_ = true;
    const core::Core& core = runtime_.core();
    EXPECT_EQ(core.chunks_in_flight(), 0u);
    EXPECT_EQ(core.available_slots(slab_->number), core.slots(slab_->number));
    EXPECT_TRUE(runtime_.destroy_slab(*slab_).ok());
    // A real peer's mapping outlives the owner's; here both are one, and where members give up early for a death, others may
    // still read: then it stays until the job is over.
    if (!job_.plan_.kill) {
      EXPECT_TRUE(runtime_.free_region(shared_region_).ok());
    }
    runtime_.say_goodbye();
    job_.network_->executor(rank_).post([this] { transport_->close([] {}); });
  }

  SimJob& job_;
  const Rank rank_;
  Random random_;
  std::optional<cache::NodeCache> cache_;
  engine::Runtime runtime_;
  std::unique_ptr<transport::Transport> transport_;
  std::array<std::vector<std::byte>, 2> slab_memory_;
  std::shared_ptr<engine::SlabRecord> slab_;
  engine::RegionNumber shared_region_ = 0;
  std::vector<Layer> layers_;
  Clock::time_point begins_at_{};
  bool poked_ = false;
  bool ended_ = false;
};

SimJob::SimJob(const JobPlan& plan) : plan_(plan), random_(plan.seed) {
  for (Rank rank = 0; rank < plan.nodes * plan.ranks_per_node; ++rank) node_of_.push_back(rank / plan.ranks_per_node);
  sim::NetworkOptions options;
  options.node_of_rank = node_of_;
  options.nic_bytes_per_second = 1'000'000'000;  // slow, so that much is under way when something happens
  options.copy_bytes_per_second = 2'000'000'000;
  options.jitter = Nanoseconds(static_cast<std::int64_t>(random_.below(3) * 1'500));
  options.sharing = random_.chance(50) ? sim::Sharing::kFair : sim::Sharing::kFifo;
  options.seed = random_();
  options.node_notice = Nanoseconds(5'000);
  options.network_notice = Nanoseconds(40'000);
  network_ = std::make_unique<sim::SimNetwork>(time_, options);
  network_->set_trace([this](const sim::TraceEvent& event) {
    mix(static_cast<std::uint64_t>(event.kind) << 56 ^ std::uint64_t{event.from} << 40 ^ std::uint64_t{event.to} << 24 ^
        event.bytes);
    mix(static_cast<std::uint64_t>(event.when.time_since_epoch().count()));
  });
  if (plan.cache_bytes != 0) {
    for (unsigned node = 0; node < plan.nodes; ++node)
      node_memory_.push_back(std::make_unique<NodeMemory>(plan.cache_bytes, 64 + random_.below(1400)));
  }
  for (Rank rank = 0; rank < node_of_.size(); ++rank) ranks_.push_back(std::make_unique<JobRank>(*this, rank, random_()));
}

SimJob::~SimJob() = default;

void SimJob::run() {
  for (Rank rank = 0; rank < ranks_.size(); ++rank) {
    std::vector<std::pair<Rank, Bytes>> peers;
    for (Rank peer = 0; peer < ranks_.size(); ++peer) {
      if (peer != rank) peers.emplace_back(peer, ranks_[peer]->transport().address());
    }
    ASSERT_TRUE(ranks_[rank]->transport().connect(peers).ok());
  }
  for (const auto& rank : ranks_) rank->begin();
  if (plan_.kill) {
    victim_ = static_cast<Rank>(random_.below(ranks_.size()));
    const auto horizon = static_cast<std::uint64_t>(plan_.span.count()) * plan_.versions * 2;
    network_->kill_at(Clock::time_point(Nanoseconds(static_cast<std::int64_t>(random_.below(horizon)))), victim_);
  }
  constexpr std::uint64_t kManyEvents = 5'000'000;
  while (time_.events_run() < kManyEvents && !testing::Test::HasFailure() && time_.run_one()) {
  }
  EXPECT_LT(time_.events_run(), kManyEvents) << "it goes round in circles";
  if (testing::Test::HasFailure()) return;
  for (Rank rank = 0; rank < ranks_.size(); ++rank) {
    if (network_->alive(rank)) {
      EXPECT_TRUE(ranks_[rank]->ended()) << "rank " << rank << " waits forever:" << ranks_[rank]->where();
    }
  }
  if (victim_ != kNoRank && !ranks_[victim_]->ended()) ++counts_.killed;
  for (const auto& rank : ranks_) rank->look_at_the_end();
  // Nobody who lives has anything pinned, on the way or held back.
  for (std::size_t node = 0; node < node_memory_.size(); ++node) {
    const cache::Directory& directory = *node_memory_[node]->directory;
    std::uint64_t dead = 0;
    for (unsigned local = 0; local < plan_.ranks_per_node; ++local) {
      if (!network_->alive(static_cast<Rank>(node * plan_.ranks_per_node + local))) dead |= std::uint64_t{1} << local;
    }
    for (cache::EntryIndex i = 0; i < directory.shape().entries; ++i) {
      const cache::Entry& entry = directory.entry(i);
      if (entry.state.load() != cache::Entry::kLive) continue;
      EXPECT_EQ(entry.pins.load() & ~dead, 0u) << "entry " << i << " of node " << node << " stays pinned";
      EXPECT_EQ(entry.waiters.load() & ~dead, 0u);
    }
    for (const auto& of_class : directory.header().nics[0].bytes) {
      for (unsigned local = 0; local < plan_.ranks_per_node; ++local) {
        if (!(dead >> local & 1)) {
          EXPECT_EQ(of_class[local].load(), 0u);
        }
      }
    }
  }
}

}  // namespace cardea::test
