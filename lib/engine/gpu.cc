// SPDX-License-Identifier: Apache-2.0
// The runtime's half that deals with this rank's GPU. The header says which thread may call the driver; whatever is handed
// to the copier from under the mutex is only queued there.
#include <algorithm>
#include <array>

#include "lib/base/log.h"
#include "lib/engine/lanes.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {
namespace {

// Of this thread: for the runtime whose copies it issues when it has let go of the mutex.
thread_local Runtime::CallerIssues* caller_issues = nullptr;

}  // namespace

/// A chunk of a transport's on its way to the device: it lands here, and is copied up.
struct Runtime::Bounce {
  std::shared_ptr<cuda::BufferPool::Buffer> memory;
  cuda::CopyOrder order;
};

namespace {

// Host memory that chunks land in on their way to the device, and that experts of the device are sent from: at most so much
// of it is pinned.
constexpr std::uint64_t kPinnedBuffers = std::uint64_t{512} << 20;

}  // namespace

// ---------------------------------------------------------------- the device

Status Runtime::use_device() {
  const std::scoped_lock making(making_device_);
  if (copier() != nullptr) return {};
  Result<std::shared_ptr<const cuda::Driver>> driver = cuda::Driver::open();
  if (!driver.ok()) return driver.status();
  int ordinal = options_.cuda_device;
  if (ordinal < 0) {
    const Result<int> current = cuda::current_device(**driver);
    if (!current.ok()) return current.status();
    ordinal = *current;
  }
  Result<std::shared_ptr<const cuda::Device>> device = cuda::Device::open(std::move(*driver), ordinal);
  if (!device.ok()) return device.status();
  Result<std::unique_ptr<cuda::Copier>> copier = cuda::Copier::make(std::move(*device), *this, name_, time_copies_);
  if (!copier.ok()) return copier.status();
  const auto held = lock();
  copier_ = std::move(*copier);
  buffers_ = std::make_shared<cuda::BufferPool>(copier_->device(), kPinnedBuffers);
  pin_host_memory();
  gpu_.store(copier_.get(), std::memory_order_release);
  return {};
}

bool Runtime::close_device(Nanoseconds patience) {
  cuda::Copier* const copier = this->copier();
  if (copier == nullptr) return true;
  fail_gates(Status(CARDEA_ERR_CANCELED, "the context was destroyed"));
  {
    const auto held = lock();
    device_closes_ = true;
  }
  const bool idle = copier->close(patience);
  unpin_all(idle);
  return idle;
}

void Runtime::destroy_on_copier(std::shared_ptr<const void> resource) {
  if (copier_ && resource) copier_->post([kept = std::move(resource)]() mutable { kept.reset(); });
}

// ---------------------------------------------------------------- who issues

Runtime::CallerIssues::CallerIssues(Runtime& runtime, bool may) : runtime_(may ? &runtime : nullptr) {
  if (!may) return;
  before_ = std::exchange(caller_issues, this);
  resume();
}

void Runtime::CallerIssues::suspend() {
  if (cuda::Copier* const copier = std::exchange(promised_, nullptr); copier != nullptr) copier->caller_ends();
}

void Runtime::CallerIssues::resume() {
  promised_ = runtime_->copier();
  if (promised_ != nullptr) promised_->caller_begins();
}

Runtime::CallerIssues::~CallerIssues() {
  if (runtime_ == nullptr) return;
  caller_issues = before_;
  cuda::Copier* const copier = runtime_->copier();
  const bool under_way = copier != nullptr && copier->outstanding() != 0;
  if (under_way) copier->issue();
  // Not before: the copier's thread would tell of the first that are done, under the mutex that this one then waits for.
  suspend();
  if (under_way) copier->wake();  // somebody must look when they are done
}

void Runtime::issue_or_wake() {
  if (device_closes_) {  // nobody queues them any more
    std::vector<cuda::CopyDone> canceled;
    for (const cuda::CopyOrder& order : copies_)
      canceled.push_back({order.token, Status(CARDEA_ERR_CANCELED, "the context is being destroyed")});
    copies_.clear();
    return enqueue([this, canceled = std::move(canceled)] { on_copies_done(canceled); });
  }
  copier_->submit(copies_);
  if (caller_issues == nullptr || caller_issues->runtime_ != this) copier_->wake();
}

