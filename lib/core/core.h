// SPDX-License-Identifier: Apache-2.0
// The scheduler of one rank, sans I/O: it takes events (a request, a chunk that arrived, a slot released, a peer lost, time
// passed) and answers with actions (start this chunk on that lane, this fetch has something ready). It knows no clock, no
// thread, no socket and no address, so the same code runs under Asio in production and in virtual time in simulation.
//
// One expert of one fetch is a *want*:
//
//   parked ──► starved ──► moving ──► ready ──► delivered        parked: its version is not published yet; holds no credit
//      │          │           │         ▲                        starved: waits for a credit
//      └──────────┴───────────┴──► failed ──► delivered          moving: shares a transfer that fills its slot
//
// It completes exactly once: as ready or failed, and is delivered exactly once. Experts at home or mapped are ready at once.
// A *transfer* fills one slot of a slab with one expert at one version; any number of wants share it (single flight), and
// when none is left its slot is spare: a later want finds the expert there unless the slot was needed.
//
// Where several ranks of a node take part, what comes over the network comes once for all of them: the transfer fills an
// entry of the node cache (lib/cache), together with whoever of the node wants the same, and needs no credit. Views of it
// lie in the cache; a fetch that wants slots has it copied from there, when it is whole or, where ranks swap (split.h),
// chunk by chunk as it comes. What a rank has whole in a slot it offers to the others (placed.cc), who pull it from there
// when the cache has needed its room. Without room in the cache, or without its lock, a rank fetches into a slot of its own.
//
// On a stream, what comes over the network is ready before it has come, where its copy can be queued behind a gate
// (gated.cc). GPUs of a node share out what they want of its host memory (shares.cc): a rank claims an expert, copies it up,
// and offers its slot when the copy is done on the GPU; who else wants it waits for that, unless the claim fails, is
// overdue, or its rank dies, and pulls it. What is behind a gate is never claimed, and is on offer when it is done.
//
// Not thread-safe: one mutex outside guards it. Numbers handed out are never reused.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "lib/base/flat_map.h"
#include "lib/base/status.h"
#include "lib/cache/node_cache.h"
#include "lib/core/actions.h"
#include "lib/core/number_map.h"
#include "lib/core/outstanding.h"
#include "lib/core/split.h"

namespace cardea::telemetry {
class Recorder;
struct Outcome;
struct Chunk;
}  // namespace cardea::telemetry

