// SPDX-License-Identifier: Apache-2.0
// The executor of production: an io_context that one thread runs. The executor may be destroyed while timers are pending:
// they never run. What was posted runs even then, so it must own or outlive what it uses.
#pragma once

#include <memory>

#include "lib/base/asio.h"
#include "lib/base/executor.h"

namespace cardea::engine {

class AsioExecutor final : public Executor {
 public:
  /// `io` must outlive this, and be run by at most one thread; that thread is the executor's.
  explicit AsioExecutor(boost::asio::io_context& io);
  ~AsioExecutor() override;
  AsioExecutor(const AsioExecutor&) = delete;
  AsioExecutor& operator=(const AsioExecutor&) = delete;

  Clock::time_point now() const override { return Clock::now(); }
  void post(std::function<void()> work) override;
  TimerId at(Clock::time_point when, std::function<void()> work) override;
  bool cancel(TimerId timer) override;

 private:
  struct Timers;

  boost::asio::io_context& io_;
  std::shared_ptr<Timers> timers_;  // seen weakly by handlers, which may outlive this
  TimerId last_ = kNoTimer;
};

}  // namespace cardea::engine
