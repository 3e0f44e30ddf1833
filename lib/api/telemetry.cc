// SPDX-License-Identifier: Apache-2.0
// cardea.h: counters by lane, class and path, metrics, dumps.
#include <algorithm>
#include <cstring>
#include <optional>

#include "cardea/cardea.h"
#include "lib/api/last_error.h"
#include "lib/api/object.h"
#include "lib/api/structs.h"
#include "lib/telemetry/prometheus.h"

using cardea::Result;
using cardea::Status;
using namespace cardea::api;
namespace telemetry = cardea::telemetry;

namespace {

/// Runs body(context) without the mutex, which the body takes for as long as it copies.
template <typename Body>
Status with_context(cardea_context_t handle, Body body) {
  Result<std::shared_ptr<Context>> context = context_for(handle.id, Kind::kContext);
  if (!context.ok()) return context.status();
  return body(**context);
}

Status check_text(const char* text, std::size_t capacity, const std::size_t* needed) {
  if (needed == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "needed is null");
  if (text == nullptr && capacity != 0)
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "text is null and capacity is {}", capacity);
  return {};
}

void write_cut(const std::string& from, char* text, std::size_t capacity, std::size_t* needed) {
  *needed = from.size() + 1;
  if (capacity == 0) return;
  const std::size_t some = std::min(from.size(), capacity - 1);
  std::memcpy(text, from.data(), some);
  text[some] = '\0';
}

telemetry::Gauges gauges_of(Context& in) {
  const cardea_counters_t counters = counters_of(in);
  telemetry::Gauges gauges;
  gauges.rank = in.self();
  gauges.node = in.node_of()[in.self()];
  gauges.version = fmt::format("{}.{}.{}", CARDEA_VERSION_MAJOR, CARDEA_VERSION_MINOR, CARDEA_VERSION_PATCH);
  gauges.network_received = counters.bytes_network_received;
  gauges.network_direct = counters.bytes_network_direct;
  gauges.network_sent = counters.bytes_network_sent;
  gauges.node_copied = counters.bytes_node_copied;
  gauges.prefetch_wasted = counters.prefetch_bytes_wasted;
  for (cardea::Rank rank = 0; rank < in.node_of().size(); ++rank) {
    if (rank == in.self()) continue;
    ++gauges.peers;
    if (in.runtime().alive(rank)) ++gauges.peers_alive;
  }
  gauges.cache_capacity = counters.cache_bytes_capacity;
  gauges.cache_used = counters.cache_bytes_used;
  gauges.cache_hits = counters.cache_hits;
  gauges.cache_misses = counters.cache_misses;
  gauges.cache_evicted = counters.cache_evicted;
  gauges.cache_bypassed = counters.cache_bypassed;
  gauges.cache_overdue = counters.cache_overdue;
  return gauges;
}

std::vector<cardea_traffic_t> rows_of(const telemetry::Counters& counters) {
  std::vector<cardea_traffic_t> rows;
  for (std::size_t lane = 0; lane < counters.lanes().size(); ++lane) {
    for (std::size_t urgency = 0; urgency < telemetry::kClassCount; ++urgency) {
      for (std::size_t path = 0; path < telemetry::kPathCount; ++path) {
        const telemetry::Traffic& of = counters.traffic(lane, urgency, path);
        if (of.started == 0) continue;
        cardea_traffic_t row = CARDEA_TRAFFIC_INIT;
        write_text(row.lane, counters.lanes()[lane]);
        row.urgency = static_cast<cardea_class_t>(urgency);
        row.path = static_cast<cardea_path_t>(path);
        row.chunks_started = of.started;
        row.chunks_done = of.done;
        row.chunks_failed = of.failed;
        row.bytes = of.bytes;
        row.nanoseconds = of.nanoseconds;
        rows.push_back(row);
      }
    }
  }
  return rows;
}

Status check_rows(const cardea_traffic_t* rows, std::uint32_t max) {
  if (max == 0) return {};
  if (const Status status = check_output(rows, "rows[0]"); !status.ok()) return status;
  for (std::uint32_t i = 1; i < max; ++i) {
    if (at(rows, i)->size == rows->size) continue;
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "rows[{}]: size is {}, and {} in rows[0]", i, at(rows, i)->size,
                         rows->size);
  }
  return {};
}

}  // namespace

const char* cardea_class_string(cardea_class_t urgency) CARDEA_NOEXCEPT {
  return telemetry::class_name(static_cast<std::uint8_t>(std::min<std::uint32_t>(number_of(urgency), UINT8_MAX)));
}

cardea_status_t cardea_traffic_query(cardea_context_t context, cardea_traffic_t* rows, uint32_t max,
                                     uint32_t* count) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_context(context, [&](Context& in) -> Status {
      if (count == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "count is null");
      if (const Status status = check_rows(rows, max); !status.ok()) return status;
      auto held = in.lock();
      if (!in.aborted().ok()) return in.aborted();
      const telemetry::Counters counters = in.runtime().recorder()->counters();
      held.unlock();
      const std::vector<cardea_traffic_t> all = rows_of(counters);
      for (std::uint32_t i = 0; i < max && i < all.size(); ++i) write_struct(at(rows, i), all[i]);
      *count = static_cast<std::uint32_t>(all.size());
      return {};
    });
  });
}

cardea_status_t cardea_metrics_text(cardea_context_t context, char* text, size_t capacity, size_t* needed) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_context(context, [&](Context& in) -> Status {
      if (const Status status = check_text(text, capacity, needed); !status.ok()) return status;
      auto held = in.lock();
      if (!in.aborted().ok()) return in.aborted();
      const telemetry::Counters counters = in.runtime().recorder()->counters();
      const telemetry::Gauges gauges = gauges_of(in);
      held.unlock();
      write_cut(telemetry::prometheus_text(counters, gauges), text, capacity, needed);
      return {};
    });
  });
}

cardea_status_t cardea_dump_text(cardea_context_t context, const char* reason, char* text, size_t capacity,
                                 size_t* needed) CARDEA_NOEXCEPT {
  return guarded([&] {
    return with_context(context, [&](Context& in) -> Status {
      if (reason == nullptr) return Status(CARDEA_ERR_INVALID_ARGUMENT, "reason is null");
      if (const Status status = check_text(text, capacity, needed); !status.ok()) return status;
      auto held = in.lock();
      if (!in.aborted().ok()) return in.aborted();
      const cardea::engine::Dump dump = in.runtime().take_dump();
      held.unlock();
      std::string line = reason;
      std::replace_if(
          line.begin(), line.end(), [](unsigned char letter) { return letter < 0x20 || letter == 0x7f; }, ' ');
      write_cut(to_text(dump, line), text, capacity, needed);
      return {};
    });
  });
}
