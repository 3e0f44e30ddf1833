// SPDX-License-Identifier: Apache-2.0
// This rank's GPU: its primary context, which frameworks use too, and in which everything of Cardea's runs. Nothing here, or
// built on it, ever works in the context of another GPU: two processes' contexts on one GPU take turns, which would slow
// the other rank's computation. Immutable; thread-safe. The primary context is released with the last reference.
#pragma once

#include <memory>

#include "lib/cuda/driver.h"

namespace cardea::cuda {

class Device {
 public:
  /// DEVICE, NO_MEMORY; INVALID_ARGUMENT if the process sees no such device.
  static Result<std::shared_ptr<const Device>> open(std::shared_ptr<const Driver> driver, int ordinal);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Driver& driver() const { return *driver_; }
  int ordinal() const { return ordinal_; }
  DriverContext context() const { return context_; }
  /// 0 where the driver does not know it.
  int attribute(DeviceAttribute which) const {
    int value = 0;
    return driver_->device_attribute(&value, static_cast<int>(which), ordinal_) == kSuccess ? value : 0;
  }
  /// A NIC's writes into its memory are seen by its work only after flush_rdma_writes.
  bool must_flush_rdma_writes() const { return attribute(DeviceAttribute::kRdmaWritesOrdering) == kRdmaOrderedForNobody; }
  bool can_flush_rdma_writes() const {
    return driver_->flush_rdma_writes != nullptr && (attribute(DeviceAttribute::kRdmaFlushWrites) & kRdmaFlushByHost) != 0;
  }
  /// All that NICs have written so far is seen by the device's work that is queued from here on. Its context must be
  /// current.
  Status flush_rdma_writes() const {
    return check(driver_->flush_rdma_writes(kFlushCurrentContext, kFlushToOwner), "cuFlushGPUDirectRDMAWrites");
  }
  /// On this thread, for as long as it lives.
  void make_current() const { driver_->context_set(context_); }
  Status check(Code code, const char* call) const { return driver_->check(code, call, ordinal_); }

  /// Makes the device's context current on this thread, and what was current before again at its end. The driver's calls
  /// need that, in whatever thread they are made.
  class Current {
   public:
    explicit Current(const Device& device) : driver_(device.driver()) {
      pushed_ = driver_.context_push(device.context()) == kSuccess;
    }
    ~Current() {
      DriverContext popped = nullptr;
      if (pushed_) driver_.context_pop(&popped);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

   private:
    const Driver& driver_;
    bool pushed_ = false;
  };

 private:
  Device(std::shared_ptr<const Driver> driver, int ordinal, DriverContext context)
      : driver_(std::move(driver)), ordinal_(ordinal), context_(context) {}

  std::shared_ptr<const Driver> driver_;
  int ordinal_;
  DriverContext context_;
};

/// The device of the calling thread's current context, which is what cudaSetDevice and torch.cuda.set_device choose; else
/// the only one that this process sees. CONFIGURATION if that leaves a choice.
Result<int> current_device(const Driver& driver);

}  // namespace cardea::cuda
