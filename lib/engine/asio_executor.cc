// SPDX-License-Identifier: Apache-2.0
#include "lib/engine/asio_executor.h"

#include <unordered_map>
#include <utility>

namespace cardea::engine {

struct AsioExecutor::Timers {
  struct Timer {
    boost::asio::steady_timer timer;
    std::function<void()> work;
  };
  std::unordered_map<TimerId, Timer> pending;
};

AsioExecutor::AsioExecutor(boost::asio::io_context& io) : io_(io), timers_(std::make_shared<Timers>()) {}

AsioExecutor::~AsioExecutor() = default;

void AsioExecutor::post(std::function<void()> work) {
  boost::asio::post(io_, std::move(work));
}

TimerId AsioExecutor::at(Clock::time_point when, std::function<void()> work) {
  const TimerId id = ++last_;
  auto [entry, inserted] =
      timers_->pending.try_emplace(id, Timers::Timer{boost::asio::steady_timer(io_, when), std::move(work)});
  // Whether it was cancelled is decided by the table, not by Asio: a handler that is queued already can't be called back.
  entry->second.timer.async_wait([id, weak = std::weak_ptr(timers_)](const boost::system::error_code&) {
    const auto timers = weak.lock();
    if (!timers) return;
    auto node = timers->pending.extract(id);
    if (!node.empty()) node.mapped().work();
  });
  return id;
}

bool AsioExecutor::cancel(TimerId timer) {
  return timers_->pending.erase(timer) != 0;
}

}  // namespace cardea::engine