namespace cardea::core {

/// One way for an expert to come here.
struct SourceOption {
  Rank rank = kNoRank;
  cardea_path_t path = CARDEA_PATH_NONE;
  LaneNumber lane = 0;      // where a copy of it moves; without meaning at home
  std::uint32_t rails = 1;  // lanes from there on over which its chunks may go, such as several NICs, nearest first
  bool direct = false;      // its transport writes straight into slots of slabs that allow it (add_slab)
};
inline constexpr std::uint32_t kMaxRails = 4;

struct ExpertSources {
  Rank home = kNoRank;
  std::vector<SourceOption> options;  // in any order; the core ranks them by path and stagger
};

struct LayerSpec {
  std::uint32_t layer_id = 0;  // for messages
  Membership members;
  SegmentLayout layout;
  LayerKey key;  // in the node cache
};

struct FetchSpec {
  LayerNumber layer = 0;
  Version version = 0;
  std::vector<ExpertIndex> experts;
  SegmentMask segments = 0;  // never 0 here
  std::optional<SlabNumber> slab;
  Class urgency = Class::kDemand;
  bool gang = false;
  bool into_slots = false;
  bool wants_views = true;  // false: a prefetch
  bool on_stream = false;   // wants are ready when their copies are queued: who reads them waits on the GPU
  std::optional<Clock::time_point> deadline;
};

/// A want as it is delivered.
struct Delivery {
  ViewNumber view = 0;  // 0 on failure
  Status status;
  ExpertIndex expert = 0;
  cardea_path_t path = CARDEA_PATH_NONE;
  Rank source = kNoRank;
  std::optional<SlotIndex> slot;
  SlabNumber slab = 0;
  cache::EntryIndex entry = cache::kNoEntry;  // it lies in the node cache
  SegmentMask segments = 0;
  Nanoseconds ready_after{0};
};

/// What a view held, told when it is released.
struct ReleasedView {
  FetchNumber fetch = 0;
  LayerNumber layer = 0;
  ExpertIndex expert = 0;
};

struct FetchCounts {
  std::uint32_t experts = 0, ready = 0, delivered = 0, failed = 0, parked = 0, starved = 0, moving = 0;
  std::uint32_t under_way = 0;  // chunks of ready wants that are queued and not done
};

struct CoreCounters {
  std::map<cardea_path_t, std::uint64_t> ready;
  std::uint64_t failed = 0;
  std::uint64_t prefetch_bytes_wasted = 0;  // in slots; those in the node cache are counted there
  std::uint64_t cache_bypassed = 0;         // experts that came over the network without the node cache that should have
  std::uint64_t chunks_started = 0;
  std::uint64_t chunks_pulled = 0;  // of them, out of slots of other ranks that had them from the node cache
};

struct CoreOptions {
  std::uint64_t chunk_bytes = std::uint64_t{1} << 20;
  // For ablation, each can be switched off:
  bool stagger = true;                       // false: sources in the order of their numbers
  bool network_first = true;                 // false: what takes longest does not start first
  bool side_by_side = true;                  // false: one queue for all lanes, so that network and local copies take turns
  LaneNumber copy_lane = 1;                  // on which experts are copied out of the node cache
  SwapOptions swap;                          // with no peers: each rank copies all of an expert out of the node cache itself
  std::uint32_t gate_commands = UINT32_MAX;  // that gates of all slabs may take at one time
  std::vector<Rank> node_ranks;              // of this rank's node, by local number in the node cache; without one, empty
  telemetry::Recorder* recorder = nullptr;   // notes fetches, chunks and outcomes; must outlive the core
};

/// How far a slab's copies may be queued ahead of the network (gated.cc).
struct GateLimits {
  std::uint32_t gates = 0;     // at one time; at most as many as slots
  std::uint32_t landings = 0;  // experts that may come over the network beside the node cache
  std::uint32_t commands = 1;  // of the device's queue, which each gate takes until the GPU has passed it
};

class Core {
 public:
  /// `cache` may be null, and must outlive the core.
  Core(CoreOptions options, std::vector<LaneLimits> lanes, cache::NodeCache* cache = nullptr);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // ---- set-up
  /// What is taken from a rank over the network from now on goes by these lanes.
  void set_rails(Rank rank, LaneNumber first, std::uint32_t count);
  /// By which number the node's ranks count what is on the way through the lane's NIC, less than cache::kMaxNics. Before
  /// anything moves on the lane.
  void set_nic(LaneNumber lane, std::uint32_t nic) { lanes_[lane].set_nic(nic); }
  LayerNumber add_layer(LayerSpec spec);
  /// Tells where the layer's experts are, once all members have said so. Fetches are refused before.
  void set_sources(LayerNumber layer, std::vector<ExpertSources> experts);
  /// BUSY while wants, views or chunks of it are open. Spare slots that hold its experts become empty.
  Status remove_layer(LayerNumber layer);
  /// `copies` says on which lane experts are copied into it from the node's host memory, and that whoever writes into its
  /// slots keeps the order by itself (FetchSpec::on_stream, chunk_queued); without it, slots are host memory. `direct`: what
  /// comes over the network need not pass through host memory of this rank's, where its source says so too.
  SlabNumber add_slab(std::uint32_t slots, std::optional<LaneNumber> copies = {}, GateLimits gates = {},
                      bool direct = false);
  /// The GPU may read the node cache by itself: copies out of entries that are still being filled may be gated.
  void cache_is_pinned() { cache_pinned_ = true; }
  /// With SwapOptions::on_device: ranks, by local number in the node cache, that have this slab mapped and whose slab for
  /// the layer is mapped here. Without a call there are none.
  void set_swap_peers(LayerNumber layer, SlabNumber slab, cache::LocalMask peers);
  /// BUSY while any of its slots is in use.
  Status remove_slab(SlabNumber slab);
  std::uint32_t slots(SlabNumber slab) const;
  std::uint32_t available_slots(SlabNumber slab) const;

