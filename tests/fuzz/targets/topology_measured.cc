// SPDX-License-Identifier: Apache-2.0
// The JSON of measured figures.
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/unique_fd.h"
#include "tests/fuzz/targets.h"
#include "tests/topology/samples.h"
#include "topology/load.h"
#include "topology/measured.h"

namespace cardea::fuzz {
namespace {

using namespace topology;  // NOLINT(google-build-using-namespace)

constexpr const char* kFingerprint = "fuzzed";

bool run(ByteView input) {
  const UniqueFd file(memfd_create("measured", MFD_CLOEXEC));
  require(static_cast<bool>(file), "the test has a file");
  require(write(file.get(), input.data(), input.size()) == static_cast<ssize_t>(input.size()), "the test writes");
  const auto figures = load_measured(fmt::format("/proc/self/fd/{}", file.get()), kFingerprint);
  if (!figures.ok()) {
    require(figures.status().code() == CARDEA_ERR_CONFIGURATION, "a bad file of figures is CONFIGURATION");
    return false;
  }
  for (const Measurement& one : *figures) {
    require(one.bandwidth >= 0 && one.bandwidth <= 1e14, "a bandwidth is one");
    require(one.latency >= 0 && one.latency <= 1e10, "a latency is one");
  }
  static const Machine machine = *assemble(*load_text(samples::nccl(), "sample"));
  Machine changed = machine;
  require(apply_measured(changed, *figures) <= figures->size(), "no figure is used twice");
  return true;
}

std::vector<Seed> seeds() {
  const Machine machine = *assemble(*load_text(samples::nccl(), "sample"));
  std::string lanes;
  for (LaneId lane = 0; lane < std::min<std::size_t>(machine.lanes().size(), 3); ++lane) {
    lanes += fmt::format("{}\"{}\": {{\"bytes_per_second\": 3.9e11, \"latency_ns\": 1700}}", lane == 0 ? "" : ", ",
                         machine.lanes()[lane].name);
  }
  return {{"lanes", as_bytes(fmt::format(R"({{"version": 1, "machines": {{"{}": {{"name": "m", "lanes": {{{}}}}}}}}})",
                                         kFingerprint, lanes))},
          {"none", as_bytes(R"({"version": 1, "machines": {}})")}};
}

}  // namespace

Target topology_measured() {
  return {"topology_measured", "the file of measured lanes", run, seeds, 8192};
}

}  // namespace cardea::fuzz
