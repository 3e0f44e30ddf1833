// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/memory.h"

#include <unistd.h>

#include <cstring>

namespace cardea::cuda {
namespace {

AllocationProperties shareable_properties(const Device& device) {
  AllocationProperties properties;
  properties.type = kAllocationPinned;
  properties.requested_handle_types = kHandlePosixDescriptor;
  properties.location = {kLocationDevice, device.ordinal()};
  properties.flags.rdma = device.attribute(DeviceAttribute::kRdmaWithVirtualMemory) != 0 ? 1 : 0;  // NICs may write there
  return properties;
}

/// Maps an allocation for the device; the mapping keeps it, and `allocation` is given back in any case.
Result<Pointer> map_allocation(const Device& device, Allocation allocation, std::uint64_t bytes) {
  const Driver& driver = device.driver();
  Pointer address = 0;
  Status status = device.check(driver.address_reserve(&address, bytes, 0, 0, 0), "cuMemAddressReserve");
  if (status.ok()) {
    status = device.check(driver.map(address, bytes, 0, allocation, 0), "cuMemMap");
    if (status.ok()) {
      const AccessDescription access{{kLocationDevice, device.ordinal()}, kAccessReadWrite};
      status = device.check(driver.set_access(address, bytes, &access, 1), "cuMemSetAccess");
      if (!status.ok()) driver.unmap(address, bytes);
    }
    if (!status.ok()) driver.address_free(address, bytes);
  }
  driver.allocation_release(allocation);
  if (!status.ok()) return status.within(fmt::format("mapping {} bytes", bytes));
  return address;
}

// Asked in the way that is no error of the driver's for memory that it does not know: debuggers and other tools of the
// framework's count those. Then, and on failure, it is `none`.
template <typename T>
T attribute(const Driver& driver, const void* address, Attribute which, T none = {}) {
  T value = none;
  int attribute = static_cast<int>(which);
  void* data = &value;
  return driver.pointer_attributes(1, &attribute, &data, reinterpret_cast<Pointer>(address)) == kSuccess ? value : none;
}

}  // namespace

// ---------------------------------------------------------------- what is told

Bytes Export::encode() const {
  WireWriter out;
  out.number(static_cast<std::uint8_t>(kind)).number(process).number(address).number(offset).number(allocation);
  if (kind == Kind::kIpcHandle) {
    for (const unsigned char byte : handle.bytes) out.number(static_cast<std::uint8_t>(byte));
  }
  return out.take();
}

Result<Export> Export::decode(ByteView bytes, std::uint64_t region_bytes) {
  WireReader in(bytes);
  Export told;
  told.kind = static_cast<Kind>(in.number_in<std::uint8_t>(2, 3));
  told.process = in.number<std::uint64_t>();
  told.address = in.number<std::uint64_t>();
  told.offset = in.number<std::uint64_t>();
  told.allocation = in.number<std::uint64_t>();
  if (told.kind == Kind::kIpcHandle) {
    for (unsigned char& byte : told.handle.bytes) byte = in.number<std::uint8_t>();
  }
  constexpr std::uint64_t kMost = std::uint64_t{1} << 48;
  if (told.allocation > kMost || told.offset > told.allocation || region_bytes > told.allocation - told.offset) in.fail();
  if (Status status = in.finish("device region"); !status.ok()) return status;
  return told;
}

// ---------------------------------------------------------------- Cardea's own

Result<DeviceMemory> DeviceMemory::create(std::shared_ptr<const Device> device, std::uint64_t bytes) {
  const Driver& driver = device->driver();
  const Device::Current current(*device);
  const AllocationProperties properties = shareable_properties(*device);
  std::size_t granularity = 0;
  Status status = device->check(driver.allocation_granularity(&granularity, &properties, kGranularityRecommended),
                                "cuMemGetAllocationGranularity");
  if (!status.ok()) return status;
  if (granularity == 0 || bytes > UINT64_MAX - granularity)
    return Status::error(CARDEA_ERR_NO_MEMORY, "{} bytes of device memory are more than there can be", bytes);
  const std::uint64_t whole = (bytes + granularity - 1) / granularity * granularity;
  Allocation allocation = 0;
  status = device->check(driver.allocation_create(&allocation, whole, &properties, 0), "cuMemCreate");
  if (!status.ok()) return status.within(fmt::format("{} bytes of device memory", bytes));

  DeviceMemory memory;
  int descriptor = -1;
  status = device->check(driver.allocation_export(&descriptor, allocation, kHandlePosixDescriptor, 0),
                         "cuMemExportToShareableHandle");
  if (!status.ok()) {
    driver.allocation_release(allocation);
    return status;
  }
  memory.descriptor_.reset(descriptor);
  Result<Pointer> address = map_allocation(*device, allocation, whole);
  if (!address.ok()) return address.status();
  memory.device_ = device;
  memory.address_ = *address;
  memory.mapped_ = whole;

  // On a stream of its own: the default one would wait for whatever the framework has queued.
  Stream stream = nullptr;
  status = device->check(driver.stream_create(&stream, kStreamNonBlocking), "cuStreamCreate");
  if (!status.ok()) return status;
  status = device->check(driver.memory_set(*address, 0, whole, stream), "cuMemsetD8Async");
  const Status done = device->check(driver.stream_synchronize(stream), "cuStreamSynchronize");
  driver.stream_destroy(stream);
  if (!status.ok() || !done.ok()) return status.ok() ? done : status;
  return memory;
}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  release();
  device_ = std::move(other.device_);
  address_ = std::exchange(other.address_, 0);
  mapped_ = other.mapped_;
  descriptor_ = std::move(other.descriptor_);
  return *this;
}

