// SPDX-License-Identifier: Apache-2.0
// Events of a device, used again and again: making one costs more than recording it. An EventRef is one recorded use; the
// event goes back to its pool with the last reference, from whatever thread. A pool's events carry times or, cheaper, none.
// Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include <boost/smart_ptr/intrusive_ptr.hpp>
#include <boost/smart_ptr/intrusive_ref_counter.hpp>

#include "lib/cuda/device.h"

namespace cardea::cuda {

class EventPool : public std::enable_shared_from_this<EventPool> {
 public:
  explicit EventPool(std::shared_ptr<const Device> device, bool timed = false)
      : device_(std::move(device)), flags_(timed ? 0 : kEventDisableTiming) {}
  ~EventPool();

  class Event : public boost::intrusive_ref_counter<Event> {
   public:
    Event(std::shared_ptr<EventPool> pool, EventHandle handle) : pool_(std::move(pool)), handle_(handle) {}
    ~Event() { pool_->give_back(handle_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    EventHandle handle() const { return handle_; }

   private:
    std::shared_ptr<EventPool> pool_;
    EventHandle handle_;
  };

  /// Records an event on the stream; the device's context must be current. DEVICE.
  Result<boost::intrusive_ptr<const Event>> record(Stream stream);

 private:
  void give_back(EventHandle handle);

  std::shared_ptr<const Device> device_;
  const unsigned flags_;
  std::mutex mutex_;
  std::vector<EventHandle> free_;
};

/// One pointer: each slot of a slab has several.
using EventRef = boost::intrusive_ptr<const EventPool::Event>;

}  // namespace cardea::cuda
