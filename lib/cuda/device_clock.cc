// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/device_clock.h"

#include <cmath>

namespace cardea::cuda {
namespace {

constexpr std::chrono::seconds kGoodFor{1};
constexpr std::chrono::milliseconds kBetweenTries{10};
constexpr std::chrono::microseconds kUnsure{100};
constexpr int kFirstTries = 5;
constexpr std::chrono::milliseconds kAtFirst{10};

Nanoseconds of_milliseconds(float milliseconds) {
  return Nanoseconds(std::llround(static_cast<double>(milliseconds) * 1e6));
}

}  // namespace

DeviceClock::DeviceClock(std::shared_ptr<const Device> device, std::shared_ptr<EventPool> events)
    : device_(std::move(device)), events_(std::move(events)) {
  const Device::Current current(*device_);
  if (device_->driver().stream_create(&stream_, kStreamNonBlocking) != kSuccess) stream_ = nullptr;  // then it tells nothing
  Nanoseconds most = kAtFirst;
  for (int i = 0; i < kFirstTries && stream_ != nullptr; ++i) {
    const Clock::time_point before = Clock::now();
    if (take_reference(most)) most = Clock::now() - before;
  }
}

DeviceClock::~DeviceClock() {
  reference_.reset();
  const Device::Current current(*device_);
  if (stream_ != nullptr) device_->driver().stream_destroy(stream_);
}

void DeviceClock::keep_up() {
  const Clock::time_point before = Clock::now();
  if (stream_ == nullptr || (reference_ && before - at_ < kGoodFor) || before - tried_ < kBetweenTries) return;
  tried_ = before;
  take_reference(kUnsure);
}

/// Unless the looks at the host's clock lie further apart than `most`.
bool DeviceClock::take_reference(Nanoseconds most) {
  const Clock::time_point before = Clock::now();
  Result<EventRef> event = events_->record(stream_);
  if (!event.ok()) return false;
  Code code = kNotReady;
  Clock::time_point after = before;
  while (code == kNotReady && after - before < most) {
    code = device_->driver().event_query((*event)->handle());
    after = Clock::now();
  }
  if (code != kSuccess || after - before >= most) return false;
  reference_ = std::move(*event);
  at_ = before + (after - before) / 2;
  return true;
}

std::optional<DeviceClock::Span> DeviceClock::between(const EventRef& begin, const EventRef& end) const {
  if (!reference_) return std::nullopt;
  const Driver& driver = device_->driver();
  float since = 0, took = 0;
  if (driver.event_elapsed(&since, reference_->handle(), begin->handle()) != kSuccess ||
      driver.event_elapsed(&took, begin->handle(), end->handle()) != kSuccess) {
    return std::nullopt;
  }
  return Span{at_ + of_milliseconds(since), of_milliseconds(took)};
}

}  // namespace cardea::cuda