void Runtime::leave_copies() {
  if (caller_issues != nullptr && caller_issues->runtime_ == this) caller_issues->suspend();
  if (copier_) copier_->wake();
}

void Runtime::resume_copies() {
  if (caller_issues != nullptr && caller_issues->runtime_ == this) caller_issues->resume();
}

bool Runtime::turn_copies(std::unique_lock<std::mutex>& held) {
  cuda::Copier* const copier = copier_.get();
  if (copier == nullptr || copier->outstanding() == 0) return false;
  constexpr std::chrono::microseconds kBetweenLooks{20};  // of the caller, at what else has changed
  held.unlock();
  copier->issue();
  const auto until = Clock::now() + kBetweenLooks;
  while (!copier->poll() && Clock::now() < until) {
  }
  held.lock();
  return true;
}

// ---------------------------------------------------------------- memory

Result<RegionNumber> Runtime::allocate_device(std::uint64_t bytes) {
  if (const Status status = use_device(); !status.ok()) return status;
  Result<cuda::DeviceMemory> memory = cuda::DeviceMemory::create(copier_->device(), bytes);
  if (!memory.ok()) return memory.status();
  auto backing = std::make_shared<DeviceBacking>();
  std::byte* const base = memory->data();
  backing->own = std::move(*memory);
  const auto held = lock();
  return regions_.add_device(base, bytes, std::move(backing), false);
}

Result<RegionNumber> Runtime::register_device(void* base, std::uint64_t bytes) {
  if (const Status status = use_device(); !status.ok()) return status;
  Result<cuda::Shareable> shareable = cuda::share(copier_->device(), base, bytes);
  if (!shareable.ok()) return shareable.status();
  auto backing = std::make_shared<DeviceBacking>();
  backing->shared = std::move(*shareable);
  const auto held = lock();
  return regions_.add_device(base, bytes, std::move(backing), false);
}

Result<SlabMemory> Runtime::slab_memory(const core::SegmentLayout& layout, std::uint32_t slots, std::uint32_t rows,
                                        const std::vector<Placement>& places) {
  if (const Status status = use_device(); !status.ok()) return status;
  SlabMemory memory;
  memory.on_device = true;
  memory.direct = slabs_go_direct();
  const cuda::Device& device = *copier_->device();
  for (std::size_t s = 0; s < places.size(); ++s) {
    if (const Status status = cuda::check_residence(device, places[s].base); !status.ok())
      return status.within(fmt::format("segment {}", s));
  }
  if (!places.empty()) {
    memory.found = share_rows(layout, rows, places);
    if (!memory.direct) memory.gates = make_gates(layout, slots);
    return memory;
  }
  const Result<SlabPlan> plan = plan_slab(layout, slots);
  if (!plan.ok()) return plan.status();
  Result<cuda::DeviceMemory> made = cuda::DeviceMemory::create(copier_->device(), plan->bytes);
  if (!made.ok()) return made.status().within(fmt::format("slab of {} slots", slots));
  memory.own = std::make_shared<DeviceBacking>();
  memory.own->own = std::move(*made);
  if (!memory.direct) memory.gates = make_gates(layout, slots);
  return memory;
}

Status Runtime::find_device_memory(LayerRequest& request) {
  const std::size_t experts = request.experts.size();
  if (experts == 0) return {};
  std::shared_ptr<const cuda::Driver> driver;
  if (const cuda::Copier* const known = copier(); known != nullptr)
    driver = std::shared_ptr<const cuda::Driver>(known->device(), &known->device()->driver());
  if (!driver) {
    // Where nobody in this process has loaded the driver, nothing can be memory of it.
    if (!cuda::Driver::loaded()) return {};
    Result<std::shared_ptr<const cuda::Driver>> opened = cuda::Driver::open();
    if (!opened.ok()) return {};
    driver = std::move(*opened);
  }
  for (std::size_t s = 0; s < request.places.size(); ++s) {
    const Placement& place = request.places[s];
    const std::uint64_t bytes = request.layout.segments()[s].bytes;
    std::vector<std::pair<std::byte*, std::uint64_t>> spans;
    if (place.pointers.empty()) {
      spans.emplace_back(place.base, place.stride * (experts - 1) + bytes);
    } else {
      for (std::byte* const pointer : place.pointers) spans.emplace_back(pointer, bytes);
    }
    for (const auto& [base, span] : spans) {
      if (cuda::residence(*driver, base) != cuda::Residence::kDevice) continue;
      if (const Status status = use_device(); !status.ok()) return status;
      if (const Status status = share_allocation(base, span, request.found); !status.ok())
        return status.within(fmt::format("segment {}", s));
    }
  }
  return {};
}

