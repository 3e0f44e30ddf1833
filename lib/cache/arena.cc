// SPDX-License-Identifier: Apache-2.0
#include "lib/cache/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace cardea::cache {
namespace {

Status allocate(int descriptor, std::uint64_t offset, std::uint64_t bytes) {
  if (Status status = check_file_size(offset + bytes); !status.ok()) return status;
  int failed = 0;
  do failed = fallocate(descriptor, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  while (failed != 0 && errno == EINTR);
  return failed == 0 ? Status() : Status::from_errno(errno, "fallocate", fmt::format("{} bytes of the node cache", bytes));
}

}  // namespace

Arena::Arena(UniqueFd descriptor, MappedRange range, const Directory& directory)
    : descriptor_(std::move(descriptor)),
      range_(std::move(range)),
      directory_(std::make_unique<Directory>(directory)),
      lock_(std::make_unique<RobustLock>(directory_->header().lock)),
      backed_(new std::atomic<bool>[directory.shape().total_bytes() / kExtent + 1]()) {}

Result<Arena> Arena::create(const Shape& shape) {
  const std::uint64_t bytes = shape.total_bytes();
  const std::string what = fmt::format("a node cache of {} bytes", bytes);
  UniqueFd descriptor(memfd_create("cardea-node-cache", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!descriptor) return Status::from_errno(errno, "memfd_create", what);
  if (Status status = check_file_size(bytes); !status.ok()) return status;
  if (ftruncate(descriptor.get(), static_cast<off_t>(bytes)) != 0) return Status::from_errno(errno, "ftruncate", what);
  if (const Status status = allocate(descriptor.get(), 0, shape.metadata_bytes()); !status.ok()) return status;
  if (fcntl(descriptor.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return Status::from_errno(errno, "fcntl(F_ADD_SEALS)", what);
  Result<MappedRange> range = MappedRange::map(descriptor.get(), bytes, true, MappedRange::Pages::kLater);
  if (!range.ok()) return range.status();
  const Directory directory = Directory::create(range->data(), shape);
  if (const Status status = RobustLock::create(directory.header().lock); !status.ok()) return status;
  return Arena(std::move(descriptor), std::move(*range), directory);
}

Result<Arena> Arena::attach(int descriptor) {
  struct stat file {};
  if (fstat(descriptor, &file) != 0) return Status::from_errno(errno, "fstat", "descriptor of the node cache");
  if (file.st_size < static_cast<off_t>(sizeof(Header)))
    return Status::error(CARDEA_ERR_PROTOCOL, "a node cache of {} bytes", file.st_size);
  const auto bytes = static_cast<std::uint64_t>(file.st_size);
  if (const Status status = check_shareable(descriptor, bytes); !status.ok()) return status.within("node cache");
  UniqueFd own(fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
  if (!own) return Status::from_errno(errno, "fcntl(F_DUPFD_CLOEXEC)", "descriptor of the node cache");
  Result<MappedRange> range = MappedRange::map(own.get(), bytes, true, MappedRange::Pages::kLater);
  if (!range.ok()) return range.status();
  const Result<Directory> directory = Directory::attach(range->data(), bytes);
  if (!directory.ok()) return directory.status();
  return Arena(std::move(own), std::move(*range), *directory);
}

Status Arena::back(std::uint64_t offset, std::uint64_t bytes) {
  const std::uint64_t end = directory_->shape().total_bytes();
  const std::uint64_t from = directory_->shape().metadata_bytes() + offset;
  if (offset > directory_->shape().capacity || bytes > directory_->shape().capacity - offset) {
    return Status::error(CARDEA_ERR_LIMIT, "{} bytes at {} of a node cache of {}", bytes, offset,
                         directory_->shape().capacity);
  }
  for (std::uint64_t extent = from / kExtent; extent * kExtent < from + bytes; ++extent) {
    if (backed_[extent].load(std::memory_order_relaxed)) continue;
    const std::uint64_t start = extent * kExtent;
    if (const Status status = allocate(descriptor_.get(), start, std::min(kExtent, end - start)); !status.ok())
      return status;
    backed_[extent].store(true, std::memory_order_relaxed);
  }
  return {};
}

}  // namespace cardea::cache
