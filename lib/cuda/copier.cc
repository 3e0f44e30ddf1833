// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/copier.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <iterator>

#include "lib/base/log.h"

namespace cardea::cuda {
namespace {

// The first batch of a run is small, so that whoever waits for one expert has it soon; each later one is twice as large,
// since the copy engine pauses for microseconds between batches.
constexpr std::uint64_t kFirstBatch = std::uint64_t{16} << 20;
constexpr std::uint64_t kLargestBatch = std::uint64_t{256} << 20;

// How the copier's thread looks for completions: every kNap while copies are under way, for kLinger longer in case more come
// (then nobody needs to wake it), and less often when nothing has moved for a while.
constexpr std::chrono::microseconds kNap{50};
constexpr std::chrono::microseconds kLongNap{1000};
constexpr std::chrono::milliseconds kLinger{5};
constexpr std::chrono::milliseconds kPromise{2};

}  // namespace

Copier::Copier(std::shared_ptr<const Device> device, CopyObserver& observer, std::string name)
    : device_(std::move(device)),
      observer_(observer),
      name_(std::move(name)),
      events_(std::make_shared<EventPool>(device_)) {}

Result<std::unique_ptr<Copier>> Copier::make(std::shared_ptr<const Device> device, CopyObserver& observer,
                                             std::string name) {
  std::unique_ptr<Copier> copier(new Copier(std::move(device), observer, std::move(name)));
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
  // The framework's signals are not for this thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread_.native_handle(), "cardea-gpu");
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
  const std::span<const Stream> all(streams_);
  if (status.ok()) status = try_gates(device_, all.subspan(kPlainQueues), all.first(kPlainQueues));
  gates_ = status;
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
    std::vector<CopyOrder> orders;
    bool closing = false;
    {
      const std::scoped_lock held(mutex_);
      orders.swap(inbox_);
      closing = closing_;
    }
    if (orders.empty()) return;
    if (closing) {
      const std::scoped_lock held(mutex_);
      Queued& canceled = queued_[0].emplace_back();
      canceled.failed = Status(CARDEA_ERR_CANCELED, "the context is being destroyed");
      canceled.orders = std::move(orders);
      continue;
    }
    issue_some(orders);
  }
}

void Copier::issue_some(std::vector<CopyOrder>& orders) {
  const Device::Current current(*device_);
  std::vector<CopyOrder> together;
  std::uint64_t limit = kFirstBatch;
  for (CopyOrder& order : orders) {
    const bool other_queue = !together.empty() && together.front().queue != order.queue;
    const bool alone = order.gate || (!together.empty() && together.front().gate);
    if (!together.empty() && (other_queue || alone || batch_.bytes() >= limit)) {
      limit = other_queue ? kFirstBatch : std::min(limit * 2, kLargestBatch);
      flush(together.front().queue, together);
    }
    const std::vector<EventRef> before = must_come_before(order);
    const bool again = order.slot != 0 && std::any_of(together.begin(), together.end(),
                                                      [&](const CopyOrder& other) { return other.slot == order.slot; });
    // What waits for a reader must not hold up those before it, and a batch has no order within.
    if ((again || !before.empty()) && !together.empty()) flush(together.front().queue, together);
    Status status;
    for (const EventRef& event : before) {
      if (status.ok()) {
        status = device_->check(device_->driver().stream_wait_event(stream(order.queue), event->handle(), 0),
                                "cuStreamWaitEvent");
      }
    }
    if (status.ok() && order.gate) {
      const Gate& gate = *order.gate;
      status = device_->check(
          device_->driver().stream_wait_value(stream(order.queue), gate.word(), gate.value(), kWaitValueGreaterOrEqual),
          "cuStreamWaitValue32");
    }
    if (!status.ok()) {
      if (order.gate) order.gate->fail(status);
      const std::scoped_lock held(mutex_);
      Queued& failed = queued_[static_cast<std::size_t>(order.queue)].emplace_back();
      failed.failed = status;
      failed.orders.push_back(std::move(order));
      continue;
    }
    if (order.buffer) order.buffer->pin();
    batch_.add(order.pieces);
    together.push_back(std::move(order));
  }
  if (!together.empty()) flush(together.front().queue, together);
  for (auto& events : awaited_) events.clear();
}

std::vector<EventRef> Copier::must_come_before(const CopyOrder& order) {
  std::vector<EventRef> events;
  if (order.slot == 0) return events;
  {
    const std::scoped_lock held(mutex_);
    const auto found = slots_.find(order.slot);
    if (found == slots_.end()) return events;
    Slot& slot = found->second;
    events = std::exchange(slot.readers, {});
    if (slot.written.event && slot.written.queue != order.queue && !passed(slot.written))
      events.push_back(slot.written.event);
  }
  // One event often tells of many slots; what the queue waits for already, or what has passed, needs no wait and no batch of
  // its own.
  auto& awaited = awaited_[static_cast<std::size_t>(order.queue)];
  std::erase_if(events, [&](const EventRef& event) {
    if (std::find(awaited.begin(), awaited.end(), event) != awaited.end()) return true;
    awaited.push_back(event);
    return device_->driver().event_query(event->handle()) == kSuccess;
  });
  return events;
}

