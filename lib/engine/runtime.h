// SPDX-License-Identifier: Apache-2.0
// One rank at work: the core, the addresses that it needs, and the messages between ranks, over any transports and any
// executor; in production the Asio engine thread, in simulation virtual time.
//
// Threads: one mutex guards everything. Callers hold it (lock()) for every function below; the transports' calls
// (Listener), which come on the executor, take it themselves. Nothing is sent and no copy is started while it is held: what
// is to be done is queued in order and carried out by the executor. No function waits; where something takes time, the
// Observer is told when to look again.
//
// The GPU's driver is called without the mutex, and never by the executor's thread: what goes to the GPU is left with the
// copier, whose orders are issued by the caller's thread when it has let go of the mutex (CallerIssues) or by the copier's
// own. So a call that the driver holds up cannot keep the executor from doing what the GPU waits for.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "lib/base/executor.h"
#include "lib/base/lock_soon.h"
#include "lib/base/numa_preference.h"
#include "lib/core/core.h"
#include "lib/cuda/copier.h"
#include "lib/engine/dump.h"
#include "lib/engine/gpu_direct.h"
#include "lib/engine/layer_record.h"
#include "lib/engine/messages.h"
#include "lib/engine/peer_watch.h"
#include "lib/engine/regions.h"
#include "lib/engine/stamps.h"
#include "lib/telemetry/recorder.h"
#include "lib/transport/transport.h"

namespace cardea::engine {

/// Told what changes, with the mutex held: must be quick and must not call back.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_progress(core::FetchNumber fetch, bool done) = 0;
  /// A layer formed or failed, a collect may be over, a transfer was drained, a peer was lost.
  virtual void on_change() = 0;
  /// Once: this rank is fenced off. Everything open has been canceled; nothing that it does reaches the others any more.
  virtual void on_expelled(const Status&) {}
};

inline constexpr std::uint32_t kCopyChunks = 4;  // on the way within the node at one time

struct RuntimeOptions {
  Rank self = 0;
  std::vector<Node> node_of;  // by rank
  std::uint64_t chunk_bytes = std::uint64_t{1} << 20;
  std::uint32_t chunks_in_flight = 8;  // on each rail
  /// Names of the NICs by which chunks come side by side: the rails of the transport to other nodes.
  std::vector<std::string> rails = {""};
  cache::NodeCache* cache = nullptr;  // this rank's hand on its node's; must outlive the runtime
  std::vector<Rank> node_ranks;       // by local number in the cache
  std::size_t record = 0;             // records that the recorder's ring holds; 0: none is made
  /// Brings in memory of the cache's payload before it is written for the first time; unset: all of it is there.
  std::function<Status(std::uint64_t offset, std::uint64_t bytes)> back;
  int cuda_device = -1;  // this rank's GPU; -1: that of the thread that uses device memory first
  GpuDirect gpu_direct = GpuDirect::kAuto;
  std::vector<int> gpus_near_nics;    // by CUDA's numbers: those that are near all NICs by which chunks may come
  std::optional<unsigned> numa;       // of the operating system's NUMA nodes, the one where memory should come from
  std::optional<WatchOptions> watch;  // none: peers are lost only when their transport says so
};

/// A segment of the local experts, as in cardea_placement_t: stacked (base and stride) or a pointer each.
struct Placement {
  std::byte* base = nullptr;
  std::uint64_t stride = 0;
  std::vector<std::byte*> pointers;
};

struct LayerRequest {
  std::uint64_t group = 0;  // key
  std::vector<Rank> ranks;
  std::uint32_t layer_id = 0;
  std::uint32_t num_experts = 0;
  core::SegmentLayout layout;
  std::vector<ExpertIndex> experts;
  std::vector<std::uint8_t> is_home;
  std::vector<Placement> places;
  std::shared_ptr<SlabRecord> slab;
  std::vector<RegionNumber> found;  // regions made for it by find_device_memory
};

struct ByteCounters {
  std::uint64_t node_copied = 0, network_received = 0, network_sent = 0, node_gpu = 0;
  std::uint64_t network_direct = 0;  // of those received, straight into device memory
};