void DeviceMemory::release() {
  if (address_ == 0) return;
  const Device::Current current(*device_);
  device_->driver().unmap(address_, mapped_);
  device_->driver().address_free(address_, mapped_);
  address_ = 0;
}

Export DeviceMemory::told() const {
  Export told;
  told.kind = Export::Kind::kDescriptor;
  told.process = static_cast<std::uint64_t>(getpid());
  told.address = address_;
  told.allocation = mapped_;
  return told;
}

// ---------------------------------------------------------------- the framework's

Residence residence(const Driver& driver, const void* address) {
  return attribute<unsigned>(driver, address, Attribute::kMemoryType) == kMemoryTypeDevice ? Residence::kDevice
                                                                                           : Residence::kHost;
}

bool readable(const Device& device, const void* address) {
  const auto type = attribute<unsigned>(device.driver(), address, Attribute::kMemoryType);
  if (type != kMemoryTypeDevice) return type == kMemoryTypeHost;
  return attribute<int>(device.driver(), address, Attribute::kDeviceOrdinal, -1) == device.ordinal();
}

Status check_residence(const Device& device, const void* address) {
  const Driver& driver = device.driver();
  const auto type = attribute<unsigned>(driver, address, Attribute::kMemoryType);
  const auto wrong = [&](std::string_view what) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{}: {}", address, what);
  };
  if (type != kMemoryTypeDevice) {
    return wrong(type == kMemoryTypeHost ? "it is host memory that CUDA has pinned; give it as CARDEA_MEMORY_HOST"
                                         : "it is no device memory");
  }
  const int ordinal = attribute<int>(driver, address, Attribute::kDeviceOrdinal, -1);
  if (ordinal == device.ordinal()) return {};
  return wrong(fmt::format("it is memory of device {}; this rank uses device {}", ordinal, device.ordinal()));
}

