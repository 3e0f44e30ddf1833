// SPDX-License-Identifier: Apache-2.0
// Where ranks of a job say what they are doing and what they have seen, in memory that the driver shares with them: it can
// read it when they hang or have been killed. Each rank writes its own place; words are atomic, the message is written
// before the word that tells of it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace cardea::chaos {

enum class Doing : std::uint32_t {
  kStarting,
  kJoining,
  kCreatingLayer,
  kPublishing,
  kFetching,
  kWaiting,
  kFinishing,
  kCollecting,
  kDestroyingLayer,
  kLeaving,
  kDone,
  kCount
};
inline constexpr std::array<const char*, static_cast<std::size_t>(Doing::kCount)> kDoing = {
    "starting",  "joining",    "creating a layer",   "publishing", "fetching", "waiting for views",
    "finishing", "collecting", "destroying a layer", "leaving",    "done"};

inline constexpr std::uint32_t kMostRanks = 8;

struct Place {
  std::atomic<std::uint64_t> steps;  // grows as long as the rank gets on
  std::atomic<Doing> doing;
  std::atomic<std::uint32_t> layer;
  std::atomic<std::uint64_t> version;
  std::atomic<std::int32_t> last_status;
  std::atomic<std::uint64_t> fetches, views, bytes, cancels, prefetches, gangs, deadlines, failed_experts, lost_layers;
  std::atomic<std::uint32_t> wrong;  // 1: `message` says what
  char message[1024];
};

struct Board {
  std::array<Place, kMostRanks> ranks;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace cardea::chaos
