// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace moe {

Progress::Progress(std::uint64_t total, bool shown) : total_(total), shown_(shown), terminal_(isatty(STDERR_FILENO) == 1) {
  draw("starting");
}

Progress::~Progress() {
  if (shown_ && terminal_) fmt::print(stderr, "\n");
}

void Progress::advance(const std::string& what) {
  done_ = std::min(done_ + 1, total_);
  draw(what);
}

void Progress::draw(const std::string& what) {
  constexpr std::uint64_t kWidth = 30;
  if (!shown_) return;
  const std::uint64_t filled = total_ == 0 ? kWidth : done_ * kWidth / total_;
  if (terminal_) {
    // \033[K clears what a longer line before left.
    fmt::print(stderr, "\r[{:#<{}}{:.<{}}] {:3}% {}\033[K", "", filled, "", kWidth - filled, filled * 100 / kWidth, what);
  } else {
    fmt::print(stderr, "{:3}% {}\n", total_ == 0 ? 100 : done_ * 100 / total_, what);
  }
  std::fflush(stderr);
}

}  // namespace moe