class Runtime final : public transport::Listener, private cuda::CopyObserver {
 public:
  Runtime(Executor& executor, Observer& observer, RuntimeOptions options);
  ~Runtime() override;

  /// Before anything else, on a thread that ends up being, or happens before, the executor's. `route[rank]` is the transport
  /// that reaches the rank, null for this rank; the transports must outlive close(). `nics`: for each rail, by which number
  /// the node's ranks count what its NIC carries; none: all of them as 0.
  void attach(std::vector<transport::Transport*> route, const std::vector<std::uint32_t>& nics = {});

  std::unique_lock<std::mutex> lock() { return lock_soon(mutex_); }
  core::Core& core() { return core_; }
  const core::Core& core() const { return core_; }
  Clock::time_point now() const { return executor_.now(); }

  // ---- this rank's GPU (gpu.cc); without the mutex, unless said otherwise
  /// Finds the driver and this rank's device, once. UNSUPPORTED says what is missing; CONFIGURATION, DEVICE.
  Status use_device();
  /// The GPU's copies are recorded with the device's own times, if no device is in use yet.
  void time_copies() { time_copies_ = true; }
  /// Any thread. Null while no device memory is used; stays what it is from then on.
  cuda::Copier* copier() const { return gpu_.load(std::memory_order_acquire); }
  Result<RegionNumber> allocate_device(std::uint64_t bytes);
  Result<RegionNumber> register_device(void* base, std::uint64_t bytes);
  /// Makes regions of the device memory that the request's experts lie in. The errors of cuda::share.
  Status find_device_memory(LayerRequest& request);
  void drop_unused(const std::vector<RegionNumber>& found);
  /// Publishes, or tells that this rank has finished, when the stream has done what is queued on it now.
  Status publish_on(cuda::Stream stream, LayerRecord& layer, Version version);
  Status finish_on(cuda::Stream stream, LayerRecord& layer, Version version);
  /// Makes the layer's expert table on the device, once (gpu_table.cc). INVALID_HANDLE if the layer ends meanwhile.
  Result<std::shared_ptr<cuda::DeviceTable>> device_table(const std::shared_ptr<LayerRecord>& layer);
  /// A change of a device table that was noted with the mutex held, and is to be written without.
  struct TableNote {
    std::shared_ptr<cuda::DeviceTable> table;
    std::uint64_t number = 0;
    bool wait = false;  // for the GPU to have written it
  };
  /// Those of the calls before, with the mutex that was held then.
  std::vector<TableNote> take_table_notes() { return std::exchange(table_notes_, {}); }
  /// The first failure. On the executor's thread (`may` false) the copier's writes them, soon.
  Status write_tables(std::vector<TableNote> notes, bool may);
  /// The home experts' version in the device table, with the mutex. Null stream: at once.
  void note_published(LayerRecord& layer, Version version, cuda::Stream stream);
  /// Whose views say on which stream and in which slots they are read; with the mutex.
  struct StreamView {
    cuda::Stream stream = nullptr;
    cuda::SlotKey slot = 0;
  };
  std::optional<StreamView> stream_view(core::ViewNumber view) const;

  /// While it lives, what this thread makes the GPU do is issued by this thread, at the latest when it ends: then the mutex
  /// must be free. Does nothing on the executor's thread (`may`).
  class CallerIssues {
   public:
    CallerIssues(Runtime& runtime, bool may);
    ~CallerIssues();
    CallerIssues(const CallerIssues&) = delete;
    CallerIssues& operator=(const CallerIssues&) = delete;

    /// Around a sleep of this thread.
    void suspend();
    void resume();

   private:
    friend class Runtime;
    Runtime* runtime_;
    cuda::Copier* promised_ = nullptr;  // its own thread leaves issuing to this one meanwhile
    CallerIssues* before_ = nullptr;
  };
  /// For a thread that waits: issues and polls. False if no copies are under way, so that there is nothing to wait for here.
  bool turn_copies(std::unique_lock<std::mutex>& held);
  /// Sleeps; the copier's thread sees to the copies meanwhile.
  template <typename Sleep>
  void sleep_without_copies(Sleep sleep) {
    leave_copies();
    sleep();
    resume_copies();
  }
  /// Ends the GPU's work, after the transports' (says whether it did end). Twice is once.
  bool close_device(Nanoseconds patience);