  // ---- requests of this rank
  /// INVALID_ARGUMENT (expert, no slab where one is needed), STALE, LIMIT (gang larger than the slab), PEER_LOST never: an
  /// expert that cannot come fails on its own.
  Result<FetchNumber> fetch(const FetchSpec& spec, Clock::time_point now);
  /// Moves up to `max` finished wants out, in the order in which they finished.
  std::vector<Delivery> take(FetchNumber fetch, std::size_t max);
  FetchCounts counts(FetchNumber fetch) const;
  Version version_of(FetchNumber fetch) const;
  Status first_failure(FetchNumber fetch) const;
  /// Nothing ready, nothing on the way, and every slot that it needs is held by delivered views; slots held by undelivered
  /// views of fetches that nobody waits for have been taken back first. `waited_for` says whom threads wait for now.
  bool would_deadlock(FetchNumber fetch, const std::set<FetchNumber>& waited_for, Clock::time_point now);
  /// Gates that nobody else waits for open, and what is behind them fails, delivered or not.
  void cancel(FetchNumber fetch, const Status& why, Clock::time_point now);
  void cancel_all(const Status& why, Clock::time_point now);
  /// Cancels, drops what is undelivered, forgets the fetch.
  void destroy(FetchNumber fetch, Clock::time_point now);
  /// INVALID_HANDLE if there is no such view.
  Result<ReleasedView> release(ViewNumber view, Clock::time_point now);

  /// Keeps a finish of the layer from being told to others until as many calls of let_go: something still reads.
  void hold(LayerNumber layer);
  void let_go(LayerNumber layer);
  Status may_publish(LayerNumber layer, Version version) const;
  Status publish(LayerNumber layer, Version version, Clock::time_point now);
  Status finish(LayerNumber layer, Version version, Clock::time_point now);
  Status collect(LayerNumber layer, Version version);

  // ---- this rank as a source
  /// STALE if `version` is not what this rank has published.
  Status lend(LayerNumber layer, Version version);
  void give_back(LayerNumber layer);
  bool lent(LayerNumber layer) const;

  // ---- events
  Status receive(LayerNumber layer, Rank from, const Notice& notice, Clock::time_point now);
  void chunk_done(ChunkNumber chunk, const Status& status, Clock::time_point now);
  /// The chunk is queued behind everything that must come before it, and whatever is queued behind it finds it done. For
  /// chunks into slabs that keep the order by themselves; chunk_done follows.
  void chunk_queued(ChunkNumber chunk, Clock::time_point now);
  /// A rank is gone: it `left` the job of its own will, or died.
  void peer_lost(Rank rank, bool left, const Status& why, Clock::time_point now);
  /// A rank that is alive has ended its part in a layer.
  void peer_left_layer(LayerNumber layer, Rank rank, Clock::time_point now);
  void time_passed(Clock::time_point now);
  /// What another rank's TellNode says. Any entry and NIC may be named; those that do not concern this rank are passed over.
  void entry_changed(cache::EntryIndex entry, Clock::time_point now);
  void nic_free(std::uint32_t nic, Clock::time_point now);
  /// When time_passed should be called next.
  std::optional<Clock::time_point> next_deadline() const;

  // ---- what does not move (stalls.cc)
  /// Nothing of the chunk's expert has come for too long: its wants fail with `why`, to which where and what is added. Its
  /// slot stays taken until the transport has completed the chunk.
  void give_up(ChunkNumber chunk, const Status& why, Clock::time_point now);
  struct Parked {
    std::uint32_t layer_id = 0;
    ExpertIndex expert = 0;
    Rank source = kNoRank;  // the first that could still publish it
    Version version = 0;
    Clock::time_point since;
  };
  /// Of the experts that somebody wants to read and whose version is not published, the one asked for longest ago.
  std::optional<Parked> oldest_parked() const;
  void give_up_parked(Clock::time_point submitted_until, Clock::time_point now);

