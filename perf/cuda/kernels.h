// SPDX-License-Identifier: Apache-2.0
// The kernels of the measurement: a copy by the GPU's cores, and a pattern that is written and checked on the GPU. All queue
// on the stream and return. Buffers are aligned to 16 bytes, sizes are multiples of it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace cardea::perf {

/// Copies by all multiprocessors; `from` may lie in another GPU's memory.
void copy_by_kernel(void* to, const void* from, std::size_t bytes, cudaStream_t stream);

/// Every 8 bytes are a hash of their place and the seed.
void write_pattern(void* to, std::size_t bytes, std::uint64_t seed, cudaStream_t stream);

/// Adds to *wrong, which lies on the device, the bytes that are not the pattern's.
void count_wrong(const void* at, std::size_t bytes, std::uint64_t seed, unsigned long long* wrong, cudaStream_t stream);

}  // namespace cardea::perf
