// SPDX-License-Identifier: Apache-2.0
#include "perf/cuda/kernels.h"

namespace cardea::perf {
namespace {

constexpr unsigned kThreads = 512;
constexpr unsigned kBlocks =
    264;  // two for each multiprocessor of the largest GPUs of today; a grid-stride loop does the rest
constexpr unsigned kUnroll = 4;  // independent loads under way per thread

__device__ std::uint64_t mixed(std::uint64_t value) {  // the finalizer of MurmurHash3 (Appleby, public domain)
  value ^= value >> 33;
  value *= 0xff51afd7ed558ccdULL;
  value ^= value >> 33;
  value *= 0xc4ceb9fe1a85ec53ULL;
  return value ^ (value >> 33);
}

__global__ void copy_kernel(uint4* to, const uint4* from, std::size_t count) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + (kUnroll - 1) * stride < count; i += kUnroll * stride) {
    uint4 held[kUnroll];
#pragma unroll
    for (unsigned j = 0; j < kUnroll; ++j) held[j] = from[i + j * stride];
#pragma unroll
    for (unsigned j = 0; j < kUnroll; ++j) to[i + j * stride] = held[j];
  }
  for (; i < count; i += stride) to[i] = from[i];
}

__global__ void pattern_kernel(std::uint64_t* to, std::size_t words, std::uint64_t seed) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += stride)
    to[i] = mixed(seed + i);
}

__global__ void check_kernel(const std::uint64_t* at, std::size_t words, std::uint64_t seed, unsigned long long* wrong) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  unsigned long long mine = 0;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += stride) {
    std::uint64_t difference = at[i] ^ mixed(seed + i);
    for (; difference != 0; difference >>= 8) mine += (difference & 0xff) != 0;
  }
  if (mine != 0) atomicAdd(wrong, mine);
}

}  // namespace

void copy_by_kernel(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  copy_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<uint4*>(to), static_cast<const uint4*>(from),
                                                bytes / sizeof(uint4));
}

void write_pattern(void* to, std::size_t bytes, std::uint64_t seed, cudaStream_t stream) {
  pattern_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<std::uint64_t*>(to), bytes / 8, seed);
}

void count_wrong(const void* at, std::size_t bytes, std::uint64_t seed, unsigned long long* wrong, cudaStream_t stream) {
  check_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const std::uint64_t*>(at), bytes / 8, seed, wrong);
}

}  // namespace cardea::perf
