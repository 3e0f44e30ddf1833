// SPDX-License-Identifier: Apache-2.0
// A rank's part in a job, behind the C API: the engine thread, the transports, the runtime, and the objects that handles
// name. Made by join(), ended by shut_down(), which is called once, by cardea_context_destroy; calls of other threads that
// hold the context end with CANCELED then.
//
// Threads: API threads take the runtime's mutex (lock()), read and change the tables, and may wait on the context's
// condition; the engine thread runs the io_context. User callbacks run on the engine thread without the mutex.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "lib/api/affinity.h"
#include "lib/api/handles.h"
#include "lib/api/settings.h"
#include "lib/base/unique_fd.h"
#include "lib/engine/runtime.h"
#include "lib/telemetry/consumer.h"

namespace cardea::bootstrap {
class Exchange;
}

namespace cardea::shm {
struct Membership;
}

namespace cardea::api {

struct GroupObject {
  std::uint64_t key = 0;
  std::vector<Rank> ranks;
  std::uint32_t index = 0;  // this rank's place
  std::uint32_t layers = 0;
};

struct MemoryObject {
  engine::RegionNumber region = 0;
};

struct SlabObject {
  std::shared_ptr<engine::SlabRecord> record;
};

struct LayerObject {
  std::shared_ptr<engine::LayerRecord> record;
  ObjectNumber group = 0;
  std::uint32_t fetches = 0;  // handles not destroyed
};

struct FetchObject {
  ObjectNumber layer = 0;
  bool wants_views = true;
  cardea_ready_fn on_ready = nullptr;
  void* user = nullptr;
  cuda::Stream stream = nullptr;
  bool callback_posted = false;
  bool told_done = false;
  std::uint64_t nvtx_range = 0;  // until nothing of it is outstanding
  std::uint32_t waiters = 0;     // threads inside cardea_next or cardea_wait
};

class Context final : public engine::Observer, public std::enable_shared_from_this<Context> {
 public:
  /// Collective and blocking; the errors of cardea_context_create.
  static Result<std::shared_ptr<Context>> join(ContextNumber number, const cardea_config_t& config);
  ~Context() override;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  ContextNumber number() const { return number_; }
  const Settings& settings() const { return settings_; }
  engine::Runtime& runtime() { return *runtime_; }
  std::unique_lock<std::mutex> lock() { return runtime_->lock(); }
  bool on_engine_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

  Rank self() const { return self_; }
  const RankPlace& place() const { return place_; }
  const std::vector<Node>& node_of() const { return node_of_; }
  const std::string& host_of(Rank rank) const { return hosts_[rank]; }
  std::string_view transport_of(Rank rank) const;
  /// With the mutex held.
  bool alive(Rank rank) const { return runtime_->alive(rank); }

  /// This rank's hand on the node cache; null if it has none.
  const cache::NodeCache* node_cache() const { return node_cache_.get(); }

  int event_descriptor() const { return event_.get(); }
  void clear_event();

  /// With the mutex held. OK unless the context was aborted; every call but destroy asks.
  const Status& aborted() const { return aborted_; }
  void abort(const Status& why);
  /// Not on the engine thread.
  void shut_down();

  /// Waits, with the mutex held, until `check` gives another answer than IN_PROGRESS: that answer. IN_PROGRESS at once if
  /// timeout is 0; TIMEOUT, CANCELED (aborted), UNSUPPORTED (on the engine thread, which must not wait).
  template <typename Check>
  Status wait(std::unique_lock<std::mutex>& held, std::uint64_t timeout, Check check) {
    const auto deadline = deadline_after(timeout);
    // Copies of the GPU take microseconds: whoever waits for them looks by itself for a while before it sleeps.
    constexpr std::chrono::milliseconds kSpin{2};
    const auto spin_until = Clock::now() + kSpin;
    for (;;) {
      if (!aborted_.ok()) return aborted_;
      Status status = check();
      if (status.code() != CARDEA_IN_PROGRESS || timeout == 0) return status;
      if (on_engine_thread()) return Status(CARDEA_ERR_UNSUPPORTED, "a callback must not wait");
      if (runtime_->copier() != nullptr && Clock::now() < spin_until && runtime_->turn_copies(held)) continue;
      if (deadline && Clock::now() >= *deadline) return Status(CARDEA_ERR_TIMEOUT, status.message());
      runtime_->sleep_without_copies([&] {
        if (deadline) {
          changed_.wait_until(held, *deadline);
        } else {
          changed_.wait(held);
        }
      });
    }
  }
  /// Nothing for CARDEA_FOREVER.
  static std::optional<Clock::time_point> deadline_after(std::uint64_t timeout);

  /// Arranges for the fetch's callback if it has one and something to tell. With the mutex held.
  void tell_callback(core::FetchNumber fetch);
  std::set<core::FetchNumber> waited_for() const;

  // engine::Observer
  void on_progress(core::FetchNumber fetch, bool done) override;
  void on_change() override;
  void on_expelled(const Status& why) override;

  // ---- the objects that handles name; with the mutex held
  template <typename T>
  struct Table {
    std::unordered_map<ObjectNumber, T> objects;
    ObjectNumber next = 1;

    ObjectNumber add(T object) {
      objects.emplace(next, std::move(object));
      return next++;
    }
    T* find(ObjectNumber number) {
      const auto found = objects.find(number);
      return found == objects.end() ? nullptr : &found->second;
    }
  };
  Table<GroupObject> groups;
  Table<MemoryObject> memories;
  Table<SlabObject> slabs;
  Table<LayerObject> layers;
  Table<FetchObject> fetches;  // numbered by the core
  std::map<std::vector<Rank>, std::uint32_t> group_instances;

 private:
  struct Engine;

  Context(ContextNumber number, Settings settings);
  Status know_machine();
  Status find_place(const std::vector<Rank>& node_ranks);
  void bind_engine();
  Status form(bootstrap::Exchange& exchange, Clock::time_point deadline);
  Status start_recording(const shm::Membership& membership);
  void make_node_cache(const shm::Membership& membership, Clock::time_point deadline);
  /// By which number the node's ranks count the NIC of each of `rails`; none without other nodes.
  Result<std::vector<std::uint32_t>> connect_ucx(bootstrap::Exchange& exchange, const Status& mine,
                                                 const std::vector<std::string>& rails, Clock::time_point deadline);
  void raise_event();
  void run_callback(core::FetchNumber fetch);

  const ContextNumber number_;
  const Settings settings_;
  Rank self_ = 0;
  std::vector<Node> node_of_;
  std::vector<std::string> hosts_;
  std::unique_ptr<Engine> engine_;  // io_context, executor, transports
  std::unique_ptr<cache::NodeCache> node_cache_;
  std::unique_ptr<engine::Runtime> runtime_;
  std::unique_ptr<telemetry::Consumer> consumer_;  // of the runtime's records, if anything is written of them
  std::thread thread_;
  std::shared_ptr<const topology::Machine> machine_;  // null if it is not known, or nobody wants to
  RankPlace place_;
  UniqueFd event_;
  bool event_raised_ = false;
  std::condition_variable changed_;
  Status aborted_;
};

/// What cardea_counters_query tells. With the mutex held.
cardea_counters_t counters_of(Context& in);

}  // namespace cardea::api
