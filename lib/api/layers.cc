// SPDX-License-Identifier: Apache-2.0
// cardea.h: groups, layers, versions.
#include <xxhash.h>

#include <set>

#include "cardea/cardea.h"
#include "lib/api/describe.h"
#include "lib/api/last_error.h"
#include "lib/api/object.h"
#include "lib/api/structs.h"
#include "lib/telemetry/nvtx.h"

using cardea::ExpertIndex;
using cardea::Rank;
using cardea::Result;
using cardea::Status;
using namespace cardea::api;
namespace engine = cardea::engine;
namespace core = cardea::core;

namespace {

/// All that cardea_layer_create is told, checked as far as one rank can.
Result<engine::LayerRequest> read_layer(const cardea_layer_desc_t* desc, std::uint64_t chunk_bytes, cardea_slab_t& slab) {
  Result<cardea_layer_desc_t> given = read_struct(desc, "desc");
  if (!given.ok()) return given.status();
  engine::LayerRequest request;
  request.layer_id = given->layer_id;
  request.num_experts = given->num_experts;
  slab = given->slab;
  const auto wrong = [&](std::string what) {
    return Status(CARDEA_ERR_INVALID_ARGUMENT, fmt::format("layer {}: {}", given->layer_id, what),
                  {.layer = given->layer_id});
  };
  if (given->num_experts == 0 || given->num_experts > engine::kMaxExperts) {
    return wrong(fmt::format("num_experts is {}; it takes 1 to {}", given->num_experts, engine::kMaxExperts));
  }
  Result<core::SegmentLayout> layout = read_segments(given->segments, given->num_segments);
  if (!layout.ok()) return layout.status().within(fmt::format("layer {}", given->layer_id));
  constexpr std::uint64_t kMostChunks = 1 << 23;
  if (layout->packed_bytes() / chunk_bytes > kMostChunks) {
    return wrong(
        fmt::format("an expert of {} bytes is more than {} chunks of {}", layout->packed_bytes(), kMostChunks, chunk_bytes));
  }
  request.layout = std::move(*layout);

  if (given->num_local > given->num_experts)
    return wrong(fmt::format("num_local is {}, num_experts {}", given->num_local, given->num_experts));
  if (given->num_local != 0 && given->local_experts == nullptr) return wrong("local_experts is null");
  std::set<ExpertIndex> seen;
  for (std::uint32_t i = 0; i < given->num_local; ++i) {
    const ExpertIndex expert = given->local_experts[i];
    if (expert >= given->num_experts)
      return wrong(fmt::format("local_experts[{}] is {} of {}", i, expert, given->num_experts));
    if (!seen.insert(expert).second) return wrong(fmt::format("local_experts names expert {} twice", expert));
    request.experts.push_back(expert);
    request.is_home.push_back(given->local_is_home == nullptr || given->local_is_home[i] != 0 ? 1 : 0);
  }
  if (given->num_local != 0) {
    Result<std::vector<engine::Placement>> places =
        read_placements(given->placements, request.layout, given->num_local, Stacked::kOrPointers);
    if (!places.ok()) return places.status().within(fmt::format("layer {}", given->layer_id));
    request.places = std::move(*places);
  }
  return request;
}

/// Waits for the members, and undoes the layer if they do not come.
Status wait_for_members(Context& in, std::unique_lock<std::mutex>& held, engine::LayerRecord& layer) {
  const auto timeout = static_cast<std::uint64_t>(in.settings().setup_timeout.count());
  Status status = in.wait(held, timeout, [&] { return in.runtime().formed(layer); });
  if (status.code() == CARDEA_ERR_TIMEOUT && layer.failure.ok()) {  // not that of a member that gave up
    const std::vector<Rank> missing = in.runtime().missing(layer);
    status = Status(CARDEA_ERR_TIMEOUT,
                    fmt::format("layer {}: ranks {} have not created it", layer.layer_id, fmt::join(missing, ", ")),
                    {.peer = missing.empty() ? cardea::kNoRank : missing.front(), .layer = layer.layer_id});
  }
  if (!status.ok()) {
    [[maybe_unused]] const Status ended = in.runtime().end_layer(layer, status);  // nothing can be open in it yet
  }
  return status;
}

template <typename Body>
cardea_status_t with_layer(cardea_layer_t layer, Body body) noexcept {
  return guarded([&] { return with_object(layer.id, Kind::kLayer, &Context::layers, body); });
}

/// The layer of a handle, for calls that work on it without the mutex.
Result<std::shared_ptr<engine::LayerRecord>> live_layer(Context& in, cardea_layer_t layer) {
  const auto held = in.lock();
  const LayerObject* const object = in.layers.find(object_of(layer.id));
  if (object == nullptr) return bad_handle("layer", "it was destroyed, or never existed");
  if (!in.aborted().ok()) return in.aborted();
  return object->record;
}

/// Runs body(context, record) without the mutex, for a layer that nobody can destroy meanwhile, when work may be queued on
/// the stream.
template <typename Body>
Status on_stream(cardea_layer_t layer, void* stream, Body body) {
  Result<std::shared_ptr<Context>> context = context_for(layer.id, Kind::kLayer);
  if (!context.ok()) return context.status();
  Context& in = **context;
  Result<std::shared_ptr<engine::LayerRecord>> record = live_layer(in, layer);
  if (!record.ok()) return record.status();
  if (const Status status = check_stream(in, stream); !status.ok()) return status;
  return body(in, **record);
}

}  // namespace

