// SPDX-License-Identifier: Apache-2.0
// Two processes that know each other by a socket pair, for tools that measure one rank against another. Both are new, since
// neither UCX nor an engine thread can be carried over a fork.
#pragma once

#include <functional>
#include <vector>

namespace cardea::perf {

/// Runs source(link) in one process and sink(link) in another; returns what the sink returned. Throws std::runtime_error if
/// either fails, whose own message has gone to standard error.
std::vector<double> run_two(const std::function<void(int link)>& source,
                            const std::function<std::vector<double>(int link)>& sink);

/// The middle value, or the mean of both; 0 of none.
double median(std::vector<double> values);
/// The value below which `share` (0 to 1) of all lie.
double percentile(std::vector<double> values, double share);

}  // namespace cardea::perf
