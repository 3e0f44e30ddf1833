// SPDX-License-Identifier: Apache-2.0
// Small texts of operators and files: affinity overrides, processor sets, CUDA_VISIBLE_DEVICES.
#include "tests/fuzz/targets.h"
#include "tests/topology/samples.h"
#include "topology/affinity.h"
#include "topology/cpu_set.h"
#include "topology/load.h"
#include "topology/visible.h"

namespace cardea::fuzz {
namespace {

using namespace topology;  // NOLINT(google-build-using-namespace)

enum Kind : std::uint8_t { kOverride, kMask, kList, kVisible, kKinds };

bool sane(const std::optional<CpuSet>& set) {
  if (!set) return false;
  for (const unsigned number : set->numbers()) require(number < CpuSet::kMost, "processors have small numbers");
  const auto again = CpuSet::parse_list(set->to_list());
  require(again && again->numbers() == set->numbers(), "a set reads as it was written");
  return true;
}

bool run(ByteView input) {
  static const Description description = *load_text(samples::hwloc2_hidden(), "sample");
  static const Machine machine = *assemble(description);
  if (input.empty()) return false;
  const std::string_view text = as_text(input.subspan(1));
  switch (std::to_integer<std::uint8_t>(input[0]) % kKinds) {
    case kOverride: {
      const auto wish = parse_override(machine, text);
      if (!wish.ok()) {
        require(wish.status().code() == CARDEA_ERR_CONFIGURATION, "a wrong override is CONFIGURATION");
        return false;
      }
      assign(machine, natural_ranks(machine), {*wish});
      return true;
    }
    case kMask:
      return sane(CpuSet::parse_mask(text));
    case kList:
      return sane(CpuSet::parse_list(text));
    default: {
      Description shown = description;
      apply_cuda_visible(shown, text);
      return shown.notes.size() == description.notes.size();
    }
  }
}

std::vector<Seed> seeds() {
  return {{"override", of_kind(kOverride, as_bytes("rank=0 gpu=GPU1 nic=mlx5_9 numa=NUMA0 cpus=0-1"))},
          {"mask", of_kind(kMask, as_bytes("0x0000ffff,,0x3"))},
          {"nccl_mask", of_kind(kMask, as_bytes("0000ffff,00000000,00000003"))},
          {"list", of_kind(kList, as_bytes("0-3,8,10-11"))},
          {"visible", of_kind(kVisible, as_bytes("1,0"))},
          {"visible_uuid", of_kind(kVisible, as_bytes("GPU-aaaa, GPU-bbbb2222"))}};
}

}  // namespace

Target topology_words() {
  return {"topology_words", "affinity overrides, processor sets, CUDA_VISIBLE_DEVICES", run, seeds, 512};
}

}  // namespace cardea::fuzz