// ---------------------------------------------------------------- groups

cardea_status_t cardea_group_create(cardea_context_t context, const uint32_t* ranks, uint32_t count,
                                    cardea_group_t* group) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    Result<std::shared_ptr<Context>> found = context_for(context.id, Kind::kContext);
    if (!found.ok()) return found.status();
    if (group == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "group is null");
    Context& in = **found;
    const auto world = static_cast<std::uint32_t>(in.node_of().size());
    if ((ranks == nullptr) != (count == 0))
      return Status(CARDEA_ERR_INVALID_ARGUMENT, "ranks is null and count is not 0, or the reverse");
    if (count > world) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "a group of {} ranks in a job of {}", count, world);
    GroupObject object;
    for (std::uint32_t i = 0; i < (ranks == nullptr ? world : count); ++i)
      object.ranks.push_back(ranks == nullptr ? i : ranks[i]);
    std::vector<bool> seen(world, false);
    for (const Rank rank : object.ranks) {
      if (rank >= world) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} in a job of {}", rank, world);
      if (seen[rank]) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rank {} is named twice", rank);
      seen[rank] = true;
    }
    if (!seen[in.self()])
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "this rank, {}, is not among the group's", in.self());
    object.index =
        static_cast<std::uint32_t>(std::find(object.ranks.begin(), object.ranks.end(), in.self()) - object.ranks.begin());

    const auto held = in.lock();
    if (!in.aborted().ok()) return in.aborted();
    const std::uint64_t instance = in.group_instances[object.ranks]++;
    object.key = XXH3_64bits_withSeed(object.ranks.data(), object.ranks.size() * sizeof(Rank), instance);
    group->id = make_handle(in.number(), Kind::kGroup, in.groups.add(std::move(object)));
    return {};
  });
}

cardea_status_t cardea_group_destroy(cardea_group_t group) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_object(group.id, Kind::kGroup, &Context::groups, [&](Context& in, auto&, GroupObject& object) -> Status {
      if (object.layers != 0) return Status::error(CARDEA_ERR_BUSY, "the group has {} layers", object.layers);
      in.groups.objects.erase(object_of(group.id));
      return {};
    });
  });
}

cardea_status_t cardea_group_query(cardea_group_t group, cardea_group_info_t* info) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_object(group.id, Kind::kGroup, &Context::groups, [&](Context&, auto&, GroupObject& object) -> Status {
      if (const Status status = check_output(info, "info"); !status.ok()) return status;
      cardea_group_info_t out = CARDEA_GROUP_INFO_INIT;
      out.count = static_cast<std::uint32_t>(object.ranks.size());
      out.index = object.index;
      write_struct(info, out);
      return {};
    });
  });
}

// ---------------------------------------------------------------- layers

