// SPDX-License-Identifier: Apache-2.0
// cardea.h: joining a job, leaving it, asking about it.
#include "cardea/cardea.h"
#include "lib/api/last_error.h"
#include "lib/api/object.h"
#include "lib/api/structs.h"
#include "lib/bootstrap/unique_id.h"

using cardea::Rank;
using cardea::Result;
using cardea::Status;
using namespace cardea::api;

namespace {

/// Runs body(context) with the mutex held. CANCELED if the context was aborted.
template <typename Body>
cardea_status_t with_context(cardea_context_t handle, Body body) noexcept {
  return guarded([&]() -> Status {
    Result<std::shared_ptr<Context>> context = context_for(handle.id, Kind::kContext);
    if (!context.ok()) return context.status();
    const auto held = (*context)->lock();
    if (!(*context)->aborted().ok()) return (*context)->aborted();
    return body(**context);
  });
}

}  // namespace

cardea_status_t cardea_unique_id_create(const char* address, cardea_unique_id_t* id) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    if (id == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "id is null");
    Result<cardea::bootstrap::CreatedId> created = cardea::bootstrap::create_unique_id(address);
    if (!created.ok()) return created.status();
    Registry::get().keep(std::move(created->meeting_point));
    *id = created->id;
    return {};
  });
}

cardea_status_t cardea_context_create(const cardea_config_t* config, cardea_context_t* context) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    if (context == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "context is null");
    const cardea_config_t defaults = CARDEA_CONFIG_INIT;
    Result<cardea_config_t> given = read_struct(config != nullptr ? config : &defaults, "config");
    if (!given.ok()) return given.status();
    Result<ContextNumber> number = Registry::get().reserve();
    if (!number.ok()) return number.status();
    Result<std::shared_ptr<Context>> joined = Context::join(*number, *given);
    if (!joined.ok()) return joined.status();
    Registry::get().add(*number, std::move(*joined));
    context->id = make_handle(*number, Kind::kContext, 0);
    return {};
  });
}

cardea_status_t cardea_context_destroy(cardea_context_t context) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    Result<std::shared_ptr<Context>> found = context_for(context.id, Kind::kContext);
    if (!found.ok()) return found.status();
    if ((*found)->on_engine_thread()) return Status(CARDEA_ERR_UNSUPPORTED, "a callback cannot destroy its context");
    const std::shared_ptr<Context> removed = Registry::get().remove(context_of(context.id));
    if (!removed) return bad_handle("context", "it was destroyed by another thread");
    removed->shut_down();
    Registry::get().drop_finished();
    return {};
  });
}

cardea_status_t cardea_context_abort(cardea_context_t context) CARDEA_NOEXCEPT {
  return with_context(context, [](Context& in) {
    in.abort(Status(CARDEA_ERR_CANCELED, "the context was aborted"));
    return Status();
  });
}

cardea_status_t cardea_context_query(cardea_context_t context, cardea_context_info_t* info) CARDEA_NOEXCEPT {
  return with_context(context, [&](Context& in) -> Status {
    if (const Status status = check_output(info, "info"); !status.ok()) return status;
    const std::vector<cardea::Node>& node_of = in.node_of();
    cardea_context_info_t out = CARDEA_CONTEXT_INFO_INIT;
    out.rank = in.self();
    out.world_size = static_cast<std::uint32_t>(node_of.size());
    out.node = node_of[in.self()];
    out.node_count = *std::max_element(node_of.begin(), node_of.end()) + 1;
    out.node_rank = static_cast<std::uint32_t>(std::count(node_of.begin(), node_of.begin() + in.self(), out.node));
    out.node_size = static_cast<std::uint32_t>(std::count(node_of.begin(), node_of.end(), out.node));
    write_struct(info, out);
    return {};
  });
}

cardea_status_t cardea_rank_query(cardea_context_t context, uint32_t rank, cardea_rank_info_t* info) CARDEA_NOEXCEPT {
  return with_context(context, [&](Context& in) -> Status {
    if (const Status status = check_output(info, "info"); !status.ok()) return status;
    if (rank >= in.node_of().size())
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} of {}", rank, in.node_of().size());
    cardea_rank_info_t out = CARDEA_RANK_INFO_INIT;
    out.rank = rank;
    out.node = in.node_of()[rank];
    out.alive = in.runtime().alive(rank) ? 1 : 0;
    write_text(out.host, in.host_of(rank));
    write_text(out.transport, in.transport_of(rank));
    write_struct(info, out);
    return {};
  });
}

cardea_status_t cardea_event_descriptor(cardea_context_t context, int* descriptor) CARDEA_NOEXCEPT {
  return with_context(context, [&](Context& in) -> Status {
    if (descriptor == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "descriptor is null");
    *descriptor = in.event_descriptor();
    return {};
  });
}

cardea_status_t cardea_event_clear(cardea_context_t context) CARDEA_NOEXCEPT {
  return with_context(context, [](Context& in) {
    in.clear_event();
    return Status();
  });
}

cardea_counters_t cardea::api::counters_of(Context& in) {
  const cardea::core::CoreCounters& core = in.runtime().core().counters();
  const auto ready = [&](cardea_path_t path) {
    const auto found = core.ready.find(path);
    return found == core.ready.end() ? 0 : found->second;
  };
  cardea_counters_t out = CARDEA_COUNTERS_INIT;
  out.experts_home = ready(CARDEA_PATH_HOME);
  out.experts_node_mapped = ready(CARDEA_PATH_NODE_MAPPED);
  out.experts_node_copied = ready(CARDEA_PATH_NODE_COPY);
  out.experts_cache = ready(CARDEA_PATH_CACHE);
  out.experts_network = ready(CARDEA_PATH_NETWORK);
  out.experts_failed = core.failed;
  out.experts_node_gpu = ready(CARDEA_PATH_NODE_GPU);
  out.bytes_node_gpu = in.runtime().bytes().node_gpu;
  out.bytes_node_copied = in.runtime().bytes().node_copied;
  out.bytes_network_received = in.runtime().bytes().network_received;
  out.bytes_network_direct = in.runtime().bytes().network_direct;
  out.bytes_network_sent = in.runtime().bytes().network_sent;
  out.prefetch_bytes_wasted = core.prefetch_bytes_wasted;
  out.cache_bypassed = core.cache_bypassed;
  if (const cardea::cache::NodeCache* const cache = in.node_cache(); cache != nullptr) {
    const cardea::cache::CacheCounters& cached = cache->counters();
    out.prefetch_bytes_wasted += cached.prefetch_bytes_wasted;
    out.cache_bytes_capacity = cache->capacity();
    out.cache_bytes_used = cache->used_bytes();
    out.cache_hits = cached.hits;
    out.cache_misses = cached.misses;
    out.cache_evicted = cached.evicted;
    out.cache_overdue = cached.overdue;
  }
  return out;
}

cardea_status_t cardea_counters_query(cardea_context_t context, cardea_counters_t* counters) CARDEA_NOEXCEPT {
  return with_context(context, [&](Context& in) -> Status {
    if (const Status status = check_output(counters, "counters"); !status.ok()) return status;
    write_struct(counters, counters_of(in));
    return {};
  });
}
