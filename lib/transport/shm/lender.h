// SPDX-License-Identifier: Apache-2.0
// What this rank has lent to one peer that cannot read the memory by itself: hands it to the link in pieces of at most
// kMaxData, several leases in turn, straight from where it lies. Used on the engine thread.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "lib/transport/shm/frames.h"
#include "lib/transport/shm/link.h"
#include "lib/transport/transport.h"

namespace cardea::shm {

class Lender {
 public:
  /// Chunks that one peer may have asked for at a time.
  static constexpr std::size_t kMaxOpen = 1024;

  Lender(transport::Listener& listener, Rank peer) : listener_(listener), peer_(peer) {}

  /// The peer asks. An end frame to be sent if there is nothing to lend or nothing to send; PROTOCOL if it asks for too
  /// much at a time, or twice by one number.
  Result<std::optional<EndFrame>> ask(const AskFrame& frame);
  /// Asks again for what could not be lent yet; the end frames of what never will.
  std::vector<EndFrame> ask_again();
  std::optional<BulkFrame> next();
  /// The frame given last has left; an end frame if it was the lease's last.
  std::optional<EndFrame> sent();
  /// Gives everything back; nothing is given out any more.
  void stop();

 private:
  struct Loan {
    std::uint64_t request = 0;
    transport::Lease lease;
    std::size_t piece = 0;
    std::uint64_t offset = 0;  // into the piece
    std::uint64_t sent = 0;
    std::uint64_t total = 0;
  };

  transport::Listener& listener_;
  const Rank peer_;
  std::optional<EndFrame> lend(const AskFrame& frame);

  std::deque<AskFrame> not_yet_;
  std::deque<Loan> loans_;       // the front one is next, or on its way
  std::uint64_t in_flight_ = 0;  // bytes of the frame given last
};

}  // namespace cardea::shm
