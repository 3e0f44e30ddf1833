// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/copier.h"

#include <sys/prctl.h>

#include <algorithm>
#include <iterator>

#include "lib/base/log.h"
#include "lib/base/own_thread.h"
#include "lib/cuda/queue_copies.h"
#include "lib/telemetry/nvtx.h"

namespace cardea::cuda {
namespace {

// The first batch of a run is small, so that whoever waits for one expert has it soon; each later one is several times as
// large, since the copy engine pauses for microseconds between batches, and each costs the host as much. What goes to host
// memory is sent on from there, piece by piece, so the first of it is wanted sooner still, and the next too.
constexpr std::uint64_t kFirstBatch = std::uint64_t{16} << 20;
constexpr std::uint64_t kFirstDownload = std::uint64_t{2} << 20;
constexpr std::uint64_t kLargestBatch = std::uint64_t{256} << 20;

constexpr std::size_t kUnused = 16;  // lists of orders kept for the next batches

std::uint64_t first_batch(Queue queue) {
  return queue == Queue::kDownload ? kFirstDownload : kFirstBatch;
}
std::uint64_t next_batch(Queue queue, std::uint64_t last) {
  return std::min(last * (queue == Queue::kDownload ? 2 : 4), kLargestBatch);
}

// How the copier's thread looks for completions: every kNap while copies are under way, for kLinger longer in case more come
// (then nobody needs to wake it), and less often when nothing has moved for a while.
constexpr std::chrono::microseconds kNap{50};
constexpr std::chrono::microseconds kLongNap{1000};
constexpr std::chrono::milliseconds kLinger{5};
constexpr std::chrono::milliseconds kPromise{2};

}  // namespace

Copier::Copier(std::shared_ptr<const Device> device, CopyObserver& observer, std::string name, bool timed)
    : device_(std::move(device)),
      observer_(observer),
      name_(std::move(name)),
      events_(std::make_shared<EventPool>(device_)),
      timed_(timed ? std::make_shared<EventPool>(device_, true) : nullptr),
      clock_(timed ? std::make_unique<DeviceClock>(device_, timed_) : nullptr) {}

Result<std::unique_ptr<Copier>> Copier::make(std::shared_ptr<const Device> device, CopyObserver& observer, std::string name,
                                             bool timed) {
  std::unique_ptr<Copier> copier(new Copier(std::move(device), observer, std::move(name), timed));
  if (const Status status = copier->start(); !status.ok()) return status;
  return copier;
}

Status Copier::start() {
  const Device::Current current(*device_);
  for (std::size_t q = 0; q < kPlainQueues; ++q) {
    const Status status =
        device_->check(device_->driver().stream_create(&streams_[q], kStreamNonBlocking), "cuStreamCreate");
    if (!status.ok()) return status;
  }
  thread_ = own_thread("cardea-gpu", [this] { run(); });
  return {};
}

Copier::~Copier() {
  close(std::chrono::seconds(2));
  const Device::Current current(*device_);
  for (const Stream stream : streams_) {
    if (stream != nullptr) device_->driver().stream_destroy(stream);
  }
}

Status Copier::use_gates() {
  const Status status = make_gates();
  issue();  // what others have left here meanwhile
  return status;
}

Status Copier::make_gates() {
  const std::scoped_lock held(issuing_);
  if (gates_) return *gates_;
  const Device::Current current(*device_);
  Status status;
  for (std::size_t q = kPlainQueues; q < kQueues && status.ok(); ++q)
    status = device_->check(device_->driver().stream_create(&streams_[q], kStreamNonBlocking), "cuStreamCreate");
  // A device has few queues for each direction of copies, to which streams are dealt: how many of ours may wait?
  const std::span<const Stream> all(streams_);
  const auto harmless = [&](std::size_t gated, Nanoseconds patience) {
    return try_gates(device_, all.subspan(kPlainQueues, gated), all.first(kPlainQueues), patience);
  };
  constexpr std::chrono::milliseconds kForOne{1000}, kForMore{100};  // none is a loss, fewer than could be hardly any
  if (status.ok()) status = harmless(1, kForOne);
  gates_ = status;
  if (!status.ok()) return status;
  std::size_t queues = 1;
  while (queues * 2 <= kGatedQueues && harmless(queues * 2, kForMore).ok()) queues *= 2;
  gated_queues_.store(queues, std::memory_order_release);
  return status;
}

// ---------------------------------------------------------------- orders

void Copier::submit(std::vector<CopyOrder>& orders) {
  outstanding_.fetch_add(orders.size(), std::memory_order_acq_rel);
  {
    const std::scoped_lock held(mutex_);
    if (inbox_.empty()) {
      inbox_.swap(orders);
    } else {
      std::move(orders.begin(), orders.end(), std::back_inserter(inbox_));
    }
  }
  orders.clear();
}

void Copier::issue() {
  for (;;) {
    const std::unique_lock issuing(issuing_, std::try_to_lock);
    if (!issuing) return;  // who holds it looks again when it is done
    bool closing = false;
    {
      const std::scoped_lock held(mutex_);
      taken_.swap(inbox_);
      closing = closing_;
    }
    if (taken_.empty()) return;
    if (closing) {
      not_queued(Queue::kPull, Status(CARDEA_ERR_CANCELED, "the context is being destroyed"), taken_);
    } else {
      issue_some(taken_);
    }
    taken_.clear();
  }
}

void Copier::not_queued(Queue queue, const Status& why, std::span<const CopyOrder> orders) {
  Queued failed;
  failed.failed = why;
  for (const CopyOrder& order : orders)
    failed.orders.push_back({order.token, order.stamp, order.version, order.buffer, order.gate});
  const std::scoped_lock held(mutex_);
  queued_[static_cast<std::size_t>(queue)].push_back(std::move(failed));
}

void Copier::issue_some(std::span<const CopyOrder> orders) {
  const telemetry::NvtxRange range("copies", orders.size());
  const Device::Current current(*device_);
  std::uint64_t limit = orders.empty() ? kFirstBatch : first_batch(orders.front().queue);
  std::size_t first = 0;  // orders from here on are in the batch
  const auto flush_until = [&](std::size_t end) {
    if (first < end) flush(orders.subspan(first, end - first));
    first = end;
  };
  for (std::size_t i = 0; i < orders.size(); ++i) {
    const CopyOrder& order = orders[i];
    const bool by_itself = order.gate || (first < i && orders[first].gate);  // nothing else waits for its gate
    const bool other_queue = first < i && orders[first].queue != order.queue;
    if (other_queue || by_itself || batch_.bytes() >= limit) {
      limit = other_queue ? first_batch(order.queue) : next_batch(order.queue, limit);
      flush_until(i);
    }
    // What waits for a reader must not hold up those before it, and a batch has no order within.
    const bool alone = first == i;
    if (find_what_comes_before(order, alone) || (!alone && !before_.empty())) {
      flush_until(i);
      if (order.slot != 0) {
        const std::scoped_lock held(mutex_);
        slots_[order.slot].batch = batches_;
      }
    }
    Status status;
    for (const EventRef& event : before_) {
      if (status.ok()) {
        status = device_->check(device_->driver().stream_wait_event(stream(order.queue), event->handle(), 0),
                                "cuStreamWaitEvent");
      }
    }
    bool begun = false;
    if (order.gate) {
      for (const Gate::Step& step : order.gate->steps()) {
        if (status.ok()) status = wait_for_gate(order.queue, *order.gate, step.value);
        if (!status.ok()) break;
        batch_.add(step.pieces);
        status = queue_copies(*device_, batch_, stream(order.queue));
        batch_.clear();
        begun = true;
      }
      if (status.ok()) status = wait_for_gate(order.queue, *order.gate, order.gate->value());
    }
    if (!status.ok()) {  // it stands alone: something was to come before it
      if (order.gate) order.gate->fail(status);
      if (begun) {
        flush(std::span(&order, 1), status);
      } else {
        not_queued(order.queue, status, std::span(&order, 1));
      }
      first = i + 1;
      continue;
    }
    if (order.buffer) order.buffer->pin();
    batch_.add({order.pieces.data(), order.pieces.size()});
  }
  flush_until(orders.size());
  for (auto& events : awaited_) events.clear();
}

/// Into before_. True if the order's slot is written by the batch that is being filled. `alone`: the order begins a batch.
bool Copier::find_what_comes_before(const CopyOrder& order, bool alone) {
  before_.clear();
  if (order.slot == 0) return false;
  bool again = false;
  {
    const std::scoped_lock held(mutex_);
    Slot& slot = slots_[order.slot];
    again = std::exchange(slot.batch, batches_) == batches_;
    before_.swap(slot.readers);
    if (slot.written.event && slot.written.queue != order.queue && !passed(slot.written))
      before_.push_back(slot.written.event);
  }
  // One event often tells of many slots; what the queue waits for already, or what has passed, needs no wait and no batch of
  // its own. To ask the driver costs more than to wait for what has passed: only where a batch would be broken off for it.
  auto& awaited = awaited_[static_cast<std::size_t>(order.queue)];
  const auto needless = std::remove_if(before_.begin(), before_.end(), [&](const EventRef& event) {
    if (std::find(awaited.begin(), awaited.end(), event) != awaited.end()) return true;
    awaited.push_back(event);
    return !alone && device_->driver().event_query(event->handle()) == kSuccess;
  });
  before_.erase(needless, before_.end());
  return again;
}

Status Copier::wait_for_gate(Queue queue, const Gate& gate, std::uint32_t value) {
  return device_->check(device_->driver().stream_wait_value(stream(queue), gate.word(), value, kWaitValueGreaterOrEqual),
                        "cuStreamWaitValue32");
}

/// With `failed`, what could be queued of them before is all.
void Copier::flush(std::span<const CopyOrder> orders, Status failed) {
  const Queue queue = orders.front().queue;
  const auto q = static_cast<std::size_t>(queue);
  Queued together;
  {
    const std::scoped_lock held(mutex_);
    if (!unused_.empty()) {
      together.orders = std::move(unused_.back());
      unused_.pop_back();
    }
  }
  together.number = ++last_number_[q];
  together.bytes = batch_.bytes();
  if (timed_) {
    if (Result<EventRef> begin = timed_->record(stream(queue)); begin.ok()) together.begin = std::move(*begin);
  }
  together.failed = failed.ok() ? queue_copies(*device_, batch_, stream(queue)) : std::move(failed);
  // After a failure some of it may be under way: the event tells when nothing writes any more.
  Result<EventRef> event = (timed_ ? timed_ : events_)->record(stream(queue));
  if (event.ok()) together.event = std::move(*event);
  if (together.failed.ok()) together.failed = event.status();
  batch_.clear();
  ++batches_;
  tokens_.clear();
  together.orders.reserve(orders.size());
  for (const CopyOrder& order : orders) {
    if (order.gate && !together.failed.ok()) order.gate->fail(together.failed);  // or nothing would get past it
    together.orders.push_back({order.token, order.stamp, order.version, order.buffer, order.gate});
    tokens_.push_back(order.token);
  }
  const bool queued = together.failed.ok();
  {
    const std::scoped_lock held(mutex_);
    for (const CopyOrder& order : orders) {
      if (order.slot != 0) slots_[order.slot].written = Mark{queue, together.number, together.event};
    }
    queued_[q].push_back(std::move(together));
  }
  if (queued) observer_.on_copies_queued(tokens_);
}

// ---------------------------------------------------------------- completions

Status Copier::fate_of(const Order& order) {
  if (order.gate && order.gate->is_open() && !order.gate->verdict().ok()) return order.gate->verdict();
  if (order.stamp == nullptr) return {};
  const Version now = __atomic_load_n(order.stamp, __ATOMIC_ACQUIRE);
  if (now == order.version) return {};
  return Status::error(CARDEA_ERR_STALE, "version {} was retired while it was copied; the source has {}", order.version,
                       now);
}

bool Copier::poll() {
  const std::unique_lock polling(polling_, std::try_to_lock);
  return polling && look();
}

void Copier::tell_times(Queue queue, const Queued& done) {
  const auto span = clock_->between(done.begin, done.event);
  if (!span) return;
  observer_.on_batch_timed({queue, done.number, done.bytes, static_cast<std::uint32_t>(done.orders.size()), *span});
}

// With polling_ held. Whether anything was done.
bool Copier::look() {
  const Device::Current current(*device_);
  const Driver& driver = device_->driver();
  if (clock_) clock_->keep_up();
  bool any = false;
  for (std::size_t q = 0; q < kQueues; ++q) {
    for (;;) {
      EventRef event;
      {
        const std::scoped_lock held(mutex_);
        if (queued_[q].empty()) break;
        event = queued_[q].front().event;
      }
      Code code = kSuccess;
      if (event) code = driver.event_query(event->handle());
      if (code == kNotReady) break;
      Queued done;
      {
        const std::scoped_lock held(mutex_);
        done = std::move(queued_[q].front());
        queued_[q].pop_front();
      }
      any = true;
      if (done.number != 0) passed_[q].store(done.number, std::memory_order_release);
      const Status status = done.failed.ok() ? device_->check(code, "copy") : done.failed;
      if (status.ok() && done.begin) tell_times(static_cast<Queue>(q), done);
      for (const Order& order : done.orders) told_.push_back({order.token, status.ok() ? fate_of(order) : status});
      outstanding_.fetch_sub(told_.size(), std::memory_order_acq_rel);
      observer_.on_copies_done(told_);
      told_.clear();
      done.orders.clear();
      const std::scoped_lock held(mutex_);
      if (unused_.size() < kUnused) unused_.push_back(std::move(done.orders));
    }
  }
  return look_at_watches() || any;
}

bool Copier::look_at_watches() {
  std::vector<Watch> watches;
  {
    const std::scoped_lock held(mutex_);
    watches.swap(watches_);
  }
  if (watches.empty()) return false;
  bool any = false;
  std::vector<Watch> still;
  for (Watch& watch : watches) {
    Code code = kSuccess;
    for (const EventRef& event : watch.events) {
      if (code = device_->driver().event_query(event->handle()); code != kSuccess) break;
    }
    if (code == kNotReady) {
      still.push_back(std::move(watch));
      continue;
    }
    if (watch.slot != 0 && code == kSuccess) let_go_of_readers(watch.slot, watch.events);
    any = true;
    outstanding_.fetch_sub(1, std::memory_order_acq_rel);
    watch.then(device_->check(code, "cuEventQuery"));
  }
  const std::scoped_lock held(mutex_);
  watches_.insert(watches_.begin(), std::make_move_iterator(still.begin()), std::make_move_iterator(still.end()));
  return any;
}

// ---------------------------------------------------------------- streams of the caller

Status Copier::check_stream(Stream stream) const {
  const Device::Current current(*device_);
  int capturing = 0;
  const Status status = device_->check(device_->driver().stream_is_capturing(stream, &capturing), "cuStreamIsCapturing");
  if (!status.ok()) return status;
  if (capturing == 0) return {};
  return Status(CARDEA_ERR_UNSUPPORTED,
                "the stream is being captured into a graph; graphs may read slots and table, but not fetch or release");
}

Status Copier::wait_on(Stream stream, std::span<const SlotKey> slots) {
  std::array<Mark, kQueues> last{};
  {
    const std::scoped_lock held(mutex_);
    for (const SlotKey key : slots) {
      const Slot* const slot = slots_.find(key);
      if (slot == nullptr || !slot->written.event || passed(slot->written)) continue;
      // Each queue goes in order, so its last place tells of those before.
      Mark& known = last[static_cast<std::size_t>(slot->written.queue)];
      if (slot->written.number > known.number) known = slot->written;
    }
  }
  const Device::Current current(*device_);
  for (const Mark& mark : last) {
    if (!mark.event) continue;
    const Status status =
        device_->check(device_->driver().stream_wait_event(stream, mark.event->handle(), 0), "cuStreamWaitEvent");
    if (!status.ok()) return status;
  }
  return {};
}

Status Copier::read_until(Stream stream, std::span<const SlotKey> slots) {
  if (slots.empty()) return {};
  const Device::Current current(*device_);
  Result<EventRef> event = events_->record(stream);
  if (!event.ok()) return event.status();
  const std::scoped_lock held(mutex_);
  for (const SlotKey key : slots) slots_[key].readers.push_back(*event);
  return {};
}

Status Copier::when_reached(Stream stream, std::function<void(const Status&)> then) {
  const Device::Current current(*device_);
  Result<EventRef> event = events_->record(stream);
  if (!event.ok()) return event.status();
  add_watch({{std::move(*event)}, std::move(then)});
  return {};
}

void Copier::add_watch(Watch watch) {
  outstanding_.fetch_add(1, std::memory_order_acq_rel);
  {
    const std::scoped_lock held(mutex_);
    watches_.push_back(std::move(watch));
  }
  wake();
}

bool Copier::idle(SlotKey key) const {
  const std::scoped_lock held(mutex_);
  const Slot* const slot = slots_.find(key);
  return slot == nullptr || (slot->readers.empty() && (!slot->written.event || passed(slot->written)));
}

void Copier::when_idle(SlotKey key, std::function<void(const Status&)> then) {
  Events events;
  {
    const std::scoped_lock held(mutex_);
    if (const Slot* const slot = slots_.find(key); slot != nullptr) {
      events = slot->readers;
      if (slot->written.event) events.push_back(slot->written.event);
    }
  }
  add_watch({std::move(events), std::move(then), key});
}

void Copier::let_go_of_readers(SlotKey key, const Events& done) {
  Events gone;  // events go back to their pool without the lock
  const std::scoped_lock held(mutex_);
  Slot* const slot = slots_.find(key);
  if (slot == nullptr) return;
  const auto is_done = [&](const EventRef& event) { return std::find(done.begin(), done.end(), event) != done.end(); };
  Events& readers = slot->readers;
  const auto left = std::stable_partition(readers.begin(), readers.end(), [&](const auto& e) { return !is_done(e); });
  gone.assign(left, readers.end());
  readers.erase(left, readers.end());
  if (is_done(slot->written.event)) gone.push_back(std::exchange(slot->written.event, nullptr));
}

void Copier::forget(std::span<const SlotKey> slots) {
  std::vector<Slot> gone;  // events go back to their pool without the lock
  const std::scoped_lock held(mutex_);
  for (const SlotKey key : slots) {
    Slot* const slot = slots_.find(key);
    if (slot == nullptr) continue;
    gone.push_back(std::move(*slot));
    slots_.erase(key);
  }
}

// ---------------------------------------------------------------- the thread

void Copier::post(std::function<void()> task) {
  {
    const std::scoped_lock held(mutex_);
    tasks_.push_back(std::move(task));
    poked_ = true;
  }
  changed_.notify_one();
}

void Copier::wake() {
  {
    const std::scoped_lock held(mutex_);
    poked_ = true;
    if (!asleep_) return;  // it looks by itself soon
  }
  changed_.notify_one();
}

void Copier::run() {
  prctl(PR_SET_TIMERSLACK, 1000);
  auto last_moved = Clock::now();
  auto no_callers = last_moved;
  for (;;) {
    // A caller that the driver holds up keeps its promise too late: then this thread does not wait for it.
    if (callers_.load(std::memory_order_acquire) == 0) no_callers = Clock::now();
    const bool left_to_callers = Clock::now() - no_callers < kPromise && callers_.load(std::memory_order_acquire) != 0;
    if (!left_to_callers) issue();
    std::function<void()> task;
    {
      const std::scoped_lock held(mutex_);
      if (!tasks_.empty()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
    }
    if (task) task();
    bool moved = false;
    if (!left_to_callers) {
      const std::unique_lock polling(polling_, std::try_to_lock);
      if (polling) moved = look();
    }
    const auto now = Clock::now();
    if (moved || task) last_moved = now;

    std::unique_lock held(mutex_);
    if (!tasks_.empty() || (!inbox_.empty() && !left_to_callers)) continue;
    const bool busy = outstanding() != 0;
    if (ended_) return;
    if (moved) continue;
    // In a short nap it looks by itself soon enough, and nobody pays for waking it.
    const bool linger = now - last_moved < kLinger;
    asleep_ = !linger;
    const auto something = [&] { return poked_ || ended_; };
    if (linger) {
      changed_.wait_for(held, kNap);
    } else if (busy) {
      changed_.wait_for(held, kLongNap, something);
    } else {
      changed_.wait(held, something);
    }
    if (poked_ || left_to_callers) last_moved = Clock::now();
    asleep_ = poked_ = false;
  }
}

bool Copier::close(Nanoseconds patience) {
  {
    const std::scoped_lock held(mutex_);
    closing_ = poked_ = true;
  }
  changed_.notify_all();
  if (!thread_.joinable()) return outstanding() == 0;
  const auto deadline = Clock::now() + patience;
  while (outstanding() != 0 && Clock::now() < deadline) std::this_thread::sleep_for(std::chrono::microseconds(200));
  if (const std::uint64_t left = outstanding(); left != 0) {
    log::print(log::Level::kError, name_, "cuda", "{} copies are not done after {} s: something holds up the GPU's streams",
               left, std::chrono::duration<double>(patience).count());
  }
  {
    const std::scoped_lock held(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
  return outstanding() == 0;
}

}  // namespace cardea::cuda
