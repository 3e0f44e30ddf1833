// SPDX-License-Identifier: Apache-2.0
// The runtime's half that has host memory pinned for this rank's GPU (lib/cuda/pinned.h): the node cache and what peers have
// mapped here, on the copier's thread, from when the device is used for the first time. What cannot be pinned is copied all
// the same, at the driver's pace for plain memory.
#include <algorithm>

#include "lib/base/log.h"
#include "lib/engine/runtime.h"

namespace cardea::engine {

/// With the mutex, once, when there is a copier.
void Runtime::pin_host_memory() {
  for (const auto& [key, region] : peer_regions_) {
    if (!region.opening) pin_region(key);
  }
  if (options_.cache == nullptr || !has_other_nodes()) return;
  copier_->post([this] { pin_cache(0); });
}

/// On the copier's thread. Its pages come in steps, between which the thread does what else there is to do.
void Runtime::pin_cache(std::uint64_t from) {
  constexpr std::uint64_t kStep = std::uint64_t{64} << 20;
  const std::uint64_t bytes = options_.cache->capacity();
  const std::uint64_t end = std::min(bytes, from + kStep);
  Status status = options_.back ? options_.back(from, end - from) : Status();
  if (status.ok() && end < bytes) return copier_->post([this, end] { pin_cache(end); });
  cuda::Registration pinned;
  if (status.ok()) {
    Result<cuda::Registration> made = cuda::Registration::make(copier_->device(), options_.cache->memory(), bytes, true);
    status = made.status();
    if (made.ok()) pinned = std::move(*made);
  }
  const auto held = lock();
  cache_pinned_ = std::move(pinned);
  if (!status.ok()) return warn_unpinned("the node cache", status);
  core_.cache_is_pinned();
}

/// With the mutex. Does nothing without a copier: pin_host_memory comes to it.
void Runtime::pin_region(const transport::RegionKey& key) {
  const PeerRegion& region = peer_regions_.at(key);
  if (!copier_ || region.base == nullptr) return;
  copier_->post([this, key, base = region.base, bytes = region.bytes] {
    // It stays mapped meanwhile: what lets go of it comes behind this (let_go_of).
    Result<cuda::Registration> made = cuda::Registration::make(copier_->device(), base, bytes, false);
    const auto held = lock();
    const auto known = peer_regions_.find(key);
    if (!made.ok()) return warn_unpinned(fmt::format("memory of rank {}", key.owner), made.status());
    // If it has gone, the registration goes as well, in this thread and without the mutex.
    if (known != peer_regions_.end()) known->second.pinned = std::make_shared<cuda::Registration>(std::move(*made));
  });
}

void Runtime::warn_unpinned(std::string_view what, const Status& why) {
  if (std::exchange(warned_unpinned_, true)) return;
  log::print(log::Level::kWarn, name_, "cuda", "{} cannot be pinned ({}): copies of it to the GPU are several times slower",
             what, why.message());
}

/// With the mutex: unpins a region before its transport unmaps it.
void Runtime::forget_region(const transport::RegionKey& key, std::shared_ptr<const void> pinned) {
  const auto forget = [transport = route_[key.owner], key] { transport->forget(key); };
  if (!copier_) return enqueue(forget);
  copier_->post([this, pinned = std::move(pinned), forget]() mutable {
    pinned.reset();
    const auto held = lock();
    enqueue(forget);
  });
}

/// Without the mutex, when the copier is closed; `idle`: the device reads and writes nothing of it any more.
void Runtime::unpin_all(bool idle) {
  std::vector<std::shared_ptr<cuda::Registration>> regions;
  cuda::Registration cache;
  {
    const auto held = lock();
    for (auto& [key, region] : peer_regions_) {
      if (region.pinned) regions.push_back(std::move(region.pinned));
    }
    cache = std::move(cache_pinned_);
  }
  if (idle) return;
  const auto held = lock();
  cache.leave();
  for (const auto& region : regions) region->leave();
  slabs_.for_each([](core::SlabNumber, const std::shared_ptr<SlabRecord>& slab) {
    if (slab->gates) slab->gates->leave();
  });
  if (buffers_) buffers_->leave();
}

}  // namespace cardea::engine