Status Copier::copy(Stream stream) {
  const Driver& driver = device_->driver();
  const std::size_t count = batch_.count();
  if (count > 1 && (driver.copy_batch != nullptr || driver.copy_batch_12_8 != nullptr)) {
    CopyAttributes attributes;
    attributes.source_access = kSourceAccessStream;
    std::size_t first = 0;
    if (driver.copy_batch != nullptr) {
      return device_->check(
          driver.copy_batch(batch_.to(), batch_.from(), batch_.sizes(), count, &attributes, &first, 1, stream),
          "cuMemcpyBatchAsync");
    }
    std::size_t failed = 0;
    return device_->check(
        driver.copy_batch_12_8(batch_.to(), batch_.from(), batch_.sizes(), count, &attributes, &first, 1, &failed, stream),
        "cuMemcpyBatchAsync");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Status status =
        device_->check(driver.copy(batch_.to()[i], batch_.from()[i], batch_.sizes()[i], stream), "cuMemcpyAsync");
    if (!status.ok()) return status;
  }
  return {};
}

void Copier::flush(Queue queue, std::vector<CopyOrder>& orders) {
  const auto q = static_cast<std::size_t>(queue);
  Queued together;
  together.number = ++last_number_[q];
  together.failed = copy(stream(queue));
  // After a failure some of it may be under way: the event tells when nothing writes any more.
  Result<EventRef> event = events_->record(stream(queue));
  if (event.ok()) together.event = std::move(*event);
  if (together.failed.ok()) together.failed = event.status();
  batch_.clear();
  std::vector<std::uint64_t> tokens;
  tokens.reserve(orders.size());
  for (CopyOrder& order : orders) {
    order.pieces = {};
    if (order.gate && !together.failed.ok()) order.gate->fail(together.failed);  // or nothing would get past it
    tokens.push_back(order.token);
  }
  const bool queued = together.failed.ok();
  {
    const std::scoped_lock held(mutex_);
    for (const CopyOrder& order : orders) {
      if (order.slot != 0) slots_[order.slot].written = Mark{queue, together.number, together.event};
    }
    together.orders = std::move(orders);
    queued_[q].push_back(std::move(together));
  }
  orders.clear();
  if (queued) observer_.on_copies_queued(tokens);
}

// ---------------------------------------------------------------- completions

Status Copier::fate_of(const CopyOrder& order) const {
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

// With polling_ held. Whether anything was done.
bool Copier::look() {
  const Device::Current current(*device_);
  const Driver& driver = device_->driver();
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
      for (const CopyOrder& order : done.orders) {
        outstanding_.fetch_sub(1, std::memory_order_acq_rel);
        observer_.on_copy_done(order.token, status.ok() ? fate_of(order) : status);
      }
    }
  }
  std::vector<Watch> watches;
  {
    const std::scoped_lock held(mutex_);
    watches.swap(watches_);
  }
  if (watches.empty()) return any;
  std::vector<Watch> still;
  for (Watch& watch : watches) {
    const Code code = driver.event_query(watch.event->handle());
    if (code == kNotReady) {
      still.push_back(std::move(watch));
      continue;
    }
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
      const auto slot = slots_.find(key);
      if (slot == slots_.end() || !slot->second.written.event || passed(slot->second.written)) continue;
      // Each queue goes in order, so its last place tells of those before.
      Mark& known = last[static_cast<std::size_t>(slot->second.written.queue)];
      if (slot->second.written.number > known.number) known = slot->second.written;
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
  outstanding_.fetch_add(1, std::memory_order_acq_rel);
  {
    const std::scoped_lock held(mutex_);
    watches_.push_back({std::move(*event), std::move(then)});
  }
  wake();
  return {};
}

void Copier::forget(std::span<const SlotKey> slots) {
  std::vector<Slot> gone;  // events go back to their pool without the lock
  const std::scoped_lock held(mutex_);
  for (const SlotKey key : slots) {
    if (auto node = slots_.extract(key); !node.empty()) gone.push_back(std::move(node.mapped()));
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
    if (abandoned_ || (closing_ && !busy)) return;
    if (moved) continue;
    // In a short nap it looks by itself soon enough, and nobody pays for waking it.
    const bool linger = now - last_moved < kLinger;
    asleep_ = !linger;
    const auto something = [&] { return poked_ || abandoned_; };
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
    const std::scoped_lock held(mutex_);
    abandoned_ = true;
  }
  changed_.notify_all();
  thread_.join();
  return outstanding() == 0;
}

}  // namespace cardea::cuda