Result<Shareable> share(const std::shared_ptr<const Device>& device, const void* address, std::uint64_t bytes) {
  const Driver& driver = device->driver();
  const Device::Current current(*device);
  const auto wrong = [&](cardea_status_t code, std::string_view what) {
    return Status(code, fmt::format("{} bytes at {}: {}", bytes, address, what), {.bytes = bytes});
  };
  if (const Status status = check_residence(*device, address); !status.ok()) return status.with_detail({.bytes = bytes});
  if (attribute<unsigned>(driver, address, Attribute::kIsManaged) != 0) {
    return wrong(CARDEA_ERR_UNSUPPORTED,
                 "managed memory cannot be shared between processes; allocate it by cudaMalloc or cardea_memory_alloc");
  }
  if (attribute<void*>(driver, address, Attribute::kMempool) != nullptr) {
    return wrong(CARDEA_ERR_UNSUPPORTED,
                 "memory of a CUDA pool (cudaMallocAsync) cannot be shared here; allocate it by cudaMalloc or "
                 "cardea_memory_alloc (PyTorch: PYTORCH_CUDA_ALLOC_CONF=backend:native)");
  }
  Pointer start = 0;
  std::size_t size = 0;
  const auto at = reinterpret_cast<Pointer>(address);
  if (const Status status = device->check(driver.address_range(&start, &size, at), "cuMemGetAddressRange"); !status.ok())
    return status;
  constexpr std::string_view kExpandable =
      "allocate it by cardea_memory_alloc, or switch PyTorch's expandable segments off "
      "(PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False)";
  if (at - start > size || bytes > size - (at - start)) {
    return wrong(CARDEA_ERR_UNSUPPORTED, fmt::format("no single allocation holds it; {}", kExpandable));
  }
  Shareable shareable;
  Export& told = shareable.told;
  told.process = static_cast<std::uint64_t>(getpid());
  told.address = at;
  told.offset = at - start;
  told.allocation = size;
  if (attribute<unsigned>(driver, address, Attribute::kIsIpcCapable) != 0) {
    told.kind = Export::Kind::kIpcHandle;
    if (const Status status = device->check(driver.ipc_get(&told.handle, start), "cuIpcGetMemHandle"); !status.ok())
      return status;
    return shareable;
  }
  // Memory of the virtual-memory functions: it must have been made to be passed on.
  Allocation allocation = 0;
  int descriptor = -1;
  Code code = driver.allocation_retain(&allocation, const_cast<void*>(address));
  if (code == kSuccess) {
    code = driver.allocation_export(&descriptor, allocation, kHandlePosixDescriptor, 0);
    driver.allocation_release(allocation);
  }
  if (code != kSuccess) {
    return wrong(
        CARDEA_ERR_UNSUPPORTED,
        fmt::format("it was made by the virtual-memory functions without a handle that can be passed on; {}", kExpandable));
  }
  told.kind = Export::Kind::kDescriptor;
  shareable.descriptor.reset(descriptor);
  return shareable;
}

// ---------------------------------------------------------------- a peer's

Result<PeerMapping> PeerMapping::open(std::shared_ptr<const Device> device, const Export& told, int descriptor) {
  const Driver& driver = device->driver();
  const Device::Current current(*device);
  PeerMapping mapping;
  mapping.device_ = device;
  if (told.process == static_cast<std::uint64_t>(getpid())) {
    // A rank of this very process. Memory of another device must be opened to this one; its context is active already.
    const int ordinal =
        residence(driver, reinterpret_cast<const void*>(told.address)) == Residence::kDevice
            ? attribute<int>(driver, reinterpret_cast<const void*>(told.address), Attribute::kDeviceOrdinal, -1)
            : -1;
    if (ordinal < 0) return Status(CARDEA_ERR_PROTOCOL, "a region at an address that is no device memory of this process");
    if (ordinal != device->ordinal()) {
      return Status::error(CARDEA_ERR_UNSUPPORTED, "ranks of one process must share one GPU; one has device {}, one {}",
                           ordinal, device->ordinal());
    }
    mapping.address_ = told.address;
    return mapping;
  }
  if (told.kind == Export::Kind::kIpcHandle) {
    const Status status =
        device->check(driver.ipc_open(&mapping.base_, told.handle, kIpcLazyEnablePeerAccess), "cuIpcOpenMemHandle");
    if (!status.ok()) return status.within(fmt::format("mapping {} bytes of a peer", told.allocation));
  } else {
    if (descriptor < 0) return Status(CARDEA_ERR_PROTOCOL, "a region of device memory came without its descriptor");
    Allocation allocation = 0;
    const Status status =
        device->check(driver.allocation_import(&allocation, reinterpret_cast<void*>(static_cast<std::uintptr_t>(descriptor)),
                                               kHandlePosixDescriptor),
                      "cuMemImportFromShareableHandle");
    if (!status.ok()) return status;
    Result<Pointer> base = map_allocation(*device, allocation, told.allocation);
    if (!base.ok()) return base.status();
    mapping.base_ = *base;
    mapping.mapped_ = told.allocation;
  }
  mapping.address_ = mapping.base_ + told.offset;
  return mapping;
}

PeerMapping& PeerMapping::operator=(PeerMapping&& other) noexcept {
  release();
  device_ = std::move(other.device_);
  address_ = std::exchange(other.address_, 0);
  base_ = std::exchange(other.base_, 0);
  mapped_ = std::exchange(other.mapped_, 0);
  return *this;
}

void PeerMapping::release() {
  if (base_ == 0) return;
  const Driver& driver = device_->driver();
  const Device::Current current(*device_);
  if (mapped_ == 0) {
    driver.ipc_close(base_);
  } else {
    driver.unmap(base_, mapped_);
    driver.address_free(base_, mapped_);
  }
  base_ = address_ = 0;
}

}  // namespace cardea::cuda
