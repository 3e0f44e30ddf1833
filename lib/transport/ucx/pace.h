// SPDX-License-Identifier: Apache-2.0
// How fast chunks leave for one peer, and what follows from it: how many UCX is given at a time, and by which protocol.
//
// A connection is a queue: requests, and the answers of a rendezvous, wait behind what was put in before. On a slow link and
// with both ranks asking for many chunks of one another, eight in the queue let requests wait for so long that the
// directions took turns, each at half its rate; on a fast one, fewer leave the link idle between a chunk and the next. So
// the queue is limited in time, and a chunk that waits outside of it costs nothing.
//
// On a slow link the link is what counts, and a rendezvous leaves it idle while its answer comes back through the other
// direction's queue: there chunks are sent eagerly, at the price of a copy. On a fast one the processor is what counts.
//
// Where chunks have a connection of their own (a stream), nothing of this waits behind them: they go by rendezvous on slow
// links, too, and two at a time, so that the second one's handshake takes place while the first one is sent.
// Value type; not thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "lib/base/types.h"

namespace cardea::transport::ucx {

class Pace {
 public:
  static constexpr Nanoseconds kMostQueueing = std::chrono::milliseconds(4);
  static constexpr std::size_t kMaxStreaming = 8;
  static constexpr std::size_t kLeastByStream = 2;
  /// A mebibyte at half a gigabyte per second. It becomes fast again at half of that, lest it go to and fro.
  static constexpr Nanoseconds kSlowChunk = std::chrono::milliseconds(2);

  /// A chunk has left `took` after UCX was given it, when `place` of them, this one included, were with UCX.
  void sent(Nanoseconds took, std::size_t place) {
    took = std::max(Nanoseconds(1), took / static_cast<std::int64_t>(std::max<std::size_t>(place, 1)));
    chunk_time_ = chunk_time_.count() == 0 ? took : (chunk_time_ * 7 + took) / 8;
    if (chunk_time_ > kSlowChunk) slow_ = true;
    if (chunk_time_ < kSlowChunk / 2) slow_ = false;
  }
  /// Chunks that UCX may have at a time.
  std::size_t most_streaming(bool by_stream) const {
    const std::size_t least = by_stream ? kLeastByStream : 1;
    if (chunk_time_.count() == 0) return least;
    return std::clamp<std::size_t>(static_cast<std::size_t>(kMostQueueing / chunk_time_), least, kMaxStreaming);
  }
  bool slow() const { return slow_; }
  bool rendezvous(bool by_stream) const { return by_stream || !slow_; }

 private:
  Nanoseconds chunk_time_{0};  // smoothed; 0: not known yet
  bool slow_ = false;
};

}  // namespace cardea::transport::ucx
