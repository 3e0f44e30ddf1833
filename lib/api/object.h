// SPDX-License-Identifier: Apache-2.0
// From a handle to the object, for the C functions: the context, alive and locked, and the entry of its table.
#pragma once

#include "lib/api/context.h"
#include "lib/api/handles.h"
#include "lib/api/registry.h"

namespace cardea::api {

inline Status bad_handle(std::string_view name, std::string_view why) {
  return Status::error(CARDEA_ERR_INVALID_HANDLE, "{} handle: {}", name, why);
}

constexpr std::string_view kind_name(Kind kind) {
  constexpr std::string_view kNames[] = {"unknown", "context", "group", "memory", "layer", "slab", "fetch", "view"};
  const auto index = static_cast<std::size_t>(kind);
  return index < std::size(kNames) ? kNames[index] : kNames[0];
}

/// The context of a handle of `kind`. INVALID_HANDLE, FORKED.
inline Result<std::shared_ptr<Context>> context_for(std::uint64_t handle, Kind kind) {
  if (handle == 0) return bad_handle(kind_name(kind), "it is zero");
  if (kind_of(handle) != kind)
    return bad_handle(kind_name(kind), fmt::format("it is of kind {}", kind_name(kind_of(handle))));
  if (kind == Kind::kContext && object_of(handle) != 0) return bad_handle(kind_name(kind), "it never existed");
  Result<std::shared_ptr<Context>> context = Registry::get().find(context_of(handle));
  if (!context.ok()) return context.status().within(fmt::format("{} handle", kind_name(kind)));
  return context;
}

/// Runs body(context, held, object) with the mutex held. CANCELED if the context was aborted.
template <typename T, typename Body>
Status with_object(std::uint64_t handle, Kind kind, Context::Table<T> Context::*table, Body body) {
  Result<std::shared_ptr<Context>> context = context_for(handle, kind);
  if (!context.ok()) return context.status();
  Context& in = **context;
  const engine::Runtime::CallerIssues issues(in.runtime(), !in.on_engine_thread());  // ends when the mutex is free
  auto held = in.lock();
  T* const object = (in.*table).find(object_of(handle));
  if (object == nullptr) return bad_handle(kind_name(kind), "it was destroyed, or never existed");
  if (!in.aborted().ok()) return in.aborted();
  return body(in, held, *object);
}

/// For calls that use the GPU's driver, which the engine thread must not: a callback's are UNSUPPORTED.
inline Status may_use_device(const Context& in) {
  return in.on_engine_thread() ? Status(CARDEA_ERR_UNSUPPORTED, "a callback must not use the GPU") : Status();
}

/// Whether work may be queued on a stream of this rank's GPU, which is found if need be. Without the mutex. UNSUPPORTED.
inline Status check_stream(Context& in, void* stream) {
  if (const Status status = may_use_device(in); !status.ok()) return status;
  if (const Status status = in.runtime().use_device(); !status.ok()) return status.within("stream");
  return in.runtime().copier()->check_stream(static_cast<cuda::Stream>(stream));
}

/// The slab of a handle, which must be of this context and shape. INVALID_HANDLE, MISMATCH.
inline Result<std::shared_ptr<engine::SlabRecord>> find_slab(Context& in, cardea_slab_t slab,
                                                             const core::SegmentLayout& layout) {
  if (kind_of(slab.id) != Kind::kSlab || context_of(slab.id) != in.number())
    return bad_handle("slab", "it is no slab of this context");
  const SlabObject* const object = in.slabs.find(object_of(slab.id));
  if (object == nullptr) return bad_handle("slab", "it was destroyed, or never existed");
  if (const std::string what = layout.difference(object->record->layout); !what.empty()) {
    return Status::error(CARDEA_ERR_MISMATCH, "layer against slab: {}", what);
  }
  return object->record;
}

}  // namespace cardea::api
