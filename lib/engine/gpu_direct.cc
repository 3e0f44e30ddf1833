// SPDX-License-Identifier: Apache-2.0
// The runtime's half that lets the network write into slots in device memory without a stay in host memory: a transport gets
// the slot itself as a chunk's destination.
//
//   wanted ──► held until the GPU is done with the slot ──► with the transport ──► (flushed) ──► arrived
//                                                               └─ UNSUPPORTED ──► through host memory after all
//
// Nobody but the GPU knows when it is done with a slot that was released on a stream, and no NIC waits on the GPU. So chunks
// into such a slot are held here until the copier has seen it (Copier::when_idle).
//
// A transport may call the GPU's driver then, on the executor's thread: to register memory with the NIC, or to copy. That
// must never wait for a gate that this thread is to open: so a rank has either gates or this (gpu_gates.cc), for good.
#include <algorithm>
#include <bit>
#include <cstring>

#include "lib/base/log.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {

// ---------------------------------------------------------------- who may

std::string_view why_not_direct(const DirectFacts& facts) {
  const bool written = facts.can == transport::DeviceMemory::kWritten;
  if (facts.wish == GpuDirect::kOff) return "CARDEA_GPU_DIRECT is off";
  if (facts.can == transport::DeviceMemory::kNone) return "the network's library takes no device memory";
  if (written && facts.must_flush && !facts.can_flush) return "what a NIC writes there cannot be flushed";
  if (facts.wish == GpuDirect::kOn) return {};
  if (!written) return "no NIC would write there, and the network's library copies no better";
  if (facts.shared) return "the ranks of the node share what comes";
  if (!facts.near) return "no NIC that may bring it is known to be near the GPU";
  return {};
}

/// Without the mutex, when the device is known. Decided with the first slab on it, and told to the log.
bool Runtime::slabs_go_direct() {
  const std::scoped_lock deciding(making_device_);
  if (!direct_) direct_ = decide_direct();
  return *direct_;
}

bool Runtime::decide_direct() {
  const transport::Transport* network = nullptr;
  for (Rank rank = 0; rank < route_.size(); ++rank) {
    if (route_[rank] != nullptr && !on_this_node(rank)) network = route_[rank];
  }
  if (network == nullptr) return false;
  const cuda::Device& device = *copier_->device();
  const auto& near = options_.gpus_near_nics;
  const DirectFacts facts{.wish = options_.gpu_direct,
                          .can = network->device_memory(),
                          .shared = options_.cache != nullptr && options_.node_ranks.size() > 1,
                          .near = std::find(near.begin(), near.end(), device.ordinal()) != near.end(),
                          .must_flush = device.must_flush_rdma_writes(),
                          .can_flush = device.can_flush_rdma_writes()};
  const std::string_view why_not = why_not_direct(facts);
  if (!why_not.empty()) {
    log::print(facts.wish == GpuDirect::kOn ? log::Level::kWarn : log::Level::kInfo, name_, "cuda",
               "what comes over the network for the GPU goes through host memory: {}", why_not);
    return false;
  }
  const bool written = facts.can == transport::DeviceMemory::kWritten;
  log::print(log::Level::kInfo, name_, "cuda", "what comes over the network for the GPU goes straight into its slots, {}",
             written ? "written by the NIC" : "copied by the network's library");
  flushes_ = written && facts.must_flush;
  return true;
}

/// On the executor's thread, of a rank of another node.
bool Runtime::source_goes_direct(Rank from) const {
  switch (options_.gpu_direct) {
    case GpuDirect::kOff:
      return false;
    case GpuDirect::kOn:
      return route_[from]->device_memory(from) != transport::DeviceMemory::kNone;
    case GpuDirect::kAuto:
      break;
  }
  return route_[from]->device_memory() == transport::DeviceMemory::kWritten &&
         route_[from]->device_memory(from) == transport::DeviceMemory::kWritten;
}

/// With the mutex. What a transport's library does on the executor's thread, it does in the device's context.
void Runtime::prepare_direct() {
  enqueue([device = copier_->device()] { device->make_current(); });
}

/// With the mutex, before the slab's memory goes: that takes its turn on the executor's thread behind this.
void Runtime::forget_direct(const SlabRecord& slab) {
  std::vector<std::byte*> bases;
  for (std::size_t s = 0; s < slab.base.size(); ++s) bases.push_back(slab.row(s, 0));
  enqueue([this, bases = std::move(bases)] {
    std::set<transport::Transport*> transports(route_.begin(), route_.end());
    for (transport::Transport* const transport : transports) {
      for (std::byte* const base : bases) {
        if (transport != nullptr) transport->forget_device(base);
      }
    }
  });
}

// ---------------------------------------------------------------- chunks