cardea_status_t cardea_layer_create(cardea_group_t group, const cardea_layer_desc_t* desc,
                                    cardea_layer_t* layer) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("layer_create", object_of(group.id));
  return guarded([&] {
    return with_object(group.id, Kind::kGroup, &Context::groups, [&](Context& in, auto& held, GroupObject& of) -> Status {
      if (layer == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "layer is null");
      if (in.on_engine_thread()) return Status(CARDEA_ERR_UNSUPPORTED, "a callback must not wait");
      cardea_slab_t slab{};
      Result<engine::LayerRequest> request = read_layer(desc, in.settings().chunk_bytes, slab);
      if (!request.ok()) return request.status();
      request->group = of.key;
      request->ranks = of.ranks;
      if (slab.id != 0) {
        Result<std::shared_ptr<engine::SlabRecord>> found = find_slab(in, slab, request->layout);
        if (!found.ok()) return found.status();
        request->slab = std::move(*found);
      }
      // Device memory is looked at without the mutex; the group stays meanwhile.
      ++of.layers;
      held.unlock();
      const Status found = in.runtime().find_device_memory(*request);
      held.lock();
      --of.layers;
      if (!in.aborted().ok()) return in.aborted();
      const std::vector<engine::RegionNumber> regions = request->found;
      Result<std::shared_ptr<engine::LayerRecord>> begun = Status();
      if (found.ok()) begun = in.runtime().begin_layer(std::move(*request));
      in.runtime().drop_unused(regions);
      if (!found.ok()) return found.within(fmt::format("layer {}", request->layer_id));
      if (!begun.ok()) return begun.status();
      const std::shared_ptr<engine::LayerRecord> record = *begun;
      ++of.layers;  // keeps the group while the mutex is free
      const Status formed = wait_for_members(in, held, *record);
      if (!formed.ok()) {
        --in.groups.find(object_of(group.id))->layers;
        return formed;
      }
      layer->id = make_handle(in.number(), Kind::kLayer, in.layers.add({record, object_of(group.id)}));
      return {};
    });
  });
}

cardea_status_t cardea_layer_destroy(cardea_layer_t layer) CARDEA_NOEXCEPT {
  return with_layer(layer, [&](Context& in, auto& held, LayerObject& object) -> Status {
    const std::shared_ptr<engine::LayerRecord> record = object.record;
    if (object.fetches != 0)
      return Status::error(CARDEA_ERR_BUSY, "{} fetches of layer {} are not destroyed", object.fetches, record->layer_id);
    constexpr std::uint64_t kPatience = 1'500'000'000;
    const Status ended = in.wait(held, in.on_engine_thread() ? 0 : kPatience, [&]() -> Status {
      if (in.layers.find(object_of(layer.id)) == nullptr) return bad_handle("layer", "another thread destroyed it");
      return in.runtime().end_layer(*record);
    });
    if (ended.code() == CARDEA_ERR_TIMEOUT || ended.code() == CARDEA_IN_PROGRESS)
      return Status(CARDEA_ERR_BUSY, ended.message());
    if (!ended.ok()) return ended;
    LayerObject* const gone = in.layers.find(object_of(layer.id));
    --in.groups.find(gone->group)->layers;
    in.layers.objects.erase(object_of(layer.id));
    return {};
  });
}

cardea_status_t cardea_layer_query(cardea_layer_t layer, cardea_layer_info_t* info) CARDEA_NOEXCEPT {
  return with_layer(layer, [&](Context&, auto&, LayerObject& object) -> Status {
    if (const Status status = check_output(info, "info"); !status.ok()) return status;
    const engine::LayerRecord& record = *object.record;
    cardea_layer_info_t out = CARDEA_LAYER_INFO_INIT;
    out.layer_id = record.layer_id;
    out.num_experts = record.num_experts;
    out.num_segments = static_cast<std::uint32_t>(record.layout.count());
    out.expert_bytes = record.layout.payload_bytes(record.layout.all());
    write_struct(info, out);
    return {};
  });
}

cardea_status_t cardea_expert_query(cardea_layer_t layer, uint32_t expert, cardea_expert_info_t* info) CARDEA_NOEXCEPT {
  return with_layer(layer, [&](Context& in, auto&, LayerObject& object) -> Status {
    if (const Status status = check_output(info, "info"); !status.ok()) return status;
    const engine::LayerRecord& record = *object.record;
    if (expert >= record.num_experts) {
      return Status(CARDEA_ERR_INVALID_ARGUMENT,
                    fmt::format("expert {} of layer {}, which has {}", expert, record.layer_id, record.num_experts),
                    {.layer = record.layer_id, .expert = expert});
    }
    const core::Core& core = in.runtime().core();
    const core::SourceOption& source = *core.preferred_source(record.number, expert);
    cardea_expert_info_t out = CARDEA_EXPERT_INFO_INIT;
    out.home = core.home(record.number, expert);
    out.source = source.rank;
    out.path = source.path;
    out.published = core.published(record.number, source.rank);
    write_struct(info, out);
    return {};
  });
}

