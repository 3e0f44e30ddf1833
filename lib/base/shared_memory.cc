// SPDX-License-Identifier: Apache-2.0
#include "lib/base/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

// Newer than the C library's headers on the oldest systems we build on.
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace cardea {
namespace {

constexpr std::uint64_t kHugePage = 2 << 20;
constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

std::uint64_t page_size() {
  return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t whole_pages(std::uint64_t bytes) {
  return (bytes + page_size() - 1) / page_size() * page_size();
}

// Memory that can be had now without the out-of-memory killer; no limit known if the system does not tell.
std::uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  std::uint64_t kilobytes = 0, sum = 0;
  bool known = false;
  while (file >> word) {
    if (word != "MemAvailable:" && word != "SwapFree:") continue;
    if (!(file >> kilobytes)) break;
    known = known || word == "MemAvailable:";
    sum += kilobytes * 1024;
  }
  return known ? sum : kNoLimit;
}

// What the control group allows in all (memory.max of the version 2 hierarchy, own group).
std::uint64_t group_limit() {
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    if (line.rfind("0::", 0) != 0) continue;
    std::ifstream file("/sys/fs/cgroup" + line.substr(3) + "/memory.max");
    std::uint64_t limit = 0;
    if (file >> limit) return limit;
  }
  return kNoLimit;
}

// Asking the kernel for more than there is may end in the out-of-memory killer or in SIGXFSZ instead of an error.
Status check_limits(std::uint64_t bytes) {
  if (Status status = check_file_size(bytes); !status.ok()) return status;
  if (const std::uint64_t available = available_memory(); bytes > available) {
    return Status::error(CARDEA_ERR_NO_MEMORY, "shared memory of {} bytes: only {} are available on this machine", bytes,
                         available);
  }
  if (const std::uint64_t limit = group_limit(); bytes > limit) {
    return Status::error(CARDEA_ERR_NO_MEMORY, "shared memory of {} bytes: the control group allows {}", bytes, limit);
  }
  return {};
}

// Brings in a piece. On kernels before 5.14, which lack the call, mapping over itself with MAP_POPULATE does the same.
Status populate(std::byte* data, std::uint64_t offset, std::uint64_t bytes, int descriptor, bool writable) {
  if (madvise(data + offset, bytes, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) return {};
  if (errno != EINVAL) {
    // EFAULT stands for a page that could not be had (would have been SIGBUS).
    return Status::from_errno(errno == EFAULT ? ENOMEM : errno, "madvise(MADV_POPULATE)", fmt::format("{} bytes", bytes));
  }
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  if (mmap(data + offset, bytes, protection, MAP_SHARED | MAP_FIXED | MAP_POPULATE, descriptor,
           static_cast<off_t>(offset)) == MAP_FAILED) {
    return Status::from_errno(errno, "mmap", fmt::format("{} bytes", bytes));
  }
  return {};
}

}  // namespace

MappedRange::MappedRange(MappedRange&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), mapped_(std::exchange(other.mapped_, 0)) {}

MappedRange& MappedRange::operator=(MappedRange&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    mapped_ = std::exchange(other.mapped_, 0);
  }
  return *this;
}

MappedRange::~MappedRange() {
  unmap();
}

void MappedRange::unmap() {
  if (data_ != nullptr) munmap(data_, mapped_);
}

Result<MappedRange> MappedRange::map(int descriptor, std::uint64_t bytes, bool writable, Pages pages) {
  const std::uint64_t mapped = whole_pages(bytes);
  const auto failed = [&] { return Status::from_errno(errno, "mmap", fmt::format("{} bytes of shared memory", bytes)); };
  // Reserve with room for alignment, map inside, give back what is left over on both sides. Huge pages need the alignment.
  void* reserved = mmap(nullptr, mapped + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return failed();
  auto* const start = static_cast<std::byte*>(reserved);
  const std::uint64_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(start) % kHugePage) % kHugePage;
  std::byte* const data = start + before;
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  if (mmap(data, mapped, protection, MAP_SHARED | MAP_FIXED, descriptor, 0) == MAP_FAILED) {
    const Status status = failed();
    munmap(start, mapped + kHugePage);
    return status;
  }
  if (before > 0) munmap(start, before);
  munmap(data + mapped, kHugePage - before);
  MappedRange range(data, mapped);
  // Refused where shared memory may have no huge pages, which is no loss of function.
  madvise(data, mapped, MADV_HUGEPAGE);
  if (pages == Pages::kLater) return range;
  if (Status status = range.bring_in(0, mapped, descriptor, writable); !status.ok()) return status;
  return range;
}