  // ---- memory and slabs
  Result<RegionNumber> allocate(std::uint64_t bytes) {
    const NumaPreference near(options_.numa);
    return regions_.allocate(bytes);
  }
  RegionNumber adopt(SharedMemory memory) { return regions_.adopt(std::move(memory)); }
  RegionNumber register_private(void* base, std::uint64_t bytes) { return regions_.add_private(base, bytes, false); }
  Regions::Region& region(RegionNumber number) { return regions_.at(number); }
  /// BUSY while layers lie in it.
  Status free_region(RegionNumber number);
  /// Where a slab of Cardea's own has its rows.
  struct SlabPlan {
    std::vector<std::uint64_t> starts, strides;  // by segment
    std::uint64_t bytes = 0;
  };
  static Result<SlabPlan> plan_slab(const core::SegmentLayout& layout, std::uint32_t slots);
  /// Finds the device, and makes the memory unless the rows (slots, and those before them) are the framework's. Without the
  /// mutex.
  Result<SlabMemory> slab_memory(const core::SegmentLayout& layout, std::uint32_t slots, std::uint32_t rows,
                                 const std::vector<Placement>& places);
  /// The landing memory of a slab in host memory. It takes long for many bytes: without the mutex.
  static Result<LandingMemory> make_landing_memory(const core::SegmentLayout& layout, std::uint32_t slots);
  /// `memory`: of one of the two before, unless there are places in host memory.
  Result<std::shared_ptr<SlabRecord>> create_slab(core::SegmentLayout layout, std::uint32_t slots, std::uint32_t first_slot,
                                                  const std::vector<Placement>& places, SlabMemory memory = {});
  /// BUSY; IN_PROGRESS while copies into it are under way.
  Status destroy_slab(SlabRecord& slab);

  /// Whether no other rank maps any of this device memory, with the mutex (gpu_exports.cc). IN_PROGRESS names one that does;
  /// BUSY while it is still a region.
  Status unmapped(const void* address, std::uint64_t bytes) const;

  // ---- layers
  /// Announces this rank's part. The layer is ready once formed() is OK; IN_PROGRESS until then, else why it failed, and
  /// then it must be dropped. BUSY (layer_id in use), LIMIT (announcement too large), NO_MEMORY.
  Result<std::shared_ptr<LayerRecord>> begin_layer(LayerRequest request);
  Status formed(const LayerRecord& layer) const;
  /// Members that have not announced themselves.
  std::vector<Rank> missing(const LayerRecord& layer) const;
  /// Ends this rank's part. BUSY; IN_PROGRESS while others are being sent chunks of it (nothing new is lent from then on) or
  /// have not been told yet where its experts are. Of a layer that was not formed, the others hear why: its failure, or
  /// `why` if it has none.
  Status end_layer(LayerRecord& layer, const Status& why = {});

  // ---- versions
  Status publish(LayerRecord& layer, Version version);
  Status finish(LayerRecord& layer, Version version);
  Status collect(LayerRecord& layer, Version version);

  // ---- fetches; FetchSpec::layer is the record's number
  Result<core::FetchNumber> fetch(const core::FetchSpec& spec);
  std::shared_ptr<const SlabRecord> slab(core::SlabNumber number) const { return slabs_.at(number); }
  /// Deliveries and where they lie; keeps the expert table.
  struct Delivered {
    core::Delivery delivery;
    Spot spot;
  };
  /// Views of a fetch on a stream are ready in the order of the GPU: `slots` gets those that the stream must wait for.
  /// What it returns stays until the next call.
  const std::vector<Delivered>& take(LayerRecord& layer, core::FetchNumber fetch, std::size_t max,
                                     cuda::Stream stream = nullptr, std::vector<cuda::SlotKey>* slots = nullptr);
  /// INVALID_HANDLE.
  Status release(core::ViewNumber view);
  /// The same for each; `outcomes` gets one status more for each.
  void release(std::span<const core::ViewNumber> views, std::vector<Status>& outcomes);
  void cancel(core::FetchNumber fetch, const Status& why);
  void cancel_all(const Status& why);
  void destroy_fetch(core::FetchNumber fetch);
  bool would_deadlock(core::FetchNumber fetch, const std::set<core::FetchNumber>& waited_for);

