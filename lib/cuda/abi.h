// SPDX-License-Identifier: Apache-2.0
// The part of the CUDA driver's interface that Cardea uses, as libcuda.so.1 has it: types, constants and layouts. Declared
// here so that building takes no toolkit, and a package built without one runs GPUs where there are any; where the toolkit
// is found, abi_check.cc compares all of it with cuda.h. Plain declarations.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cardea::cuda {

using Code = int;  // CUresult
using Ordinal = int;
using DriverContext = struct CUctx_st*;
using Stream = struct CUstream_st*;
using EventHandle = struct CUevent_st*;
using Pointer = unsigned long long;     // CUdeviceptr; host memory that CUDA knows has one too
using Allocation = unsigned long long;  // CUmemGenericAllocationHandle

// Results that are told apart.
inline constexpr Code kSuccess = 0;
inline constexpr Code kInvalidValue = 1;
inline constexpr Code kOutOfMemory = 2;
inline constexpr Code kDeinitialized = 4;
inline constexpr Code kNoDevice = 100;
inline constexpr Code kInvalidContext = 201;
inline constexpr Code kInvalidHandle = 400;
inline constexpr Code kNotReady = 600;
inline constexpr Code kPeerAccessAlreadyEnabled = 704;
inline constexpr Code kHostMemoryAlreadyRegistered = 712;
inline constexpr Code kNotSupported = 801;

inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kIpcLazyEnablePeerAccess = 1;
inline constexpr unsigned kHostRegisterPortable = 1;
inline constexpr unsigned kHostRegisterReadOnly = 8;
inline constexpr unsigned kHostAllocPortable = 1;
inline constexpr unsigned kWaitValueGreaterOrEqual = 0;
inline constexpr int kHandlePosixDescriptor = 1;
inline constexpr int kAllocationPinned = 1;
inline constexpr int kLocationDevice = 1;
inline constexpr int kAccessReadWrite = 3;
inline constexpr int kGranularityRecommended = 1;
inline constexpr int kSourceAccessStream = 1;
inline constexpr unsigned kMemoryTypeHost = 1;
inline constexpr unsigned kMemoryTypeDevice = 2;
// Of a NIC's writes into device memory: which work of GPUs sees them in order without a flush, and how they are flushed.
inline constexpr int kRdmaOrderedForNobody = 0;
inline constexpr int kRdmaFlushByHost = 1;  // a bit
inline constexpr int kFlushCurrentContext = 0;
inline constexpr int kFlushToOwner = 100;
/// The default stream, whose own handle is null.
inline Stream const kLegacyStream = reinterpret_cast<Stream>(1);

enum class Attribute : int {  // CUpointer_attribute
  kMemoryType = 2,
  kIsManaged = 8,
  kDeviceOrdinal = 9,
  kIsIpcCapable = 10,
  kRangeStart = 11,
  kRangeSize = 12,
  kMapped = 13,
  kAllowedHandleTypes = 14,
  kMempool = 17,
};

enum class DeviceAttribute : int {  // CUdevice_attribute
  kRdmaWithVirtualMemory = 110,
  kReadOnlyHostRegister = 113,
  kRdmaFlushWrites = 117,
  kRdmaWritesOrdering = 118,
};

struct IpcHandle {
  unsigned char bytes[64];
};
struct Location {
  int type = 0;
  int id = 0;
};
struct AllocationProperties {
  int type = 0;
  int requested_handle_types = 0;
  Location location;
  void* win32 = nullptr;
  struct {
    unsigned char compression = 0;
    unsigned char rdma = 0;
    unsigned short usage = 0;
    unsigned char reserved[4] = {};
  } flags;
};
struct AccessDescription {
  Location location;
  int flags = 0;
};
struct CopyAttributes {
  int source_access = 0;
  Location source_hint;
  Location destination_hint;
  unsigned flags = 0;
};

}  // namespace cardea::cuda
