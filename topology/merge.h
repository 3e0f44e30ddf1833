// SPDX-License-Identifier: Apache-2.0
// A topology file laid over the machine at hand. Clouds ship such files because their virtual machines hide switches, so the
// file decides the shape; the machine decides what is there. Pure function; thread-safe.
#pragma once

#include "topology/machine.h"

namespace cardea::topology {

/// Devices are the same if their bus ids are.
///  - Only in the file (a container sees some of the GPUs): left out, with a note.
///  - Only in the machine: stays where the machine shows it, with a note.
///  - In both: the file's place and link; the machine's names, numbers, UUIDs, NVLinks (else the file's), port speeds
///    (else the file's), processors and memory.
/// CONFIGURATION, naming the device and both statements, where they contradict each other about a device that is present:
/// its kind, vendor or device number; its UUID; its NUMA node, if the machine has several and tells; a NUMA node that the
/// machine does not have; a link faster than the device can; another number of NVLinks between two GPUs.
Result<Description> merge(const Description& file, const Description& live);

}  // namespace cardea::topology