  // ---- peers
  bool alive(Rank rank) const { return !lost_.contains(rank); }
  const ByteCounters& bytes() const { return bytes_; }

  // ---- telemetry; null if nothing is recorded
  telemetry::Recorder* recorder() { return recorder_.get(); }
  Clock::time_point began() const { return began_; }
  /// What it waits for now, and what happened last. Without a recorder, nothing of the latter.
  Dump take_dump() const;

  /// Says goodbye to everyone it has talked to. `then` closes the transports; it runs on the executor behind all that is
  /// queued for them. (Work that the caller posts itself may overtake it: an executor keeps the order of one thread's work,
  /// not of two's.)
  void say_goodbye(std::function<void()> then = {});

  // ---- transport::Listener
  void on_message(Rank from, ByteView message) override;
  void on_chunk_done(transport::ChunkToken token, const Status& status) override;
  void on_chunk_landed(transport::ChunkToken token, Bytes bytes) override;
  void on_peer_lost(Rank peer, const Status& why) override;
  Result<transport::Lease> lend(Rank asker, const transport::ExpertAddress& expert, std::uint64_t offset,
                                std::uint64_t bytes) override;
  void give_back(std::uint64_t lease, std::uint64_t bytes_sent) override;
  void on_rails_changed(Rank peer, const transport::RailRun& rails) override;

 private:
  struct Early {  // what arrived for a layer before this rank has begun it
    std::vector<std::pair<Rank, Bytes>> messages;
  };
  struct Bounce;
  struct PeerRegion;
  struct InFlight {
    cardea_path_t path = CARDEA_PATH_NONE;
    std::uint64_t payload = 0;
    bool ordered = false;              // the GPU keeps the order of its slot
    std::shared_ptr<Bounce> bounce;    // lands in host memory first
    std::shared_ptr<cuda::Gate> gate;  // it waits behind
    std::size_t gate_line = 0;
    std::unique_ptr<core::StartChunk> direct;  // straight into device memory
    bool flushed = false;
    Rank source = kNoRank;  // none: copied out of the node cache
    core::LaneNumber lane = 0;
    std::uint32_t layer_id = 0;
    ExpertIndex expert = 0;
    Clock::time_point since{};
    bool warned = false, given_up = false;
    void recycle() { *this = {}; }
  };

  // runtime.cc
  bool chunk_is_done(transport::ChunkToken token, const Status& status);
  void chunks_were_done(bool any);
  static Status as_of_a_reader(const Status& status, const InFlight& chunk);
  void dispatch();
  void enqueue(std::function<void()> work);
  void drain();
  void arm_timer();
  void carry_out(const core::StartChunk& start);
  void start_by_transport(transport::ChunkOrder order);
  transport::ChunkOrder order_for(const core::StartChunk& start);
  void copy_from_cache(const core::StartChunk& start);
  bool copy_from_mapping(const core::StartChunk& start, const transport::ChunkOrder& order);
  std::byte* slot_of(const core::StartChunk& start, const LayerRecord& layer, std::size_t segment) const;
  Spot spot_of(const LayerRecord& layer, const core::Delivery& delivery) const;
  Status release_one(core::ViewNumber view, Clock::time_point when);
  void enter_in_table(LayerRecord& layer, Version version, const core::Delivery& delivery, const Spot& spot);

