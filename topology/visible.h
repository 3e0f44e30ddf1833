// SPDX-License-Identifier: Apache-2.0
// CUDA_VISIBLE_DEVICES, which NVML and hwloc ignore. Pure function; thread-safe.
#pragma once

#include <string_view>

#include "topology/machine.h"

namespace cardea::topology {

/// Sets cuda_index of the GPUs that CUDA shows to this process, in its order, as CUDA reads the variable: a list of numbers
/// and UUIDs (a unique beginning such as "GPU-3c2" suffices); from the first entry that names no GPU on, the list is
/// ignored; the same GPU twice hides all; an empty list hides all. Numbers follow bus ids, as CUDA's do among equal GPUs
/// and with CUDA_DEVICE_ORDER=PCI_BUS_ID. GPUs that are hidden stay in the machine: other ranks use them. Whatever is odd
/// gets a note.
void show_all(Description& description);
void apply_cuda_visible(Description& description, std::string_view variable);

}  // namespace cardea::topology
