// SPDX-License-Identifier: Apache-2.0
// The driver's functions that Cardea calls: X(member, symbol, result and parameters). All are needed; those that newer
// drivers alone have stand in the second list and may be null. Included by driver.h, driver.cc and abi_check.cc.
#pragma once

#define CARDEA_CUDA_FUNCTIONS(X)                                                                                 \
  X(init, cuInit, (unsigned))                                                                                    \
  X(driver_version, cuDriverGetVersion, (int*))                                                                  \
  X(error_name, cuGetErrorName, (Code, const char**))                                                            \
  X(error_string, cuGetErrorString, (Code, const char**))                                                        \
  X(device_count, cuDeviceGetCount, (int*))                                                                      \
  X(device_get, cuDeviceGet, (Ordinal*, int))                                                                    \
  X(device_attribute, cuDeviceGetAttribute, (int*, int, Ordinal))                                                \
  X(device_can_access_peer, cuDeviceCanAccessPeer, (int*, Ordinal, Ordinal))                                     \
  X(primary_retain, cuDevicePrimaryCtxRetain, (DriverContext*, Ordinal))                                         \
  X(primary_release, cuDevicePrimaryCtxRelease_v2, (Ordinal))                                                    \
  X(primary_state, cuDevicePrimaryCtxGetState, (Ordinal, unsigned*, int*))                                       \
  X(context_push, cuCtxPushCurrent_v2, (DriverContext))                                                          \
  X(context_pop, cuCtxPopCurrent_v2, (DriverContext*))                                                           \
  X(context_current, cuCtxGetCurrent, (DriverContext*))                                                          \
  X(context_set, cuCtxSetCurrent, (DriverContext))                                                               \
  X(context_device, cuCtxGetDevice, (Ordinal*))                                                                  \
  X(memory_alloc, cuMemAlloc_v2, (Pointer*, std::size_t))                                                        \
  X(memory_free, cuMemFree_v2, (Pointer))                                                                        \
  X(memory_set, cuMemsetD8Async, (Pointer, unsigned char, std::size_t, Stream))                                  \
  X(copy, cuMemcpyAsync, (Pointer, Pointer, std::size_t, Stream))                                                \
  X(stream_create, cuStreamCreate, (Stream*, unsigned))                                                          \
  X(stream_destroy, cuStreamDestroy_v2, (Stream))                                                                \
  X(stream_wait_event, cuStreamWaitEvent, (Stream, EventHandle, unsigned))                                       \
  X(stream_synchronize, cuStreamSynchronize, (Stream))                                                           \
  X(stream_is_capturing, cuStreamIsCapturing, (Stream, int*))                                                    \
  X(event_create, cuEventCreate, (EventHandle*, unsigned))                                                       \
  X(event_destroy, cuEventDestroy_v2, (EventHandle))                                                             \
  X(event_record, cuEventRecord, (EventHandle, Stream))                                                          \
  X(event_query, cuEventQuery, (EventHandle))                                                                    \
  X(event_synchronize, cuEventSynchronize, (EventHandle))                                                        \
  X(event_elapsed, cuEventElapsedTime, (float*, EventHandle, EventHandle))                                       \
  X(pointer_attributes, cuPointerGetAttributes, (unsigned, int*, void**, Pointer))                               \
  X(address_range, cuMemGetAddressRange_v2, (Pointer*, std::size_t*, Pointer))                                   \
  X(ipc_get, cuIpcGetMemHandle, (IpcHandle*, Pointer))                                                           \
  X(ipc_open, cuIpcOpenMemHandle_v2, (Pointer*, IpcHandle, unsigned))                                            \
  X(ipc_close, cuIpcCloseMemHandle, (Pointer))                                                                   \
  X(allocation_create, cuMemCreate, (Allocation*, std::size_t, const AllocationProperties*, unsigned long long)) \
  X(allocation_release, cuMemRelease, (Allocation))                                                              \
  X(allocation_retain, cuMemRetainAllocationHandle, (Allocation*, void*))                                        \
  X(allocation_export, cuMemExportToShareableHandle, (void*, Allocation, int, unsigned long long))               \
  X(allocation_import, cuMemImportFromShareableHandle, (Allocation*, void*, int))                                \
  X(allocation_granularity, cuMemGetAllocationGranularity, (std::size_t*, const AllocationProperties*, int))     \
  X(address_reserve, cuMemAddressReserve, (Pointer*, std::size_t, std::size_t, Pointer, unsigned long long))     \
  X(address_free, cuMemAddressFree, (Pointer, std::size_t))                                                      \
  X(map, cuMemMap, (Pointer, std::size_t, std::size_t, Allocation, unsigned long long))                          \
  X(unmap, cuMemUnmap, (Pointer, std::size_t))                                                                   \
  X(set_access, cuMemSetAccess, (Pointer, std::size_t, const AccessDescription*, std::size_t))                   \
  X(host_alloc, cuMemHostAlloc, (void**, std::size_t, unsigned))                                                 \
  X(host_free, cuMemFreeHost, (void*))                                                                           \
  X(host_register, cuMemHostRegister_v2, (void*, std::size_t, unsigned))                                         \
  X(host_unregister, cuMemHostUnregister, (void*))

// Stream memory operations; the flush of a NIC's writes (11.3); the batch of CUDA 13 and, with a place for the copy that
// failed, that of 12.8.
#define CARDEA_CUDA_NEWER_FUNCTIONS(X)                                                                   \
  X(stream_wait_value, cuStreamWaitValue32_v2, (Stream, Pointer, std::uint32_t, unsigned))               \
  X(flush_rdma_writes, cuFlushGPUDirectRDMAWrites, (int, int))                                           \
  X(copy_batch, cuMemcpyBatchAsync_v2,                                                                   \
    (Pointer*, Pointer*, std::size_t*, std::size_t, CopyAttributes*, std::size_t*, std::size_t, Stream)) \
  X(copy_batch_12_8, cuMemcpyBatchAsync,                                                                 \
    (Pointer*, Pointer*, std::size_t*, std::size_t, CopyAttributes*, std::size_t*, std::size_t, std::size_t*, Stream))
