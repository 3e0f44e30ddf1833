// SPDX-License-Identifier: Apache-2.0
// Compares abi.h and functions.h with the toolkit's header. No code; compiled where a toolkit is found.
#include <cuda.h>

#include <type_traits>

#include "lib/cuda/driver.h"

namespace cardea::cuda {
namespace {

#define SAME(ours, theirs) static_assert(static_cast<long long>(ours) == static_cast<long long>(theirs))
SAME(kSuccess, CUDA_SUCCESS);
SAME(kInvalidValue, CUDA_ERROR_INVALID_VALUE);
SAME(kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
SAME(kDeinitialized, CUDA_ERROR_DEINITIALIZED);
SAME(kNoDevice, CUDA_ERROR_NO_DEVICE);
SAME(kInvalidContext, CUDA_ERROR_INVALID_CONTEXT);
SAME(kInvalidHandle, CUDA_ERROR_INVALID_HANDLE);
SAME(kNotReady, CUDA_ERROR_NOT_READY);
SAME(kPeerAccessAlreadyEnabled, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
SAME(kHostMemoryAlreadyRegistered, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
SAME(kNotSupported, CUDA_ERROR_NOT_SUPPORTED);
SAME(kStreamNonBlocking, CU_STREAM_NON_BLOCKING);
SAME(kEventDisableTiming, CU_EVENT_DISABLE_TIMING);
SAME(kIpcLazyEnablePeerAccess, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
SAME(kHostRegisterPortable, CU_MEMHOSTREGISTER_PORTABLE);
SAME(kHostRegisterReadOnly, CU_MEMHOSTREGISTER_READ_ONLY);
SAME(kHostAllocPortable, CU_MEMHOSTALLOC_PORTABLE);
SAME(kWaitValueGreaterOrEqual, CU_STREAM_WAIT_VALUE_GEQ);
SAME(kHandlePosixDescriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
SAME(kAllocationPinned, CU_MEM_ALLOCATION_TYPE_PINNED);
SAME(kLocationDevice, CU_MEM_LOCATION_TYPE_DEVICE);
SAME(kAccessReadWrite, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
SAME(kGranularityRecommended, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
SAME(kMemoryTypeHost, CU_MEMORYTYPE_HOST);
SAME(kMemoryTypeDevice, CU_MEMORYTYPE_DEVICE);
SAME(Attribute::kMemoryType, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME(Attribute::kIsManaged, CU_POINTER_ATTRIBUTE_IS_MANAGED);
SAME(Attribute::kDeviceOrdinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
SAME(Attribute::kIsIpcCapable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE);
SAME(Attribute::kRangeStart, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR);
SAME(Attribute::kRangeSize, CU_POINTER_ATTRIBUTE_RANGE_SIZE);
SAME(Attribute::kMapped, CU_POINTER_ATTRIBUTE_MAPPED);
SAME(Attribute::kAllowedHandleTypes, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES);
#if CUDA_VERSION >= 11020
SAME(Attribute::kMempool, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE);
#endif
#if CUDA_VERSION >= 11010
SAME(DeviceAttribute::kReadOnlyHostRegister, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED);
#endif
#if CUDA_VERSION >= 11030
SAME(DeviceAttribute::kRdmaWithVirtualMemory, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
SAME(DeviceAttribute::kRdmaFlushWrites, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS);
SAME(DeviceAttribute::kRdmaWritesOrdering, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING);
SAME(kRdmaOrderedForNobody, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_NONE);
SAME(kRdmaFlushByHost, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST);
SAME(kFlushCurrentContext, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX);
SAME(kFlushToOwner, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER);
#endif
SAME(sizeof(IpcHandle), sizeof(CUipcMemHandle));
SAME(sizeof(Location), sizeof(CUmemLocation));
SAME(offsetof(Location, id), offsetof(CUmemLocation, id));
SAME(sizeof(AllocationProperties), sizeof(CUmemAllocationProp));
SAME(offsetof(AllocationProperties, requested_handle_types), offsetof(CUmemAllocationProp, requestedHandleTypes));
SAME(offsetof(AllocationProperties, location), offsetof(CUmemAllocationProp, location));
SAME(offsetof(AllocationProperties, flags), offsetof(CUmemAllocationProp, allocFlags));
SAME(offsetof(AllocationProperties, flags.rdma), offsetof(CUmemAllocationProp, allocFlags.gpuDirectRDMACapable));
SAME(sizeof(AccessDescription), sizeof(CUmemAccessDesc));
SAME(offsetof(AccessDescription, flags), offsetof(CUmemAccessDesc, flags));
SAME(sizeof(Pointer), sizeof(CUdeviceptr));
SAME(sizeof(Allocation), sizeof(CUmemGenericAllocationHandle));
#if CUDA_VERSION >= 12080
SAME(kSourceAccessStream, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM);
SAME(sizeof(CopyAttributes), sizeof(CUmemcpyAttributes));
SAME(offsetof(CopyAttributes, source_hint), offsetof(CUmemcpyAttributes, srcLocHint));
SAME(offsetof(CopyAttributes, destination_hint), offsetof(CUmemcpyAttributes, dstLocHint));
SAME(offsetof(CopyAttributes, flags), offsetof(CUmemcpyAttributes, flags));
#endif

// Functions take as many parameters, of the same sizes. (Their types differ in name.)
template <typename Ours, typename Theirs>
struct Alike : std::false_type {};
template <typename... A, typename... B>
requires(sizeof...(A) == sizeof...(B)) struct Alike<Code (*)(A...), CUresult (*)(B...)>
    : std::bool_constant<((sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>)&&...)> {
};
#define CARDEA_CUDA_ALIKE(member, symbol, parameters) \
  static_assert(Alike<decltype(Driver::member), decltype(&::symbol)>::value, #symbol);
// cuda.h names the newest variant without its suffix where the two differ in nothing else.
CARDEA_CUDA_FUNCTIONS(CARDEA_CUDA_ALIKE)
#if CUDA_VERSION >= 12000
CARDEA_CUDA_ALIKE(stream_wait_value, cuStreamWaitValue32, )
#endif
#if CUDA_VERSION >= 11030
CARDEA_CUDA_ALIKE(flush_rdma_writes, cuFlushGPUDirectRDMAWrites, )
#endif

}  // namespace
}  // namespace cardea::cuda
