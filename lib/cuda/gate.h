// SPDX-License-Identifier: Apache-2.0
// Gates: a copy is queued on a stream before what it copies is there, and waits on the GPU for a word of pinned host memory.
// The gate opens by a plain store. No call of the driver is needed for that, and none may be: while a gate is shut, a
// cudaFree, a cudaMalloc or the first launch of a lazily loaded kernel in any thread blocks until the GPU gets on, and every
// other call of the driver may block behind it. So whoever opens gates must never wait for the driver.
//
//   shut ── open() ──► open, its bytes may be copied
//     └──── fail() ──► open, what is copied is no weights
//
// What is copied behind a gate goes in up to four copies, each behind a value of the word of its own: the first half, half
// of what is left, and so on. While the gate is shut, advance() lets those pass whose bytes are there. So little is left to
// be copied when the last has come.
//
// A gate decides on the GPU what comes into the slot. The first kSealed bytes of each segment come from a *seal*, a buffer
// of the gate's own, with the last of the copies: open() copies the right bytes into it, and fail() leaves it as it was
// made, all ones, which is NaN in every floating-point type. So weights whose bytes never came make every output NaN,
// whoever computes with them before he has asked whether they came.
//
// A GateSet is the gates of one slab, and the landings for experts on their way (core/gated.cc): memory that is pinned and
// bounded when the slab is made. Making and destroying it call the driver; all else calls nothing.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "lib/cuda/batch.h"
#include "lib/cuda/event.h"
#include "lib/cuda/pinned.h"

namespace cardea::cuda {

class Gate;

/// Commands that all gates of a rank may take of one queue of the device. A stream takes 1021 copies and waits (measured on
/// an H100, behind a wait that does not end; events do not count), and who queues one more is held up by the driver until
/// the wait has ended. The rest is for steps.
inline constexpr std::uint32_t kGateCommands = 640;

struct GateShape {
  std::uint32_t gates = 0;
  std::uint64_t sealed_bytes = 0;  // of one expert: each segment's first kSealed bytes, rounded up to kSealAlignment
  std::uint32_t landings = 0;
  std::uint64_t landing_bytes = 0;
};

class GateSet : public std::enable_shared_from_this<GateSet> {
 public:
  static constexpr std::uint64_t kSealed = 4096;
  static constexpr std::uint64_t kSealAlignment = 256;
  static constexpr std::uint32_t kSteps = 3;                           // copies of one gate before its last
  static constexpr std::uint64_t kLeastStep = std::uint64_t{4} << 20;  // smaller ones are not made

  /// Calls the driver. NO_MEMORY, DEVICE.
  static Result<std::shared_ptr<GateSet>> make(std::shared_ptr<const Device> device, const GateShape& shape);

  /// A gate that is shut; null while all are in use. It is given back with its last reference, which must be kept until the
  /// GPU has passed it, or never will come to it. Thread-safe.
  std::shared_ptr<Gate> take();
  std::byte* landing(std::uint32_t index) const { return memory_.data() + landings_ + index * shape_.landing_bytes; }
  const GateShape& shape() const { return shape_; }
  /// Its memory stays as long as the process: the GPU has not got past a gate.
  void leave() { memory_.leave(); }

 private:
  friend class Gate;
  static constexpr std::uint64_t kLine = 64;  // one word on each line of the processor's caches

  GateSet(PinnedMemory memory, const GateShape& shape);
  std::uint32_t* word(std::uint32_t index) const { return reinterpret_cast<std::uint32_t*>(memory_.data() + index * kLine); }
  std::byte* seal(std::uint32_t index) const { return memory_.data() + seals_ + index * shape_.sealed_bytes; }

  PinnedMemory memory_;
  const GateShape shape_;
  std::uint64_t seals_ = 0, landings_ = 0;
  std::mutex mutex_;
  std::vector<std::uint32_t> free_;
  std::vector<std::uint32_t> uses_;  // by gate: the value that opens it this time, or opened it last; its steps' before that
};

class Gate {
 public:
  Gate(std::shared_ptr<GateSet> set, std::uint32_t index, std::uint32_t value)
      : set_(std::move(set)), index_(index), value_(value) {}
  ~Gate();
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  /// Takes what is copied behind it, one piece for each segment, one after the other in what they are copied from. What is
  /// copied when it opens is returned: the seal for their first bytes, and what steps() leaves; without `in_steps`, all
  /// else. Once, before it opens.
  std::vector<CopyPiece> seal(std::span<const CopyPiece> pieces, bool in_steps = true);
  /// Copied before that, each when the word has its value.
  struct Step {
    std::uint32_t value = 0;
    std::vector<CopyPiece> pieces;
    std::uint64_t until = 0;  // from the first piece's beginning, in what is copied
  };
  std::span<const Step> steps() const { return steps_; }

  /// For cuStreamWaitValue32 (greater or equal).
  Pointer word() const { return reinterpret_cast<Pointer>(set_->word(index_)); }
  std::uint32_t value() const { return value_; }

  /// The first so many bytes of what is copied are there. Not while another thread does so; harmless once it is open.
  void advance(std::uint64_t bytes);
  // Any thread; what comes first counts.
  void open();
  void fail(const Status& why);
  bool is_open() const { return state_.load(std::memory_order_acquire) == State::kOpen; }
  /// Why it failed, once it is open.
  Status verdict() const { return is_open() ? why_ : Status(); }

 private:
  enum class State : std::uint8_t { kShut, kOpening, kOpen };

  bool begin() {
    State shut = State::kShut;
    return state_.compare_exchange_strong(shut, State::kOpening, std::memory_order_acq_rel);
  }
  void let_pass();
  void raise(std::uint32_t value);

  const std::shared_ptr<GateSet> set_;
  const std::uint32_t index_, value_;
  std::vector<CopyPiece> sealed_;  // to: in the seal
  std::vector<Step> steps_;
  Status why_;
  std::atomic<State> state_{State::kShut};  // released after seal and verdict
};

/// Whether gates do no harm here: whether this device's streams wait for words at all, and whether copies on `others`, in
/// both directions, are done within `patience` while copies to the device wait behind a gate on every one of `gated`. If
/// streams share the device's queues, as with CUDA_DEVICE_MAX_CONNECTIONS=1, it may not; then two ranks could wait for each
/// other. Calls the driver, for as long as the device takes; the gate is opened by a thread of its own, whatever the driver
/// does. UNSUPPORTED, DEVICE, NO_MEMORY.
Status try_gates(const std::shared_ptr<const Device>& device, std::span<const Stream> gated, std::span<const Stream> others,
                 Nanoseconds patience);

}  // namespace cardea::cuda
