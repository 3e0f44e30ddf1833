// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/event.h"

namespace cardea::cuda {

EventPool::~EventPool() {
  const Device::Current current(*device_);
  for (const EventHandle handle : free_) device_->driver().event_destroy(handle);
}

Result<EventRef> EventPool::record(Stream stream) {
  EventHandle handle = nullptr;
  {
    const std::scoped_lock held(mutex_);
    if (!free_.empty()) {
      handle = free_.back();
      free_.pop_back();
    }
  }
  const Driver& driver = device_->driver();
  if (handle == nullptr) {
    const Status made = device_->check(driver.event_create(&handle, flags_), "cuEventCreate");
    if (!made.ok()) return made;
  }
  EventRef event(new EventPool::Event(shared_from_this(), handle));
  if (const Status status = device_->check(driver.event_record(handle, stream), "cuEventRecord"); !status.ok())
    return status;
  return event;
}

void EventPool::give_back(EventHandle handle) {
  const std::scoped_lock held(mutex_);
  free_.push_back(handle);
}

}  // namespace cardea::cuda
