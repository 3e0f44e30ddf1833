// SPDX-License-Identifier: Apache-2.0
// cardea.h: memory and slabs.
#include "cardea/cardea.h"
#include "lib/api/describe.h"
#include "lib/api/last_error.h"
#include "lib/api/object.h"
#include "lib/api/structs.h"
#include "lib/base/numa_preference.h"

using cardea::Result;
using cardea::Status;
using namespace cardea::api;
namespace engine = cardea::engine;
namespace core = cardea::core;

namespace {

Status check_kind(std::uint32_t kind) {
  if (kind == CARDEA_MEMORY_HOST || kind == CARDEA_MEMORY_CUDA) return {};
  return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "memory kind {}", kind);
}

Status check_range(const void* address, std::uint64_t bytes) {
  if (address == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "address is null");
  if (bytes == 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "bytes is 0");
  if (reinterpret_cast<std::uintptr_t>(address) > UINTPTR_MAX - bytes) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} bytes from {} reach beyond the address space", bytes, address);
  }
  return {};
}

/// The context, if it may be used and, for device memory, by this thread.
Result<std::shared_ptr<Context>> context_of(cardea_context_t context, std::uint32_t kind) {
  Result<std::shared_ptr<Context>> found = context_for(context.id, Kind::kContext);
  if (!found.ok()) return found;
  if (const Status status = check_kind(kind); !status.ok()) return status;
  if (kind == CARDEA_MEMORY_CUDA) {
    if (const Status status = may_use_device(**found); !status.ok()) return status;
  }
  return found;
}

/// prepare() runs first, for host memory. on_host(context) runs with the mutex held, on_device(context) without; each
/// returns a region's number, which becomes a handle.
template <typename Prepare, typename OnHost, typename OnDevice>
cardea_status_t make_memory(cardea_context_t context, uint64_t bytes, const cardea_memory_kind_t& kind,
                            cardea_memory_t* memory, Prepare prepare, OnHost on_host, OnDevice on_device) noexcept {
  return guarded([&]() -> Status {
    if (memory == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "memory is null");
    if (bytes == 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "bytes is 0");
    Result<std::shared_ptr<Context>> found = context_of(context, number_of(kind));
    if (!found.ok()) return found.status();
    Context& in = **found;
    Result<engine::RegionNumber> region = Status();
    if (number_of(kind) == CARDEA_MEMORY_CUDA) region = on_device(in);
    if (number_of(kind) == CARDEA_MEMORY_HOST) {
      const cardea::NumaPreference near(in.place().numa);
      prepare();
    }
    const auto held = in.lock();
    if (!in.aborted().ok()) {  // while the memory was made
      if (region.ok() && number_of(kind) == CARDEA_MEMORY_CUDA) {
        [[maybe_unused]] const Status freed = in.runtime().free_region(*region);  // nobody uses it
      }
      return in.aborted();
    }
    if (number_of(kind) == CARDEA_MEMORY_HOST) region = on_host(in);
    if (!region.ok()) return region.status();
    memory->id = make_handle(in.number(), Kind::kMemory, in.memories.add({*region}));
    return {};
  });
}

}  // namespace

cardea_status_t cardea_memory_alloc(cardea_context_t context, uint64_t bytes, cardea_memory_kind_t kind,
                                    cardea_memory_t* memory) CARDEA_NOEXCEPT {
  // Bringing in gigabytes takes seconds, in which the engine must not wait for the mutex.
  Result<cardea::SharedMemory> made = Status();
  return make_memory(
      context, bytes, kind, memory, [&] { made = engine::Regions::make(bytes); },
      [&](Context& in) -> Result<engine::RegionNumber> {
        if (!made.ok()) return made.status();
        return in.runtime().adopt(std::move(*made));
      },
      [&](Context& in) { return in.runtime().allocate_device(bytes); });
}

cardea_status_t cardea_memory_register(cardea_context_t context, void* address, uint64_t bytes, cardea_memory_kind_t kind,
                                       cardea_memory_t* memory) CARDEA_NOEXCEPT {
  return make_memory(
      context, bytes, kind, memory, [] {},
      [&](Context& in) -> Result<engine::RegionNumber> {
        if (const Status status = check_range(address, bytes); !status.ok()) return status;
        return in.runtime().register_private(address, bytes);
      },
      [&](Context& in) -> Result<engine::RegionNumber> {
        if (const Status status = check_range(address, bytes); !status.ok()) return status;
        return in.runtime().register_device(address, bytes);
      });
}

cardea_status_t cardea_memory_query(cardea_memory_t memory, cardea_memory_info_t* info) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_object(memory.id, Kind::kMemory, &Context::memories,
                       [&](Context& in, auto&, MemoryObject& object) -> Status {
                         if (const Status status = check_output(info, "info"); !status.ok()) return status;
                         const engine::Regions::Region& region = in.runtime().region(object.region);
                         cardea_memory_info_t out = CARDEA_MEMORY_INFO_INIT;
                         out.address = region.base;
                         out.bytes = region.bytes;
                         out.kind = region.device ? CARDEA_MEMORY_CUDA : CARDEA_MEMORY_HOST;
                         out.mappable = region.shared || region.device ? 1 : 0;
                         write_struct(info, out);
                         return {};
                       });
  });
}

cardea_status_t cardea_memory_free(cardea_memory_t memory) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_object(memory.id, Kind::kMemory, &Context::memories,
                       [&](Context& in, auto&, MemoryObject& object) -> Status {
                         if (const Status status = in.runtime().free_region(object.region); !status.ok()) return status;
                         in.memories.objects.erase(object_of(memory.id));
                         return {};
                       });
  });
}

