// SPDX-License-Identifier: Apache-2.0
// Where no launcher has started this process, a job of its own to probe: four ranks on two nodes that this machine plays,
// started by cardea-run, which must lie beside this program or on PATH.
#pragma once

#include "lib/doctor/probe.h"

namespace cardea::doctor {

/// Before what a rank 0 started with --member writes; a line of JSON follows.
inline constexpr const char* kMemberMark = "cardea-doctor member: ";

/// Runs `program --member` as four ranks and takes what rank 0 reports. Ends the job when `patience` is over.
Probe own_job(const std::string& program, Nanoseconds patience);

/// Rank 0's report as one line, and back.
std::string probe_line(const Probe& probe);
Result<Probe> probe_from_line(const std::string& line);

}  // namespace cardea::doctor
