// SPDX-License-Identifier: Apache-2.0
// The event logs of a real job's ranks (lib/telemetry/event_log.h), put together as a run that a replay can carry out: a
// plan that describes the job, and every rank's requests on one clock. What the simulator cannot express is left out and
// told (layers of other groups or shapes), or refused (ranks of a node that are not numbered one after the other). Pure
// function of the texts.
#pragma once

#include <istream>
#include <memory>
#include <string>
#include <vector>

#include "perf/simulator/event_log.h"

namespace cardea::simulator {

struct JobLog {
  RecordedRun run;
  std::uint64_t nanoseconds = 0;      // that the real run took, from its first request to its last event
  std::vector<std::string> left_out;  // a line for each kind of thing
};

/// Whether a log was written by a rank of a real job, not by a simulation. Reads from the beginning and goes back there.
bool is_job_log(std::istream& in);

/// One stream for each rank, in any order. PROTOCOL names the log and the line that is wrong; UNSUPPORTED what the
/// simulator cannot express; MISMATCH logs that are not of one job, or too few of them.
Result<JobLog> merge_job_logs(const std::vector<std::unique_ptr<std::istream>>& logs);

}  // namespace cardea::simulator
