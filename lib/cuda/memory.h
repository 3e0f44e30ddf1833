// SPDX-License-Identifier: Apache-2.0
// Device memory that other processes of the node read: made here, or the framework's and recognized by what the driver says
// of it; and the other side, a mapping of a peer's. A descriptor (VMM memory) travels over the node's socket, a handle
// (cudaMalloc) in the message that announces the region. Memory whose owner has died stays readable for those who have it
// mapped.
//
// Resource types: move, never copy; each keeps its device. All functions call the driver, so they may take milliseconds and
// wait for the device: never with a lock held that somebody needs who opens a gate (docs/gpu.md).
#pragma once

#include <optional>

#include "lib/base/unique_fd.h"
#include "lib/base/wire.h"
#include "lib/cuda/device.h"

namespace cardea::cuda {

/// How a region of device memory is reached from another process of the node: what is told in its announcement.
struct Export {
  // Told apart from the other descriptors of the node's regions by their first byte, which is 0 or 1 (wire-format.md).
  enum class Kind : std::uint8_t { kDescriptor = 2, kIpcHandle = 3 };
  Kind kind = Kind::kDescriptor;
  std::uint64_t process = 0;     // of the owner
  std::uint64_t address = 0;     // in the owner
  std::uint64_t offset = 0;      // of the region in the allocation
  std::uint64_t allocation = 0;  // bytes of it
  IpcHandle handle{};            // kIpcHandle

  Bytes encode() const;
  /// PROTOCOL.
  static Result<Export> decode(ByteView bytes, std::uint64_t region_bytes);
  static bool is_one(ByteView descriptor) {
    return !descriptor.empty() && (descriptor[0] == std::byte{2} || descriptor[0] == std::byte{3});
  }
};

/// Memory of Cardea's own: zeroed, aligned to at least 2 MiB.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory() { release(); }

  /// NO_MEMORY, DEVICE.
  static Result<DeviceMemory> create(std::shared_ptr<const Device> device, std::uint64_t bytes);

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }
  explicit operator bool() const { return address_ != 0; }
  Export told() const;
  int descriptor() const { return descriptor_.get(); }

 private:
  void release();

  std::shared_ptr<const Device> device_;
  Pointer address_ = 0;
  std::uint64_t mapped_ = 0;
  UniqueFd descriptor_;
};

/// What the driver says of an address.
enum class Residence { kHost, kDevice };
/// kHost also for memory that the driver does not know.
Residence residence(const Driver& driver, const void* address);

/// Whether kernels of this device may read what lies there: its own memory, and host memory that CUDA has pinned.
bool readable(const Device& device, const void* address);

/// INVALID_ARGUMENT unless it is memory of this device.
Status check_residence(const Device& device, const void* address);

/// The framework's memory, as others may map it.
struct Shareable {
  Export told;
  UniqueFd descriptor;  // kDescriptor
};
/// INVALID_ARGUMENT (no device memory, or of another device), UNSUPPORTED with advice (memory of a kind that cannot be
/// exported, or a range that no single allocation holds).
Result<Shareable> share(const std::shared_ptr<const Device>& device, const void* address, std::uint64_t bytes);

/// A peer's region, mapped for this rank's device. Closes when destroyed.
class PeerMapping {
 public:
  PeerMapping() = default;
  PeerMapping(PeerMapping&& other) noexcept { *this = std::move(other); }
  PeerMapping& operator=(PeerMapping&& other) noexcept;
  ~PeerMapping() { release(); }

  /// `descriptor` is needed for kDescriptor alone, and stays the caller's. DEVICE, NO_MEMORY, PROTOCOL.
  static Result<PeerMapping> open(std::shared_ptr<const Device> device, const Export& told, int descriptor);
  /// Where the region begins, for copies of this device.
  Pointer address() const { return address_; }

 private:
  void release();

  std::shared_ptr<const Device> device_;
  Pointer address_ = 0;
  Pointer base_ = 0;          // of the whole mapping; 0 for memory of this process
  std::uint64_t mapped_ = 0;  // kDescriptor
};

}  // namespace cardea::cuda