cardea_status_t cardea_layer_table(cardea_layer_t layer, cardea_expert_table_t* table) CARDEA_NOEXCEPT {
  return with_layer(layer, [&](Context&, auto&, LayerObject& object) -> Status {
    if (const Status status = check_output(table, "table"); !status.ok()) return status;
    const engine::LayerRecord& record = *object.record;
    cardea_expert_table_t out = CARDEA_EXPERT_TABLE_INIT;
    out.entries = record.table.data();
    out.num_experts = record.num_experts;
    out.num_segments = static_cast<std::uint32_t>(record.layout.count());
    write_struct(table, out);
    return {};
  });
}

cardea_status_t cardea_layer_device_table(cardea_layer_t layer, cardea_device_table_t* table) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    Result<std::shared_ptr<Context>> context = context_for(layer.id, Kind::kLayer);
    if (!context.ok()) return context.status();
    Context& in = **context;
    Result<std::shared_ptr<engine::LayerRecord>> record = live_layer(in, layer);
    if (!record.ok()) return record.status();
    if (const Status status = check_output(table, "table"); !status.ok()) return status;
    if (const Status status = may_use_device(in); !status.ok()) return status;
    const Result<std::shared_ptr<cardea::cuda::DeviceTable>> made = in.runtime().device_table(*record);
    if (!made.ok()) return made.status();
    cardea_device_table_t out = CARDEA_DEVICE_TABLE_INIT;
    out.slots = reinterpret_cast<const std::int32_t*>((*made)->slots());
    out.versions = reinterpret_cast<const std::uint64_t*>((*made)->versions());
    out.segments = reinterpret_cast<const void* const*>((*made)->segments());
    out.num_experts = (*record)->num_experts;
    out.num_segments = static_cast<std::uint32_t>((*record)->layout.count());
    write_struct(table, out);
    return {};
  });
}

// ---------------------------------------------------------------- versions

cardea_status_t cardea_publish(cardea_layer_t layer, uint64_t version, void* stream) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("publish", object_of(layer.id));
  if (stream != nullptr) {
    return guarded([&] {
      return on_stream(layer, stream, [&](Context& in, engine::LayerRecord& record) {
        return in.runtime().publish_on(static_cast<cardea::cuda::Stream>(stream), record, version);
      });
    });
  }
  return with_layer(layer, [&](Context& in, auto& held, LayerObject& object) -> Status {
    if (const Status status = in.runtime().publish(*object.record, version); !status.ok()) return status;
    in.runtime().note_published(*object.record, version, nullptr);
    std::vector<engine::Runtime::TableNote> notes = in.runtime().take_table_notes();
    held.unlock();
    return in.runtime().write_tables(std::move(notes), !in.on_engine_thread());
  });
}

cardea_status_t cardea_finish(cardea_layer_t layer, uint64_t version, const cardea_finish_desc_t* desc) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("finish", object_of(layer.id));
  return guarded([&]() -> Status {
    void* stream = nullptr;
    if (desc != nullptr) {
      Result<cardea_finish_desc_t> given = read_struct(desc, "desc");
      if (!given.ok()) return given.status();
      if (given->contributes != nullptr || given->micro_batches != 0) {
        return Status(CARDEA_ERR_UNSUPPORTED,
                      "gradients are not supported yet: contributes and micro_batches must be unset");
      }
      stream = given->stream;
    }
    if (stream != nullptr) {
      return on_stream(layer, stream, [&](Context& in, engine::LayerRecord& record) {
        return in.runtime().finish_on(static_cast<cardea::cuda::Stream>(stream), record, version);
      });
    }
    return with_object(layer.id, Kind::kLayer, &Context::layers, [&](Context& in, auto&, LayerObject& object) {
      return in.runtime().finish(*object.record, version);
    });
  });
}

cardea_status_t cardea_collect(cardea_layer_t layer, uint64_t version, void* stream, uint64_t timeout) CARDEA_NOEXCEPT {
  const cardea::telemetry::NvtxRange range("collect", object_of(layer.id));
  if (stream != nullptr) {
    const cardea_status_t usable =
        guarded([&] { return on_stream(layer, stream, [](Context&, engine::LayerRecord&) { return Status(); }); });
    if (usable != CARDEA_OK) return usable;
  }
  return with_layer(layer, [&](Context& in, auto& held, LayerObject& object) -> Status {
    const std::shared_ptr<engine::LayerRecord> record = object.record;
    return in.wait(held, timeout, [&]() -> Status {
      if (in.layers.find(object_of(layer.id)) == nullptr) return bad_handle("layer", "another thread destroyed it");
      return in.runtime().collect(*record, version);
    });
  });
}