Status MappedRange::bring_in(std::uint64_t offset, std::uint64_t bytes, int descriptor, bool writable) {
  const std::uint64_t end = std::min(mapped_, offset + bytes);
  while (offset < end) {
    const std::uint64_t piece = std::min(kPopulatePiece, end - offset);
    if (Status status = populate(data_, offset, piece, descriptor, writable); !status.ok()) return status;
    offset += piece;
  }
  return {};
}

Result<SharedMemory> SharedMemory::create(std::string_view name, std::uint64_t bytes) {
  if (bytes == 0) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "shared memory of 0 bytes");
  if (Status status = check_limits(bytes); !status.ok()) return status;
  const std::string what = fmt::format("{} bytes of shared memory", bytes);

  SharedMemory memory;
  memory.descriptor_.reset(memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.descriptor_) return Status::from_errno(errno, "memfd_create", what);
  const int fd = memory.descriptor_.get();
  const auto length = static_cast<off_t>(whole_pages(bytes));
  if (ftruncate(fd, length) != 0) return Status::from_errno(errno, "ftruncate", what);
  // Pages come by faults of the advised mapping first: fallocate knows no advice and would make small ones.
  Result<MappedRange> range = MappedRange::map(fd, bytes, true);
  if (!range.ok()) return range.status();
  // EINTR for a signal that came before all pages were there.
  int failed = 0;
  do failed = fallocate(fd, 0, 0, length);
  while (failed != 0 && errno == EINTR);
  if (failed != 0) return Status::from_errno(errno, "fallocate", what);
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    return Status::from_errno(errno, "fcntl(F_ADD_SEALS)", what);
  }
  memory.range_ = std::move(*range);
  memory.size_ = bytes;
  return memory;
}

Status check_file_size(std::uint64_t bytes) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur) {
    return Status::error(CARDEA_ERR_NO_MEMORY, "shared memory of {} bytes: the limit of file sizes (RLIMIT_FSIZE) is {}",
                         bytes, limit.rlim_cur);
  }
  return {};
}

Status check_shareable(int descriptor, std::uint64_t bytes) {
  const auto wrong = [](auto format, auto... args) {
    return Status(CARDEA_ERR_PROTOCOL, fmt::format(fmt::runtime(format), args...));
  };
  struct stat file {};
  if (fstat(descriptor, &file) != 0) return Status::from_errno(errno, "fstat", "descriptor of shared memory");
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals < 0) return wrong("the descriptor is no memory of memfd_create");
  if (bytes == 0) return wrong("shared memory of 0 bytes");
  if (file.st_size < 0 || static_cast<std::uint64_t>(file.st_size) < bytes) {
    return wrong("shared memory of {} bytes where {} were announced", file.st_size, bytes);
  }
  if ((seals & F_SEAL_SHRINK) == 0) return wrong("shared memory of {} bytes is not sealed against shrinking", bytes);
  return {};
}

Result<SharedMapping> SharedMapping::open(int descriptor, std::uint64_t bytes, MappedRange::Pages pages) {
  if (Status status = check_shareable(descriptor, bytes); !status.ok()) return status;
  Result<MappedRange> range = MappedRange::map(descriptor, bytes, false, pages);
  if (!range.ok()) return range.status();
  SharedMapping mapping;
  mapping.range_ = std::move(*range);
  mapping.size_ = bytes;
  if (pages == MappedRange::Pages::kNow) mapping.present_ = bytes;
  return mapping;
}

Result<bool> SharedMapping::bring_in_next(int descriptor, std::uint64_t bytes) {
  if (present_ >= size_) return true;
  const std::uint64_t part = whole_pages(std::min(bytes, size_ - present_));
  if (Status status = range_.bring_in(present_, part, descriptor, false); !status.ok()) return status;
  present_ += part;
  return present_ >= size_;
}

}  // namespace cardea
