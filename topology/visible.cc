// SPDX-License-Identifier: Apache-2.0
#include "topology/visible.h"

#include <algorithm>
#include <charconv>

namespace cardea::topology {
namespace {

std::vector<DeviceId> gpus_in_order(const Description& description) {
  std::vector<DeviceId> gpus;
  for (DeviceId id = 0; id < description.devices.size(); ++id) {
    if (description.devices[id].kind == DeviceKind::kGpu) gpus.push_back(id);
  }
  std::stable_sort(gpus.begin(), gpus.end(),
                   [&](DeviceId a, DeviceId b) { return description.devices[a].bus_id < description.devices[b].bus_id; });
  return gpus;
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

DeviceId named(const Description& description, const std::vector<DeviceId>& gpus, std::string_view entry) {
  if (entry.substr(0, 4) == "GPU-") {
    DeviceId match = kNoDevice;
    for (const DeviceId id : gpus) {
      if (description.devices[id].uuid.compare(0, entry.size(), entry) != 0) continue;
      if (match != kNoDevice) return kNoDevice;
      match = id;
    }
    return match;
  }
  unsigned number = 0;
  const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
  if (error != std::errc() || end != entry.data() + entry.size() || number >= gpus.size()) return kNoDevice;
  return gpus[number];
}

}  // namespace

void show_all(Description& description) {
  unsigned next = 0;
  for (const DeviceId id : gpus_in_order(description)) description.devices[id].cuda_index = next++;
}

void apply_cuda_visible(Description& description, std::string_view variable) {
  const std::vector<DeviceId> gpus = gpus_in_order(description);
  for (const DeviceId id : gpus) description.devices[id].cuda_index.reset();
  const std::string whole(variable.substr(0, 200));
  unsigned next = 0;
  for (variable = trimmed(variable); !variable.empty();) {
    const auto comma = std::min(variable.find(','), variable.size());
    const std::string_view entry = trimmed(variable.substr(0, comma));
    variable.remove_prefix(std::min(comma + 1, variable.size()));
    const DeviceId id = named(description, gpus, entry);
    if (id == kNoDevice) {
      const char* why = entry.substr(0, 4) == "MIG-" ? ", a MIG instance, which is not supported" : "";
      if (entry != "-1") {
        description.notes.push_back(fmt::format(
            "CUDA_VISIBLE_DEVICES=\"{}\": no GPU is \"{}\"{}; CUDA ignores it and what follows", whole, entry, why));
      }
      return;
    }
    if (description.devices[id].cuda_index) {
      for (const DeviceId each : gpus) description.devices[each].cuda_index.reset();
      description.notes.push_back(
          fmt::format("CUDA_VISIBLE_DEVICES=\"{}\" names \"{}\" twice: CUDA shows no GPU at all", whole, entry));
      return;
    }
    description.devices[id].cuda_index = next++;
  }
}

}  // namespace cardea::topology
