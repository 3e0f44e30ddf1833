// SPDX-License-Identifier: Apache-2.0
// cardea.h: fetches and views.
#include "cardea/cardea.h"
#include "lib/api/last_error.h"
#include "lib/api/object.h"
#include "lib/api/structs.h"

using cardea::Clock;
using cardea::Nanoseconds;
using cardea::Result;
using cardea::Status;
using namespace cardea::api;
namespace engine = cardea::engine;
namespace core = cardea::core;

namespace {

Result<core::FetchSpec> read_fetch(Context& in, const engine::LayerRecord& layer, const cardea_fetch_desc_t& given) {
  const auto wrong = [&](std::string what) {
    return Status(CARDEA_ERR_INVALID_ARGUMENT, fmt::format("layer {}: {}", layer.layer_id, what), {.layer = layer.layer_id});
  };
  if (given.stream != nullptr) return Status(CARDEA_ERR_UNSUPPORTED, "streams are not supported yet: stream must be null");
  if (given.num_experts == 0 || given.experts == nullptr) return wrong("the fetch names no experts");
  if (given.num_experts > layer.num_experts)
    return wrong(fmt::format("{} experts of {}", given.num_experts, layer.num_experts));
  if (given.flags & ~std::uint32_t{CARDEA_FETCH_GANG | CARDEA_FETCH_SLOTS})
    return wrong(fmt::format("unknown flags {:#x}", given.flags));
  if (given.segment_mask & ~layer.layout.all())
    return wrong(fmt::format("segment_mask {:#x} of {} segments", given.segment_mask, layer.layout.count()));
  if (given.version == cardea::kNoVersion) return wrong("version 2^64-1 means \"none\"");

  core::FetchSpec spec;
  spec.layer = layer.number;
  spec.version = given.version;
  spec.experts.assign(given.experts, given.experts + given.num_experts);
  spec.segments = given.segment_mask != 0 ? given.segment_mask : layer.layout.all();
  spec.gang = (given.flags & CARDEA_FETCH_GANG) != 0;
  spec.into_slots = (given.flags & CARDEA_FETCH_SLOTS) != 0;
  if (given.slab.id != 0) {
    Result<std::shared_ptr<engine::SlabRecord>> slab = find_slab(in, given.slab, layer.layout);
    if (!slab.ok()) return slab.status();
    spec.slab = (*slab)->number;
  } else if (layer.slab) {
    spec.slab = layer.slab->number;
  }
  if (given.deadline != 0) {
    if (const auto deadline = Context::deadline_after(given.deadline)) spec.deadline = *deadline;
  }
  return spec;
}

cardea_status_t submit(cardea_layer_t layer, const cardea_fetch_desc_t* desc, cardea_fetch_t* fetch,
                       core::Class urgency) noexcept {
  return guarded([&] {
    return with_object(layer.id, Kind::kLayer, &Context::layers, [&](Context& in, auto&, LayerObject& object) -> Status {
      if (fetch == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "fetch is null");
      Result<cardea_fetch_desc_t> given = read_struct(desc, "desc");
      if (!given.ok()) return given.status();
      Result<core::FetchSpec> spec = read_fetch(in, *object.record, *given);
      if (!spec.ok()) return spec.status();
      spec->urgency = urgency;
      spec->wants_views = urgency == core::Class::kDemand;
      Result<core::FetchNumber> number = in.runtime().fetch(*spec);
      if (!number.ok()) return number.status();
      in.fetches.objects.emplace(*number, FetchObject{object_of(layer.id), spec->wants_views, given->on_ready, given->user});
      ++object.fetches;
      const core::FetchCounts counts = in.runtime().core().counts(*number);
      if (counts.ready + counts.failed != 0 || counts.parked + counts.starved + counts.moving == 0)
        in.tell_callback(*number);
      fetch->id = make_handle(in.number(), Kind::kFetch, *number);
      return {};
    });
  });
}

template <typename Body>
cardea_status_t with_fetch(cardea_fetch_t fetch, Body body) noexcept {
  return guarded([&] { return with_object(fetch.id, Kind::kFetch, &Context::fetches, body); });
}

/// Waits on a fetch as Context::wait does, known as a waiter meanwhile; the fetch may be destroyed by another thread.
template <typename Check>
Status wait_on(Context& in, std::unique_lock<std::mutex>& held, core::FetchNumber number, std::uint64_t timeout,
               Check check) {
  ++in.fetches.find(number)->waiters;
  const Status status = in.wait(held, timeout, [&]() -> Status {
    if (in.fetches.find(number) == nullptr) return bad_handle("fetch", "another thread destroyed it");
    const Status answer = check();
    if (answer.code() != CARDEA_IN_PROGRESS) return answer;
    if (in.runtime().would_deadlock(number, in.waited_for())) {
      return Status(CARDEA_ERR_WOULD_DEADLOCK, "delivered views hold every slot that the fetch needs; release some");
    }
    return answer;
  });
  if (FetchObject* const fetch = in.fetches.find(number); fetch != nullptr) --fetch->waiters;
  return status;
}

/// Whether all views can be written; they are of one size, that of the caller's header.
Status check_views(const cardea_view_t* views, std::uint32_t max) {
  if (const Status status = check_output(views, "views[0]"); !status.ok()) return status;
  for (std::uint32_t i = 1; i < max; ++i) {
    if (at(views, i)->size == views->size) continue;
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "views[{}]: size is {}, and {} in views[0]", i, at(views, i)->size,
                         views->size);
  }
  return {};
}

