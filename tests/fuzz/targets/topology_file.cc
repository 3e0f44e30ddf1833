// SPDX-License-Identifier: Apache-2.0
// Topology files, hwloc's and NCCL's; what is accepted is assembled, checked, rendered and merged.
#include "tests/fuzz/targets.h"
#include "tests/topology/samples.h"
#include "topology/check.h"
#include "topology/load.h"
#include "topology/merge.h"
#include "topology/paths.h"
#include "topology/render.h"

namespace cardea::fuzz {
namespace {

using namespace topology;  // NOLINT(google-build-using-namespace)

bool run(ByteView input) {
  static const Description live = *load_text(samples::hwloc2_hidden(), "live");
  const auto description = load_text(as_text(input), "fuzz");
  if (!description.ok()) {
    require(description.status().code() == CARDEA_ERR_CONFIGURATION, "a bad topology file is CONFIGURATION");
    return false;
  }
  const auto machine = assemble(*description);
  require(machine.ok(), "a description that was read can be assembled");
  // Rendering is quadratic in the devices; large machines say no more than small ones.
  if (machine->devices().size() <= 64) {
    const auto ranks = assign(*machine, natural_ranks(*machine));
    render(*machine, ranks);
    render_json(*machine, ranks);
    render_findings(check(*machine));
  }
  if (const auto merged = merge(*description, live); merged.ok()) static_cast<void>(assemble(*merged).ok());
  return true;
}

std::vector<Seed> seeds() {
  return {{"nccl", as_bytes(samples::nccl())},
          {"hwloc1", as_bytes(samples::hwloc1())},
          {"hwloc2", as_bytes(samples::hwloc2_hidden())}};
}

}  // namespace

Target topology_file() {
  return {"topology_file", "hwloc's and NCCL's topology files", run, seeds, 65536};
}

}  // namespace cardea::fuzz
