// SPDX-License-Identifier: Apache-2.0
// Feeds arbitrary bytes to the reader of topology files; what it accepts is assembled, checked, rendered and merged. Built
// with -DCARDEA_FUZZ=ON. An empty corpus folder given as an argument gets a few small valid files first.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "tests/topology/samples.h"
#include "topology/load.h"
#include "topology/merge.h"
#include "topology/render.h"

using cardea::topology::assemble;
using cardea::topology::assign;
using cardea::topology::check;
using cardea::topology::Description;
using cardea::topology::load_text;
using cardea::topology::merge;
using cardea::topology::natural_ranks;
using cardea::topology::render;
using cardea::topology::render_findings;
using cardea::topology::render_json;
namespace samples = cardea::topology::samples;

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::filesystem::path folder = (*argv)[i];
    if (folder.string().front() == '-') continue;
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (!std::filesystem::is_directory(folder, error) || !std::filesystem::is_empty(folder, error)) continue;
    std::ofstream(folder / "nccl.xml") << samples::nccl();
    std::ofstream(folder / "hwloc1.xml") << samples::hwloc1();
    std::ofstream(folder / "hwloc2.xml") << samples::hwloc2_hidden();
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Description live = *load_text(samples::hwloc2_hidden(), "live");
  const auto description = load_text({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!description.ok()) return 0;
  const auto machine = assemble(*description);
  if (!machine.ok()) std::abort();  // load_text promises that it can be assembled
  // Rendering is quadratic in the devices; large machines say no more than small ones.
  if (machine->devices().size() <= 64) {
    const auto ranks = assign(*machine, natural_ranks(*machine));
    render(*machine, ranks);
    render_json(*machine, ranks);
    render_findings(check(*machine));
  }
  if (const auto merged = merge(*description, live); merged.ok()) static_cast<void>(assemble(*merged).ok());
  return 0;
}
