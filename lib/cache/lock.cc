// SPDX-License-Identifier: Apache-2.0
#include "lib/cache/lock.h"

#include <sched.h>

#include <cerrno>
#include <thread>

#include "lib/cache/directory.h"

namespace cardea::cache {
namespace {

constexpr unsigned kQuickAttempts = 64;  // before it sleeps between attempts

static_assert(sizeof(pthread_mutex_t) <= sizeof(Header::lock) && alignof(pthread_mutex_t) <= 64);

}  // namespace

RobustLock::RobustLock(void* memory, Nanoseconds patience)
    : mutex_(static_cast<pthread_mutex_t*>(memory)),
      kind_([] {
        pthread_mutex_t sample;
        const Status made = create(&sample);
        const int kind = made.ok() ? sample.__data.__kind : -1;
        if (made.ok()) pthread_mutex_destroy(&sample);
        return kind;
      }()),
      patience_(patience) {}

bool RobustLock::intact() const {
  return __atomic_load_n(&mutex_->__data.__kind, __ATOMIC_RELAXED) == kind_;
}

Status RobustLock::create(void* memory) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  const int error = pthread_mutex_init(static_cast<pthread_mutex_t*>(memory), &attributes);
  pthread_mutexattr_destroy(&attributes);
  return error == 0 ? Status() : Status::from_errno(error, "pthread_mutex_init", "robust and shared");
}

Lock::Taken RobustLock::lock() {
  // Sections under it are a few microseconds long. Waiting by the wall clock, which is all that robust mutexes offer
  // everywhere, would hang or give up when somebody sets the clock.
  const bool patient = !gave_up_;
  const auto deadline = Clock::now() + patience_;
  for (unsigned attempt = 0;; ++attempt) {
    if (!intact()) return Taken::kNot;
    const int error = pthread_mutex_trylock(mutex_);
    if (error == 0 || error == EOWNERDEAD) gave_up_ = false;
    if (error == 0) return Taken::kClean;
    if (error == EOWNERDEAD) {
      // Its death is taken note of at once: should we die before the repair is done, the next one is told again.
      pthread_mutex_consistent(mutex_);
      return Taken::kOwnerDied;
    }
    if (error != EBUSY || !patient || Clock::now() > deadline) {
      gave_up_ = true;
      return Taken::kNot;
    }
    if (attempt < kQuickAttempts) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

void RobustLock::unlock() {
  pthread_mutex_unlock(mutex_);
}

}  // namespace cardea::cache
