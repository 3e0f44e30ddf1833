// SPDX-License-Identifier: Apache-2.0
// The backend of transports that need real processes: every rank is a forked process whose main thread runs the body and,
// while that waits, one io_context. A transport's test derives from ForkedBackend and says how to make a rank.
#pragma once

#include <memory>

#include "lib/base/asio.h"
#include "lib/bootstrap/exchange.h"
#include "tests/transport/suite.h"

namespace cardea::test {

/// What one rank's process holds: the transport and what it is made of, such as links to the node's other ranks.
class ForkedRank {
 public:
  virtual ~ForkedRank() = default;
  virtual transport::Transport& transport() = 0;
};

class ForkedBackend : public Backend {
 public:
  void run(unsigned ranks, const Scenario& body, const std::vector<unsigned>& victims = {}) final;

 protected:
  /// In the parent, before the ranks start; for what they inherit, such as socket pairs.
  virtual void before_start(unsigned ranks) { (void)ranks; }
  /// In the rank's process. `exchange` works among the ranks, up to 16 rounds of 64 KiB each. The transport need not be
  /// connected: its address is exchanged and connect() called afterwards, by run(). Null, or an exception: the rank fails.
  virtual std::unique_ptr<ForkedRank> make_rank(boost::asio::io_context& io, bootstrap::Exchange& exchange,
                                                transport::Listener& listener) = 0;
};

}  // namespace cardea::test