  // ---- questions
  Version published(LayerNumber layer, Rank source) const;
  Rank home(LayerNumber layer, ExpertIndex expert) const;
  /// The source that a fetch of the expert at its newest version would take now.
  const SourceOption* preferred_source(LayerNumber layer, ExpertIndex expert) const;
  /// Class of the most urgent transfer that has chunks to start on a lane.
  std::optional<Class> most_urgent_queued(LaneNumber lane) const { return lanes_[queue_of(lane)].most_urgent(); }
  /// Every expert that a fetch still waits for, the oldest fetch first.
  std::vector<Outstanding> outstanding() const;
  /// When the oldest fetch with anything outstanding was submitted: cheaper than to list all that is.
  std::optional<Clock::time_point> oldest_outstanding() const;
  std::vector<FetchNumber> open_fetches() const;  // those with anything outstanding, in order
  /// Chunks that some transport still works on.
  std::uint64_t chunks_in_flight() const { return chunks_in_flight_; }
  /// Of the layer: canceled transfers and queued chunks that are not done, and holds.
  std::uint32_t draining(LayerNumber layer) const;
  /// Of the slab: queued chunks that are not done.
  std::uint32_t under_way(SlabNumber slab) const;
  const CoreCounters& counters() const { return counters_; }

  /// The actions since the last call, in order.
  std::vector<Action> take_actions() { return std::exchange(actions_, {}); }
  /// The same, into a vector whose memory the core then goes on with.
  void take_actions(std::vector<Action>& into) {
    into.clear();
    into.swap(actions_);
  }
  bool has_actions() const { return !actions_.empty(); }

 private:
  struct Layer;
  struct Slab;
  struct Want;
  struct Fetch;
  struct Transfer;
  struct WantRef;
  struct WantRefs;
  struct Choice;
  struct QueuedChunk;
  struct View;
  struct Gate {
    TransferNumber origin = 0;  // is to be whole
    SlabNumber slab = 0;
    ExpertIndex expert = 0;
    bool started = false;      // the chunk was
    std::uint64_t passed = 0;  // bytes that it was told are there
    bool open = false;
  };

  LaneNumber queue_of(LaneNumber lane) const { return options_.side_by_side ? lane : 0; }
  Layer& layer(LayerNumber number) const;
  Fetch& fetch_of(FetchNumber number) const;

  // outstanding.cc
  Outstanding outstanding_of(const Fetch& of, const Want& want) const;

  // core.cc: wants
  Choice choose(const Layer& layer, ExpertIndex expert, const FetchSpec& spec) const;
  /// Whether its bytes at a rank can still be got at: the rank is there, or its memory is mapped.
  bool reachable(const Layer& layer, ExpertIndex expert, Rank source) const;
  Status check(const FetchSpec& spec, const Layer& layer);
  void add_wants(Fetch& fetch, const Layer& layer);
  void take_turns(const Layer& layer);
  void advance(Fetch& fetch, std::size_t want, Clock::time_point now);
  static telemetry::Outcome outcome_of(const Fetch& of, const Want& want);
  void aim(Want& want, const SourceOption& source, const FetchSpec& spec) const;
  bool outlives_its_rank(const SourceOption& option) const;
  void make_ready(Fetch& fetch, std::size_t want, Clock::time_point now);
  void fail(Fetch& fetch, std::size_t want, const Status& status, Clock::time_point now);
  void fail_open(Fetch& fetch, const Status& status, Clock::time_point now);
  void fail_waiting(Fetch& fetch, const Status& status, Clock::time_point now);
  void fail_moving(Fetch& fetch, const Status& status, Clock::time_point now);
  void close_want(Layer& layer, Version version);
  void progress(Fetch& fetch);
  void unpark(Layer& layer, Clock::time_point now);
  Parked parked_at(const Layer& layer, const Fetch& fetch, ExpertIndex expert) const;
  void flush(Layer& layer, const std::vector<Notice>& notices);
  void send_finish_if_drained(Layer& layer, Clock::time_point now);