/// Without the mutex. Where the span lies in no region yet, its whole allocation becomes one, so that whatever else lies in
/// it needs no other, and is added to `found`.
Status Runtime::share_allocation(std::byte* base, std::uint64_t span, std::vector<RegionNumber>& found) {
  {
    const auto held = lock();
    if (regions_.find(base, span)) return {};
  }
  Result<cuda::Shareable> shareable = cuda::share(copier_->device(), base, span);
  if (!shareable.ok()) return shareable.status();
  auto backing = std::make_shared<DeviceBacking>();
  cuda::Export& told = shareable->told;
  told.address -= told.offset;
  told.offset = 0;
  backing->shared = std::move(*shareable);
  const cuda::Export all = backing->told();
  const auto held = lock();
  found.push_back(regions_.add_device(reinterpret_cast<void*>(all.address), all.allocation, std::move(backing), true));
  return {};
}

void Runtime::drop_unused(const std::vector<RegionNumber>& found) {
  for (const RegionNumber number : found) {
    if (!regions_.contains(number) || regions_.at(number).users != 0) continue;
    [[maybe_unused]] const Status freed = free_region(number);  // nobody uses it
  }
}

// ---------------------------------------------------------------- peers' memory

Status Runtime::map_device_region(Rank from, LayerRecord& layer, const RegionOffer& offer, SourceRecord& source) {
  Result<cuda::Export> told = cuda::Export::decode(offer.descriptor, offer.bytes);
  if (!told.ok()) return told.status();
  if (!on_this_node(from)) return {};
  const transport::RegionKey key{from, offer.region};
  auto descriptor = std::make_shared<UniqueFd>();
  if (told->kind == cuda::Export::Kind::kDescriptor) *descriptor = route_[from]->take_descriptor(key, offer.bytes);
  if (!copier_) return {};  // without a GPU of its own a rank asks the owner, as other nodes do
  PeerRegion& known = peer_regions_.at(key);
  if (known.device) {
    source.device[offer.region] = known.device;
    return {};
  }
  ++layer.mapping;
  known.waiting.push_back(layer.key);
  if (std::exchange(known.opening, true)) return {};
  copier_->post([this, key, told = *told, descriptor] {
    device_region_mapped(key, cuda::PeerMapping::open(copier_->device(), told, descriptor->get()));
  });
  return {};
}

void Runtime::device_region_mapped(const transport::RegionKey& key, Result<cuda::PeerMapping> opened) {
  std::shared_ptr<const cuda::PeerMapping> mapping;  // if nobody waits any more, it goes here, where it may
  if (opened.ok()) mapping = std::make_shared<const cuda::PeerMapping>(std::move(*opened));
  auto held = lock();
  const auto found = peer_regions_.find(key);
  if (found == peer_regions_.end()) {
    held.unlock();
    mapping.reset();
    held.lock();
    return tell_unmapped(key);
  }
  PeerRegion& known = found->second;
  known.opening = false;
  known.device = mapping;
  if (!mapping) {
    log::print(log::Level::kWarn, name_, "cuda",
               "device memory of rank {} cannot be mapped ({}): its experts are copied through host memory, which is slower",
               key.owner, opened.status().message());
  }
  for (const LayerKey& waiting : std::exchange(known.waiting, {})) {
    const auto layer = layers_.find(waiting);
    if (layer == layers_.end()) continue;
    --layer->second->mapping;
    const auto source = layer->second->sources.find(key.owner);
    if (mapping && source != layer->second->sources.end()) source->second.device[key.region] = mapping;
    form_if_complete(*layer->second);
  }
  observer_.on_change();
  dispatch();
}

// ---------------------------------------------------------------- copies

void Runtime::order_copy(cuda::CopyOrder&& order) {
  copies_.push_back(std::move(order));
}

