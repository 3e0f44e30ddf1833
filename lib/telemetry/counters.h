// SPDX-License-Identifier: Apache-2.0
// What a rank has done so far, in numbers, by lane, class and path. A plain value: copy it under the lock that guards it,
// and read the copy at leisure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/telemetry/record.h"

namespace cardea::telemetry {

inline constexpr std::size_t kClassCount = 4;
inline constexpr std::size_t kPathCount = 8;  // cardea_path_t's values and room for one more

/// Chunks of one lane, class and path. Bytes count padding between segments.
struct Traffic {
  std::uint64_t started = 0, done = 0, failed = 0;
  std::uint64_t bytes = 0;        // of those done
  std::uint64_t nanoseconds = 0;  // on the way, summed over those done
};

/// Times from a fetch to its experts being ready. Bucket i counts those of at most 4^i microseconds; the last one all
/// others.
struct ReadyTimes {
  static constexpr std::size_t kBuckets = 14;
  std::uint64_t count = 0, nanoseconds = 0;
  std::array<std::uint64_t, kBuckets> buckets{};

  static constexpr std::uint64_t bound(std::size_t bucket) { return std::uint64_t{1000} << (2 * bucket); }
  static constexpr std::size_t bucket_of(std::uint64_t nanoseconds) {
    std::size_t bucket = 0;
    while (bucket + 1 < kBuckets && nanoseconds > bound(bucket)) ++bucket;
    return bucket;
  }
  void add(std::uint64_t time) {
    ++count;
    nanoseconds += time;
    ++buckets[bucket_of(time)];
  }
};

class Counters {
 public:
  explicit Counters(std::vector<std::string> lanes);

  const std::vector<std::string>& lanes() const { return lanes_; }
  /// What has a lane, class or path beyond those known goes to the last one, "other".
  const Traffic& traffic(std::size_t lane, std::size_t urgency, std::size_t path) const {
    return traffic_[index(lane, urgency, path)];
  }
  Traffic& traffic(std::size_t lane, std::size_t urgency, std::size_t path) { return traffic_[index(lane, urgency, path)]; }
  ReadyTimes& ready(std::size_t urgency, std::size_t path) {
    return ready_[clip(urgency, kClassCount)][clip(path, kPathCount)];
  }
  const ReadyTimes& ready(std::size_t urgency, std::size_t path) const {
    return ready_[clip(urgency, kClassCount)][clip(path, kPathCount)];
  }

  std::array<std::uint64_t, kWhats> happened{};  // records by What
  std::array<std::uint64_t, kClassCount> experts_wanted{};
  std::map<std::int32_t, std::uint64_t> failures;  // experts by status
  std::uint64_t bytes_lent = 0;                    // sent to ranks that asked
  std::uint64_t stalls = 0;                        // times that fetches stood still and a dump was written
  std::uint64_t records_lost = 0;                  // that a log or trace has missed

 private:
  static std::size_t clip(std::size_t value, std::size_t count) { return value < count ? value : count - 1; }
  std::size_t index(std::size_t lane, std::size_t urgency, std::size_t path) const {
    return (clip(lane, lanes_.size()) * kClassCount + clip(urgency, kClassCount)) * kPathCount + clip(path, kPathCount);
  }

  std::vector<std::string> lanes_;
  std::vector<Traffic> traffic_;
  std::array<std::array<ReadyTimes, kPathCount>, kClassCount> ready_{};
};

}  // namespace cardea::telemetry