cardea_view_t view_of(const Context& in, const engine::LayerRecord& layer, const engine::Runtime::Delivered& delivered,
                      cardea::Version version) {
  const core::Delivery& delivery = delivered.delivery;
  cardea_view_t view = CARDEA_VIEW_INIT;
  view.id = delivery.view == 0 ? 0 : make_handle(in.number(), Kind::kView, delivery.view);
  view.status = delivery.status.code();
  view.expert = delivery.expert;
  view.version = version;
  view.slot = delivered.spot.slot;
  view.path = delivery.path;
  view.source = delivery.source;
  view.num_segments = static_cast<std::uint32_t>(layer.layout.count());
  std::copy(delivered.spot.segments.begin(), delivered.spot.segments.end(), view.segments);
  view.ready_ns = static_cast<std::uint64_t>(delivery.ready_after.count());
  return view;
}

}  // namespace

cardea_status_t cardea_fetch(cardea_layer_t layer, const cardea_fetch_desc_t* desc, cardea_fetch_t* fetch) CARDEA_NOEXCEPT {
  return submit(layer, desc, fetch, core::Class::kDemand);
}

cardea_status_t cardea_prefetch(cardea_layer_t layer, const cardea_fetch_desc_t* desc,
                                cardea_fetch_t* fetch) CARDEA_NOEXCEPT {
  return submit(layer, desc, fetch, core::Class::kPrefetch);
}

cardea_status_t cardea_next(cardea_fetch_t fetch, cardea_view_t* views, uint32_t max, uint32_t* count,
                            uint64_t timeout) CARDEA_NOEXCEPT {
  if (count != nullptr) *count = 0;
  return with_fetch(fetch, [&](Context& in, auto& held, FetchObject& object) -> Status {
    if (count == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "count is null");
    if (max == 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "max is 0");
    if (const Status status = check_views(views, max); !status.ok()) return status;
    if (!object.wants_views) return Status(CARDEA_ERR_UNSUPPORTED, "a prefetch delivers no views");
    const core::FetchNumber number = object_of(fetch.id);
    const std::shared_ptr<engine::LayerRecord> layer = in.layers.find(object.layer)->record;
    const cardea::Version version = in.runtime().core().version_of(number);
    return wait_on(in, held, number, timeout, [&]() -> Status {
      for (const engine::Runtime::Delivered& delivered : in.runtime().take(*layer, number, max)) {
        if (!delivered.delivery.status.ok()) report(delivered.delivery.status);  // its details, for cardea_last_error
        write_struct(at(views, (*count)++), view_of(in, *layer, delivered, version));
      }
      if (*count != 0) return {};
      const core::FetchCounts counts = in.runtime().core().counts(number);
      if (counts.delivered == counts.experts) return {};
      return Status::error(CARDEA_IN_PROGRESS,
                           "layer {}: of {} experts {} wait for their version, {} for a slot, {} are moving",
                           layer->layer_id, counts.experts, counts.parked, counts.starved, counts.moving);
    });
  });
}

