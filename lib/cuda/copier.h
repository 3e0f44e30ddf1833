// SPDX-License-Identifier: Apache-2.0
// Moves experts by this GPU's copy engines, in the order of the GPU's own streams, and tells when.
//
//   submit() ──► inbox ── issue() ──► queued on a stream ── poll() ──► done
//                             └ on_copies_queued                └ on_copies_done (exactly once for each order)
//
// Slots are kept in order by the GPU alone: a copy into a slot waits, on the GPU, for the copy that filled it before and for
// those who read it (`read_until`), and whoever reads it on a stream waits for the copy (`wait_on`). So a slot may be given
// to the next expert as soon as its reader has *queued* its last use, without any round trip to the host.
//
// Threads: any thread may call anything. The driver is called by issue(), poll(), wait_on() and read_until(), never under a
// lock that submit() or the observer takes, and never by the engine thread: a driver call may wait for the device, and the
// device for the engine to open a gate. One thread issues at a time, in order; others that come meanwhile leave their orders
// to it. A thread of its own ("cardea-gpu") issues what nobody else does, polls while copies are under way, runs tasks
// (post), and sleeps when there is nothing to do.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include <boost/container/small_vector.hpp>

#include "lib/base/flat_map.h"
#include "lib/base/types.h"
#include "lib/cuda/batch.h"
#include "lib/cuda/device_clock.h"
#include "lib/cuda/gate.h"

namespace cardea::cuda {

/// A slot of a slab, for the order in which it is written and read; 0: none.
using SlotKey = std::uint64_t;

/// From other GPUs, from host memory, to host memory; and those for orders behind gates, so that nothing else waits there.
enum class Queue : std::uint8_t { kPull, kUpload, kDownload, kFirstGated };
inline constexpr std::size_t kGatedQueues = 4;
inline constexpr std::size_t kPlainQueues = 3;
inline constexpr std::size_t kQueues = kPlainQueues + kGatedQueues;
inline Queue gated_queue(std::size_t index) {
  return static_cast<Queue>(kPlainQueues + index);
}

struct CopyOrder {
  std::uint64_t token = 0;
  Queue queue = Queue::kPull;
  SlotKey slot = 0;
  boost::container::small_vector<CopyPiece, 4> pieces;  // one for each segment, usually
  /// Read after the last byte; another value than `version` makes it STALE. Null: not checked. Must stay readable until
  /// the order is done.
  const Version* stamp = nullptr;
  Version version = 0;
  /// Where the host's side of it lies, if that is a buffer: pinned before the copy is queued, and kept until it is done.
  std::shared_ptr<BufferPool::Buffer> buffer;
  /// It waits for that on the GPU, on one of the gated queues (after use_gates()). If the gate has failed, so has the order.
  std::shared_ptr<Gate> gate;
};

struct CopyDone {
  std::uint64_t token = 0;
  Status status;
};

class CopyObserver {
 public:
  virtual ~CopyObserver() = default;
  /// Work that is queued on a stream from here on may use them.
  virtual void on_copies_queued(std::span<const std::uint64_t> tokens) = 0;
  /// Each order exactly once; those that went together are told together.
  virtual void on_copies_done(std::span<const CopyDone> done) = 0;
  /// Copies that went together, when they are done, by the device's own time; from copiers that time them.
  struct Batch {
    Queue queue = Queue::kPull;
    std::uint64_t number = 0;  // of the queue's
    std::uint64_t bytes = 0;
    std::uint32_t orders = 0;
    DeviceClock::Span span;
  };
  virtual void on_batch_timed(const Batch&) {}
};

class Copier {
 public:
  /// The observer must outlive close(). `timed`: the device tells when copies ran, which costs it a microsecond for each
  /// batch. DEVICE, NO_MEMORY.
  static Result<std::unique_ptr<Copier>> make(std::shared_ptr<const Device> device, CopyObserver& observer, std::string name,
                                              bool timed = false);
  ~Copier();
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  const std::shared_ptr<const Device>& device() const { return device_; }

  /// Makes the gated queues, and tries how many can be used without harm (try_gates), once; asked again, it answers the
  /// same. The errors of that.
  Status use_gates();
  /// How many of the gated queues may be used; 0 before use_gates(), and where it has failed.
  std::size_t gated_queues() const { return gated_queues_.load(std::memory_order_acquire); }

  /// Takes orders, and leaves the vector empty. Without a later issue() of the caller, wake() sees to it.
  void submit(std::vector<CopyOrder>& orders);
  /// Queues what was submitted on the GPU, unless another thread is just doing so.
  void issue();
  /// Lets the copier's own thread issue and poll.
  void wake();
  /// Between these, a thread promises to issue what it submits, and soon: the copier's own leaves that to it, so that orders
  /// which belong together go together, and looks for none that are done, so that the observer's locks are the caller's.
  void caller_begins() { callers_.fetch_add(1, std::memory_order_acq_rel); }
  void caller_ends() { callers_.fetch_sub(1, std::memory_order_acq_rel); }
  /// Looks which copies are done, unless another thread is just looking. Whether any were.
  bool poll();
  /// Orders that are not done.
  std::uint64_t outstanding() const { return outstanding_.load(std::memory_order_acquire); }

