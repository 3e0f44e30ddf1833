// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/sim/virtual_time.h"

#include <algorithm>
#include <utility>

namespace cardea::sim {
namespace {
constexpr std::size_t kChildren = 4;
}

TimerId VirtualTime::at(Clock::time_point when, std::function<void()> work) {
  std::uint32_t index = 0;
  if (free_.empty()) {
    index = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  Slot& slot = slots_[index];
  slot.work = std::move(work);
  ++slot.generation;
  heap_.push_back({std::max(when, now_), ++last_sequence_, index});
  slot.place = static_cast<std::uint32_t>(heap_.size() - 1);
  sift_up(heap_.size() - 1);
  return TimerId{slot.generation} << 32 | index;
}

VirtualTime::Slot* VirtualTime::find(TimerId timer) {
  const auto index = static_cast<std::uint32_t>(timer);
  if (index >= slots_.size()) return nullptr;
  Slot& slot = slots_[index];
  return slot.place != kFree && slot.generation == timer >> 32 ? &slot : nullptr;
}

bool VirtualTime::cancel(TimerId timer) {
  Slot* slot = find(timer);
  if (!slot) return false;
  remove(slot->place);
  return true;
}

bool VirtualTime::move(TimerId timer, Clock::time_point when) {
  Slot* slot = find(timer);
  if (!slot) return false;
  const std::size_t place = slot->place;
  heap_[place].when = std::max(when, now_);
  heap_[place].sequence = ++last_sequence_;
  sift_up(place);
  sift_down(slot->place);
  return true;
}

bool VirtualTime::run_one() {
  if (heap_.empty()) return false;
  const Entry next = heap_.front();
  const std::function<void()> work = std::move(slots_[next.slot].work);
  remove(0);
  now_ = next.when;
  ++events_run_;
  work();
  return true;
}

bool VirtualTime::run_until(const std::function<bool()>& done) {
  while (!done()) {
    if (!run_one()) return false;
  }
  return true;
}

void VirtualTime::run_until_idle() {
  while (run_one()) {
  }
}

void VirtualTime::run_to(Clock::time_point end) {
  while (!heap_.empty() && heap_.front().when <= end) run_one();
  now_ = std::max(now_, end);
}

void VirtualTime::put(std::size_t place, const Entry& entry) {
  heap_[place] = entry;
  slots_[entry.slot].place = static_cast<std::uint32_t>(place);
}

void VirtualTime::sift_up(std::size_t place) {
  const Entry entry = heap_[place];
  while (place > 0) {
    const std::size_t parent = (place - 1) / kChildren;
    if (!entry.before(heap_[parent])) break;
    put(place, heap_[parent]);
    place = parent;
  }
  put(place, entry);
}

void VirtualTime::sift_down(std::size_t place) {
  const Entry entry = heap_[place];
  while (true) {
    const std::size_t first = place * kChildren + 1;
    if (first >= heap_.size()) break;
    std::size_t least = first;
    const std::size_t end = std::min(first + kChildren, heap_.size());
    for (std::size_t child = first + 1; child < end; ++child) {
      if (heap_[child].before(heap_[least])) least = child;
    }
    if (!heap_[least].before(entry)) break;
    put(place, heap_[least]);
    place = least;
  }
  put(place, entry);
}

void VirtualTime::remove(std::size_t place) {
  Slot& slot = slots_[heap_[place].slot];
  slot.work = nullptr;
  slot.place = kFree;
  free_.push_back(heap_[place].slot);
  const Entry last = heap_.back();
  heap_.pop_back();
  if (place == heap_.size()) return;
  put(place, last);
  sift_up(place);
  sift_down(slots_[last.slot].place);
}

}  // namespace cardea::sim