bool Runtime::copy_by_gpu(const core::StartChunk& start) {
  if (start.into != cache::kNoEntry || start.lands) return false;
  if (start.peer != kNoRank) {
    pull_from_peer(start);
    return true;
  }
  const SlabRecord& slab = *slabs_.at(start.slab);
  if (!slab.on_device && (start.from != cache::kNoEntry || start.lane != kGpuPull)) return false;
  cuda::CopyOrder& order = copies_.emplace_back();
  if (!fill_copy_order(start, order)) {  // by the transport, then
    copies_.pop_back();
    return false;
  }
  std::uint64_t payload = 0;
  for (const cuda::CopyPiece& piece : order.pieces) payload += piece.bytes;
  const cardea_path_t path = start.from != cache::kNoEntry || start.landed ? CARDEA_PATH_CACHE : CARDEA_PATH_NODE_GPU;
  if (start.landed) payload = 0;  // counted when it landed
  InFlight& flight = in_flight_.add(start.chunk);
  flight.path = path;
  flight.payload = payload;
  flight.ordered = slab.on_device;
  if (start.gated && !put_behind_gate(start, order)) copies_.pop_back();
  return true;
}

/// False if what it is copied from is not mapped here.
bool Runtime::fill_copy_order(const core::StartChunk& start, cuda::CopyOrder& order) const {
  const LayerRecord& layer = *by_number_.at(start.layer);
  const SlabRecord& slab = *slabs_.at(start.slab);
  order.token = start.chunk;
  order.slot = slot_key(start.slab, start.slot);
  order.queue = slab.on_device ? cuda::Queue::kUpload : cuda::Queue::kDownload;
  order.version = start.version;
  const SourceRecord* source = nullptr;
  std::size_t local = 0;
  if (start.from == cache::kNoEntry && !start.landed) {
    source = &layer.sources.at(start.source);
    local = source->local_of.at(start.expert);
    if (const auto stamp = source->mapped.find(source->announce.stamp_region); stamp != source->mapped.end())
      order.stamp = reinterpret_cast<const Version*>(stamp->second + source->announce.stamp_offset);
  }
  bool reachable = true;
  layer.layout.for_each_piece(
      start.range.offset, start.range.bytes, [&](std::size_t segment, std::uint64_t offset, std::uint64_t bytes) {
        cuda::Pointer from = 0;
        if (source == nullptr) {
          const std::byte* const whole = start.landed ? landing(start.landed) : options_.cache->payload(start.from);
          from = reinterpret_cast<cuda::Pointer>(whole) + layer.layout.offset(segment);
        } else {
          const SegmentPlace::Spot at = source->announce.places[segment].of(local);
          if (const auto device = source->device.find(at.region); device != source->device.end()) {
            from = device->second->address() + at.offset;
            if (order.queue == cuda::Queue::kUpload) order.queue = cuda::Queue::kPull;
          } else if (const auto mapped = source->mapped.find(at.region); mapped != source->mapped.end()) {
            from = reinterpret_cast<cuda::Pointer>(mapped->second) + at.offset;
          } else {
            reachable = false;
          }
        }
        const auto to = reinterpret_cast<cuda::Pointer>(slab.row(segment, start.slot)) + offset;
        order.pieces.push_back({to, from + offset, bytes});
      });
  return reachable;
}

bool Runtime::bounce(const core::StartChunk& start, transport::ChunkOrder& order) {
  auto bounced = std::make_shared<Bounce>();
  std::uint64_t payload = 0;
  for (const iovec& piece : order.destination) payload += piece.iov_len;
  bounced->memory = buffers_->take(payload);
  if (!bounced->memory) return false;
  bounced->order.buffer = bounced->memory;
  bounced->order.token = start.chunk;
  bounced->order.queue = cuda::Queue::kUpload;
  bounced->order.slot = slot_key(start.slab, start.slot);
  std::byte* at = bounced->memory->data();
  for (iovec& piece : order.destination) {
    bounced->order.pieces.push_back(
        {reinterpret_cast<cuda::Pointer>(piece.iov_base), reinterpret_cast<cuda::Pointer>(at), piece.iov_len});
    piece.iov_base = at;
    at += piece.iov_len;
  }
  in_flight_.at(start.chunk).bounce = std::move(bounced);
  return true;
}

bool Runtime::upload_bounced(transport::ChunkToken token, InFlight& flight) {
  if (!flight.bounce || flight.bounce->order.token != token) return false;
  cuda::CopyOrder order = std::move(flight.bounce->order);
  flight.bounce->order.token = 0;  // landed; the memory stays until it is copied
  order_copy(std::move(order));
  return true;
}