  // transfers.cc: credits, transfers, lanes
  void starve(Fetch& fetch, std::size_t want, Clock::time_point now, bool aimed = false);
  void queue_gang(Fetch& fetch, Clock::time_point now);
  void feed(Slab& slab, Clock::time_point now);
  bool feed_front(Slab& slab, Clock::time_point now);
  bool feed_want(Slab& slab, Fetch& fetch, std::size_t want, Clock::time_point now);
  bool feed_aimed(Slab& slab, Fetch& fetch, std::size_t want, Clock::time_point now);
  bool feed_gang(Slab& slab, Fetch& fetch, Clock::time_point now);
  bool make_room(Slab& slab, std::uint32_t slots, Class urgency, Clock::time_point now);
  void drop_spare(Slab& slab, SlotIndex slot, Clock::time_point now);
  void drop_spares(LayerNumber layer, Version up_to, Clock::time_point now);
  Transfer& new_transfer(const Fetch& fetch, const Want& want);
  Transfer& open_transfer(Slab& slab, Fetch& fetch, const Want& want);
  bool join(Fetch& fetch, std::size_t want, Transfer& transfer, Clock::time_point now);
  void request(Transfer& transfer, SegmentMask segments);
  void promote(Transfer& transfer, const Fetch& fetch, std::size_t want);
  void unpin(Transfer& transfer, Clock::time_point now);
  void settle(Transfer& transfer, Clock::time_point now);
  void abandon(Transfer& transfer, const Status& why, Clock::time_point now);
  void retire_if_drained(Transfer& transfer, Clock::time_point now);
  void slot_is_free(Transfer& transfer, Clock::time_point now);
  void drained_one(Transfer& transfer, Clock::time_point now);
  WantRefs take_complete(Transfer& transfer);
  void await_queued(Fetch& fetch, const Transfer& transfer);
  bool queued_chunk_done(ChunkNumber token, const Status& status, Clock::time_point now);
  bool take_back_undelivered(Slab& slab, const std::set<FetchNumber>& waited_for, Clock::time_point now);
  void pump(LaneNumber lane, Clock::time_point now);
  std::size_t held_classes(LaneNumber lane, Clock::time_point now);
  void start(Transfer& transfer, std::size_t chunk, LaneNumber lane, Class urgency, Clock::time_point now);
  static telemetry::Chunk facts_of(const Transfer& transfer, std::size_t chunk);
  LaneNumber rail(const Transfer& transfer, std::uint32_t index) const;
  std::uint32_t rails(const Transfer& transfer) const;
  void put_on(Transfer& transfer);
  void put_on(Transfer& transfer, std::uint32_t rail);
  void take_off(Transfer& transfer);
  void take_off(Transfer& transfer, LaneNumber lane);
  bool goes_at_once(const Transfer& transfer) const;
  void pump_rails(Transfer& transfer, Clock::time_point now);
  void count_waste(const Transfer& transfer);
  void vacate(Transfer& transfer, Clock::time_point now);

  // split.cc: parts of experts that ranks of a node copy out of the node cache and pull from one another
  bool begin_swap(Transfer& transfer);
  std::optional<std::size_t> next_copy(Transfer& transfer, bool own_share, Clock::time_point now);
  std::optional<std::size_t> next_pull(Transfer& transfer);
  void pull_rest(Transfer& transfer, Clock::time_point now);
  void help_others(Clock::time_point now);
  void go_on_swap(Transfer& transfer, Clock::time_point now);
  bool swap_chunk_done(Transfer& transfer, std::size_t chunk, const Status& status);
  void swap_complete(Transfer& transfer, Clock::time_point now);
  bool take_offer_back(Transfer& transfer, Clock::time_point now);
  void end_swap(Transfer& transfer, Clock::time_point now);
  bool can_pull_from(const Transfer& transfer, std::uint32_t local) const;
  cache::LocalMask pullable_by(const Transfer& transfer) const;
  bool may_swap(const Slab& slab, const Layer& layer) const;
  void swaps_changed(cache::EntryIndex entry, Clock::time_point now);

