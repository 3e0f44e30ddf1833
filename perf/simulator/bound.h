// SPDX-License-Identifier: Apache-2.0
// The time below which no order of transfers can come:
//
//   max( over lanes: bytes that must pass it / its rate,  over ranks: time of computing )
//
// With the node cache an expert must cross into a node once, by whichever NIC of it, and out of its home's NIC once for
// each other node that wants it; without, once for each rank that wants it, by that rank's NIC. What lands in a slot out of
// host memory must pass the rank's way from there: its copy lane and its node's memory, or, in a machine, the PCIe uplink
// that it shares with its neighbours. Where ranks split and swap, what several want passes some uplink of the node once, and
// a rank's slots are filled by PCIe and NVLink together. Into a machine's node cache bytes pass the memory of some NUMA
// node, and again on the way out. On the way out of a node bytes pass every lane up to the network.
#pragma once

#include "perf/simulator/cluster.h"
#include "perf/simulator/routing.h"

namespace cardea::simulator {

struct Bound {
  Nanoseconds time{0};
  std::string busiest;  // "NIC in of node 2", "computing of rank 7"
};

Bound lower_bound(const Plan& plan, const Routing& routing);

}  // namespace cardea::simulator
