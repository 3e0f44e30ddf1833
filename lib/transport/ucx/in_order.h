// SPDX-License-Identifier: Apache-2.0
// Puts numbered messages of one peer back in order. UCX keeps the order of active messages on one lane; where a user's
// settings spread them over several, a short message may overtake a long one. Bounded: a peer cannot make it hold more than
// kMaxHeld messages or kMaxBytes. Value type; not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::transport::ucx {

class InOrder {
 public:
  static constexpr std::size_t kMaxHeld = 4096;
  static constexpr std::size_t kMaxBytes = 64 << 20;

  /// Calls deliver(Bytes) for this message and those after it that have arrived, or keeps it. PROTOCOL for a number that
  /// was used before, or that is so far ahead that too much would have to be kept.
  template <typename Deliver>
  Status add(std::uint64_t sequence, Bytes message, Deliver&& deliver) {
    if (sequence == next_) {
      ++next_;
      deliver(std::move(message));
      for (auto it = held_.begin(); it != held_.end() && it->first == next_; it = held_.erase(it)) {
        ++next_;
        bytes_ -= it->second.size();
        deliver(std::move(it->second));
      }
      return {};
    }
    if (sequence < next_ || held_.contains(sequence))
      return Status::error(CARDEA_ERR_PROTOCOL, "message {} came twice", sequence);
    if (sequence - next_ > kMaxHeld || held_.size() == kMaxHeld || message.size() > kMaxBytes - bytes_) {
      return Status::error(CARDEA_ERR_PROTOCOL, "message {} came while {} is awaited", sequence, next_);
    }
    bytes_ += message.size();
    held_.emplace(sequence, std::move(message));
    return {};
  }

 private:
  std::uint64_t next_ = 0;
  std::size_t bytes_ = 0;
  std::map<std::uint64_t, Bytes> held_;
};

}  // namespace cardea::transport::ucx
