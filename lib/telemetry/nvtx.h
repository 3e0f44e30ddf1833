// SPDX-License-Identifier: Apache-2.0
// Ranges that NVIDIA's tools (Nsight Systems, CUPTI) show beside the GPU's work, in a domain "cardea". NVTX is found at
// build time; a tool at run time, by NVTX itself. Without either all of this does nothing, at the price of a branch.
// Thread-safe.
#pragma once

#include <cstdint>

namespace cardea::telemetry {

/// What the calling thread does while it lives: name, a literal, and a number (such as a layer's).
class NvtxRange {
 public:
  explicit NvtxRange(const char* name, std::uint64_t number = 0);
  ~NvtxRange();
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;

 private:
  bool pushed_ = false;
};

/// What goes on over several threads and calls, such as a fetch: nvtx_end with what nvtx_begin returned, from any thread. 0:
/// nobody looks.
std::uint64_t nvtx_begin(const char* name, std::uint64_t number);
void nvtx_end(std::uint64_t range);

/// Whether a tool shows ranges.
bool nvtx_shown();

}  // namespace cardea::telemetry
