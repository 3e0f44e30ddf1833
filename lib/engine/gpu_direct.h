// SPDX-License-Identifier: Apache-2.0
// Whether what comes over the network for a slab in device memory goes there without a stay in host memory. Pure.
//
// By itself a rank does so only where a NIC writes there over the PCIe switches or the one host bridge that it shares with
// the GPU. Where the network's library would copy (over TCP), it does no better than Cardea, which copies behind gates and
// without holding up its engine. Where ranks of a node share what comes, it comes once for all of them, into host memory.
#pragma once

#include <cstdint>
#include <string_view>

#include "lib/transport/transport.h"

namespace cardea::engine {

enum class GpuDirect : std::uint8_t {
  kAuto,  // as above
  kOn,    // wherever the network's library takes device memory
  kOff,
};

struct DirectFacts {
  GpuDirect wish = GpuDirect::kAuto;
  transport::DeviceMemory can = transport::DeviceMemory::kNone;
  bool shared = false;      // with other ranks of the node, by the node cache
  bool near = false;        // the GPU, to all NICs by which chunks may come
  bool must_flush = false;  // the GPU sees a NIC's writes only after a flush
  bool can_flush = false;
};

/// Empty: it does.
std::string_view why_not_direct(const DirectFacts& facts);

}  // namespace cardea::engine
