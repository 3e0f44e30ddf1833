// SPDX-License-Identifier: Apache-2.0
// Measures lanes of the machine at hand: memory copies between NUMA nodes by one core, memory latency, loopback TCP, and
// with an NVIDIA driver each GPU's copies to and from host memory and between GPUs. libcuda is looked for at run time. Uses
// the machine for some seconds; blocks; not to be called twice at once.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "topology/machine.h"
#include "topology/measured.h"

namespace cardea::topology {

struct MeasureOptions {
  std::size_t memory_bytes = std::size_t{256} << 20;  // per buffer; larger than caches
  std::size_t device_bytes = std::size_t{256} << 20;
  unsigned repeats = 7;  // the median counts
  bool gpus = true;
  std::function<void(const std::string&)> progress;  // one line per lane; may be empty
};

/// One measurement per lane that could be measured. Lanes that cannot (no permission to bind memory, GPUs hidden by
/// CUDA_VISIBLE_DEVICES) are left out, with a line to `progress`. SYSTEM or DEVICE if nothing can be measured.
Result<std::vector<Measurement>> measure(const Machine& machine, const MeasureOptions& options);

// Its parts, for tests.
std::vector<Measurement> measure_memory(const Machine& machine, const MeasureOptions& options);
Result<Measurement> measure_loopback(const Machine& machine, const MeasureOptions& options);
std::vector<Measurement> measure_gpus(const Machine& machine, const MeasureOptions& options);

}  // namespace cardea::topology
