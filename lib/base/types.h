// SPDX-License-Identifier: Apache-2.0
// Numbers that mean something, shared by all of the library.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace cardea {

using Rank = std::uint32_t;
using Node = std::uint32_t;
using Version = std::uint64_t;
using ExpertIndex = std::uint32_t;

inline constexpr Rank kNoRank = std::numeric_limits<Rank>::max();
inline constexpr ExpertIndex kNoExpert = std::numeric_limits<ExpertIndex>::max();
inline constexpr Version kNoVersion = std::numeric_limits<Version>::max();

/// Names a layer across the job: the group's key (agreed by all members, see api/group.h) and the framework's number.
struct LayerKey {
  std::uint64_t group = 0;
  std::uint32_t layer = 0;
  friend auto operator<=>(const LayerKey&, const LayerKey&) = default;
};

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;

using Clock = std::chrono::steady_clock;
using Nanoseconds = std::chrono::nanoseconds;

/// Ranks of one job must agree on it; docs/wire-format.md tells what it covers.
inline constexpr std::uint32_t kWireVersion = 3;

}  // namespace cardea
