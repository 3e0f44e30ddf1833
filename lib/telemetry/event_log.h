// SPDX-License-Identifier: Apache-2.0
// The event log of a rank of a real run, in the format of docs/simulator.md: the same lines as a simulator's log, behind a
// header that tells the job instead of a plan. perf/simulate merges the logs of a job's ranks and replays their requests.
//
//   # cardea events 1
//   # job rank=0 ranks=4 nodes=0,0,1,1 chunk-bytes=… network-chunks=… copy-chunks=… cache-bytes=… wall=… host=…
//   # layer number=0 id=0 experts=16 segments=3 expert-bytes=… members=4 node-path=2 homes=0,0,1,1,…
//   <nanoseconds> <rank> <what> …
//   # lost 12                                       records that are missing here
//   # end                                           the rank closed its log; without it, it died
#pragma once

#include <memory>

#include "lib/telemetry/event_text.h"
#include "lib/telemetry/output_file.h"
#include "lib/telemetry/sink.h"

namespace cardea::telemetry {

class EventLogSink final : public Sink {
 public:
  EventLogSink(OutputFile file, const JobFacts& facts);
  void write(std::span<const Record> records) override;
  void lost(std::uint64_t records) override;
  void flush() override { file_.flush(); }
  void close() override;

 private:
  OutputFile file_;
  EventText text_;
};

}  // namespace cardea::telemetry
