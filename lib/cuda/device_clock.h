// SPDX-License-Identifier: Apache-2.0
// When the GPU did something, on the host's steady clock. Events tell only how far apart they are; so a reference is
// recorded on a stream of its own, where nothing is ever queued, between two looks at the host's clock, and the time of
// another event is that of the reference and what lies between the two. A reference is good to within half of the time
// between the looks, some microseconds: the first is the best of several, later ones are taken where the looks lie close
// together. A new one is taken every second, since the distance between events is told in single precision. For one thread
// at a time.
#pragma once

#include <optional>

#include "lib/base/types.h"
#include "lib/cuda/event.h"

namespace cardea::cuda {

class DeviceClock {
 public:
  /// `events` must carry times. Takes the first reference, which waits for the device for a moment.
  DeviceClock(std::shared_ptr<const Device> device, std::shared_ptr<EventPool> events);
  ~DeviceClock();
  DeviceClock(const DeviceClock&) = delete;
  DeviceClock& operator=(const DeviceClock&) = delete;

  /// Takes a new reference if the last is old. The device's context must be current.
  void keep_up();

  struct Span {
    Clock::time_point begin;
    Nanoseconds took{0};
  };
  /// Between two events of the pool that have passed. None as long as there is no reference.
  std::optional<Span> between(const EventRef& begin, const EventRef& end) const;

 private:
  bool take_reference(Nanoseconds most);

  std::shared_ptr<const Device> device_;
  std::shared_ptr<EventPool> events_;
  Stream stream_ = nullptr;
  EventRef reference_;
  Clock::time_point at_{}, tried_{};
};

}  // namespace cardea::cuda
