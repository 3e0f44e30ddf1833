// SPDX-License-Identifier: Apache-2.0
// Anonymous memory of this process that slabs are made of: huge pages where the system gives them, and all pages present, so
// that arriving bytes take no page faults. Resource type; frees when destroyed.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "lib/base/shared_memory.h"
#include "lib/base/status.h"

namespace cardea::engine {

class LandingMemory {
 public:
  LandingMemory() = default;

  /// NO_MEMORY, which says how many bytes.
  static Result<LandingMemory> create(std::uint64_t bytes) {
    constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;
    if (bytes > UINT64_MAX - kHugePage)
      return Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes are more than there can be", bytes);
    const std::uint64_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    LandingMemory memory;
    memory.data_.reset(static_cast<std::byte*>(std::aligned_alloc(kHugePage, whole)));
    if (!memory.data_) return Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes of memory", bytes);
    // Both are advice: without them everything works, slower. But a populate that fails for want of memory is told now,
    // rather than by a kill at the first touch.
    madvise(memory.data_.get(), whole, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
    for (std::uint64_t at = 0; at < whole; at += kPopulatePiece) {
      const std::uint64_t piece = std::min(kPopulatePiece, whole - at);
      if (madvise(memory.data_.get() + at, piece, MADV_POPULATE_WRITE) == 0) continue;
      if (errno != ENOMEM) break;
      return Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes of memory cannot be made resident", bytes);
    }
#endif
    return memory;
  }

  std::byte* data() const {
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace cardea::engine
