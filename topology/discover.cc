// SPDX-License-Identifier: Apache-2.0
#include "topology/discover.h"

#include <cstdlib>

#include "topology/load.h"
#include "topology/measured.h"
#include "topology/merge.h"
#include "topology/visible.h"

namespace cardea::topology {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Result<Description> at_hand(const Sources& sources) {
  if (!sources.recorded.empty()) return load_file(sources.recorded);
  Result<Description> live = discover_hwloc();
  if (!live.ok()) return live;
  add_sysfs(*live, sources.sys);
  std::string note;
  if (sources.driver) add_driver_gpus(*live, query_nvml(note));
  if (!note.empty()) live->notes.push_back(note);
  return live;
}

Result<Machine> finish(Description description, const std::string& measured) {
  Result<Machine> machine = assemble(std::move(description));
  if (!machine.ok() || measured.empty()) return machine;
  const Result<std::vector<Measurement>> figures = load_measured(measured, machine->fingerprint());
  if (!figures.ok()) return figures.status();
  apply_measured(*machine, *figures);
  return machine;
}

}  // namespace

Sources Sources::from_environment() {
  Sources sources;
  sources.file = variable("CARDEA_TOPO_FILE");
  if (sources.file.empty()) sources.file = variable("NCCL_TOPO_FILE");
  if (std::getenv("CUDA_VISIBLE_DEVICES")) sources.cuda_visible = variable("CUDA_VISIBLE_DEVICES");
  sources.measured = default_measured_path();
  return sources;
}

Result<Machine> discover(const Sources& sources) {
  Result<Description> live = at_hand(sources);
  if (!live.ok()) return live.status();
  if (!sources.file.empty()) {
    const Result<Description> file = load_file(sources.file);
    if (!file.ok()) return file.status();
    Result<Description> merged = merge(*file, *live);
    if (!merged.ok()) return merged.status().within(sources.file);
    live = std::move(merged);
  }
  if (sources.cuda_visible) {
    apply_cuda_visible(*live, *sources.cuda_visible);
  } else {
    show_all(*live);
  }
  return finish(std::move(live).value(), sources.measured);
}

Result<Machine> machine_from_file(const std::string& path, const std::string& measured) {
  Result<Description> description = load_file(path);
  if (!description.ok()) return description.status();
  return finish(std::move(description).value(), measured);
}

}  // namespace cardea::topology
