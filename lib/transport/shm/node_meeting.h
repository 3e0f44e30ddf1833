// SPDX-License-Identifier: Apache-2.0
// Runs all handshakes of one rank at once: the higher rank of a pair connects, the lower one accepts. Strangers that come to
// the socket, stay silent or send garbage are dropped and cost at most a descriptor each, for a bounded time. One thread.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/transport/shm/handshake.h"

namespace cardea::shm {

/// A listening abstract Unix socket.
class MeetingPoint {
 public:
  /// SYSTEM, naming the socket.
  static Result<MeetingPoint> open(const std::string& name);
  int descriptor() const { return socket_.get(); }
  const std::string& name() const { return name_; }

 private:
  UniqueFd socket_;
  std::string name_;
};

struct Meeting {
  std::map<Rank, std::unique_ptr<Handshake>> proved;
  std::map<Rank, Status> failed;  // every expected rank is in one of them
};

/// Meets every rank of `expected` (rank → its socket's name), all of which listen already, until `deadline`.
Meeting meet(const MeetingPoint& point, const HandshakeContext& context, const std::map<Rank, std::string>& expected,
             std::chrono::milliseconds stranger_timeout, Clock::time_point deadline);

}  // namespace cardea::shm
