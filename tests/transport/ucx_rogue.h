// SPDX-License-Identifier: Apache-2.0
// A process that speaks UCX to one ucx transport, but not through one of its own: a member that says what the test tells it
// to, or a stranger, by what its options have wrong. Runs in its own process; progresses only when told.
#pragma once

#include <ucp/api/ucp.h>

#include <deque>
#include <functional>

#include "lib/transport/ucx/wire.h"
#include "lib/transport/ucx/worker.h"
#include "tests/transport/ucx_rank.h"

namespace cardea::test {

class Rogue {
 public:
  Rogue(UcxWorld& world, Rank self, const transport::UcxOptions& options);
  ~Rogue();
  Rogue(const Rogue&) = delete;
  Rogue& operator=(const Rogue&) = delete;

  Bytes header(const transport::ucx::Header& header) const { return encode_header(self_, pass_, header); }
  /// Sends by the endpoint that a worker address makes, or by `by`.
  void say(const Bytes& header, const Bytes& payload = {}, unsigned flags = UCP_AM_SEND_FLAG_EAGER, ucp_ep_h by = nullptr);
  bool progress_until(const std::function<bool()>& done);
  void progress_for(std::chrono::milliseconds time);

  /// Connects to a listener, by the caller id of this member or, as a stranger would, by none.
  ucp_ep_h call(const transport::ucx::StreamOffer& where, bool with_id = true);
  /// Listens on the loopback device; whoever calls is let in.
  transport::ucx::StreamOffer listen();
  void close(ucp_ep_h endpoint);

  std::vector<transport::ucx::Header> heard;
  std::vector<ucp_ep_h> let_in;
  std::size_t failed_calls = 0;  // errors of endpoints other than the first
  /// Whether the data of a rendezvous is taken, or left lying.
  bool takes_data = true;

 private:
  ucp_ep_params_t parameters();

  Rank self_;
  boost::asio::io_context io_;
  std::shared_ptr<transport::ucx::Worker> worker_;
  transport::ucx::Address peer_;
  transport::ucx::Pass pass_{};
  ucp_ep_h endpoint_ = nullptr;
  std::deque<Bytes> kept_;
  std::vector<void*> left_lying_;
};

}  // namespace cardea::test
