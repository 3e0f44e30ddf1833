// SPDX-License-Identifier: Apache-2.0
// Makes the sinks of a rank.
#pragma once

#include <memory>
#include <vector>

#include "lib/telemetry/sink.h"
#include "lib/telemetry/trace_list.h"

namespace cardea::telemetry {

/// CONFIGURATION if several ranks would write one file; SYSTEM if one cannot be made.
Result<std::vector<std::unique_ptr<Sink>>> open_traces(const std::vector<TraceTarget>& targets, const JobFacts& facts);

/// Every event as a line of the log, level TRACE, subsystem "events".
std::unique_ptr<Sink> log_sink(const JobFacts& facts);

}  // namespace cardea::telemetry
