// SPDX-License-Identifier: Apache-2.0
// One rank at work: the core, the addresses that it needs, and the messages between ranks, over any transports and any
// executor; in production the Asio engine thread, in simulation virtual time.
//
// Threads: one mutex guards everything. Callers hold it (lock()) for every function below; the transports' calls
// (Listener), which come on the executor, take it themselves. Nothing is sent and no copy is started while it is held: what
// is to be done is queued in order and carried out by the executor. No function waits; where something takes time, the
// Observer is told when to look again.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/base/executor.h"
#include "lib/core/core.h"
#include "lib/engine/dump.h"
#include "lib/engine/layer_record.h"
#include "lib/engine/messages.h"
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
};

struct RuntimeOptions {
  Rank self = 0;
  std::vector<Node> node_of;  // by rank
  std::uint64_t chunk_bytes = std::uint64_t{1} << 20;
  std::uint32_t chunks_in_flight = 8;
  cache::NodeCache* cache = nullptr;  // this rank's hand on its node's; must outlive the runtime
  std::vector<Rank> node_ranks;       // by local number in the cache
  std::size_t record = 0;             // records that the recorder's ring holds; 0: none is made
  /// Brings in memory of the cache's payload before it is written for the first time; unset: all of it is there.
  std::function<Status(std::uint64_t offset, std::uint64_t bytes)> back;
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
};

struct ByteCounters {
  std::uint64_t node_copied = 0, network_received = 0, network_sent = 0;
};

class Runtime final : public transport::Listener {
 public:
  Runtime(Executor& executor, Observer& observer, RuntimeOptions options);
  ~Runtime() override;

  /// Before anything else, on a thread that ends up being, or happens before, the executor's. `route[rank]` is the transport
  /// that reaches the rank, null for this rank; the transports must outlive close().
  void attach(std::vector<transport::Transport*> route);

  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }
  core::Core& core() { return core_; }
  const core::Core& core() const { return core_; }
  Clock::time_point now() const { return executor_.now(); }

  // ---- memory and slabs
  Result<RegionNumber> allocate(std::uint64_t bytes) { return regions_.allocate(bytes); }
  RegionNumber register_private(void* base, std::uint64_t bytes) { return regions_.add_private(base, bytes, false); }
  Regions::Region& region(RegionNumber number) { return regions_.at(number); }
  /// BUSY while layers lie in it.
  Status free_region(RegionNumber number);
  Result<std::shared_ptr<SlabRecord>> create_slab(core::SegmentLayout layout, std::uint32_t slots, std::uint32_t first_slot,
                                                  const std::vector<Placement>& places);
  Status destroy_slab(SlabRecord& slab);

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
  /// Deliveries and where they lie; keeps the expert table.
  struct Delivered {
    core::Delivery delivery;
    Spot spot;
  };
  std::vector<Delivered> take(LayerRecord& layer, core::FetchNumber fetch, std::size_t max);
  Status release(core::ViewNumber view);
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
  void on_peer_lost(Rank peer, const Status& why) override;
  Result<transport::Lease> lend(Rank asker, const transport::ExpertAddress& expert, std::uint64_t offset,
                                std::uint64_t bytes) override;
  void give_back(std::uint64_t lease, std::uint64_t bytes_sent) override;

 private:
  struct Early {  // what arrived for a layer before this rank has begun it
    std::vector<std::pair<Rank, Bytes>> messages;
  };
  struct InFlight {
    cardea_path_t path = CARDEA_PATH_NONE;
    std::uint64_t payload = 0;
  };

  // runtime.cc
  void dispatch();
  void enqueue(std::function<void()> work);
  void drain();
  void arm_timer();
  void carry_out(const core::StartChunk& start);
  transport::ChunkOrder order_for(const core::StartChunk& start);
  void copy_from_cache(const core::StartChunk& start);
  std::byte* slot_of(const core::StartChunk& start, const LayerRecord& layer, std::size_t segment) const;
  Spot spot_of(const LayerRecord& layer, const core::Delivery& delivery) const;
  void enter_in_table(LayerRecord& layer, Version version, const core::Delivery& delivery, const Spot& spot);

  // layers.cc
  void place_local(const LayerRequest& request, LayerRecord& layer);
  void drop_local(LayerRecord& layer);
  void set_local_slots(LayerRecord& layer) const;
  void announce_to_others(std::shared_ptr<LayerRecord> layer);
  void replay_early(std::shared_ptr<LayerRecord> layer);
  Status receive_announce(Rank from, LayerRecord& layer, LayerAnnounce announce);
  void form_if_complete(LayerRecord& layer);
  void note_layer(const LayerRecord& layer, const std::vector<core::ExpertSources>& experts);
  void let_go_of(Rank owner, RegionNumber region);

  // peers.cc
  void send(Rank to, const Message& message);
  Status receive(Rank from, ByteView bytes);
  Status given_up(Rank from, const LayerRecord& layer, const Status& why) const;
  void lose(Rank peer, const Status& why);

  Executor& executor_;
  const Clock::time_point began_;
  Observer& observer_;
  RuntimeOptions options_;
  std::string name_;  // for the log
  std::vector<transport::Transport*> route_;

  std::mutex mutex_;
  std::unique_ptr<telemetry::Recorder> recorder_;  // before the core, which notes into it
  core::Core core_;
  Regions regions_;
  Stamps stamps_;
  std::map<LayerKey, std::shared_ptr<LayerRecord>> layers_;
  std::unordered_map<core::LayerNumber, std::shared_ptr<LayerRecord>> by_number_;
  std::unordered_map<core::SlabNumber, std::shared_ptr<SlabRecord>> slabs_;
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::uint32_t> instances_;  // of (group, layer_id) begun so far
  std::map<LayerKey, Early> early_;
  std::size_t early_bytes_ = 0;
  std::deque<LayerKey> ended_;  // the last ones, whose late messages are dropped
  std::unordered_map<core::ChunkNumber, InFlight> in_flight_;
  struct Lent {
    core::LayerNumber layer = 0;
    Rank to = kNoRank;
    ExpertIndex expert = 0;
    Clock::time_point since;
  };
  std::map<std::uint64_t, Lent> leases_;
  std::uint64_t next_lease_ = 1;
  std::map<Rank, Status> lost_;
  std::set<Rank> departed_;
  std::set<Rank> spoken_to_;
  struct PeerRegion {
    std::uint32_t layers = 0;
    bool gone = false;
    std::uint64_t bytes = 0;
  };
  std::map<transport::RegionKey, PeerRegion> peer_regions_;
  ByteCounters bytes_;

  std::vector<core::Action> spare_actions_;  // their memory is used again
  std::deque<std::function<void()>> outbox_;
  bool drain_posted_ = false;
  std::optional<std::pair<Clock::time_point, TimerId>> timer_;
};

}  // namespace cardea::engine
