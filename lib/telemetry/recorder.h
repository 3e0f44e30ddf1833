// SPDX-License-Identifier: Apache-2.0
// The one place where what happens in a rank is noted. A note is some additions to counters and one record of 64 bytes in a
// ring made beforehand: no allocation, no formatting, no system call. Whoever has no recorder pays one branch.
//
// Threads: all functions with the mutex held that guards the core, but for drain(), which one other thread may call without
// it. The ring keeps the last records, overwriting the oldest, until somebody drains it (attach()); from then on nothing
// unread is overwritten: when the reader falls behind, new records are left out and counted (Counters::records_lost).
//
// Memory order: the writer publishes a record by a release store of head_, which drain() acquires; the reader frees it by a
// release store of tail_, which the writer acquires before it writes there again.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/telemetry/counters.h"
#include "lib/telemetry/record.h"

namespace cardea::telemetry {

struct RecorderOptions {
  Rank self = 0;
  std::vector<std::string> lanes;  // names, by core::LaneNumber
  std::size_t ring = 4096;         // records kept, rounded up to a power of two
};

class Recorder {
 public:
  explicit Recorder(RecorderOptions options);
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // ---- requests
  void fetch(Clock::time_point when, const Outcome& fetch, std::uint8_t flags, std::uint64_t segments,
             std::uint64_t deadline, std::span<const ExpertIndex> experts);
  /// kTake, kWait, kCancel, kDestroy.
  void of_fetch(Clock::time_point when, What what, std::uint64_t fetch, std::uint32_t count = 0);
  void release(Clock::time_point when, std::uint64_t fetch, ExpertIndex expert);
  /// kPublish, kFinish, kCollect.
  void of_version(Clock::time_point when, What what, std::uint32_t layer, Version version);
  void leave(Clock::time_point when);

  // ---- what followed
  void start(Clock::time_point when, const Chunk& chunk);
  void done(Clock::time_point when, const Chunk& chunk, Nanoseconds took, std::int32_t status);
  void ready(Clock::time_point when, const Outcome& want, Nanoseconds after);
  void failed(Clock::time_point when, const Outcome& want, std::int32_t status);
  void told(Clock::time_point when, Rank by, std::uint32_t kind, std::uint32_t layer, Version version);
  void lost(Clock::time_point when, Rank peer, bool left);
  void lend(Clock::time_point when, std::uint64_t lease, const Chunk& chunk, Rank to);
  void give_back(Clock::time_point when, std::uint64_t lease, std::uint64_t bytes);

  /// By this rank's GPU, which began and took so long by its own time.
  void copied(Clock::time_point when, GpuQueue queue, std::uint64_t number, std::uint64_t bytes, std::uint32_t count,
              Clock::time_point began, Nanoseconds took);

  /// A dump is written: only counted, since what led to it is recorded.
  void stalled() { ++counters_.stalls; }

  // ---- about the job
  struct LayerFacts {
    std::uint32_t layer = 0, layer_id = 0, members = 0, segments = 0;
    std::uint64_t expert_bytes = 0;
    std::uint8_t node_path = 0;  // by which experts of other ranks of the node come
  };
  void layer(Clock::time_point when, const LayerFacts& facts, std::span<const Rank> homes);

  Rank self() const { return self_; }
  const Counters& counters() const { return counters_; }
  /// The last records, oldest first.
  std::vector<Record> recent() const;
  /// How many were made.
  std::uint64_t made() const { return head_.load(std::memory_order_relaxed); }

  /// Nothing is overwritten any more before it was drained; what the ring holds now is drained first.
  void attach();
  /// Records left out so far, as in the counters. Any thread.
  std::uint64_t lost() const { return lost_.load(std::memory_order_relaxed); }
  /// Copies the oldest records that have not been drained; returns how many. Another thread, one at a time, after attach().
  std::size_t drain(std::span<Record> out);

 private:
  Record* next();
  void publish() { head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
  void add(Clock::time_point when, What what, const Body& body, std::uint8_t urgency = 0, std::uint8_t path = 0,
           std::uint8_t lane = 0, std::int32_t status = 0);
  void numbers(Clock::time_point when, std::span<const std::uint32_t> all);

  const Rank self_;
  Counters counters_;
  std::vector<Record> ring_;
  std::size_t mask_ = 0;
  bool attached_ = false;
  std::atomic<std::uint64_t> head_{0};  // records made; the writer's
  std::atomic<std::uint64_t> tail_{0};  // records drained; the reader's
  std::atomic<std::uint64_t> lost_{0};  // a copy for the reader
};

}  // namespace cardea::telemetry