cardea_status_t cardea_memory_wait_unmapped(cardea_context_t context, const void* address, uint64_t bytes,
                                            uint64_t timeout) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    Result<std::shared_ptr<Context>> found = context_of(context, CARDEA_MEMORY_HOST);
    if (!found.ok()) return found.status();
    if (const Status status = check_range(address, bytes); !status.ok()) return status;
    Context& in = **found;
    auto held = in.lock();
    Status status = in.wait(held, timeout, [&] { return in.runtime().unmapped(address, bytes); });
    if (status.code() != CARDEA_ERR_TIMEOUT) return status;
    const Status still = in.runtime().unmapped(address, bytes);
    return still.code() == CARDEA_IN_PROGRESS ? Status(CARDEA_ERR_TIMEOUT, still.message(), still.detail()) : still;
  });
}

cardea_status_t cardea_slab_create(cardea_context_t context, const cardea_slab_desc_t* desc,
                                   cardea_slab_t* slab) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    if (slab == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "slab is null");
    Result<cardea_slab_desc_t> given = read_struct(desc, "desc");
    if (!given.ok()) return given.status();
    Result<std::shared_ptr<Context>> found = context_of(context, number_of(given->kind));
    if (!found.ok()) return found.status();
    Result<core::SegmentLayout> layout = read_segments(given->segments, given->num_segments);
    if (!layout.ok()) return layout.status();
    if (given->num_slots == 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "desc.num_slots is 0");
    constexpr std::uint64_t kMostRows = INT32_MAX;
    if (std::uint64_t{given->num_slots} + given->first_slot > kMostRows) {
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "desc.first_slot + desc.num_slots is over {}", kMostRows);
    }
    std::vector<engine::Placement> places;
    if (given->placements != nullptr) {
      Result<std::vector<engine::Placement>> read =
          read_placements(given->placements, *layout, given->first_slot + given->num_slots, Stacked::kOnly);
      if (!read.ok()) return read.status();
      places = std::move(*read);
    } else if (given->first_slot != 0) {
      return Status(CARDEA_ERR_INVALID_ARGUMENT, "desc.first_slot is set without desc.placements");
    }
    Context& in = **found;
    engine::SlabMemory memory;
    if (number_of(given->kind) == CARDEA_MEMORY_CUDA) {
      Result<engine::SlabMemory> on_device =
          in.runtime().slab_memory(*layout, given->num_slots, given->first_slot + given->num_slots, places);
      if (!on_device.ok()) return on_device.status();
      memory = std::move(*on_device);
    } else if (places.empty()) {
      const cardea::NumaPreference near(in.place().numa);
      Result<engine::LandingMemory> landing = engine::Runtime::make_landing_memory(*layout, given->num_slots);
      if (!landing.ok()) return landing.status();
      memory.landing = std::move(*landing);
    }
    const std::vector<engine::RegionNumber> regions = memory.found;
    const auto held = in.lock();
    if (!in.aborted().ok()) {  // while the memory was made
      in.runtime().drop_unused(regions);
      return in.aborted();
    }
    Result<std::shared_ptr<engine::SlabRecord>> made =
        in.runtime().create_slab(std::move(*layout), given->num_slots, given->first_slot, places, std::move(memory));
    if (!made.ok()) {
      in.runtime().drop_unused(regions);
      return made.status();
    }
    slab->id = make_handle(in.number(), Kind::kSlab, in.slabs.add({std::move(*made)}));
    return {};
  });
}

cardea_status_t cardea_slab_destroy(cardea_slab_t slab) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_object(slab.id, Kind::kSlab, &Context::slabs, [&](Context& in, auto& held, SlabObject& object) -> Status {
      const std::shared_ptr<engine::SlabRecord> record = object.record;
      constexpr std::uint64_t kPatience = 2'000'000'000;
      const Status ended = in.wait(held, in.on_engine_thread() ? 0 : kPatience, [&]() -> Status {
        if (in.slabs.find(object_of(slab.id)) == nullptr) return bad_handle("slab", "another thread destroyed it");
        return in.runtime().destroy_slab(*record);
      });
      if (ended.code() == CARDEA_ERR_TIMEOUT || ended.code() == CARDEA_IN_PROGRESS)
        return Status(CARDEA_ERR_BUSY, ended.message());
      if (!ended.ok()) return ended;
      in.slabs.objects.erase(object_of(slab.id));
      return {};
    });
  });
}

cardea_status_t cardea_slab_query(cardea_slab_t slab, cardea_slab_info_t* info) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_object(slab.id, Kind::kSlab, &Context::slabs, [&](Context& in, auto&, SlabObject& object) -> Status {
      if (const Status status = check_output(info, "info"); !status.ok()) return status;
      const engine::SlabRecord& record = *object.record;
      cardea_slab_info_t out = CARDEA_SLAB_INFO_INIT;
      out.num_slots = in.runtime().core().slots(record.number);
      out.first_slot = record.first_slot;
      out.kind = record.on_device ? CARDEA_MEMORY_CUDA : CARDEA_MEMORY_HOST;
      out.free_slots = in.runtime().core().available_slots(record.number);
      for (std::size_t i = 0; i < record.base.size(); ++i) {
        out.base[i] = record.base[i];
        out.stride[i] = record.stride[i];
      }
      write_struct(info, out);
      return {};
    });
  });
}
