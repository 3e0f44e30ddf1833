// SPDX-License-Identifier: Apache-2.0
// What each strategy of the core is worth: the same job with none of them, then with one more at a time.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "perf/simulator/bound.h"
#include "perf/simulator/plan.h"
#include "perf/simulator/report.h"

namespace cardea::simulator {

struct AblationRow {
  std::string name;
  std::optional<Report> report;  // none: with one rank on each node nobody shares a cache
  Bound bound;                   // of this row: without the cache more bytes must cross the network
};

/// Rows: naive order, + stagger, + side-by-side lanes, + node cache, + prefetch; with a machine also + PCIe-aware split and
/// + NIC affinity. `plan` says the rest; its own strategies are not looked at. `progress` hears which row runs, and how much
/// of it is done.
Result<std::vector<AblationRow>> ablation(const Plan& plan,
                                          const std::function<void(const std::string&, double)>& progress = {});

/// An aligned table, and the formula of the bound.
std::string to_table(const std::vector<AblationRow>& rows);
std::string to_json(const Plan& plan, const std::vector<AblationRow>& rows);

}  // namespace cardea::simulator
