// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/event_log.h"

#include <fmt/format.h>

#include <iterator>

namespace cardea::telemetry {

EventLogSink::EventLogSink(OutputFile file, const JobFacts& facts) : file_(std::move(file)), text_(facts.self, facts.began) {
  fmt::format_to(std::back_inserter(file_.buffer()),
                 "# cardea events 1\n# job rank={} ranks={} nodes={} chunk-bytes={} network-chunks={} copy-chunks={} "
                 "cache-bytes={} wall={} host={}\n",
                 facts.self, facts.node_of.size(), fmt::join(facts.node_of, ","), facts.chunk_bytes, facts.network_chunks,
                 facts.copy_chunks, facts.cache_bytes, facts.wall, facts.host);
}

void EventLogSink::write(std::span<const Record> records) {
  for (const Record& record : records) {
    text_.add(record, file_.buffer());
    file_.write_if_full();
  }
}

void EventLogSink::lost(std::uint64_t records) {
  text_.flush(file_.buffer());
  fmt::format_to(std::back_inserter(file_.buffer()), "# lost {}\n", records);
}

void EventLogSink::close() {
  text_.flush(file_.buffer());
  file_.buffer() += "# end\n";
  file_.flush();
}

}  // namespace cardea::telemetry
