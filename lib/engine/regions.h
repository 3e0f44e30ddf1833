// SPDX-License-Identifier: Apache-2.0
// This rank's memory that experts lie in, numbered so that others can speak of it: made by Cardea (mappable by the node's
// other ranks) or the framework's own. Guarded by the runtime's mutex.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "lib/base/shared_memory.h"
#include "lib/base/status.h"
#include "lib/cuda/memory.h"
#include "lib/engine/messages.h"

namespace cardea::engine {

using RegionNumber = std::uint32_t;

/// Device memory that a region is: Cardea's own, or the framework's. Goes away on the copier's thread.
struct DeviceBacking {
  cuda::DeviceMemory own;
  cuda::Shareable shared;

  cuda::Export told() const { return own ? own.told() : shared.told; }
  int descriptor() const { return own ? own.descriptor() : shared.descriptor.get(); }
};

class Regions {
 public:
  struct Region {
    std::byte* base = nullptr;
    std::uint64_t bytes = 0;
    SharedMemory shared;                    // empty for the framework's own memory
    std::uint32_t users = 0;                // layers and slabs that lie in it
    bool implicit = false;                  // made for one layer, and removed with it
    std::shared_ptr<DeviceBacking> device;  // empty for host memory
    int descriptor() const { return shared ? shared.descriptor() : -1; }
  };

  /// Zeroed memory. NO_MEMORY, SYSTEM.
  Result<RegionNumber> allocate(std::uint64_t bytes) {
    Result<SharedMemory> memory = make(bytes);
    if (!memory.ok()) return memory.status();
    return adopt(std::move(*memory));
  }
  /// The two halves of it: the first takes long for many bytes, and needs no mutex.
  static Result<SharedMemory> make(std::uint64_t bytes) { return SharedMemory::create("cardea", bytes); }
  RegionNumber adopt(SharedMemory memory) {
    std::byte* const base = memory.data();
    const std::uint64_t bytes = memory.size();
    return add(Region{base, bytes, std::move(memory), 0, false, {}});
  }
  RegionNumber add_private(void* base, std::uint64_t bytes, bool implicit) {
    return add(Region{static_cast<std::byte*>(base), bytes, {}, 0, implicit, {}});
  }
  RegionNumber add_device(void* base, std::uint64_t bytes, std::shared_ptr<DeviceBacking> device, bool implicit) {
    return add(Region{static_cast<std::byte*>(base), bytes, {}, 0, implicit, std::move(device)});
  }
  Region& at(RegionNumber number) { return regions_.at(number); }
  const Region& at(RegionNumber number) const { return regions_.at(number); }
  bool contains(RegionNumber number) const { return regions_.contains(number); }
  void remove(RegionNumber number) { regions_.erase(number); }

  /// The region that holds all of [address, address + bytes); the newest if several do.
  std::optional<SegmentPlace::Spot> find(const void* address, std::uint64_t bytes) const {
    const auto* at = static_cast<const std::byte*>(address);
    for (auto entry = regions_.rbegin(); entry != regions_.rend(); ++entry) {
      const Region& region = entry->second;
      if (at >= region.base && bytes <= region.bytes &&
          static_cast<std::uint64_t>(at - region.base) <= region.bytes - bytes) {
        return SegmentPlace::Spot{entry->first, static_cast<std::uint64_t>(at - region.base)};
      }
    }
    return std::nullopt;
  }

 private:
  RegionNumber add(Region region) {
    const RegionNumber number = next_++;
    regions_.emplace(number, std::move(region));
    return number;
  }

  std::map<RegionNumber, Region> regions_;
  RegionNumber next_ = 0;
};

}  // namespace cardea::engine
