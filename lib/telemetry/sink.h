// SPDX-License-Identifier: Apache-2.0
// Where drained records go: an event log, a trace, the log. Used by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/telemetry/record.h"

namespace cardea::telemetry {

/// What stands at the head of a log or trace.
struct JobFacts {
  Rank self = 0;
  std::vector<Node> node_of;  // by rank
  std::string host;
  std::vector<std::string> lanes;
  std::uint64_t chunk_bytes = 0, network_chunks = 0, copy_chunks = 0, cache_bytes = 0;
  std::int64_t began = 0;  // ns of the steady clock; times in the output count from here
  std::int64_t wall = 0;   // ns since 1970 at that moment: what ranks are aligned by
};

class Sink {
 public:
  virtual ~Sink() = default;
  /// In the order in which they were made.
  virtual void write(std::span<const Record> records) = 0;
  /// So many records were left out before the next one.
  virtual void lost(std::uint64_t records) = 0;
  /// Brings out what is buffered.
  virtual void flush() = 0;
  /// Writes the end. Nothing comes after it.
  virtual void close() = 0;
};

}  // namespace cardea::telemetry