  // placed.cc: experts that ranks of the node have whole in slots, and others pull from there
  bool may_pull(const Slab& slab, const Layer& layer) const;
  cache::LocalMask pullable(const Fetch& fetch, const Want& want) const;
  void take_from_slots(Fetch& fetch, std::size_t want, Clock::time_point now);
  bool pull_from_slots(Slab& slab, Fetch& fetch, std::size_t want, Clock::time_point now);
  bool begin_pull(Transfer& transfer, Clock::time_point now);
  void pull_elsewhere(Transfer& transfer, const Status& why, Clock::time_point now);
  void pull_complete(Transfer& transfer);
  void end_pulls(Transfer& transfer);
  void end_pull(cache::EntryIndex entry, const cache::SlotCopy& from, const Layer& layer, Version version);
  cache::LocalMask living_peers(const Layer& layer) const;
  bool keep_offer(Transfer& transfer, cache::EntryIndex entry);
  bool withdraw_offer(Transfer& transfer, Clock::time_point now);
  void drop_kept_offers(const Layer& layer, Version up_to, Clock::time_point now);
  void go_on_withdrawn(Transfer& transfer, Clock::time_point now);
  void withdrawn_changed(cache::EntryIndex entry, Clock::time_point now);

  // streamed.cc: experts that are copied out of the node cache while they still come into it
  bool may_stream(const Fetch& fetch, std::size_t want, const Transfer& cached) const;
  void stream(Transfer& cached, Clock::time_point now);
  void tell_whose_chunk(const Transfer& cached, std::size_t chunk, Clock::time_point now);
  std::vector<TransferNumber> streamed_from(const Transfer& cached) const;

  // gated.cc: copies that are queued before their bytes have come
  bool may_gate(const Fetch& fetch, bool from_cache) const;
  bool take_landing(Fetch& fetch, std::size_t want, Clock::time_point now);
  void landed_chunk_done(Transfer& transfer, std::size_t chunk, const Status& status, Clock::time_point now);
  void close_landing(Transfer& transfer);
  bool gate_front(Slab& slab, Clock::time_point now);
  void gate_more(Clock::time_point now);
  bool gate_shut(const Transfer& transfer) const;
  bool direct(const Transfer& transfer) const;
  void advance_gates(Transfer& origin);
  void advance_gate(ChunkNumber token, Transfer& origin);
  static std::uint64_t bytes_before_a_gap(Transfer& origin);
  void open_gates(Transfer& origin, const Status& why, Clock::time_point now);
  void open_gate(ChunkNumber token, const Status& why, Clock::time_point now);
  void close_gate(ChunkNumber token, Clock::time_point now);
  void offer_gated(Transfer& transfer, TransferNumber origin);
  void fail_ready(Fetch& fetch, TransferNumber transfer, const Status& why, Clock::time_point now);
  void give_up_gated(Fetch& fetch, const Status& why, Clock::time_point now);
  void leave_gate(const Fetch& fetch, TransferNumber transfer, Clock::time_point now);
  void open_all_gates(const Status& why, Clock::time_point now);

  // shares.cc: experts that one rank copies out of the node's host memory into a slot on the device, for others to pull
  enum class Turn : std::uint8_t { kGo, kLater, kNotNow };
  void share(Transfer& transfer, const Fetch& fetch, const Want& want);
  Turn take_turn(Transfer& transfer, Clock::time_point now);
  bool pull_shared(Transfer& transfer, Clock::time_point now);
  void share_done(Transfer& transfer, Clock::time_point now);
  void end_share(Transfer& transfer);
  void stop_waiting(cache::EntryIndex entry);
  bool may_leave(Transfer& transfer, Clock::time_point now);
  void go_on_shared(Transfer& transfer, Clock::time_point now);
  void shared_changed(cache::EntryIndex entry, Clock::time_point now);
  cache::LocalMask swap_peers(const Layer& layer) const;

