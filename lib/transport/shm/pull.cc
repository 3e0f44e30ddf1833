// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/pull.h"

#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace cardea::shm {
namespace {

using transport::RemotePiece;

Status check_piece(const RegionTable& regions, Rank source, const RemotePiece& piece) {
  const auto wrong = [&](std::string_view text) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} of rank {}: {}", piece.region.region, piece.region.owner,
                         text);
  };
  if (piece.region.owner != source) return wrong("it is not the chunk's source's");
  const RegionTable::Region* region = regions.find(piece.region);
  if (region == nullptr) return wrong("it was not accepted");
  if (piece.offset > region->bytes || piece.bytes > region->bytes - piece.offset)
    return wrong("the chunk reaches beyond its end");
  return {};
}

// Reads another process's memory, as much as one call gives. 0 bytes: refused.
Result<std::uint64_t> read_process(pid_t owner, std::uint64_t address, void* to, std::uint64_t bytes) {
  if (owner <= 0) return 0;
  const iovec local{to, bytes};
  const iovec remote{reinterpret_cast<void*>(address), bytes};
  const ssize_t got = process_vm_readv(owner, &local, 1, &remote, 1, 0);
  if (got > 0) return static_cast<std::uint64_t>(got);
  const int error = got == 0 ? EFAULT : errno;
  if (error == EPERM || error == ENOSYS || error == EACCES) return 0;
  if (error == ESRCH) return Status::error(CARDEA_ERR_PEER_LOST, "process_vm_readv: process {} has ended", owner);
  return Status::from_errno(error, "process_vm_readv",
                            fmt::format("{} bytes at {:#x} of process {}", bytes, address, owner));
}

}  // namespace

Pull::Pull(transport::ChunkOrder order) : order_(std::move(order)) {
  for (const iovec& piece : order_.destination) payload_ += piece.iov_len;
}

Status Pull::check(const RegionTable& regions) const {
  std::uint64_t sum = 0;
  for (const RemotePiece& piece : order_.source_pieces) {
    if (Status status = check_piece(regions, order_.source, piece); !status.ok()) return status;
    sum += piece.bytes;
  }
  if (sum != payload_) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "a chunk of {} bytes at its source has a destination of {}", sum,
                         payload_);
  }
  const RemotePiece& stamp = order_.stamp;
  if (stamp.bytes == 0) return {};
  if (stamp.bytes != sizeof(Version) || stamp.offset % sizeof(Version) != 0) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "a version stamp of {} bytes at offset {}", stamp.bytes, stamp.offset);
  }
  return check_piece(regions, order_.source, stamp);
}

bool Pull::needs_process_memory(const RegionTable& regions) const {
  const auto unmapped = [&](const RemotePiece& piece) {
    const RegionTable::Region* region = regions.find(piece.region);
    return region != nullptr && !region->mapping;
  };
  return std::any_of(order_.source_pieces.begin(), order_.source_pieces.end(), unmapped) ||
         (order_.stamp.bytes > 0 && unmapped(order_.stamp));
}

Result<Pull::Step> Pull::step(const RegionTable& regions, pid_t owner, std::uint64_t budget) {
  while (moved_ < payload_) {
    if (budget == 0) return Step::kMore;
    const iovec& to = order_.destination[to_];
    const RemotePiece& from = order_.source_pieces[from_];
    std::uint64_t bytes = std::min({budget, to.iov_len - to_offset_, from.bytes - from_offset_});
    if (bytes > 0) {
      const RegionTable::Region* region = regions.find(from.region);
      if (region == nullptr)
        return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} was forgotten", from.region.region);
      std::byte* const out = static_cast<std::byte*>(to.iov_base) + to_offset_;
      const std::uint64_t offset = from.offset + from_offset_;
      if (region->mapping) {
        std::memcpy(out, region->mapping.data() + offset, bytes);
      } else {
        Result<std::uint64_t> got = read_process(owner, region->address + offset, out, bytes);
        if (!got.ok()) return got.status();
        if (*got == 0) return Step::kRefused;
        bytes = *got;
      }
    }
    budget -= bytes;
    advance(bytes);
  }
  return check_stamp(regions, owner);
}

void Pull::advance(std::uint64_t bytes) {
  moved_ += bytes;
  to_offset_ += bytes;
  from_offset_ += bytes;
  if (to_offset_ == order_.destination[to_].iov_len) {
    ++to_;
    to_offset_ = 0;
  }
  if (from_offset_ == order_.source_pieces[from_].bytes) {
    ++from_;
    from_offset_ = 0;
  }
}

Result<Pull::Step> Pull::check_stamp(const RegionTable& regions, pid_t owner) const {
  const RemotePiece& stamp = order_.stamp;
  if (stamp.bytes == 0) return Step::kDone;
  const RegionTable::Region* region = regions.find(stamp.region);
  if (region == nullptr) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "region {} was forgotten", stamp.region.region);
  Version now = 0;
  if (region->mapping) {
    // The payload's loads must not sink below the stamp's: the owner changes the stamp before it changes the weights.
    std::atomic_thread_fence(std::memory_order_acquire);
    now = __atomic_load_n(reinterpret_cast<const Version*>(region->mapping.data() + stamp.offset), __ATOMIC_ACQUIRE);
  } else {
    Result<std::uint64_t> got = read_process(owner, region->address + stamp.offset, &now, sizeof now);
    if (!got.ok()) return got.status();
    if (*got == 0) return Step::kRefused;
    if (*got != sizeof now)
      return Status::error(CARDEA_ERR_SYSTEM, "process_vm_readv gave {} bytes of a version stamp", *got);
  }
  if (now == order_.expert.version) return Step::kDone;
  return Status(CARDEA_ERR_STALE,
                fmt::format("version {} was retired while it was copied; the source has {}", order_.expert.version, now),
                {.peer = order_.source, .layer = order_.expert.layer.layer, .expert = order_.expert.expert});
}

void Pull::restart() {
  moved_ = to_offset_ = from_offset_ = 0;
  to_ = from_ = 0;
}

Status Pull::append(ByteView data) {
  if (data.size() > payload_ - moved_) {
    return Status::error(CARDEA_ERR_PROTOCOL, "more than the {} bytes of a chunk were sent", payload_);
  }
  moved_ += data.size();
  while (!data.empty()) {
    const iovec& to = order_.destination[to_];
    const std::size_t bytes = std::min<std::size_t>(data.size(), to.iov_len - to_offset_);
    if (bytes > 0) std::memcpy(static_cast<std::byte*>(to.iov_base) + to_offset_, data.data(), bytes);
    data = data.subspan(bytes);
    to_offset_ += bytes;
    if (to_offset_ == to.iov_len) {
      ++to_;
      to_offset_ = 0;
    }
  }
  return {};
}

Status Pull::finish_asked() const {
  if (moved_ == payload_) return {};
  return Status::error(CARDEA_ERR_PROTOCOL, "a chunk of {} bytes ended after {}", payload_, moved_);
}

}  // namespace cardea::shm