void Runtime::start_direct(const core::StartChunk& start, transport::ChunkOrder order) {
  const SlabRecord& slab = *slabs_.at(start.slab);
  const auto segment = static_cast<std::size_t>(std::countr_zero(start.range.segments));
  order.device = {slab.row(segment, 0), slab.stride[segment] * (slab.slots - 1) + slab.layout.segments()[segment].bytes};
  InFlight& flight = in_flight_.at(start.chunk);
  flight.direct = std::make_unique<core::StartChunk>(start);
  const cuda::SlotKey slot = slot_key(start.slab, start.slot);
  const auto holding =
      std::find_if(holds_.begin(), holds_.end(), [&](const auto& hold) { return hold.second.slot == slot; });
  const bool idle = holding == holds_.end() && copier_->idle(slot);
  if (idle || lost_.contains(start.source)) return start_by_transport(std::move(order));
  flight.source = kNoRank;  // who is not to blame for the wait
  if (holding != holds_.end()) return holding->second.orders.push_back(std::move(order));
  const std::uint64_t number = next_hold_++;
  Hold& hold = holds_[number];
  hold.slot = slot;
  hold.orders.push_back(std::move(order));
  copier_->when_idle(slot, [this, number](const Status& status) { slot_is_idle(number, status); });
}

/// On the copier's thread.
void Runtime::slot_is_idle(std::uint64_t number, const Status& status) {
  const auto held = lock();
  auto node = holds_.extract(number);
  if (node.empty()) return;
  for (transport::ChunkOrder& order : node.mapped().orders) {
    InFlight& flight = in_flight_.at(order.token);
    flight.source = order.source;
    flight.since = now();
    if (!status.ok()) {
      enqueue([this, token = order.token, status] { on_chunk_done(token, status); });
    } else {
      start_by_transport(std::move(order));
    }
  }
}

/// With the mutex. No transport has them, so none would say that they will not come.
void Runtime::fail_held(Rank source, const Status& why) {
  for (auto hold = holds_.begin(); hold != holds_.end();) {
    std::vector<transport::ChunkOrder>& orders = hold->second.orders;
    for (const transport::ChunkOrder& order : orders) {
      if (order.source != source) continue;
      const Status lost = Status(CARDEA_ERR_PEER_LOST, why.message()).with_peer(source);
      enqueue([this, token = order.token, lost] { on_chunk_done(token, lost); });
    }
    std::erase_if(orders, [&](const transport::ChunkOrder& order) { return order.source == source; });
    // The slot may go to others now: what they write there is not what this hold waits for.
    hold = orders.empty() ? holds_.erase(hold) : std::next(hold);
  }
}

/// With the mutex. False: that is its outcome.
bool Runtime::direct_goes_on(transport::ChunkToken token, InFlight& flight, const Status& status) {
  if (status.code() == CARDEA_ERR_UNSUPPORTED) {
    core::StartChunk again = *flight.direct;
    again.direct = false;
    if (std::exchange(slabs_.at(again.slab)->direct, false)) {
      log::print(log::Level::kWarn, name_, "cuda", "what comes over the network for a slab goes through host memory: {}",
                 status.message());
    }
    in_flight_.erase(token);
    carry_out(again);
    return true;
  }
  if (!status.ok()) return false;
  if (flushes_ && !std::exchange(flight.flushed, true)) {
    unflushed_.push_back(token);
    if (unflushed_.size() == 1) copier_->post([this] { flush_direct(); });
    return true;
  }
  bytes_.network_direct += flight.payload;
  return false;
}

/// On the copier's thread.
void Runtime::flush_direct() {
  std::vector<transport::ChunkToken> tokens;
  {
    const auto held = lock();
    tokens.swap(unflushed_);
  }
  const cuda::Device::Current current(*copier_->device());
  const Status status = copier_->device()->flush_rdma_writes();
  for (const transport::ChunkToken token : tokens) on_chunk_done(token, status);
}

void Runtime::on_chunk_landed(transport::ChunkToken token, Bytes bytes) {
  const auto held = lock();
  InFlight* const flight = in_flight_.find(token);
  if (flight == nullptr || !flight->direct) return;
  const std::unique_ptr<core::StartChunk> start = std::move(flight->direct);
  const std::shared_ptr<cuda::BufferPool::Buffer> buffer = buffers_->take(bytes.size());
  if (!buffer) {
    return enqueue([this, token, size = bytes.size()] {
      on_chunk_done(token, Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes of host memory to land in", size));
    });
  }
  std::memcpy(buffer->data(), bytes.data(), bytes.size());
  cuda::CopyOrder order;
  order.token = token;
  order.queue = cuda::Queue::kUpload;
  order.slot = slot_key(start->slab, start->slot);
  order.buffer = buffer;
  std::uint64_t done = 0;
  const LayerRecord& layer = *by_number_.at(start->layer);
  layer.layout.for_each_piece(
      start->range.offset, start->range.bytes, [&](std::size_t segment, std::uint64_t offset, std::uint64_t size) {
        order.pieces.push_back({reinterpret_cast<cuda::Pointer>(slot_of(*start, layer, segment)) + offset,
                                reinterpret_cast<cuda::Pointer>(buffer->data()) + done, size});
        done += size;
      });
  order_copy(std::move(order));
  dispatch();
}

}  // namespace cardea::engine
