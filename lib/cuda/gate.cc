// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/gate.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <thread>

#include "lib/base/types.h"

namespace cardea::cuda {
namespace {

constexpr std::byte kNoWeights{0xFF};

std::uint64_t whole(std::uint64_t bytes, std::uint64_t of) {
  return (bytes + of - 1) / of * of;
}

}  // namespace

// ---------------------------------------------------------------- sets

Result<std::shared_ptr<GateSet>> GateSet::make(std::shared_ptr<const Device> device, const GateShape& given) {
  constexpr std::uint64_t kPage = 4096;
  GateShape shape = given;
  shape.sealed_bytes = whole(shape.sealed_bytes, kSealAlignment);
  shape.landing_bytes = whole(shape.landing_bytes, kPage);
  const std::uint64_t before = whole(shape.gates * (kLine + shape.sealed_bytes) + kPage, kPage);
  Result<PinnedMemory> memory = PinnedMemory::create(std::move(device), before + shape.landings * shape.landing_bytes);
  if (!memory.ok()) return memory.status().within(fmt::format("{} gates and {} landings", shape.gates, shape.landings));
  return std::shared_ptr<GateSet>(new GateSet(std::move(*memory), shape));
}

GateSet::GateSet(PinnedMemory memory, const GateShape& shape)
    : memory_(std::move(memory)), shape_(shape), seals_(whole(shape.gates * kLine, kSealAlignment)), uses_(shape.gates, 0) {
  landings_ = whole(seals_ + shape.gates * shape.sealed_bytes, 4096);
  std::memset(memory_.data(), 0, seals_);
  for (std::uint32_t i = shape.gates; i > 0; --i) free_.push_back(i - 1);
}

std::shared_ptr<Gate> GateSet::take() {
  const std::scoped_lock held(mutex_);
  if (free_.empty()) return nullptr;
  const std::uint32_t index = free_.back();
  free_.pop_back();
  std::memset(seal(index), static_cast<int>(kNoWeights), shape_.sealed_bytes);
  return std::make_shared<Gate>(shared_from_this(), index, uses_[index] += kSteps + 1);
}

// ---------------------------------------------------------------- one gate

Gate::~Gate() {
  // Nothing waits for it, unless the driver has failed; then what waits must not hang.
  if (begin()) let_pass();
  const std::scoped_lock held(set_->mutex_);
  set_->free_.push_back(index_);
}

std::vector<CopyPiece> Gate::seal(std::span<const CopyPiece> pieces, bool in_steps) {
  std::vector<CopyPiece> last, rest;
  std::byte* at = set_->seal(index_);
  std::uint64_t left = 0;
  for (const CopyPiece& piece : pieces) {
    const std::uint64_t first = std::min(piece.bytes, GateSet::kSealed);
    sealed_.push_back({reinterpret_cast<Pointer>(at), piece.from, first});
    last.push_back({piece.to, reinterpret_cast<Pointer>(at), first});
    if (piece.bytes > first) rest.push_back({piece.to + first, piece.from + first, piece.bytes - first});
    left += piece.bytes - first;
    at += whole(first, GateSet::kSealAlignment);
  }
  auto next = rest.begin();
  while (in_steps && steps_.size() < GateSet::kSteps && left / 2 >= GateSet::kLeastStep) {
    Step& step = steps_.emplace_back();
    step.value = value_ - GateSet::kSteps + static_cast<std::uint32_t>(steps_.size()) - 1;
    for (std::uint64_t wanted = left / 2; wanted != 0;) {
      const std::uint64_t bytes = std::min(wanted, next->bytes);
      step.pieces.push_back({next->to, next->from, bytes});
      step.until = next->from + bytes - pieces.front().from;
      *next = {next->to + bytes, next->from + bytes, next->bytes - bytes};
      if (next->bytes == 0) ++next;
      wanted -= bytes;
      left -= bytes;
    }
  }
  last.insert(last.end(), next, rest.end());
  return last;
}

void Gate::advance(std::uint64_t bytes) {
  const auto passed = std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) { return step.until > bytes; });
  if (passed != steps_.begin()) raise(std::prev(passed)->value);
}

