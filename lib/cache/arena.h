// SPDX-License-Identifier: Apache-2.0
// The memory behind a node cache: a memfd that every rank of the node maps, and may write. Its size is fixed and sealed;
// nothing of it has a name in a file system, so it goes with the last process that has it.
//
// The directory's pages exist from the start. The payload's come when an entry is filled for the first time, by back(),
// which says so when there is no memory, rather than the kernel by a signal at the first touch.
//
// Resource type. back() is thread-safe; it belongs outside of any lock.
#pragma once

#include <atomic>
#include <memory>

#include "lib/base/shared_memory.h"
#include "lib/cache/directory.h"
#include "lib/cache/lock.h"

namespace cardea::cache {

class Arena {
 public:
  /// A directory of `shape`, empty. NO_MEMORY, SYSTEM.
  static Result<Arena> create(const Shape& shape);
  /// Takes what another rank created. PROTOCOL if it is not that: no memfd, not sealed, too small, no directory of this
  /// build. The descriptor may be closed afterwards, by the caller.
  static Result<Arena> attach(int descriptor);

  int descriptor() const { return descriptor_.get(); }
  const Directory& directory() const { return *directory_; }
  RobustLock& lock() { return *lock_; }
  /// Brings in the pages of a range of the payload. NO_MEMORY; LIMIT if it is no range of it.
  Status back(std::uint64_t offset, std::uint64_t bytes);

 private:
  static constexpr std::uint64_t kExtent = 2 << 20;

  Arena(UniqueFd descriptor, MappedRange range, const Directory& directory);

  UniqueFd descriptor_;
  MappedRange range_;
  std::unique_ptr<Directory> directory_;
  std::unique_ptr<RobustLock> lock_;
  std::unique_ptr<std::atomic<bool>[]> backed_;  // extents of the file that this process has seen to
};

}  // namespace cardea::cache