// ---------------------------------------------------------------- completions

void Runtime::on_copies_queued(std::span<const std::uint64_t> tokens) {
  const auto held = lock();
  for (const std::uint64_t token : tokens) {
    const InFlight* const flight = in_flight_.find(token);
    if (flight == nullptr || !flight->ordered) continue;
    core_.chunk_queued(token, now());
  }
  dispatch();
}

void Runtime::on_copies_done(std::span<const cuda::CopyDone> done) {
  constexpr std::size_t kAtOnce = 16;  // the mutex is not held for longer
  for (std::size_t i = 0; i < done.size();) {
    if (is_staged(done[i].token)) {
      staged(done[i].token, done[i].status);
      ++i;
      continue;
    }
    const auto held = lock();
    const std::size_t end = std::min(done.size(), i + kAtOnce);
    bool any = false;
    for (; i < end && !is_staged(done[i].token); ++i) any |= chunk_is_done(done[i].token, done[i].status);
    chunks_were_done(any);
  }
}

void Runtime::on_batch_timed(const cuda::CopyObserver::Batch& batch) {
  static_assert(static_cast<int>(telemetry::GpuQueue::kPull) == static_cast<int>(cuda::Queue::kPull));
  static_assert(static_cast<int>(telemetry::GpuQueue::kDownload) == static_cast<int>(cuda::Queue::kDownload));
  const auto held = lock();
  if (!recorder_) return;
  recorder_->copied(now(), static_cast<telemetry::GpuQueue>(batch.queue), batch.number, batch.bytes, batch.orders,
                    batch.span.begin, batch.span.took);
}

// ---------------------------------------------------------------- streams

std::optional<Runtime::StreamView> Runtime::stream_view(core::ViewNumber view) const {
  const StreamView* const found = stream_views_.find(view);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

Status Runtime::publish_on(cuda::Stream stream, LayerRecord& layer, Version version) {
  const core::LayerNumber number = layer.number;
  std::vector<TableNote> notes;
  {
    const auto held = lock();
    if (layer.publishing) {
      return Status::error(CARDEA_ERR_BUSY, "version {} of layer {} is still to be published by a stream", *layer.publishing,
                           layer.layer_id);
    }
    if (const Status status = core_.may_publish(number, version); !status.ok()) return status;
    layer.publishing = version;
    core_.hold(number);
    note_published(layer, version, stream);
    notes = take_table_notes();
  }
  const bool in_table = !notes.empty();
  const Status written = write_tables(std::move(notes), true);
  const auto then = [this, number, version, in_table](const Status& reached) {
    auto held = lock();
    LayerRecord& of = *by_number_.at(number);
    of.publishing.reset();
    const Status status = reached.ok() ? publish(of, version) : reached;
    if (!status.ok()) {
      log::print(log::Level::kError, name_, "cuda", "version {} of layer {} is not published: {}", version, of.layer_id,
                 status.message());
    }
    core_.let_go(number);
    dispatch();
    if (in_table || !status.ok()) return;
    note_published(of, version, nullptr);  // somebody may have asked for the table since
    std::vector<TableNote> late = take_table_notes();
    held.unlock();
    [[maybe_unused]] const Status entered = write_tables(std::move(late), true);  // it says itself what failed
  };
  const Status status = written.ok() ? copier_->when_reached(stream, then) : written;
  if (status.ok()) return status;
  const auto held = lock();
  layer.publishing.reset();
  core_.let_go(number);
  dispatch();
  return status;
}

Status Runtime::finish_on(cuda::Stream stream, LayerRecord& layer, Version version) {
  const core::LayerNumber number = layer.number;
  {
    const auto held = lock();
    core_.hold(number);
    if (const Status status = finish(layer, version); !status.ok()) {
      core_.let_go(number);
      dispatch();
      return status;
    }
  }
  const Status status = copier_->when_reached(stream, [this, number](const Status&) {
    const auto held = lock();
    core_.let_go(number);
    dispatch();
  });
  if (status.ok()) return status;
  // It has been finished; that the stream cannot be asked is no reason to keep it from the others for ever.
  const auto held = lock();
  core_.let_go(number);
  dispatch();
  return status;
}

}  // namespace cardea::engine
