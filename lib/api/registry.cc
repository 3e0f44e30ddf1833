// SPDX-License-Identifier: Apache-2.0
#include "lib/api/registry.h"

#include <pthread.h>

#include <atomic>
#include <cstdlib>

#include "lib/api/context.h"

namespace cardea::api {
namespace {

std::atomic<Registry*> current{nullptr};

}  // namespace

Registry& Registry::get() {
  static std::once_flag once;
  std::call_once(once, [] {
    current.store(new Registry(0), std::memory_order_release);
    pthread_atfork(nullptr, nullptr, &Registry::after_fork_in_child);
  });
  // Acquire pairs with the release by which a registry was published, whole.
  return *current.load(std::memory_order_acquire);
}

void Registry::after_fork_in_child() {
  const Registry* parents = current.load(std::memory_order_relaxed);
  // The parent's registry and contexts are left as they are: their threads do not exist here, their locks may be held.
  auto* const own = new Registry(parents->next_.load(std::memory_order_relaxed) - 1);
  own->parents_ = parents;
  current.store(own, std::memory_order_release);
}

Result<ContextNumber> Registry::reserve() {
  const std::unique_lock held(mutex_);
  const ContextNumber number = next_.load(std::memory_order_relaxed);
  if (number > kMaxContext) return Status(CARDEA_ERR_LIMIT, "a process makes at most 2^20 contexts");
  next_.store(number + 1, std::memory_order_relaxed);
  return number;
}

void Registry::add(ContextNumber number, std::shared_ptr<Context> context) {
  const std::unique_lock held(mutex_);
  contexts_.emplace(number, std::move(context));
}

std::shared_ptr<Context> Registry::remove(ContextNumber number) {
  const std::unique_lock held(mutex_);
  const auto found = contexts_.find(number);
  if (found == contexts_.end()) return nullptr;
  std::shared_ptr<Context> context = std::move(found->second);
  contexts_.erase(found);
  return context;
}

Result<std::shared_ptr<Context>> Registry::find(ContextNumber number) {
  if (number != 0 && number <= inherited_)
    return Status(CARDEA_ERR_FORKED, "the context belongs to the parent of this process");
  const std::shared_lock held(mutex_);
  const auto found = contexts_.find(number);
  if (found == contexts_.end()) return Status(CARDEA_ERR_INVALID_HANDLE, "the context was destroyed, or never existed");
  return found->second;
}

// OpenSSL, which the meeting points' threads use, takes itself apart at the process's end. What was registered after it had
// been set up, as by the meeting point's secret, runs before that.
void Registry::keep(std::unique_ptr<bootstrap::MeetingPoint> meeting_point) {
  [[maybe_unused]] static const int registered = std::atexit([] { get().drop_all(); });
  drop_finished();
  const std::unique_lock held(mutex_);
  meeting_points_.push_back(std::move(meeting_point));
}

void Registry::drop_all() {
  std::vector<std::unique_ptr<bootstrap::MeetingPoint>> over;  // as below
  const std::unique_lock held(mutex_);
  over.swap(meeting_points_);
}

void Registry::drop_finished() {
  std::vector<std::unique_ptr<bootstrap::MeetingPoint>> over;  // goes last, after the mutex is free: that joins threads
  const std::unique_lock held(mutex_);
  std::erase_if(meeting_points_, [&](auto& kept) {
    if (!kept->finished()) return false;
    over.push_back(std::move(kept));
    return true;
  });
}

Result<std::shared_ptr<const topology::Machine>> Registry::machine(const topology::Sources& sources) {
  const std::lock_guard held(machine_mutex_);
  return machine_.get(sources);
}

}  // namespace cardea::api
