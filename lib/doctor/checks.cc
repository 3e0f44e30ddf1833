// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/checks.h"

#include <algorithm>

namespace cardea::doctor {

const char* to_string(Severity severity) {
  switch (severity) {
    case Severity::kNote:
      return "note";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "unknown";
}

bool something_is_off(const Findings& findings) {
  return std::any_of(findings.begin(), findings.end(),
                     [](const Finding& finding) { return finding.severity != Severity::kNote; });
}

std::span<const Check> all_checks() {
  static const std::vector<Check> all = [] {
    std::vector<Check> table;
    for (const auto part : {environment_checks(), limit_checks(), kernel_checks()})
      table.insert(table.end(), part.begin(), part.end());
    return table;
  }();
  return all;
}

Findings run_checks(const System& system) {
  Findings all;
  for (const Check& check : all_checks()) {
    Findings found = check.run(system);
    for (Finding& finding : found) {
      finding.kind = check.name;
      all.push_back(std::move(finding));
    }
  }
  return all;
}

}  // namespace cardea::doctor
