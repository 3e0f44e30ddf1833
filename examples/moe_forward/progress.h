// SPDX-License-Identifier: Apache-2.0
// How far a run is, on stderr: a bar that redraws itself on a terminal, a line now and then elsewhere. One thread.
#pragma once

#include <cstdint>
#include <string>

namespace moe {

class Progress {
 public:
  /// Shows nothing unless `shown`, which one rank should be.
  Progress(std::uint64_t total, bool shown);
  /// Ends the bar's line, so that what follows starts a new one.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// One more of `total` is done; `what` is next.
  void advance(const std::string& what);

 private:
  void draw(const std::string& what);

  std::uint64_t total_;
  std::uint64_t done_ = 0;
  bool shown_;
  bool terminal_;
};

}  // namespace moe
