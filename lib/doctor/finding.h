// SPDX-License-Identifier: Apache-2.0
// What `cardea doctor` has to say about one thing: what it is, how bad, and what to do about it. Plain value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cardea::doctor {

enum class Severity : std::uint8_t {
  kNote,     // worth knowing; all is well
  kWarning,  // works, but slowly, or not everywhere
  kError,    // a job fails here
};

struct Finding {
  Severity severity = Severity::kNote;
  std::string kind;    // "limits.descriptors": the check's name
  std::string what;    // is off
  std::string advice;  // what to do
  friend bool operator==(const Finding&, const Finding&) = default;
};
using Findings = std::vector<Finding>;

/// "note", "warning", "error".
const char* to_string(Severity severity);
/// Whether something is off: any warning or error.
bool something_is_off(const Findings& findings);

}  // namespace cardea::doctor