  // gpu.cc
  void order_copy(cuda::CopyOrder&& order);
  void issue_or_wake();
  void leave_copies();
  void resume_copies();
  bool copy_by_gpu(const core::StartChunk& start);
  bool fill_copy_order(const core::StartChunk& start, cuda::CopyOrder& order) const;
  /// False if there is no memory for it to land in.
  bool bounce(const core::StartChunk& start, transport::ChunkOrder& order);
  bool upload_bounced(transport::ChunkToken token, InFlight& flight);
  void on_copies_queued(std::span<const std::uint64_t> tokens) override;
  void on_copies_done(std::span<const cuda::CopyDone> done) override;
  void on_batch_timed(const cuda::CopyObserver::Batch& batch) override;
  Status map_device_region(Rank from, LayerRecord& layer, const RegionOffer& offer, SourceRecord& source);
  void device_region_mapped(const transport::RegionKey& key, Result<cuda::PeerMapping> mapping);
  void destroy_on_copier(std::shared_ptr<const void> resource);
  static cuda::SlotKey slot_key(core::SlabNumber slab, core::SlotIndex slot) { return std::uint64_t{slab} << 32 | slot; }

  // gpu_swap.cc
  Status share_allocation(std::byte* base, std::uint64_t span, std::vector<RegionNumber>& found);
  std::vector<RegionNumber> share_rows(const core::SegmentLayout& layout, std::uint32_t rows,
                                       const std::vector<Placement>& places);
  void tell_slab(LayerRecord& layer);
  static Status check_slab(const LayerAnnounce& announce, const std::map<std::uint32_t, std::uint64_t>& regions);
  void name_swap_peers(const LayerRecord& layer);
  Result<cuda::CopyOrder> pull_order(const core::StartChunk& start) const;
  void pull_from_peer(const core::StartChunk& start);

  // gpu_table.cc
  void note_change(const LayerRecord& layer, cuda::TableChange change);
  void note_taken(const LayerRecord& layer, Version version, cuda::Stream stream);
  void note_released(const LayerRecord& layer, ExpertIndex expert, bool last, cuda::Stream stream);
  void note_releases();
  void drop_table(LayerRecord& layer);

  // gpu_exports.cc
  void note_exported(RegionNumber number, const void* base, std::uint64_t bytes, const std::vector<Rank>& to);
  void tell_unmapped(const transport::RegionKey& region);
  Status receive_unmapped(Rank from, const RegionsUnmapped& message);
  void forget_importer(Rank rank);
  void note_early_offer(Rank from, const Message& message);
  void forget_early_offers(const std::vector<std::pair<Rank, Bytes>>& messages);
  bool freed_early(const transport::RegionKey& region) const;
  void receive_gone(Rank from, const RegionsGone& message);
  void region_unused(const transport::RegionKey& region, PeerRegion& known);

  // runtime.cc
  bool on_this_node(Rank rank) const { return options_.node_of[rank] == options_.node_of[options_.self]; }
  bool has_other_nodes() const;

  // gpu_staging.cc
  bool in_device_memory(const LayerRecord& layer, std::size_t local) const;
  Result<std::shared_ptr<std::byte>> stage(const LayerRecord& layer, const transport::ExpertAddress& expert,
                                           std::uint64_t until);
  void staged(std::uint64_t token, const Status& status);
  void drop_staged(core::LayerNumber layer);

  // gpu_direct.cc
  bool slabs_go_direct();
  bool decide_direct();
  bool source_goes_direct(Rank from) const;
  void prepare_direct();
  void forget_direct(const SlabRecord& slab);
  void start_direct(const core::StartChunk& start, transport::ChunkOrder order);
  void slot_is_idle(std::uint64_t hold, const Status& status);
  void fail_held(Rank source, const Status& why);
  bool direct_goes_on(transport::ChunkToken token, InFlight& flight, const Status& status);
  void flush_direct();

  // gpu_gates.cc
  std::shared_ptr<cuda::GateSet> make_gates(const core::SegmentLayout& layout, std::uint32_t slots);
  core::GateLimits gate_limits(const SlabRecord& slab) const;
  void drop_gates(SlabRecord& slab);
  std::byte* landing(const core::LandingPlace& place) const { return slabs_.at(place.slab)->gates->landing(place.index); }
  bool put_behind_gate(const core::StartChunk& start, cuda::CopyOrder& order);
  void advance_gate(const core::AdvanceGate& advance);
  void open_gate(const core::OpenGate& open);
  void leave_line(const InFlight& flight);
  void fail_gates(const Status& why);

