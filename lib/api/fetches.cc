// SPDX-License-Identifier: Apache-2.0
// cardea.h: fetches and views.
#include <map>

#include "cardea/cardea.h"
#include "lib/api/last_error.h"
#include "lib/api/object.h"
#include "lib/api/structs.h"
#include "lib/telemetry/nvtx.h"

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
  const bool on_device = spec.slab && in.runtime().slab(*spec.slab)->on_device;
  if (on_device) spec.into_slots = true;  // a GPU reads nothing where it lies elsewhere
  if (given.stream != nullptr && !on_device) return wrong("a fetch on a stream lands in a slab in device memory: name one");
  spec.on_stream = given.stream != nullptr;
  if (given.deadline != 0) {
    if (const auto deadline = Context::deadline_after(given.deadline)) spec.deadline = *deadline;
  }
  return spec;
}

cardea_status_t submit(cardea_layer_t layer, const cardea_fetch_desc_t* desc, cardea_fetch_t* fetch,
                       core::Class urgency) noexcept {
  return guarded([&]() -> Status {
    if (desc != nullptr && desc->size >= sizeof *desc && desc->stream != nullptr) {
      if (urgency != core::Class::kDemand)
        return Status(CARDEA_ERR_UNSUPPORTED, "a prefetch takes no stream: nobody reads what it brings");
      Result<std::shared_ptr<Context>> context = context_for(layer.id, Kind::kLayer);
      if (!context.ok()) return context.status();
      if (const Status status = check_stream(**context, desc->stream); !status.ok()) return status;
    }
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
      in.fetches.objects.emplace(*number, FetchObject{object_of(layer.id), spec->wants_views, given->on_ready, given->user,
                                                      static_cast<cardea::cuda::Stream>(given->stream)});
      ++object.fetches;
      in.fetches.find(*number)->nvtx_range =
          cardea::telemetry::nvtx_begin(spec->wants_views ? "fetch in progress" : "prefetch in progress", *number);
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
  view.source_alive = view.source != CARDEA_NO_RANK && in.alive(view.source) ? 1 : 0;
  return view;
}

/// Makes the GPU wait with what comes into the slots of the views until their streams have done with them.
Status let_streams_read(Context& in, const std::vector<std::uint64_t>& ids) {
  if (in.runtime().copier() == nullptr) return {};
  std::map<cardea::cuda::Stream, std::vector<cardea::cuda::SlotKey>> read;
  {
    const auto held = in.lock();
    for (const std::uint64_t id : ids) {
      if (kind_of(id) != Kind::kView) continue;
      if (const auto view = in.runtime().stream_view(object_of(id))) read[view->stream].push_back(view->slot);
    }
  }
  if (read.empty()) return {};
  if (const Status status = may_use_device(in); !status.ok()) return status;
  for (const auto& [stream, slots] : read) {
    cardea::cuda::Copier& copier = *in.runtime().copier();
    if (const Status status = copier.check_stream(stream); !status.ok()) return status;
    if (const Status status = copier.read_until(stream, slots); !status.ok()) return status;
  }
  return {};
}

template <typename Note>
void release_all(const std::vector<std::uint64_t>& ids, Note note) {
  Result<std::shared_ptr<Context>> context = context_for(ids.front(), Kind::kView);
  if (!context.ok()) return note(context.status());
  Context& in = **context;
  // Without it the next expert could overwrite what is still being read: the views stay.
  if (const Status status = let_streams_read(in, ids); !status.ok()) return note(status);
  std::vector<core::ViewNumber> views;  // of the same context, all of them
  for (const std::uint64_t id : ids) {
    if (kind_of(id) == Kind::kView) {
      views.push_back(object_of(id));
    } else {
      note(context_for(id, Kind::kView).status());
    }
  }
  std::vector<engine::Runtime::TableNote> notes;
  {
    const engine::Runtime::CallerIssues issues(in.runtime(), !in.on_engine_thread());
    const auto held = in.lock();
    std::vector<Status> outcomes;
    in.runtime().release(views, outcomes);
    for (const Status& status : outcomes) note(status.ok() ? in.aborted() : status.within("view handle"));
    notes = in.runtime().take_table_notes();
  }
  note(in.runtime().write_tables(std::move(notes), !in.on_engine_thread()));
}

}  // namespace

cardea_status_t cardea_fetch(cardea_layer_t layer, const cardea_fetch_desc_t* desc, cardea_fetch_t* fetch) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("fetch", object_of(layer.id));
  return submit(layer, desc, fetch, core::Class::kDemand);
}

