// SPDX-License-Identifier: Apache-2.0
// One rank: a core, driven in virtual time, watched by checks, and told what to ask for by a script. All of its events come
// in by deliver(), so that a stopped rank hears nothing until it goes on, and one that is no more never does. This is the
// one place where actions of the core are carried out.
//
//   running ── stop(for) ──► stopped ── time ──► running          running, stopped ── die, leave ──► gone
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "lib/cache/node_cache.h"
#include "lib/core/core.h"
#include "perf/simulator/checks.h"
#include "perf/simulator/memory.h"
#include "perf/simulator/world.h"

namespace cardea::simulator {

class SimulatedRank;

/// What a rank asks for, and when. Asked to go on whenever something has changed.
class Script {
 public:
  virtual ~Script() = default;
  virtual void go_on() = 0;
  /// Nothing more to do; it may still serve others.
  virtual bool done() const = 0;
  /// Of 1.
  virtual double progress() const = 0;
  /// Why it is not done, for a report.
  virtual std::string waits_for() const = 0;
};

class SimulatedRank {
 public:
  SimulatedRank(World& world, Rank rank);
  void start(std::unique_ptr<Script> script);
  const Script* script() const { return script_.get(); }

  Rank rank() const { return rank_; }
  bool is_gone() const { return gone_; }
  bool is_stopped() const { return stopped_; }
  void deliver(std::function<void()> event);
  void after(Nanoseconds delay, std::function<void()> event);

  // ---- requests of its script; each is logged
  Status publish(std::uint64_t layer, Version version);
  /// The spec's layer counts from 0. 0 if refused, which is a violation unless the refusal is LIMIT.
  core::FetchNumber fetch(core::FetchSpec spec);
  std::vector<core::Delivery> take(core::FetchNumber fetch, std::size_t max);
  void release(core::FetchNumber fetch, const core::Delivery& view);
  void cancel(core::FetchNumber fetch);
  void destroy(core::FetchNumber fetch);
  Status finish(std::uint64_t layer, Version version);
  Status collect(std::uint64_t layer, Version version);
  /// As a thread that waits for the fetch. `stuck`: it can only go on when this rank releases views.
  struct Waited {
    bool stuck, changed;
  };
  Waited wait(core::FetchNumber fetch);
  void leave();
  void die();
  void stop(Nanoseconds how_long);

  bool is_open(core::FetchNumber fetch) const { return open_.contains(fetch); }
  core::FetchCounts counts(core::FetchNumber fetch) const { return core_.counts(fetch); }
  bool is_home(ExpertIndex expert) const { return world_.plan.home_of(expert) == rank_; }
  bool takes_slot(ExpertIndex expert) const;

  // ---- events, from the fabric
  Status lend(core::LayerNumber layer, Version version) { return core_.lend(layer, version); }
  void give_back(core::LayerNumber layer);
  void end_use(const core::StartChunk& chunk);
  void chunk_done(const core::StartChunk& chunk, const Status& status);
  void notice(Rank from, core::LayerNumber layer, const core::Notice& notice);
  void peer_lost(Rank peer, bool left, const Status& why);
  const std::byte* own_expert(core::LayerNumber layer, ExpertIndex expert);
  void node_notice(cache::EntryIndex entry, std::uint32_t nic);
  /// Where a chunk lands, or is copied from.
  std::byte* destination(const core::StartChunk& chunk);
  const std::byte* entry(cache::EntryIndex entry) const { return cache_->payload(entry); }
  /// Where a chunk of an entry begins in the node cache's payload.
  std::uint64_t cached_at(cache::EntryIndex entry, const core::ChunkRange& range) const {
    return cache_->offset(entry) + range.offset;
  }
  const std::byte* slot(core::SlotIndex slot) { return memory_.slot(slot); }
  Checks& checks() { return checks_; }
  /// When all is over: nothing is under way, all slots came back.
  void check_rest();
  /// Adds what core and cache have counted to the report.
  void report() const;

 private:
  struct OpenFetch {
    std::uint64_t layer = 0;
    Version version = 0;
    bool views = true;  // false: a prefetch
  };

  Clock::time_point now() const { return world_.time.now(); }
  void log(const char* what, std::initializer_list<EventArgument> arguments, std::span<const ExpertIndex> experts = {}) {
    world_.log.event(now(), rank_, what, arguments, experts);
  }
  void wrong(std::string what) { world_.report.violation(fmt::format("rank {}: {}", rank_, what)); }
  NodeMemory& node() { return *world_.nodes[world_.plan.node_of(rank_)]; }
  std::vector<core::ExpertSources> sources() const;
  void carry_out();
  void carry_out_actions();
  void end();
  void settle();
  void arm_deadline();
  void end_reading();
  void check_bytes(const core::Delivery& view, const OpenFetch& of, const char* when);

  World& world_;
  const Rank rank_;
  std::optional<cache::NodeCache> cache_;
  core::Core core_;
  Checks checks_;
  Memory memory_;
  core::SlabNumber slab_ = 0;
  std::unique_ptr<Script> script_;
  std::map<core::FetchNumber, OpenFetch> open_;
  std::map<core::ViewNumber, cache::EntryIndex> entries_read_;
  std::set<Rank> lost_;
  bool gone_ = false, stopped_ = false, changed_ = false, settling_ = false, ended_ = false;
  std::vector<std::function<void()>> held_back_;  // while stopped
  TimerId deadline_timer_ = kNoTimer;
  std::optional<Clock::time_point> armed_for_;
};

}  // namespace cardea::simulator