  // pinning.cc
  void pin_host_memory();
  void pin_cache(std::uint64_t from);
  void pin_region(const transport::RegionKey& key);
  void warn_unpinned(std::string_view what, const Status& why);
  void forget_region(const transport::RegionKey& key, std::shared_ptr<const void> pinned);
  void unpin_all(bool idle);

  // layers.cc
  void place_local(const LayerRequest& request, LayerRecord& layer);
  void drop_local(LayerRecord& layer);
  void set_local_slots(LayerRecord& layer) const;
  void announce_to_others(std::shared_ptr<LayerRecord> layer);
  Result<Bytes> offer_device(std::uint32_t number, std::uint64_t bytes, const DeviceBacking& device, Rank peer);
  void replay_early(std::shared_ptr<LayerRecord> layer);
  Status receive_announce(Rank from, LayerRecord& layer, LayerAnnounce announce);
  void form_if_complete(LayerRecord& layer);
  void note_layer(const LayerRecord& layer, const std::vector<core::ExpertSources>& experts);
  void let_go_of(Rank owner, RegionNumber region);
  void note_ended(const LayerKey& key);
  void bring_in(const transport::RegionKey& key, LayerRecord& layer, PeerRegion& region);
  void bring_in_more();

  // peers.cc
  void send(Rank to, const Message& message);
  Status receive(Rank from, ByteView bytes);
  Status given_up(Rank from, const LayerRecord& layer, const Status& why) const;
  void lose(Rank peer, const Status& why);

  // watch.cc
  void start_watch();
  void beat();
  void arm_beat();
  void carry_out_watch();
  void lose_by_word(const Liveness::Lose& loss);
  void heard(Rank from);
  void look_for_stalls();
  void dump_if_stalled();
  void bring_out_dump(std::shared_ptr<const std::string> text, std::size_t from, Clock::time_point until);

  Executor& executor_;
  const Clock::time_point began_;
  Observer& observer_;
  RuntimeOptions options_;
  std::string name_;  // for the log
  std::vector<transport::Transport*> route_;
  std::map<Rank, transport::RailRun> rails_;  // that lead to ranks of other nodes; with the mutex

  std::mutex mutex_;
  std::unique_ptr<telemetry::Recorder> recorder_;  // before the core, which notes into it
  core::Core core_;
  Regions regions_;
  Stamps stamps_;
  std::map<LayerKey, std::shared_ptr<LayerRecord>> layers_;
  FlatMap<core::LayerNumber, std::shared_ptr<LayerRecord>> by_number_;
  FlatMap<core::SlabNumber, std::shared_ptr<SlabRecord>> slabs_;
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::uint32_t> instances_;  // of (group, layer_id) begun so far
  std::map<LayerKey, Early> early_;
  std::size_t early_bytes_ = 0;
  std::deque<LayerKey> ended_;           // the last ones, whose late messages are dropped
  core::NumberMap<InFlight> in_flight_;  // by chunk
  struct Lent {
    core::LayerNumber layer = 0;
    Rank to = kNoRank;
    ExpertIndex expert = 0;
    Clock::time_point since;
    std::shared_ptr<std::byte> staged;  // what it lies in, if it came from device memory
  };
  std::map<std::uint64_t, Lent> leases_;
  struct Staged {  // an expert of this rank's device memory, copied once for all other nodes, part by part
    Version version = 0;
    core::LayerNumber layer = 0;
    std::shared_ptr<std::byte> memory;
    std::uint64_t here = 0;     // bytes from its beginning that have come
    std::size_t under_way = 0;  // parts
    Status failed;
  };
  struct StagedPart {
    std::shared_ptr<Staged> of;
    std::uint64_t until = 0;  // the expert's byte before which it ends
  };
  std::map<std::pair<core::LayerNumber, ExpertIndex>, std::shared_ptr<Staged>> staged_;
  std::map<std::uint64_t, StagedPart> staging_;                           // by token
  static constexpr std::uint64_t kFirstStaging = std::uint64_t{1} << 63;  // no chunk's number
  static bool is_staged(std::uint64_t token) { return token >= kFirstStaging; }
  std::uint64_t next_staging_ = kFirstStaging;
  bool device_closes_ = false;  // nothing is copied any more
  std::uint64_t next_lease_ = 1;
  std::map<Rank, Status> lost_;
  std::set<Rank> departed_;
  std::set<Rank> spoken_to_;
  std::unique_ptr<PeerWatch> watch_;
  bool left_ = false;  // said goodbye
  struct PeerRegion {
    std::uint32_t layers = 0;
    bool gone = false;
    std::uint64_t bytes = 0;
    bool on_device = false;                           // device memory, whether or not it can be mapped here
    bool opening = false;                             // device memory: on its way to `device`; mapped: being brought in
    std::shared_ptr<const cuda::PeerMapping> device;  // null also if it could not be mapped
    std::vector<LayerKey> waiting;                    // layers that count it in `mapping`
    const std::byte* base = nullptr;                  // of mapped host memory
    std::shared_ptr<cuda::Registration> pinned;       // mapped host memory; goes on the copier's thread
  };
  std::map<transport::RegionKey, PeerRegion> peer_regions_;
  std::deque<transport::RegionKey> bringing_in_;  // mapped, and their pages come one part in each turn of the executor
  ByteCounters bytes_;

