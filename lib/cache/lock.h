// SPDX-License-Identifier: Apache-2.0
// The lock of a node cache's metadata. A holder may die, and the next one is told; a holder may be stopped, and then
// nobody waits for it for long.
#pragma once

#include <pthread.h>

#include <atomic>

#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::cache {

class Lock {
 public:
  enum class Taken {
    kClean,
    kOwnerDied,  // taken; what it guards may be half done, and must be repaired before unlock()
    kNot         // somebody holds it and does not go on
  };
  virtual ~Lock() = default;
  virtual Taken lock() = 0;
  virtual void unlock() = 0;
};

/// For ranks that one thread drives, as in simulations.
class NoLock final : public Lock {
 public:
  Taken lock() override { return Taken::kClean; }
  void unlock() override {}
};

/// A robust mutex in shared memory. Thread-safe.
///
/// Its bytes are the C library's, which links robust mutexes by pointers that lie in them. A mutex that is not of the kind
/// that create() makes is not touched (kNot). Beyond that a process that writes into it while another holds it can crash
/// that one: processes that share it are of one user, and could trace each other as well.
class RobustLock final : public Lock {
 public:
  static constexpr Nanoseconds kPatience = std::chrono::milliseconds(500);

  /// Makes the mutex, once, in memory that the directory keeps for it.
  static Status create(void* memory);
  explicit RobustLock(void* memory, Nanoseconds patience = kPatience);

  /// kNot when the patience is over. From then on it is not had again at once, until it is had once.
  Taken lock() override;
  void unlock() override;

 private:
  bool intact() const;

  pthread_mutex_t* mutex_;
  const int kind_;  // of an untouched one
  const Nanoseconds patience_;
  std::atomic<bool> gave_up_{false};
};

}  // namespace cardea::cache
