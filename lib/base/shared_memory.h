// SPDX-License-Identifier: Apache-2.0
// Memory that other processes of this machine may read. The owner makes it, writes it, and passes its descriptor; a peer
// maps it read-only. Nothing has a name in any file system, so nothing is left behind when processes die, and memory whose
// owner died stays readable for those who have it mapped.
//
// What holds once create() has succeeded, whatever a peer does with the descriptor:
//   - every page exists: neither side can get SIGBUS later, neither takes a page fault at its first touch;
//   - the size never changes, and nobody can map it writable any more (F_SEAL_FUTURE_WRITE).
//
// Resource types: move, never copy. Not thread-safe to move; the memory itself is as safe as what is done with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "lib/base/status.h"
#include "lib/base/unique_fd.h"

namespace cardea {

/// A mapping of this process, at an address aligned to 2 MiB. Unmaps when destroyed.
class MappedRange {
 public:
  MappedRange() = default;
  MappedRange(MappedRange&& other) noexcept;
  MappedRange& operator=(MappedRange&& other) noexcept;
  ~MappedRange();

  enum class Pages { kNow, kLater };
  /// Maps `bytes` of `descriptor` from its start and brings all pages in, unless told to leave that for later. NO_MEMORY
  /// (address space, memory), SYSTEM.
  static Result<MappedRange> map(int descriptor, std::uint64_t bytes, bool writable, Pages pages = Pages::kNow);
  /// Brings in the pages of a part, in pieces: for whoever must not be away for as long as the whole takes. `offset` is a
  /// multiple of the page's size, `descriptor` and `writable` are those of map(). NO_MEMORY, SYSTEM.
  Status bring_in(std::uint64_t offset, std::uint64_t bytes, int descriptor, bool writable);

  std::byte* data() const { return data_; }

 private:
  MappedRange(std::byte* data, std::uint64_t mapped) : data_(data), mapped_(mapped) {}
  void unmap();

  std::byte* data_ = nullptr;
  std::uint64_t mapped_ = 0;  // bytes, whole pages
};

/// The owner's side.
class SharedMemory {
 public:
  SharedMemory() = default;

  /// `bytes` of zeros, at least 1. `name` shows in /proc/PID/maps, nowhere else. Huge pages are used where the system lets
  /// shared memory have them. INVALID_ARGUMENT (0 bytes), NO_MEMORY (names the bytes and the limit), SYSTEM.
  static Result<SharedMemory> create(std::string_view name, std::uint64_t bytes);

  std::byte* data() const { return range_.data(); }
  std::uint64_t size() const { return size_; }
  /// For passing on by SCM_RIGHTS; stays owned here.
  int descriptor() const { return descriptor_.get(); }
  explicit operator bool() const { return size_ > 0; }

 private:
  UniqueFd descriptor_;
  MappedRange range_;
  std::uint64_t size_ = 0;
};

/// A peer's side.
class SharedMapping {
 public:
  SharedMapping() = default;

  /// Maps the first `bytes` behind a received descriptor, read-only, all pages present unless they are left for later (they
  /// exist, so that a reader would find them, too). The descriptor stays the caller's and may be closed at once. PROTOCOL if
  /// it is no memfd, smaller than `bytes` (0 included), or not sealed against shrinking (its owner could make us die by
  /// SIGBUS); NO_MEMORY, SYSTEM.
  static Result<SharedMapping> open(int descriptor, std::uint64_t bytes,
                                    MappedRange::Pages pages = MappedRange::Pages::kNow);

  /// Of one opened with its pages left for later: brings in the next part of at most `bytes` behind the same descriptor, and
  /// returns whether all of it is there. NO_MEMORY, SYSTEM.
  Result<bool> bring_in_next(int descriptor, std::uint64_t bytes);

  const std::byte* data() const { return range_.data(); }
  std::uint64_t size() const { return size_; }
  explicit operator bool() const { return size_ > 0; }

 private:
  MappedRange range_;
  std::uint64_t size_ = 0, present_ = 0;
};

/// Memory is brought in by so many bytes at a time. The kernel holds the process's memory map all through one piece:
/// whatever other thread wants to change it meanwhile, by a malloc that grows, has to wait, and on a busy machine for longer
/// than a piece takes to compute.
inline constexpr std::uint64_t kPopulatePiece = std::uint64_t{1} << 20;

/// Whether a file of shared memory may be that long: beyond RLIMIT_FSIZE the kernel sends a deadly signal instead of an
/// error, to whoever makes it longer or brings pages in. NO_MEMORY.
Status check_file_size(std::uint64_t bytes);

/// Whether a peer could map `descriptor` by SharedMapping::open; says what is wrong with it otherwise.
Status check_shareable(int descriptor, std::uint64_t bytes);

}  // namespace cardea
