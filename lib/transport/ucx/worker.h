// SPDX-License-Identifier: Apache-2.0
// Owns a UCX context and its one worker, and drives them as an Asio object: progress until nothing is left, hand control to
// the transport, arm, sleep on the worker's descriptor. A turn is bounded, so other handlers of the io_context get their
// share.
//
//     idle ──kick(), descriptor readable──► running ──nothing left, armed──► idle        running ──busy──► running (posted)
//     any ──stop()──► stopped
//
// Engine thread only. The handlers in flight keep the object alive, and do nothing after stop().
#pragma once

#include <sys/socket.h>
#include <ucp/api/ucp.h>

#include <functional>
#include <memory>
#include <vector>

#include "lib/base/asio.h"
#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/transport/ucx/factory.h"

namespace cardea::transport::ucx {

/// Whether there are as many as UCX takes: it ends the process where it does not get them. The errors of eventfd.
Status enough_descriptors();
/// TRANSPORT: "call: reason".
Status ucx_error(ucs_status_t status, std::string_view call);
class Worker : public std::enable_shared_from_this<Worker> {
 public:
  /// `client_id` is what listeners hear of this worker when it connects to them.
  static Result<std::shared_ptr<Worker>> make(boost::asio::io_context& io, const UcxOptions& options,
                                              std::uint64_t client_id = 0);
  Worker(boost::asio::io_context& io, Nanoseconds spin) : io_(io), spin_(spin), descriptor_(io) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() { stop(); }

  ucp_context_h context() const { return context_; }
  ucp_worker_h handle() const { return worker_; }
  Result<Bytes> address() const;
  /// Whether UCX takes CUDA's memory as it takes the host's; it is asked.
  bool has_cuda_memory() const;

  /// `turn` runs after progress, never inside a UCX callback, and says whether it did anything.
  void on_turn(std::function<bool()> turn) { turn_ = std::move(turn); }
  /// Has a turn run soon: UCX was given something to do, or the transport has something to deliver.
  void kick();
  /// A listener lives as long as the worker: UCX leaves those who have connected to it and have said nothing yet with a
  /// pointer to it, so that it must not go before they do.
  Result<ucp_listener_h> listen(const sockaddr_storage& at, ucp_listener_conn_callback_t caller, void* arg);

  /// Destroys worker and context, after which UCX touches no memory. May be called inside a turn.
  void stop();

 private:
  Status open(const UcxOptions& options, std::uint64_t client_id);
  void run();
  void sleep();
  void settle();
  void wait();

  boost::asio::io_context& io_;
  Nanoseconds spin_;
  boost::asio::posix::stream_descriptor descriptor_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  std::vector<ucp_listener_h> listeners_;
  std::function<bool()> turn_;
  Clock::time_point last_work_{};
  bool posted_ = false;
  bool waiting_ = false;
  bool stopped_ = false;
  bool old_protocols_ = false;
};

}  // namespace cardea::transport::ucx