  std::atomic<bool> time_copies_{false};
  std::mutex making_device_, making_table_;
  std::unique_ptr<cuda::Copier> copier_;     // set once
  std::atomic<cuda::Copier*> gpu_{nullptr};  // the same, for those who hold no mutex
  std::vector<cuda::CopyOrder> copies_;      // since the last dispatch
  std::vector<TableNote> table_notes_;       // since they were taken last
  struct Releases {                          // of one layer and stream, in one call
    const LayerRecord* layer = nullptr;
    cuda::Stream stream = nullptr;
    bool last = false;
    std::vector<cuda::TableRow> rows;
  };
  std::vector<Releases> releases_;
  struct Exported {  // a region of device memory that was offered to other ranks of the node
    std::uint64_t base = 0, bytes = 0;
    std::set<Rank> to;  // those that have not said that they have let go
  };
  std::map<RegionNumber, Exported> exported_;  // also of regions that were freed
  struct EarlyOffer {
    std::uint32_t messages = 0;  // that wait for their layers, and offer it
    bool gone = false;
  };
  std::map<transport::RegionKey, EarlyOffer> early_offers_;  // of device memory
  std::shared_ptr<cuda::BufferPool> buffers_;
  std::optional<bool> direct_;  // slabs_go_direct; under making_device_
  bool flushes_ = false;        // what NICs have written; before the first slab that takes it
  struct Hold {                 // chunks that wait until the GPU is done with their slot
    cuda::SlotKey slot = 0;
    std::vector<transport::ChunkOrder> orders;
  };
  std::map<std::uint64_t, Hold> holds_;
  std::uint64_t next_hold_ = 1;
  std::vector<transport::ChunkToken> unflushed_;
  struct GateLine {         // one of the copier's gated queues
    Rank source = kNoRank;  // of what was queued there last
    std::uint32_t shut = 0;
  };
  std::array<GateLine, cuda::kGatedQueues> gate_lines_;
  std::atomic<std::uint64_t> landing_bytes_{0};  // of all slabs
  std::atomic<bool> told_of_gates_{false};
  cuda::Registration cache_pinned_;
  bool warned_unpinned_ = false;
  FlatMap<core::ViewNumber, StreamView> stream_views_;

  std::vector<core::Action> spare_actions_;  // their memory is used again; likewise the next
  std::vector<Delivered> delivered_;
  std::deque<std::function<void()>> outbox_;
  bool drain_posted_ = false;
  std::optional<std::pair<Clock::time_point, TimerId>> timer_;
};

}  // namespace cardea::engine
