// SPDX-License-Identifier: Apache-2.0
// cardea.h: memory and slabs.
#include "cardea/cardea.h"
#include "lib/api/describe.h"
#include "lib/api/last_error.h"
#include "lib/api/object.h"
#include "lib/api/structs.h"

using cardea::Result;
using cardea::Status;
using namespace cardea::api;
namespace engine = cardea::engine;
namespace core = cardea::core;

namespace {

Status check_kind(std::uint32_t kind) {
  if (kind == CARDEA_MEMORY_HOST) return {};
  if (kind == CARDEA_MEMORY_CUDA) return Status(CARDEA_ERR_UNSUPPORTED, "device memory is not supported yet");
  return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "memory kind {}", kind);
}

/// Runs body(context) with the mutex held; returns a region's number, which becomes a handle.
template <typename Make>
cardea_status_t make_memory(cardea_context_t context, uint64_t bytes, const cardea_memory_kind_t& kind,
                            cardea_memory_t* memory, Make make) noexcept {
  return guarded([&]() -> Status {
    Result<std::shared_ptr<Context>> found = context_for(context.id, Kind::kContext);
    if (!found.ok()) return found.status();
    if (memory == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "memory is null");
    if (bytes == 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "bytes is 0");
    if (const Status status = check_kind(number_of(kind)); !status.ok()) return status;
    Context& in = **found;
    const auto held = in.lock();
    if (!in.aborted().ok()) return in.aborted();
    Result<engine::RegionNumber> region = make(in);
    if (!region.ok()) return region.status();
    memory->id = make_handle(in.number(), Kind::kMemory, in.memories.add({*region}));
    return {};
  });
}

}  // namespace

cardea_status_t cardea_memory_alloc(cardea_context_t context, uint64_t bytes, cardea_memory_kind_t kind,
                                    cardea_memory_t* memory) CARDEA_NOEXCEPT {
  return make_memory(context, bytes, kind, memory, [&](Context& in) { return in.runtime().allocate(bytes); });
}

cardea_status_t cardea_memory_register(cardea_context_t context, void* address, uint64_t bytes, cardea_memory_kind_t kind,
                                       cardea_memory_t* memory) CARDEA_NOEXCEPT {
  return make_memory(context, bytes, kind, memory, [&](Context& in) -> Result<engine::RegionNumber> {
    if (address == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "address is null");
    if (reinterpret_cast<std::uintptr_t>(address) > UINTPTR_MAX - bytes) {
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} bytes from {} reach beyond the address space", bytes, address);
    }
    return in.runtime().register_private(address, bytes);
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
                         out.mappable = region.shared ? 1 : 0;
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

cardea_status_t cardea_slab_create(cardea_context_t context, const cardea_slab_desc_t* desc,
                                   cardea_slab_t* slab) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    Result<std::shared_ptr<Context>> found = context_for(context.id, Kind::kContext);
    if (!found.ok()) return found.status();
    if (slab == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "slab is null");
    Result<cardea_slab_desc_t> given = read_struct(desc, "desc");
    if (!given.ok()) return given.status();
    if (const Status status = check_kind(number_of(given->kind)); !status.ok()) return status;
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
    const auto held = in.lock();
    if (!in.aborted().ok()) return in.aborted();
    Result<std::shared_ptr<engine::SlabRecord>> made =
        in.runtime().create_slab(std::move(*layout), given->num_slots, given->first_slot, places);
    if (!made.ok()) return made.status();
    slab->id = make_handle(in.number(), Kind::kSlab, in.slabs.add({std::move(*made)}));
    return {};
  });
}

cardea_status_t cardea_slab_destroy(cardea_slab_t slab) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_object(slab.id, Kind::kSlab, &Context::slabs, [&](Context& in, auto&, SlabObject& object) -> Status {
      if (const Status status = in.runtime().destroy_slab(*object.record); !status.ok()) return status;
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
