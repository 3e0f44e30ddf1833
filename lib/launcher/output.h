// SPDX-License-Identifier: Apache-2.0
// Passes a rank's output on, a whole line at a time, each preceded by "[rank] ". Single-threaded.
#pragma once

#include <string>

#include "lib/base/unique_fd.h"

namespace cardea::launcher {

class TaggedOutput {
 public:
  /// Reads from `from` (made non-blocking), writes to `to`, which it does not own.
  TaggedOutput(unsigned rank, UniqueFd from, int to);
  int descriptor() const { return from_.get(); }
  /// Reads what is there; false at the end, after an unfinished last line was passed on.
  bool pump();

 private:
  void pass_on(std::string_view line);

  std::string tag_;
  UniqueFd from_;
  int to_;
  std::string partial_;
};

}  // namespace cardea::launcher
