// SPDX-License-Identifier: Apache-2.0
// Host memory that the GPU's copy engines reach by themselves: pinned, known to the driver. Copies to and from other host
// memory go through a buffer of the driver's at a seventh of the speed, and the call may wait for what is queued before it.
//
//   Registration   memory of somebody else's, such as the node cache, for as long as it lives
//   PinnedMemory   memory made here, pinned from the start
//   BufferPool     buffers that come and go, pinned when they are copied for the first time, and used again
//
// Pinning and letting go call the driver, so both may wait for the device: not the engine thread, and with no lock held that
// somebody needs who opens a gate (docs/gpu.md). What calls the driver says so; all else calls nothing.
#pragma once

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/cuda/device.h"

namespace cardea::cuda {

/// Keeps a range pinned. The range must stay mapped until it is destroyed, which calls the driver.
class Registration {
 public:
  Registration() = default;
  Registration(Registration&& other) noexcept { *this = std::move(other); }
  Registration& operator=(Registration&& other) noexcept;
  ~Registration() { release(); }

  /// Calls the driver; all pages of the range are brought in. `writable` says whether this process may write there: what it
  /// may only read must be registered as such. DEVICE, NO_MEMORY, UNSUPPORTED.
  static Result<Registration> make(std::shared_ptr<const Device> device, const void* base, std::uint64_t bytes,
                                   bool writable);
  explicit operator bool() const { return base_ != nullptr; }
  /// The range stays pinned as long as the process lives: the device may still read it.
  void leave() { base_ = nullptr; }

 private:
  void release();

  std::shared_ptr<const Device> device_;
  void* base_ = nullptr;
};

struct Free {
  bool kept = false;
  void operator()(std::byte* data) const {
    if (!kept) std::free(data);
  }
};

/// Memory of this process, pinned, whole huge pages where the system gives them. Making and destroying it call the driver.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  PinnedMemory(PinnedMemory&&) noexcept = default;
  PinnedMemory& operator=(PinnedMemory&&) = delete;

  /// NO_MEMORY, DEVICE.
  static Result<PinnedMemory> create(std::shared_ptr<const Device> device, std::uint64_t bytes);
  std::byte* data() const { return data_.get(); }
  /// It stays as long as the process lives.
  void leave() {
    registration_.leave();
    data_.get_deleter().kept = true;
  }

 private:
  std::unique_ptr<std::byte, Free> data_;
  Registration registration_;  // goes before the memory
};

/// Buffers of host memory for copies, given back with their last reference. At most `limit` bytes are pinned; what goes
/// beyond is plain memory, which copies take longer from and to. Thread-safe. The pool lives as long as its buffers; the
/// last reference to it calls the driver.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  class Buffer {
   public:
    std::byte* data() const { return data_.get(); }
    std::uint64_t bytes() const { return bytes_; }
    /// Calls the driver, if the buffer is not pinned and may be. It need not succeed.
    void pin();
    bool pinned() const { return static_cast<bool>(registration_); }
    /// It is not given back to the system when it is destroyed.
    void leave() {
      registration_.leave();
      data_.get_deleter().kept = true;
    }

   private:
    friend class BufferPool;
    std::shared_ptr<BufferPool> pool_;  // while it is out
    std::unique_ptr<std::byte, Free> data_;
    std::uint64_t bytes_ = 0;
    Registration registration_;
  };

  BufferPool(std::shared_ptr<const Device> device, std::uint64_t limit) : device_(std::move(device)), limit_(limit) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  /// At least `bytes` long; null if there is no memory. Calls no driver.
  std::shared_ptr<Buffer> take(std::uint64_t bytes);
  std::uint64_t pinned_bytes() const { return pinned_.load(std::memory_order_relaxed); }
  /// Nothing of it is given back to the system any more: the device may still use it.
  void leave() { left_.store(true, std::memory_order_relaxed); }

 private:
  void give_back(std::unique_ptr<Buffer> buffer);
  bool make_room(std::uint64_t bytes);

  const std::shared_ptr<const Device> device_;
  const std::uint64_t limit_;
  std::atomic<std::uint64_t> pinned_{0};
  std::atomic<bool> left_{false};
  std::mutex mutex_;
  std::map<std::uint64_t, std::vector<std::unique_ptr<Buffer>>> free_;  // by size; pinned ones only
};

}  // namespace cardea::cuda
