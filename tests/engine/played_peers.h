// SPDX-License-Identifier: Apache-2.0
// A runtime among peers that the test plays: an executor that runs when it is told to, and a transport that delivers nothing
// by itself but holds real memory for what peers offer, so that a sanitizer sees what is read beyond it. One thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "lib/engine/runtime.h"

namespace cardea::test {

class ManualExecutor final : public Executor {
 public:
  Clock::time_point now() const override { return now_; }
  void post(std::function<void()> work) override { work_.push_back(std::move(work)); }
  TimerId at(Clock::time_point when, std::function<void()> work) override {
    timers_.emplace(std::pair(when, ++last_), std::move(work));
    return last_;
  }
  bool cancel(TimerId timer) override {
    return std::erase_if(timers_, [&](const auto& entry) { return entry.first.second == timer; }) != 0;
  }
  /// Runs what was posted, and what that posts; false if it comes to no rest.
  bool drain() {
    for (unsigned steps = 0; !work_.empty(); ++steps) {
      if (steps == 10000) return false;
      const auto work = std::move(work_.front());
      work_.pop_front();
      work();
    }
    return true;
  }
  /// What was posted and timed will not run.
  void forget() {
    work_.clear();
    timers_.clear();
  }
  bool pass(Nanoseconds time) {
    now_ += time;
    for (unsigned steps = 0; !timers_.empty() && timers_.begin()->first.first <= now_; ++steps) {
      if (steps == 1000) return false;
      const auto work = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      work();
      if (!drain()) return false;
    }
    return true;
  }

 private:
  Clock::time_point now_{std::chrono::hours(1)};
  std::deque<std::function<void()>> work_;
  std::map<std::pair<Clock::time_point, TimerId>, std::function<void()>> timers_;
  TimerId last_ = 0;
};

/// The transport to all peers. A region whose descriptor is not empty is mapped.
class PlayedPeers final : public transport::Transport {
 public:
  /// Regions of at most `most` bytes are accepted; `require` is told what must hold whatever peers do.
  PlayedPeers(std::uint64_t most, std::function<void(bool, const char*)> require)
      : most_(most), require_(std::move(require)) {}

  std::string_view name() const override { return "played"; }
  Bytes address() const override { return {}; }
  Status connect(std::span<const std::pair<Rank, Bytes>>) override { return {}; }
  void send(Rank peer, Bytes message) override {
    const auto read = engine::decode(message);
    require_(message.size() <= kMaxMessage && read.ok(), "this rank sends what can be read");
    if (read.ok()) sent.emplace_back(peer, *read);
  }
  Result<Bytes> offer(std::uint32_t, void* base, std::uint64_t bytes, int, std::span<const Rank>) override {
    require_(base != nullptr && bytes != 0, "what is offered is there");
    return Bytes(3);
  }
  void withdraw(std::uint32_t) override {}
  Status accept(transport::RegionKey region, std::uint64_t bytes, ByteView descriptor) override {
    if (bytes > most_ || bytes == 0) return Status(CARDEA_ERR_PROTOCOL, "a region of an odd size");
    require_(!memory.contains(region), "a region is accepted once");
    memory[region].resize(bytes);
    if (!descriptor.empty()) mapped_.insert(region);
    return {};
  }
  void forget(transport::RegionKey region) override {
    require_(memory.erase(region) == 1, "what is forgotten was known");
    mapped_.erase(region);
  }
  const std::byte* mapped(transport::RegionKey region) const override {
    return mapped_.contains(region) ? memory.at(region).data() : nullptr;
  }
  void start(transport::ChunkOrder order) override { orders.push_back(std::move(order)); }
  void disconnect(Rank peer) override { disconnected.insert(peer); }
  void close(std::function<void()> done) override { done(); }

  std::map<transport::RegionKey, Bytes> memory;
  std::deque<transport::ChunkOrder> orders;
  std::vector<std::pair<Rank, engine::Message>> sent;
  std::set<Rank> disconnected;

 private:
  const std::uint64_t most_;
  std::function<void(bool, const char*)> require_;
  std::set<transport::RegionKey> mapped_;
};

class Nobody final : public engine::Observer {
 public:
  void on_progress(core::FetchNumber, bool) override {}
  void on_change() override {}
};

}  // namespace cardea::test