cardea_status_t cardea_wait(cardea_fetch_t fetch, uint64_t timeout) CARDEA_NOEXCEPT {
  return with_fetch(fetch, [&](Context& in, auto& held, FetchObject&) -> Status {
    const core::FetchNumber number = object_of(fetch.id);
    return wait_on(in, held, number, timeout, [&]() -> Status {
      const core::FetchCounts counts = in.runtime().core().counts(number);
      if (counts.parked + counts.starved + counts.moving == 0) return in.runtime().core().first_failure(number);
      return Status::error(CARDEA_IN_PROGRESS, "of {} experts {} wait for their version, {} for a slot, {} are moving",
                           counts.experts, counts.parked, counts.starved, counts.moving);
    });
  });
}

cardea_status_t cardea_fetch_query(cardea_fetch_t fetch, cardea_fetch_info_t* info) CARDEA_NOEXCEPT {
  return with_fetch(fetch, [&](Context& in, auto&, FetchObject&) -> Status {
    if (const Status status = check_output(info, "info"); !status.ok()) return status;
    const core::FetchCounts counts = in.runtime().core().counts(object_of(fetch.id));
    cardea_fetch_info_t out = CARDEA_FETCH_INFO_INIT;
    out.num_experts = counts.experts;
    out.ready = counts.ready;
    out.delivered = counts.delivered;
    out.failed = counts.failed;
    out.parked = counts.parked;
    out.starved = counts.starved;
    out.moving = counts.moving;
    write_struct(info, out);
    return {};
  });
}

cardea_status_t cardea_cancel(cardea_fetch_t fetch) CARDEA_NOEXCEPT {
  return with_fetch(fetch, [&](Context& in, auto&, FetchObject&) -> Status {
    in.runtime().cancel(object_of(fetch.id), Status(CARDEA_ERR_CANCELED, "the fetch was canceled"));
    return {};
  });
}

cardea_status_t cardea_fetch_destroy(cardea_fetch_t fetch) CARDEA_NOEXCEPT {
  return with_fetch(fetch, [&](Context& in, auto&, FetchObject& object) -> Status {
    const ObjectNumber layer = object.layer;
    in.fetches.objects.erase(object_of(fetch.id));  // first, so that no callback is arranged any more
    in.runtime().destroy_fetch(object_of(fetch.id));
    --in.layers.find(layer)->fetches;
    in.on_change();  // for threads that wait on it
    return {};
  });
}

cardea_status_t cardea_release(const cardea_view_t* views, uint32_t count) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    if (views == nullptr && count != 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "views is null");
    if (count != 0) {
      if (const Status status = check_size<cardea_view_t>(views->size, "views[0]"); !status.ok()) return status;
    }
    Status first;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint64_t id = at(views, i)->id;
      if (id == 0) continue;
      Result<std::shared_ptr<Context>> context = context_for(id, Kind::kView);
      Status status = context.status();
      if (context.ok()) {
        const auto held = (*context)->lock();
        status = (*context)->runtime().release(object_of(id)).within("view handle");
        if (status.ok()) status = (*context)->aborted();
      }
      if (first.ok()) first = status;
    }
    return first;
  });
}