cardea_status_t cardea_prefetch(cardea_layer_t layer, const cardea_fetch_desc_t* desc,
                                cardea_fetch_t* fetch) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("prefetch", object_of(layer.id));
  return submit(layer, desc, fetch, core::Class::kPrefetch);
}

cardea_status_t cardea_next(cardea_fetch_t fetch, cardea_view_t* views, uint32_t max, uint32_t* count,
                            uint64_t timeout) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("next", object_of(fetch.id));
  if (count != nullptr) *count = 0;
  return with_fetch(fetch, [&](Context& in, auto& held, FetchObject& object) -> Status {
    if (count == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "count is null");
    if (max == 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "max is 0");
    if (const Status status = check_views(views, max); !status.ok()) return status;
    if (!object.wants_views) return Status(CARDEA_ERR_UNSUPPORTED, "a prefetch delivers no views");
    const core::FetchNumber number = object_of(fetch.id);
    const std::shared_ptr<engine::LayerRecord> layer = in.layers.find(object.layer)->record;
    const cardea::Version version = in.runtime().core().version_of(number);
    const cardea::cuda::Stream stream = object.stream;
    if (stream != nullptr) {
      if (const Status status = may_use_device(in); !status.ok()) return status;
    }
    std::vector<cardea::cuda::SlotKey> slots;
    const Status status = wait_on(in, held, number, timeout, [&]() -> Status {
      for (const engine::Runtime::Delivered& delivered :
           in.runtime().take(*layer, number, max, stream, stream == nullptr ? nullptr : &slots)) {
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
    std::vector<engine::Runtime::TableNote> notes = in.runtime().take_table_notes();
    if (slots.empty() && notes.empty()) return status;
    held.unlock();
    const Status waits = slots.empty() ? Status() : in.runtime().copier()->wait_on(stream, slots);
    const Status written = in.runtime().write_tables(std::move(notes), !in.on_engine_thread());
    if (!waits.ok()) return waits;
    return written.ok() ? status : written;
  });
}

cardea_status_t cardea_wait(cardea_fetch_t fetch, uint64_t timeout) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("wait", object_of(fetch.id));
  return with_fetch(fetch, [&](Context& in, auto& held, FetchObject&) -> Status {
    const core::FetchNumber number = object_of(fetch.id);
    return wait_on(in, held, number, timeout, [&]() -> Status {
      const core::FetchCounts counts = in.runtime().core().counts(number);
      if (counts.parked + counts.starved + counts.moving + counts.under_way == 0)
        return in.runtime().core().first_failure(number);
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
    cardea::telemetry::nvtx_end(object.nvtx_range);
    in.fetches.objects.erase(object_of(fetch.id));  // first, so that no callback is arranged any more
    in.runtime().destroy_fetch(object_of(fetch.id));
    --in.layers.find(layer)->fetches;
    in.on_change();  // for threads that wait on it
    return {};
  });
}

cardea_status_t cardea_release(const cardea_view_t* views, uint32_t count) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("release", count);
  return guarded([&]() -> Status {
    if (views == nullptr && count != 0) return Status(CARDEA_ERR_INVALID_ARGUMENT, "views is null");
    if (count != 0) {
      if (const Status status = check_size<cardea_view_t>(views->size, "views[0]"); !status.ok()) return status;
    }
    Status first;
    const auto note = [&](const Status& status) {
      if (first.ok()) first = status;
    };
    std::vector<std::uint64_t> ids;  // of one context at a time
    for (std::uint32_t i = 0; i < count;) {
      const ContextNumber number = context_of(at(views, i)->id);
      ids.clear();
      for (; i < count && (at(views, i)->id == 0 || context_of(at(views, i)->id) == number); ++i) {
        if (at(views, i)->id != 0) ids.push_back(at(views, i)->id);
      }
      if (!ids.empty()) release_all(ids, note);
    }
    return first;
  });
}