  // cached.cc: transfers into the node cache
  void plan_cache(Layer& layer) const;
  bool take_from_cache(Fetch& fetch, std::size_t want, Clock::time_point now);
  bool take_whole_from_cache(Fetch& fetch, std::size_t want, Clock::time_point now);
  void join_cached(Fetch& fetch, std::size_t want, Transfer& transfer, Clock::time_point now);
  Transfer* open_cached(Fetch& fetch, const Want& want, cache::Refusal& why);
  Transfer& open_entry(const Fetch& fetch, const Want& want, cache::EntryIndex entry);
  void refresh(Transfer& transfer, Clock::time_point now);
  void go_on(Transfer& transfer, Clock::time_point now);
  bool note_done(Transfer& transfer);
  void look_for_chunks(Transfer& transfer, Clock::time_point now);
  std::optional<std::size_t> claim(Transfer& transfer, Clock::time_point now);
  void cached_chunk_done(Transfer& transfer, std::size_t chunk, const Status& status, Clock::time_point now);
  void divert(Transfer& transfer, const Status& why, Clock::time_point now);
  void deliver_cached(Transfer& transfer, Clock::time_point now);
  void close_cached(Transfer& transfer);
  void set_recheck(Transfer& transfer, std::optional<Clock::time_point> when);
  void drop_cached(Want& want, Clock::time_point now);
  void let_go_of_origin(Transfer& transfer, Clock::time_point now);
  void retire_cached(Layer& layer, Clock::time_point now);
  void node_rank_lost(Rank rank, Clock::time_point now);
  void tell_node(cache::LocalMask to, cache::EntryIndex entry, std::uint32_t nic);

  CoreOptions options_;
  std::vector<Lane> lanes_;
  cache::NodeCache* cache_;
  std::map<LayerNumber, std::unique_ptr<Layer>> layers_;
  std::vector<Layer*> layer_by_number_;
  FlatMap<SlabNumber, std::unique_ptr<Slab>> slabs_;
  NumberMap<Fetch> fetches_;
  NumberMap<Transfer> transfers_;
  NumberMap<View> views_;
  NumberMap<QueuedChunk> queued_chunks_;
  std::set<std::pair<Clock::time_point, FetchNumber>> deadlines_;
  std::map<std::tuple<LayerNumber, ExpertIndex, Version>, TransferNumber> cached_;  // transfers into the node cache
  std::unordered_map<cache::EntryIndex, TransferNumber> by_entry_;                  // the same ones
  std::map<std::tuple<LayerNumber, ExpertIndex, Version>, TransferNumber> landings_;
  std::map<ChunkNumber, Gate> gates_;
  std::uint32_t gate_commands_ = 0;  // that they take
  bool gating_held_ = false;         // what is local goes first
  bool cache_pinned_ = false;
  std::set<std::pair<Clock::time_point, TransferNumber>> rechecks_;   // of those that wait for other ranks
  std::set<std::pair<cache::EntryIndex, TransferNumber>> swaps_;      // that others may pull from, or we do
  std::uint32_t last_pulled_ = 0;                                     // from whom, by local number
  std::set<std::pair<LayerNumber, TransferNumber>> kept_offers_;      // complete, for ranks that come to it later
  std::set<std::pair<cache::EntryIndex, TransferNumber>> withdrawn_;  // offers that somebody may still pull from
  std::set<std::pair<cache::EntryIndex, TransferNumber>> shared_;     // that others may copy, or wait for
  std::uint32_t claims_ = 0;         // whole experts that this rank copies for all, not done
  std::uint64_t claimed_bytes_ = 0;  // of them
  struct HeldLane {
    std::optional<Clock::time_point> recheck;  // some class of it is held back for other ranks of the node
    std::uint64_t chunks_then = 0;             // that the NIC had carried when it began to wait
  };
  std::vector<HeldLane> held_lanes_;
  Nanoseconds chunk_time_{0};  // how long chunks of the network take, smoothed
  std::map<Rank, Status> lost_;
  std::set<Rank> departed_;  // of the lost ones, those that left of their own will
  std::vector<Action> actions_;
  CoreCounters counters_;
  std::uint64_t chunks_in_flight_ = 0;
  // Memory that is used again from call to call.
  std::vector<std::uint64_t> checked_;  // by expert: the last check() that has seen it
  std::uint64_t checks_ = 0;
  std::vector<std::uint64_t> order_;
  std::vector<std::pair<std::tuple<std::uint32_t, std::uint64_t, std::uint32_t>, std::uint64_t>> due_;
  std::uint32_t next_layer_ = 1;
  std::uint32_t next_slab_ = 1;
  FetchNumber next_fetch_ = 1;
  TransferNumber next_transfer_ = 1;
  ViewNumber next_view_ = 1;
};

}  // namespace cardea::core
