// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/prometheus.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

#include "cardea/cardea.h"

namespace cardea::telemetry {
namespace {

/// A label's value, as the format wants it.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char letter : text) {
    if (letter == '\\' || letter == '"') out += '\\';
    if (letter == '\n') {
      out += "\\n";
    } else {
      out += letter;
    }
  }
  return out;
}

double seconds(std::uint64_t nanoseconds) {
  return static_cast<double>(nanoseconds) * 1e-9;
}

const char* path_name(std::size_t path) {
  return cardea_path_string(static_cast<cardea_path_t>(path));
}

class Page {
 public:
  explicit Page(Rank rank) : rank_(fmt::format("rank=\"{}\"", rank)) {}

  void family(const char* name, const char* type, const char* help) {
    name_ = name;
    fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  template <typename Value>
  void sample(const std::string& labels, Value value, const char* suffix = "") {
    fmt::format_to(std::back_inserter(text_), "{}{}{{{}{}{}}} {}\n", name_, suffix, rank_, labels.empty() ? "" : ",", labels,
                   value);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string rank_, text_;
  const char* name_ = "";
};

std::string labels_of(const Counters& counters, std::size_t lane, std::size_t urgency, std::size_t path) {
  return fmt::format("lane=\"{}\",class=\"{}\",path=\"{}\"", escaped(counters.lanes()[lane]),
                     class_name(static_cast<std::uint8_t>(urgency)), path_name(path));
}

/// One family of traffic: what `value` says for each lane, class and path that has carried anything.
template <typename Value>
void traffic(Page& page, const Counters& counters, const char* name, const char* type, const char* help, Value value) {
  page.family(name, type, help);
  for (std::size_t lane = 0; lane < counters.lanes().size(); ++lane) {
    for (std::size_t urgency = 0; urgency < kClassCount; ++urgency) {
      for (std::size_t path = 0; path < kPathCount; ++path) {
        const Traffic& of = counters.traffic(lane, urgency, path);
        if (of.started != 0) page.sample(labels_of(counters, lane, urgency, path), value(of));
      }
    }
  }
}

void ready_times(Page& page, const Counters& counters) {
  page.family("cardea_ready_seconds", "histogram", "Time from a fetch to its expert being ready.");
  for (std::size_t urgency = 0; urgency < kClassCount; ++urgency) {
    for (std::size_t path = 0; path < kPathCount; ++path) {
      const ReadyTimes& times = counters.ready(urgency, path);
      if (times.count == 0) continue;
      const std::string labels =
          fmt::format("class=\"{}\",path=\"{}\"", class_name(static_cast<std::uint8_t>(urgency)), path_name(path));
      std::uint64_t so_far = 0;
      for (std::size_t i = 0; i < ReadyTimes::kBuckets; ++i) {
        so_far += times.buckets[i];
        const std::string bound =
            i + 1 == ReadyTimes::kBuckets ? "+Inf" : fmt::format("{:g}", seconds(ReadyTimes::bound(i)));
        page.sample(fmt::format("{},le=\"{}\"", labels, bound), so_far, "_bucket");
      }
      page.sample(labels, seconds(times.nanoseconds), "_sum");
      page.sample(labels, times.count, "_count");
    }
  }
}

void requests(Page& page, const Counters& counters) {
  constexpr std::pair<What, const char*> kRequests[] = {
      {What::kFetch, "fetch"},     {What::kTake, "take"},       {What::kRelease, "release"}, {What::kCancel, "cancel"},
      {What::kDestroy, "destroy"}, {What::kPublish, "publish"}, {What::kFinish, "finish"},   {What::kCollect, "collect"}};
  page.family("cardea_requests_total", "counter", "Requests of this rank; fetches and prefetches together.");
  for (const auto& [what, name] : kRequests)
    page.sample(fmt::format("kind=\"{}\"", name), counters.happened[static_cast<std::size_t>(what)]);
  page.family("cardea_experts_wanted_total", "counter", "Experts that fetches and prefetches have named.");
  for (std::size_t urgency = 0; urgency < kClassCount; ++urgency) {
    page.sample(fmt::format("class=\"{}\"", class_name(static_cast<std::uint8_t>(urgency))),
                counters.experts_wanted[urgency]);
  }
  page.family("cardea_experts_failed_total", "counter", "Experts of fetches that failed, by status.");
  for (const auto& [status, count] : counters.failures)
    page.sample(fmt::format("status=\"{}\"", cardea_status_string(static_cast<cardea_status_t>(status))), count);
}

}  // namespace

std::string prometheus_text(const Counters& counters, const Gauges& gauges) {
  Page page(gauges.rank);
  page.family("cardea_info", "gauge", "Always 1; says which node the rank is on and which library it runs.");
  page.sample(fmt::format("node=\"{}\",version=\"{}\"", gauges.node, escaped(gauges.version)), 1);

  requests(page, counters);
  ready_times(page, counters);
  traffic(page, counters, "cardea_chunks_started_total", "counter", "Chunks started on a lane.",
          [](const Traffic& of) { return of.started; });
  traffic(page, counters, "cardea_chunks_done_total", "counter", "Chunks that have arrived.",
          [](const Traffic& of) { return of.done; });
  traffic(page, counters, "cardea_chunks_failed_total", "counter", "Chunks that ended without arriving.",
          [](const Traffic& of) { return of.failed; });
  traffic(page, counters, "cardea_chunks_in_flight", "gauge", "Chunks on the way now.",
          [](const Traffic& of) { return of.started - of.done - of.failed; });
  traffic(page, counters, "cardea_chunk_bytes_total", "counter", "Bytes of chunks that have arrived, padding included.",
          [](const Traffic& of) { return of.bytes; });
  traffic(page, counters, "cardea_chunk_seconds_total", "counter", "Time that arrived chunks were on the way, summed.",
          [](const Traffic& of) { return seconds(of.nanoseconds); });

  const auto one = [&](const char* name, const char* type, const char* help, std::uint64_t value) {
    page.family(name, type, help);
    page.sample("", value);
  };
  one("cardea_network_received_bytes_total", "counter", "Expert bytes received from other nodes.", gauges.network_received);
  one("cardea_network_direct_bytes_total", "counter", "Of those received, bytes that went straight into the GPU's memory.",
      gauges.network_direct);
  one("cardea_network_sent_bytes_total", "counter", "Expert bytes served to other ranks that asked for them.",
      gauges.network_sent);
  one("cardea_node_copied_bytes_total", "counter", "Expert bytes that this rank copied within its node.",
      gauges.node_copied);
  one("cardea_prefetch_wasted_bytes_total", "counter", "Bytes prefetched and dropped without having been read.",
      gauges.prefetch_wasted);
  one("cardea_peers", "gauge", "Other ranks of the job.", gauges.peers);
  one("cardea_peers_alive", "gauge", "Of them, those neither lost nor gone.", gauges.peers_alive);
  if (gauges.cache_capacity != 0) {
    one("cardea_cache_capacity_bytes", "gauge", "Size of the node cache, shared by the ranks of the node.",
        gauges.cache_capacity);
    one("cardea_cache_used_bytes", "gauge", "Of it, what holds experts now.", gauges.cache_used);
    one("cardea_cache_hits_total", "counter", "Experts that were in the node cache, whole or in part, when wanted.",
        gauges.cache_hits);
    one("cardea_cache_misses_total", "counter", "Experts that were not.", gauges.cache_misses);
    one("cardea_cache_evicted_total", "counter", "Experts that this rank pushed out to make room.", gauges.cache_evicted);
    one("cardea_cache_bypassed_total", "counter", "Experts that came over the network for this rank alone.",
        gauges.cache_bypassed);
    one("cardea_cache_overdue_total", "counter", "Chunks taken over from a rank that fell silent.", gauges.cache_overdue);
  }
  one("cardea_stalls_total", "counter", "Times that fetches stood still, so that a dump was written.", counters.stalls);
  one("cardea_records_lost_total", "counter", "Records that an event log or trace has missed.", counters.records_lost);
  return page.take();
}

}  // namespace cardea::telemetry