/// What was written before is there for whoever sees this: the GPU. An earlier value never replaces a later one.
void Gate::raise(std::uint32_t value) {
  std::uint32_t* const word = set_->word(index_);
  std::uint32_t now = __atomic_load_n(word, __ATOMIC_RELAXED);
  while (static_cast<std::int32_t>(value - now) > 0 &&
         !__atomic_compare_exchange_n(word, &now, value, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
  }
}

void Gate::open() {
  if (!begin()) return;
  for (const CopyPiece& piece : sealed_)
    std::memcpy(reinterpret_cast<void*>(piece.to), reinterpret_cast<const void*>(piece.from), piece.bytes);
  let_pass();
}

void Gate::fail(const Status& why) {
  if (!begin()) return;
  why_ = why;
  let_pass();
}

void Gate::let_pass() {
  state_.store(State::kOpen, std::memory_order_release);
  raise(value_);
}

// ---------------------------------------------------------------- whether they may be used

namespace {

/// Opens a gate after a while, unless it has been opened before.
class Opener {
 public:
  Opener(std::uint32_t* word, Nanoseconds patience)
      : word_(word), thread_([this, patience] {
          std::unique_lock held(mutex_);
          changed_.wait_for(held, patience, [&] { return told_; });
          __atomic_store_n(word_, 1, __ATOMIC_RELEASE);
        }) {}
  ~Opener() {
    open();
    thread_.join();
  }
  void open() {
    const std::scoped_lock held(mutex_);
    told_ = true;
    changed_.notify_all();
  }

 private:
  std::uint32_t* const word_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool told_ = false;
  std::thread thread_;
};

}  // namespace

Status try_gates(const std::shared_ptr<const Device>& device, std::span<const Stream> gated, std::span<const Stream> others,
                 Nanoseconds patience) {
  constexpr std::size_t kBytes = std::size_t{1} << 20;  // of each copy: what the copy engine takes, not the command buffer
  const Nanoseconds shut = patience + patience / 2;
  const Driver& driver = device->driver();
  if (driver.stream_wait_value == nullptr)
    return Status(CARDEA_ERR_UNSUPPORTED, "the CUDA driver has no stream memory operations (cuStreamWaitValue32)");
  const Device::Current current(*device);
  const std::size_t copies = gated.size() + others.size();
  Result<PinnedMemory> host = PinnedMemory::create(device, 64 + copies * kBytes);
  if (!host.ok()) return host.status();
  auto* const word = reinterpret_cast<std::uint32_t*>(host->data());
  std::memset(host->data(), 0, 64 + copies * kBytes);
  Pointer memory = 0;
  if (const Status status = device->check(driver.memory_alloc(&memory, copies * kBytes), "cuMemAlloc"); !status.ok())
    return status;
  const auto events = std::make_shared<EventPool>(device);
  Status status;
  {
    Opener opener(word, shut);
    std::vector<EventRef> behind, beside;
    std::size_t place = 0;
    const auto copy = [&](Stream stream, std::vector<EventRef>& into, bool back) {
      const Pointer there = memory + place * kBytes, here = reinterpret_cast<Pointer>(host->data()) + 64 + place * kBytes;
      ++place;
      if (status.ok()) status = device->check(driver.copy(there, here, kBytes, stream), "cuMemcpyAsync");
      if (status.ok() && back) status = device->check(driver.copy(here, there, kBytes, stream), "cuMemcpyAsync");
      if (!status.ok()) return;
      Result<EventRef> event = events->record(stream);
      status = event.status();
      if (event.ok()) into.push_back(std::move(*event));
    };
    for (const Stream stream : gated) {
      if (!status.ok()) break;
      status = device->check(driver.stream_wait_value(stream, reinterpret_cast<Pointer>(word), 1, kWaitValueGreaterOrEqual),
                             "cuStreamWaitValue32");
      copy(stream, behind, false);
    }
    for (const Stream stream : others) copy(stream, beside, true);
    const auto done = [&](const EventRef& event) { return driver.event_query(event->handle()) == kSuccess; };
    const auto until = Clock::now() + patience;
    bool all = false;
    while (status.ok() && !(all = std::all_of(beside.begin(), beside.end(), done)) && Clock::now() < until)
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    if (status.ok() && !all)
      status = Status(CARDEA_ERR_UNSUPPORTED,
                      "a copy that waits behind a gate holds up those on other streams (CUDA_DEVICE_MAX_CONNECTIONS?)");
    if (status.ok() && std::any_of(behind.begin(), behind.end(), done) && __atomic_load_n(word, __ATOMIC_ACQUIRE) == 0)
      status = Status(CARDEA_ERR_UNSUPPORTED, "streams do not wait for words in host memory");
    opener.open();
    for (const Stream stream : gated) driver.stream_synchronize(stream);
    for (const Stream stream : others) driver.stream_synchronize(stream);
  }
  driver.memory_free(memory);
  return status;
}

}  // namespace cardea::cuda