  /// Makes `stream` wait for the copies that were queued last into these slots. UNSUPPORTED while it is being captured.
  Status wait_on(Stream stream, std::span<const SlotKey> slots);
  /// Says that these slots are read until `stream` has done what is queued on it now.
  Status read_until(Stream stream, std::span<const SlotKey> slots);
  /// Whether no copy into the slot and no reader of it is known that might not be done: then somebody else may write there.
  /// Asks no driver.
  bool idle(SlotKey slot) const;
  /// Runs `then` on the copier's thread when the copies that were queued into the slot, and those who read it (read_until),
  /// are done. Nothing more may be submitted into it meanwhile. Calls no driver.
  void when_idle(SlotKey slot, std::function<void(const Status&)> then);
  /// Runs `then` on the copier's thread when the stream has done what is queued on it now.
  Status when_reached(Stream stream, std::function<void(const Status&)> then);
  /// Whether work may be queued on it: UNSUPPORTED while it is being captured into a graph, DEVICE if it is none.
  Status check_stream(Stream stream) const;
  /// A slab has gone, and its slots with it; the same keys will not come again.
  void forget(std::span<const SlotKey> slots);

  /// Runs on the copier's thread, where the driver may be called.
  void post(std::function<void()> task);

  /// Fails what is not issued yet (CANCELED), waits up to `patience` for what is, and stops the thread. False if the GPU did
  /// not get on: then it may still write, and memory that it copies to must not go. Twice is once.
  bool close(Nanoseconds patience);

 private:
  struct Mark {  // a place in a queue
    Queue queue = Queue::kPull;
    std::uint64_t number = 0;
    EventRef event;
  };
  using Events = std::vector<EventRef>;
  struct Slot {
    Mark written;
    Events readers;
    std::uint64_t batch = 0;  // the last one that writes it
  };
  struct Order {  // of a CopyOrder, what is needed when it is done
    std::uint64_t token = 0;
    const Version* stamp = nullptr;
    Version version = 0;
    std::shared_ptr<BufferPool::Buffer> buffer;
    std::shared_ptr<Gate> gate;
  };
  struct Queued {           // copies that one event tells of
    EventRef event, begin;  // with a beginning if it is timed
    std::uint64_t number = 0, bytes = 0;
    std::vector<Order> orders;
    Status failed;  // they could not be queued
  };
  struct Watch {
    Events events;  // all of them
    std::function<void(const Status&)> then;
    SlotKey slot = 0;  // whose readers they are
  };

  Copier(std::shared_ptr<const Device> device, CopyObserver& observer, std::string name, bool timed);
  Status start();
  void run();
  bool look();
  void add_watch(Watch watch);
  bool look_at_watches();
  void let_go_of_readers(SlotKey slot, const Events& done);
  void tell_times(Queue queue, const Queued& done);
  Status make_gates();
  void issue_some(std::span<const CopyOrder> orders);
  void flush(std::span<const CopyOrder> orders, Status failed = {});
  Status wait_for_gate(Queue queue, const Gate& gate, std::uint32_t value);
  bool find_what_comes_before(const CopyOrder& order, bool alone);
  void not_queued(Queue queue, const Status& why, std::span<const CopyOrder> orders);
  static Status fate_of(const Order& order);
  bool passed(const Mark& mark) const {
    return mark.number <= passed_[static_cast<std::size_t>(mark.queue)].load(std::memory_order_acquire);
  }
  Stream stream(Queue queue) const { return streams_[static_cast<std::size_t>(queue)]; }

  const std::shared_ptr<const Device> device_;
  CopyObserver& observer_;
  const std::string name_;
  std::shared_ptr<EventPool> events_;
  std::shared_ptr<EventPool> timed_;  // null unless copies are timed; likewise the next
  std::unique_ptr<DeviceClock> clock_;
  std::array<Stream, kQueues> streams_{};

  std::mutex issuing_;            // held while orders are put on streams; guards what follows
  std::optional<Status> gates_;   // use_gates
  std::vector<CopyOrder> taken_;  // out of the inbox
  Batch batch_;                   // being filled
  std::uint64_t batches_ = 1;     // its number
  Events before_;                 // what the next order waits for
  std::vector<std::uint64_t> tokens_;
  std::array<std::vector<EventRef>, kQueues> awaited_;  // in this run of orders
  std::array<std::uint64_t, kQueues> last_number_{};
  std::mutex polling_;          // held while completions are looked for and told; guards the next
  std::vector<CopyDone> told_;  // to the observer

  mutable std::mutex mutex_;  // guards what follows; the driver is never called under it
  std::vector<CopyOrder> inbox_;
  FlatMap<SlotKey, Slot> slots_;
  std::array<std::deque<Queued>, kQueues> queued_;
  std::vector<std::vector<Order>> unused_;  // Queued::orders, to be filled again
  std::vector<Watch> watches_;
  std::deque<std::function<void()>> tasks_;
  bool closing_ = false;
  bool ended_ = false;  // the thread goes
  bool asleep_ = false;
  bool poked_ = false;
  std::condition_variable changed_;

  std::array<std::atomic<std::uint64_t>, kQueues> passed_{};  // numbers up to here are done
  std::atomic<std::uint64_t> outstanding_{0};
  std::atomic<std::size_t> gated_queues_{0};
  std::atomic<std::uint32_t> callers_{0};
  std::thread thread_;
};

}  // namespace cardea::cuda
