// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/pinned.h"

#include <sys/mman.h>

namespace cardea::cuda {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;

std::uint64_t whole(std::uint64_t bytes, std::uint64_t of) {
  return (bytes + of - 1) / of * of;
}

}  // namespace

// ---------------------------------------------------------------- memory of somebody else's

Result<Registration> Registration::make(std::shared_ptr<const Device> device, const void* base, std::uint64_t bytes,
                                        bool writable) {
  const Device::Current current(*device);
  const Driver& driver = device->driver();
  void* const at = const_cast<void*>(base);
  const unsigned flags = kHostRegisterPortable | (writable ? 0 : kHostRegisterReadOnly);
  if (!writable && device->attribute(DeviceAttribute::kReadOnlyHostRegister) == 0)
    return Status(CARDEA_ERR_UNSUPPORTED, "this device cannot pin memory that is mapped for reading only");
  const Status status = device->check(driver.host_register(at, bytes, flags), "cuMemHostRegister");
  if (!status.ok()) return status.within(fmt::format("pinning {} bytes", bytes));
  Registration made;
  made.device_ = std::move(device);
  made.base_ = at;
  return made;
}

Registration& Registration::operator=(Registration&& other) noexcept {
  release();
  device_ = std::move(other.device_);
  base_ = std::exchange(other.base_, nullptr);
  return *this;
}

void Registration::release() {
  if (base_ == nullptr) return;
  const Device::Current current(*device_);
  device_->driver().host_unregister(base_);
  base_ = nullptr;
}

// ---------------------------------------------------------------- memory made here

Result<PinnedMemory> PinnedMemory::create(std::shared_ptr<const Device> device, std::uint64_t bytes) {
  if (bytes > UINT64_MAX - kHugePage)
    return Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes are more than there can be", bytes);
  const std::uint64_t size = whole(bytes, bytes < kHugePage ? kPage : kHugePage);
  PinnedMemory memory;
  memory.data_.reset(static_cast<std::byte*>(std::aligned_alloc(bytes < kHugePage ? kPage : kHugePage, size)));
  if (!memory.data_) return Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes of memory", bytes);
  madvise(memory.data_.get(), size, MADV_HUGEPAGE);  // advice: without it everything works, slower
  Result<Registration> registration = Registration::make(std::move(device), memory.data_.get(), size, true);
  if (!registration.ok()) return registration.status();
  memory.registration_ = std::move(*registration);
  return memory;
}

// ---------------------------------------------------------------- buffers that come and go

std::shared_ptr<BufferPool::Buffer> BufferPool::take(std::uint64_t bytes) {
  const std::uint64_t size = whole(std::max<std::uint64_t>(bytes, 1), kPage);
  std::unique_ptr<Buffer> taken;
  {
    const std::scoped_lock held(mutex_);
    if (const auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
      taken = std::move(found->second.back());
      found->second.pop_back();
    }
  }
  if (!taken) {
    taken = std::make_unique<Buffer>();
    taken->data_.reset(static_cast<std::byte*>(std::aligned_alloc(kPage, size)));
    if (!taken->data_) return nullptr;
    taken->bytes_ = size;
  }
  taken->pool_ = shared_from_this();
  return {taken.release(), [](Buffer* buffer) {
            const std::shared_ptr<BufferPool> pool = std::move(buffer->pool_);
            pool->give_back(std::unique_ptr<Buffer>(buffer));
          }};
}

BufferPool::~BufferPool() {
  if (!left_.load(std::memory_order_relaxed)) return;
  for (auto& [size, buffers] : free_) {
    for (const auto& buffer : buffers) buffer->leave();
  }
}

void BufferPool::give_back(std::unique_ptr<Buffer> buffer) {
  // Whoever gives back need not be one who may call the driver: what is pinned is kept.
  if (!buffer->pinned()) {
    if (left_.load(std::memory_order_relaxed)) buffer->leave();
    return;
  }
  const std::scoped_lock held(mutex_);
  free_[buffer->bytes()].push_back(std::move(buffer));
}

bool BufferPool::make_room(std::uint64_t bytes) {
  std::vector<std::unique_ptr<Buffer>> gone;  // unpinned without the lock
  const std::scoped_lock held(mutex_);
  for (auto size = free_.begin(); size != free_.end() && pinned_ + bytes > limit_; ++size) {
    while (!size->second.empty() && pinned_ + bytes > limit_) {
      pinned_ -= size->first;
      gone.push_back(std::move(size->second.back()));
      size->second.pop_back();
    }
  }
  if (pinned_ + bytes > limit_) return false;
  pinned_ += bytes;
  return true;
}

void BufferPool::Buffer::pin() {
  if (pinned() || !pool_ || !pool_->make_room(bytes_)) return;
  Result<Registration> registration = Registration::make(pool_->device_, data_.get(), bytes_, true);
  if (registration.ok()) {
    registration_ = std::move(*registration);
  } else {
    pool_->pinned_ -= bytes_;
  }
}

}  // namespace cardea::cuda
