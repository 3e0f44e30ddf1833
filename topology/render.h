// SPDX-License-Identifier: Apache-2.0
// A machine as text for people: tree, matrix in the manner of nvidia-smi topo -m, ranks, paths. The same machine always
// gives the same text. Pure functions; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "topology/affinity.h"
#include "topology/check.h"
#include "topology/machine.h"
#include "topology/paths.h"

namespace cardea::topology {

std::string render_tree(const Machine& machine);
/// GPUs and NICs against each other by nearness, then expected GB/s of device memory, row to column.
std::string render_matrix(const Machine& machine);
std::string render_ranks(const Machine& machine, const std::vector<RankAffinity>& ranks);
/// The lanes of one path, its bottleneck, and expected times for a few sizes.
std::string render_path(const Machine& machine, DeviceId from, DeviceId to, MemoryKind kind, const Path& path);
std::string render_findings(const std::vector<Finding>& findings);
/// All of it: what `cardea-topo show` prints.
std::string render(const Machine& machine, const std::vector<RankAffinity>& ranks);

/// The same as JSON; docs/topology.md tells the fields.
std::string render_json(const Machine& machine, const std::vector<RankAffinity>& ranks);
std::string render_findings_json(const std::vector<Finding>& findings);

}  // namespace cardea::topology
