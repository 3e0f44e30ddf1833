// SPDX-License-Identifier: Apache-2.0
#include "lib/engine/runtime.h"

#include <algorithm>
#include <cstring>

#include "lib/base/log.h"
#include "lib/engine/lanes.h"

namespace cardea::engine {
namespace {

std::vector<core::LaneLimits> lane_limits(const RuntimeOptions& options) {
  std::vector<core::LaneLimits> limits(kNetworkIn + options.rails.size());
  for (std::size_t rail = 0; rail < options.rails.size(); ++rail) {
    limits[kNetworkIn + rail].chunks = options.chunks_in_flight;
    limits[kNetworkIn + rail].nic = 0;
  }
  limits[kNodeCopy].chunks = kCopyChunks;
  // The GPU's copy engines take whole experts, and all that is wanted at once: a batch costs less than its pieces.
  for (const core::LaneNumber lane : {kGpuPull, kGpuUpload}) {
    limits[lane].chunks = UINT32_MAX;
    limits[lane].chunk_bytes = std::uint64_t{1} << 48;
  }
  return limits;
}

std::vector<std::string> lane_names(const RuntimeOptions& options) {
  std::vector<std::string> names{"node-copy", "gpu-pull", "gpu-upload"};
  for (std::size_t rail = 0; rail < options.rails.size(); ++rail) {
    names.push_back(network_lane_name(options.rails, rail));
  }
  return names;
}

std::unique_ptr<telemetry::Recorder> make_recorder(const RuntimeOptions& options) {
  if (options.record == 0) return nullptr;
  return std::make_unique<telemetry::Recorder>(
      telemetry::RecorderOptions{options.self, lane_names(options), options.record});
}

}  // namespace

Runtime::Runtime(Executor& executor, Observer& observer, RuntimeOptions options)
    : executor_(executor),
      began_(executor.now()),
      observer_(observer),
      options_(std::move(options)),
      name_(std::to_string(options_.self)),
      recorder_(make_recorder(options_)),
      core_({.chunk_bytes = options_.chunk_bytes,
             .copy_lane = kNodeCopy,
             .swap = {.peers = 0, .lane = kGpuPull, .uplink_of = {}, .on_device = true},
             .gate_commands = cuda::kGateCommands,
             .node_ranks = options_.node_ranks,
             .recorder = recorder_.get()},
            lane_limits(options_), options_.cache) {}

Runtime::~Runtime() = default;

void Runtime::attach(std::vector<transport::Transport*> route, const std::vector<std::uint32_t>& nics) {
  route_ = std::move(route);
  const auto held = lock();
  for (Rank rank = 0; rank < route_.size(); ++rank) {
    if (route_[rank] != nullptr) rails_[rank] = route_[rank]->rails(rank);
  }
  for (std::size_t rail = 0; rail < std::min(nics.size(), options_.rails.size()); ++rail) {
    core_.set_nic(kNetworkIn + static_cast<core::LaneNumber>(rail), nics[rail]);
  }
  start_watch();
}

/// Whether anything can come over the network.
bool Runtime::has_other_nodes() const {
  const Node own = options_.node_of[options_.self];
  return std::any_of(options_.node_of.begin(), options_.node_of.end(), [&](Node node) { return node != own; });
}

// ---------------------------------------------------------------- carrying out

void Runtime::dispatch() {
  std::vector<core::Action> actions = std::exchange(spare_actions_, {});
  core_.take_actions(actions);
  for (const core::Action& action : actions) {
    if (const auto* start = std::get_if<core::StartChunk>(&action)) {
      carry_out(*start);
    } else if (const auto* progress = std::get_if<core::Progress>(&action)) {
      observer_.on_progress(progress->fetch, progress->done);
    } else if (const auto* tell = std::get_if<core::Tell>(&action)) {
      send(tell->notice.to, LayerNotice{by_number_.at(tell->layer)->key, tell->notice});
    } else if (const auto* open = std::get_if<core::OpenGate>(&action)) {
      open_gate(*open);
    } else if (const auto* advance = std::get_if<core::AdvanceGate>(&action)) {
      advance_gate(*advance);
    } else if (const auto* node = std::get_if<core::TellNode>(&action)) {
      for (std::size_t local = 0; local < options_.node_ranks.size(); ++local) {
        if (node->to >> local & 1) send(options_.node_ranks[local], NodeNotice{node->entry, node->nic});
      }
    } else {
      observer_.on_change();
    }
  }
  spare_actions_ = std::move(actions);
  arm_timer();
  if (!copies_.empty()) issue_or_wake();
}

void Runtime::enqueue(std::function<void()> work) {
  outbox_.push_back(std::move(work));
  if (drain_posted_) return;
  drain_posted_ = true;
  executor_.post([this] { drain(); });
}

void Runtime::drain() {
  std::deque<std::function<void()>> batch;
  {
    const auto held = lock();
    batch.swap(outbox_);
    drain_posted_ = false;
  }
  for (const auto& work : batch) work();
}

void Runtime::arm_timer() {
  // Timers are the executor's thread's business; from elsewhere it is asked to look.
  const auto next = core_.next_deadline();
  if (!next || (timer_ && timer_->first <= *next)) return;
  enqueue([this] {
    const auto held = lock();
    const auto deadline = core_.next_deadline();
    if (!deadline || (timer_ && timer_->first <= *deadline)) return;
    if (timer_) executor_.cancel(timer_->second);
    const auto id = executor_.at(*deadline, [this] {
      const auto inner = lock();
      timer_.reset();
      core_.time_passed(executor_.now());
      dispatch();
    });
    timer_ = {*deadline, id};
  });
}

/// On the executor's thread.
void Runtime::start_by_transport(transport::ChunkOrder order) {
  enqueue([transport = route_[order.source], order = std::move(order)]() mutable { transport->start(std::move(order)); });
}

void Runtime::carry_out(const core::StartChunk& start) {
  if (copier_ && copy_by_gpu(start)) return;
  if (start.from != cache::kNoEntry) return copy_from_cache(start);
  transport::ChunkOrder order = order_for(start);
  const bool onto_device = start.into == cache::kNoEntry && !start.lands && slabs_.at(start.slab)->on_device;
  if (onto_device && start.direct && slabs_.at(start.slab)->direct) return start_direct(start, std::move(order));
  if (lost_.contains(start.source) && !onto_device && copy_from_mapping(start, order)) return;
  if (onto_device && !bounce(start, order)) {
    return enqueue([this, token = start.chunk, bytes = order.bytes] {
      on_chunk_done(token, Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes of host memory to land in", bytes));
    });
  }
  if (start.into == cache::kNoEntry || !options_.back) return start_by_transport(std::move(order));
  const std::uint64_t offset = options_.cache->offset(start.into) + start.range.offset;
  enqueue([this, transport = route_[start.source], offset, order = std::move(order)]() mutable {
    if (const Status status = options_.back(offset, order.bytes); !status.ok()) {
      return on_chunk_done(order.token, Status(CARDEA_ERR_NO_MEMORY, status.message()));
    }
    transport->start(std::move(order));
  });
}

std::byte* Runtime::slot_of(const core::StartChunk& start, const LayerRecord& layer, std::size_t segment) const {
  if (start.into != cache::kNoEntry) return options_.cache->payload(start.into) + layer.layout.offset(segment);
  if (start.lands) return landing(start.lands) + layer.layout.offset(segment);
  return slabs_.at(start.slab)->row(segment, start.slot);
}

void Runtime::copy_from_cache(const core::StartChunk& start) {
  const LayerRecord& layer = *by_number_.at(start.layer);
  struct Piece {
    std::byte* to;
    const std::byte* from;
    std::uint64_t bytes;
  };
  std::vector<Piece> pieces;
  std::uint64_t payload = 0;
  const std::byte* const entry = options_.cache->payload(start.from);
  layer.layout.for_each_piece(
      start.range.offset, start.range.bytes, [&](std::size_t segment, std::uint64_t offset, std::uint64_t bytes) {
        pieces.push_back({slot_of(start, layer, segment) + offset, entry + layer.layout.offset(segment) + offset, bytes});
        payload += bytes;
      });
  InFlight& flight = in_flight_.add(start.chunk);
  flight.path = CARDEA_PATH_CACHE;
  flight.payload = payload;
  enqueue([this, token = start.chunk, pieces = std::move(pieces)] {
    for (const Piece& piece : pieces) std::memcpy(piece.to, piece.from, piece.bytes);
    on_chunk_done(token, {});
  });
}

bool Runtime::copy_from_mapping(const core::StartChunk& start, const transport::ChunkOrder& order) {
  // Its transport has lost the source; what is mapped of it lies where it lay.
  const SourceRecord& source = by_number_.at(start.layer)->sources.at(start.source);
  if (order.source_pieces.empty()) return false;
  std::vector<std::pair<iovec, const std::byte*>> pieces;
  for (std::size_t i = 0; i < order.source_pieces.size(); ++i) {
    const auto mapping = source.mapped.find(order.source_pieces[i].region.region);
    if (mapping == source.mapped.end()) return false;
    pieces.emplace_back(order.destination[i], mapping->second + order.source_pieces[i].offset);
  }
  enqueue([this, token = order.token, pieces = std::move(pieces)] {
    for (const auto& [to, from] : pieces) std::memcpy(to.iov_base, from, to.iov_len);
    on_chunk_done(token, {});
  });
  return true;
}

transport::ChunkOrder Runtime::order_for(const core::StartChunk& start) {
  const LayerRecord& layer = *by_number_.at(start.layer);
  const SourceRecord& source = layer.sources.at(start.source);
  const std::size_t local = source.local_of.at(start.expert);

  transport::ChunkOrder order;
  order.token = start.chunk;
  order.source = start.source;
  order.expert = {layer.key, start.expert, start.version};
  order.offset = start.range.offset;
  order.bytes = start.range.bytes;
  order.stamp = {{start.source, source.announce.stamp_region}, source.announce.stamp_offset, sizeof(Version)};
  std::uint64_t payload = 0;
  layer.layout.for_each_piece(order.offset, order.bytes,
                              [&](std::size_t segment, std::uint64_t offset, std::uint64_t bytes) {
                                order.destination.push_back({slot_of(start, layer, segment) + offset, bytes});
                                const SegmentPlace::Spot at = source.announce.places[segment].of(local);
                                order.source_pieces.push_back({{start.source, at.region}, at.offset + offset, bytes});
                                payload += bytes;
                              });
  // Device memory that is not mapped here can't be read by a transport: its owner is asked.
  const auto readable = [&](const transport::RemotePiece& piece) { return !source.on_device.contains(piece.region.region); };
  if (!std::all_of(order.source_pieces.begin(), order.source_pieces.end(), readable)) order.source_pieces.clear();
  const bool by_network = start.lane >= kNetworkIn;
  if (by_network) order.rail = start.lane - kNetworkIn;
  InFlight& flight = in_flight_.add(start.chunk);
  flight.path = by_network ? CARDEA_PATH_NETWORK : CARDEA_PATH_NODE_COPY;
  flight.payload = payload;
  flight.lane = start.lane;
  flight.source = start.source;
  flight.layer_id = layer.layer_id;
  flight.expert = start.expert;
  flight.since = now();
  return order;
}

// ---------------------------------------------------------------- memory and slabs

Status Runtime::free_region(RegionNumber number) {
  const Regions::Region& region = regions_.at(number);
  if (region.users != 0) {
    return Status(CARDEA_ERR_BUSY,
                  fmt::format("{} layers or slabs lie in the memory of {} bytes", region.users, region.bytes),
                  {.bytes = region.bytes});
  }
  // Peers hear of it before the transports let go; the memory itself goes last, when nothing can be offered of it any more.
  for (const Rank peer : spoken_to_) send(peer, RegionsGone{{number}});
  auto kept = std::make_shared<Regions::Region>(std::move(regions_.at(number)));
  regions_.remove(number);
  if (const auto exported = exported_.find(number); exported != exported_.end() && exported->second.to.empty())
    exported_.erase(exported);
  enqueue([this, number, kept] {
    std::set<transport::Transport*> transports(route_.begin(), route_.end());
    for (transport::Transport* transport : transports) {
      if (transport != nullptr) transport->withdraw(number);
    }
    if (!kept->device) return;
    const auto held = lock();
    destroy_on_copier(std::move(kept->device));
  });
  return {};
}

Result<Runtime::SlabPlan> Runtime::plan_slab(const core::SegmentLayout& layout, std::uint32_t slots) {
  SlabPlan plan;
  for (const core::Segment& segment : layout.segments()) {
    const std::uint64_t stride = (segment.bytes + segment.alignment - 1) / segment.alignment * segment.alignment;
    plan.bytes = (plan.bytes + 4095) / 4096 * 4096;
    plan.starts.push_back(plan.bytes);
    plan.strides.push_back(stride);
    if (__builtin_mul_overflow(stride, std::uint64_t{slots}, &plan.bytes) ||
        __builtin_add_overflow(plan.bytes, plan.starts.back(), &plan.bytes)) {
      return Status(CARDEA_ERR_NO_MEMORY, "the slab is larger than the address space");
    }
  }
  return plan;
}

Result<LandingMemory> Runtime::make_landing_memory(const core::SegmentLayout& layout, std::uint32_t slots) {
  const Result<SlabPlan> plan = plan_slab(layout, slots);
  if (!plan.ok()) return plan.status();
  Result<LandingMemory> memory = LandingMemory::create(plan->bytes);
  if (!memory.ok()) return memory.status().within(fmt::format("slab of {} slots, {} bytes", slots, plan->bytes));
  return memory;
}

Result<std::shared_ptr<SlabRecord>> Runtime::create_slab(core::SegmentLayout layout, std::uint32_t slots,
                                                         std::uint32_t first_slot, const std::vector<Placement>& places,
                                                         SlabMemory memory) {
  auto slab = std::make_shared<SlabRecord>();
  slab->slots = slots;
  slab->on_device = memory.on_device;
  if (places.empty()) {
    Result<SlabPlan> plan = plan_slab(layout, slots);
    if (!plan.ok()) return plan.status();
    slab->stride = plan->strides;
    std::byte* data = nullptr;
    if (memory.own) {
      data = memory.own->own.data();
      slab->regions.push_back(regions_.add_device(data, plan->bytes, std::move(memory.own), true));
      ++regions_.at(slab->regions.back()).users;
      slab->mappable = true;
    } else {
      slab->memory = std::move(memory.landing);
      data = slab->memory.data();
    }
    for (const std::uint64_t start : plan->starts) slab->base.push_back(data + start);
  } else {
    slab->first_slot = first_slot;
    slab->mappable = slab->on_device;
    for (std::size_t i = 0; i < places.size(); ++i) {
      slab->base.push_back(places[i].base);
      slab->stride.push_back(places[i].stride);
      const std::uint64_t span = places[i].stride * (first_slot + slots - 1) + layout.segments()[i].bytes;
      if (const auto spot = regions_.find(places[i].base, span)) {
        ++regions_.at(spot->region).users;
        slab->regions.push_back(spot->region);
        slab->mappable &= regions_.at(spot->region).device != nullptr;
      } else {
        slab->mappable = false;
      }
    }
  }
  slab->layout = std::move(layout);
  slab->gates = std::move(memory.gates);
  slab->direct = slab->may_be_registered = memory.direct;
  if (slab->direct) prepare_direct();
  slab->number =
      core_.add_slab(slots, slab->on_device ? std::optional(kGpuUpload) : std::nullopt, gate_limits(*slab), slab->direct);
  slabs_.set(slab->number, slab);
  return slab;
}

Status Runtime::destroy_slab(SlabRecord& slab) {
  if (slab.layers != 0) return Status::error(CARDEA_ERR_BUSY, "{} layers name the slab", slab.layers);
  if (const Status status = core_.remove_slab(slab.number); !status.ok()) return status;
  if (slab.on_device) {
    std::vector<cuda::SlotKey> slots;
    for (core::SlotIndex slot = 0; slot < slab.slots; ++slot) slots.push_back(slot_key(slab.number, slot));
    copier_->forget(slots);
    if (slab.may_be_registered) forget_direct(slab);
    drop_gates(slab);
  }
  for (const RegionNumber number : slab.regions) {
    Regions::Region& region = regions_.at(number);
    if (--region.users != 0 || !region.implicit) continue;
    [[maybe_unused]] const Status freed = free_region(number);  // nobody uses it
  }
  slabs_.erase(slab.number);
  return {};
}

// ---------------------------------------------------------------- versions

Status Runtime::publish(LayerRecord& layer, Version version) {
  const Status status = core_.publish(layer.number, version, now());
  if (status.ok()) {
    stamps_.set(regions_, layer.stamp, version);
    for (const ExpertIndex expert : layer.announce.experts) layer.table[expert].version = version;
    if (recorder_) recorder_->of_version(now(), telemetry::What::kPublish, layer.number, version);
  }
  dispatch();
  return status;
}

Status Runtime::finish(LayerRecord& layer, Version version) {
  const Status status = core_.finish(layer.number, version, now());
  if (recorder_ && status.ok()) recorder_->of_version(now(), telemetry::What::kFinish, layer.number, version);
  dispatch();
  return status;
}

Status Runtime::collect(LayerRecord& layer, Version version) {
  const Status status = core_.collect(layer.number, version);
  if (status.ok()) {
    stamps_.set(regions_, layer.stamp, kNoVersion);
    drop_staged(layer.number);
  }
  if (recorder_ && status.ok()) recorder_->of_version(now(), telemetry::What::kCollect, layer.number, version);
  dispatch();
  return status;
}

// ---------------------------------------------------------------- fetches

Result<core::FetchNumber> Runtime::fetch(const core::FetchSpec& spec) {
  Result<core::FetchNumber> fetch = core_.fetch(spec, now());
  dispatch();
  return fetch;
}

Spot Runtime::spot_of(const LayerRecord& layer, const core::Delivery& delivery) const {
  Spot spot;
  if (delivery.view == 0) return spot;
  if (delivery.slot) {
    const SlabRecord& slab = *slabs_.at(delivery.slab);
    spot.slot = static_cast<std::int32_t>(slab.first_slot + *delivery.slot);
    for (std::size_t i = 0; i < layer.layout.count(); ++i) spot.segments[i] = slab.row(i, *delivery.slot);
  } else if (delivery.entry != cache::kNoEntry) {
    const std::byte* const entry = options_.cache->payload(delivery.entry);
    for (std::size_t i = 0; i < layer.layout.count(); ++i) spot.segments[i] = entry + layer.layout.offset(i);
  } else if (delivery.path == CARDEA_PATH_HOME) {
    const std::size_t local = layer.local_of.at(delivery.expert);
    spot.slot = layer.local_slot[local];
    for (std::size_t i = 0; i < layer.layout.count(); ++i) spot.segments[i] = layer.local[i][local];
  } else {
    const SourceRecord& source = layer.sources.at(delivery.source);
    const std::size_t local = source.local_of.at(delivery.expert);
    for (std::size_t i = 0; i < layer.layout.count(); ++i) {
      const SegmentPlace::Spot at = source.announce.places[i].of(local);
      spot.segments[i] = source.mapped.at(at.region) + at.offset;
    }
  }
  for (std::size_t i = 0; i < layer.layout.count(); ++i) {
    if (!(delivery.segments >> i & 1)) spot.segments[i] = nullptr;
  }
  return spot;
}

void Runtime::enter_in_table(LayerRecord& layer, Version version, const core::Delivery& delivery, const Spot& spot) {
  if (delivery.view == 0 || layer.local_of.contains(delivery.expert)) return;  // home experts are always there
  ++layer.table_views[delivery.expert];
  cardea_expert_entry_t& entry = layer.table[delivery.expert];
  entry.version = version;
  entry.slot = spot.slot;
  for (std::size_t i = 0; i < layer.layout.count(); ++i) {
    if (spot.segments[i] != nullptr) layer.table_segments[delivery.expert * layer.layout.count() + i] = spot.segments[i];
  }
}

const std::vector<Runtime::Delivered>& Runtime::take(LayerRecord& layer, core::FetchNumber fetch, std::size_t max,
                                                     cuda::Stream stream, std::vector<cuda::SlotKey>* slots) {
  const Version version = core_.version_of(fetch);
  delivered_.clear();
  for (core::Delivery& delivery : core_.take(fetch, max)) {
    const Spot spot = spot_of(layer, delivery);
    enter_in_table(layer, version, delivery, spot);
    if (slots != nullptr && delivery.view != 0 && delivery.slot) {
      slots->push_back(slot_key(delivery.slab, *delivery.slot));
      stream_views_.set(delivery.view, StreamView{stream, slots->back()});
    }
    delivered_.push_back({std::move(delivery), spot});
  }
  if (layer.device_table) note_taken(layer, version, stream);
  if (recorder_ && !delivered_.empty())
    recorder_->of_fetch(now(), telemetry::What::kTake, fetch, static_cast<std::uint32_t>(delivered_.size()));
  return delivered_;
}

Status Runtime::release(core::ViewNumber view) {
  const Status status = release_one(view, now());
  note_releases();
  dispatch();
  return status;
}

void Runtime::release(std::span<const core::ViewNumber> views, std::vector<Status>& outcomes) {
  const Clock::time_point when = now();
  for (const core::ViewNumber view : views) outcomes.push_back(release_one(view, when));
  note_releases();
  dispatch();
}

Status Runtime::release_one(core::ViewNumber view, Clock::time_point when) {
  Result<core::ReleasedView> released = core_.release(view, when);
  if (!released.ok()) return released.status();
  if (recorder_) recorder_->release(when, released->fetch, released->expert);
  if (watch_) watch_->moved.anything = when;
  const StreamView* const on_stream = stream_views_.find(view);
  const cuda::Stream stream = on_stream == nullptr ? nullptr : on_stream->stream;
  stream_views_.erase(view);
  LayerRecord& layer = *by_number_.at(released->layer);
  if (layer.local_of.contains(released->expert)) return {};
  const bool last = --layer.table_views[released->expert] == 0;
  if (layer.device_table) note_released(layer, released->expert, last, stream);
  if (last) {
    cardea_expert_entry_t& entry = layer.table[released->expert];
    entry.version = kNoVersion;
    entry.slot = CARDEA_NO_SLOT;
    const auto first = layer.table_segments.begin() + static_cast<std::ptrdiff_t>(released->expert * layer.layout.count());
    std::fill_n(first, layer.layout.count(), nullptr);
  }
  return {};
}

void Runtime::cancel(core::FetchNumber fetch, const Status& why) {
  if (recorder_) recorder_->of_fetch(now(), telemetry::What::kCancel, fetch);
  core_.cancel(fetch, why, now());
  dispatch();
}

void Runtime::cancel_all(const Status& why) {
  if (recorder_) {
    for (const core::FetchNumber fetch : core_.open_fetches()) recorder_->of_fetch(now(), telemetry::What::kCancel, fetch);
  }
  core_.cancel_all(why, now());
  dispatch();
}

void Runtime::destroy_fetch(core::FetchNumber fetch) {
  if (recorder_) recorder_->of_fetch(now(), telemetry::What::kDestroy, fetch);
  core_.destroy(fetch, now());
  dispatch();
}

bool Runtime::would_deadlock(core::FetchNumber fetch, const std::set<core::FetchNumber>& waited_for) {
  const bool stuck = core_.would_deadlock(fetch, waited_for, now());
  if (recorder_ && core_.has_actions()) recorder_->of_fetch(now(), telemetry::What::kWait, fetch);
  dispatch();
  return stuck;
}

// A source keeps what this rank reads. If it has not, it has ended the layer, of which its message may yet be on the way, or
// holds this rank for lost.
Status Runtime::as_of_a_reader(const Status& status, const InFlight& chunk) {
  if (status.code() != CARDEA_ERR_STALE || chunk.source == kNoRank) return status;
  return {CARDEA_ERR_PEER_LOST,
          fmt::format("rank {} gave up expert {} of layer {} while it was read: {}", chunk.source, chunk.expert,
                      chunk.layer_id, status.message()),
          {.peer = chunk.source, .layer = chunk.layer_id, .expert = chunk.expert}};
}

void Runtime::on_chunk_done(transport::ChunkToken token, const Status& status) {
  const auto held = lock();
  chunks_were_done(chunk_is_done(token, status));
}

/// With the mutex held; chunks_were_done() follows after one or several. False if it goes on, or is known to nobody.
bool Runtime::chunk_is_done(transport::ChunkToken token, const Status& status) {
  InFlight* const flight = in_flight_.find(token);
  if (flight == nullptr) return false;
  if (flight->direct && direct_goes_on(token, *flight, status)) return false;
  if (status.ok() && upload_bounced(token, *flight)) return false;
  if (status.ok()) {
    std::uint64_t& bytes = flight->path == CARDEA_PATH_NETWORK    ? bytes_.network_received
                           : flight->path == CARDEA_PATH_NODE_GPU ? bytes_.node_gpu
                                                                  : bytes_.node_copied;
    bytes += flight->payload;
    if (watch_) {
      watch_->moved.anything = executor_.now();
      if (flight->source != kNoRank) watch_->moved.from[flight->source] = executor_.now();
    }
    if (flight->path == CARDEA_PATH_NETWORK) heard(flight->source);
  }
  const Status outcome = as_of_a_reader(status, *flight);
  leave_line(*flight);
  in_flight_.erase(token);
  core_.chunk_done(token, outcome, executor_.now());
  return true;
}

/// `any`: some of them are.
void Runtime::chunks_were_done(bool any) {
  dispatch();
  if (any && core_.chunks_in_flight() == 0) observer_.on_change();
}

}  // namespace cardea::engine
