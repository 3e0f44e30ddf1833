// SPDX-License-Identifier: Apache-2.0
// While one is in scope, pages that this thread brings in come from a NUMA node if it has any free: its own memory, shared
// memory, files in memory. Advice: where the kernel forbids the call, or the caller has a policy of its own (numactl),
// nothing changes. For one thread; do not outlive another one's beginning.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <optional>

namespace cardea {

class NumaPreference {
 public:
  /// `node` as the operating system numbers it; none: does nothing.
  explicit NumaPreference(std::optional<unsigned> node) {
    if (!node || *node >= kMostNodes) return;
    int mode = -1;
    if (syscall(SYS_get_mempolicy, &mode, nullptr, 0UL, nullptr, 0UL) != 0 || mode != kDefault) return;
    std::array<unsigned long, kMostNodes / kBits> mask{};
    mask[*node / kBits] = 1UL << *node % kBits;
    active_ = syscall(SYS_set_mempolicy, kPreferred, mask.data(), static_cast<unsigned long>(kMostNodes)) == 0;
  }
  ~NumaPreference() {
    if (active_) syscall(SYS_set_mempolicy, kDefault, nullptr, 0UL);
  }
  NumaPreference(const NumaPreference&) = delete;
  NumaPreference& operator=(const NumaPreference&) = delete;

  /// Whether the kernel took the advice.
  bool active() const { return active_; }

 private:
  static constexpr unsigned kMostNodes = 1024, kBits = sizeof(unsigned long) * CHAR_BIT;
  static constexpr int kDefault = 0, kPreferred = 1;  // MPOL_DEFAULT, MPOL_PREFERRED
  bool active_ = false;
};

}  // namespace cardea
