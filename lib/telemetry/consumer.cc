// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/consumer.h"

#include <utility>

#include "lib/base/own_thread.h"

namespace cardea::telemetry {
namespace {

constexpr auto kLook = std::chrono::milliseconds(10);
constexpr auto kFlush = std::chrono::seconds(1);
constexpr std::size_t kBatch = 1024;

}  // namespace

Consumer::Consumer(Recorder& recorder, std::vector<std::unique_ptr<Sink>> sinks)
    : recorder_(recorder), sinks_(std::move(sinks)), batch_(kBatch) {
  recorder_.attach();
  thread_ = own_thread("cardea-records", [this] { run(); });
}

void Consumer::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard held(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

bool Consumer::drain() {
  bool any = false;
  while (const std::size_t some = recorder_.drain(batch_)) {
    any = true;
    for (const auto& sink : sinks_) sink->write(std::span(batch_).first(some));
    // What was left out came after something that was still in the ring; it is told behind that.
    const std::uint64_t lost = recorder_.lost();
    if (lost == lost_) continue;
    for (const auto& sink : sinks_) sink->lost(lost - lost_);
    lost_ = lost;
  }
  return any;
}

void Consumer::run() {
  auto flushed = std::chrono::steady_clock::now();
  std::unique_lock held(mutex_);
  for (bool last = false; !last;) {
    last = stopping_ || wake_.wait_for(held, kLook, [this] { return stopping_; });
    held.unlock();
    drain();
    if (const auto now = std::chrono::steady_clock::now(); now - flushed >= kFlush) {
      for (const auto& sink : sinks_) sink->flush();
      flushed = now;
    }
    held.lock();
  }
  for (const auto& sink : sinks_) sink->close();
}

}  // namespace cardea::telemetry
