// SPDX-License-Identifier: Apache-2.0
// Records as lines of text, in the format of docs/simulator.md, for event logs, dumps and the log:
//
//   <nanoseconds> <rank> <what> <name>=<number> … [experts=0,5,6]
//
// Layers count from 0 in it, in the order in which this rank made them; times count from `base`. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/telemetry/record.h"

namespace cardea::telemetry {

class EventText {
 public:
  /// `base` in ns of the steady clock.
  EventText(Rank self, std::int64_t base) : self_(self), base_(base) {}

  /// Appends the lines that the record completes: none while a list of numbers goes on. Numbers whose beginning was not
  /// seen are passed over; a list that breaks off is written as far as it came, behind "incomplete=1".
  void add(const Record& record, std::string& out);
  /// Writes what waits for more numbers.
  void flush(std::string& out);

 private:
  void write(const Record& record, std::string& out) const;

  Rank self_;
  std::int64_t base_;
  Record pending_;  // kFetch or kLayer that waits for its numbers
  std::vector<std::uint32_t> numbers_;
};

}  // namespace cardea::telemetry
