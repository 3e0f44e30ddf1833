// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/inventory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <uct/api/uct.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include "cardea/cardea.h"
#include "lib/api/affinity.h"
#include "lib/base/unique_fd.h"
#include "lib/transport/ucx/factory.h"
#include "topology/rails.h"

namespace cardea::doctor {
namespace {

using Lines = std::vector<std::pair<std::string, std::string>>;

std::string size(std::uint64_t bytes) {
  if (bytes == kUnlimited) return "unlimited";
  const bool much = bytes >= std::uint64_t{1} << 30;
  return fmt::format("{:.1f} {}", static_cast<double>(bytes) / (much ? 1 << 30 : 1 << 20), much ? "GiB" : "MiB");
}

std::string count(std::uint64_t value) {
  return value == kUnlimited ? "unlimited" : fmt::to_string(value);
}

// UCX writes what it thinks of its settings to the standard output, where the report is to stand alone.
bool ucx_takes_gpu_memory() {
  std::fflush(stdout);
  const UniqueFd output(dup(STDOUT_FILENO)), nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (output && nowhere) dup2(nowhere.get(), STDOUT_FILENO);
  const bool takes = transport::ucx_has_device_memory();
  std::fflush(stdout);
  if (output && nowhere) dup2(output.get(), STDOUT_FILENO);
  return takes;
}

Section library() {
  cardea_version_info_t version = CARDEA_VERSION_INFO_INIT;
  if (cardea_version(&version) != CARDEA_OK) return {"library", {}};
  const auto or_none = [](const char* text, const char* none) { return std::string(*text == '\0' ? none : text); };
  Lines lines = {
      {"cardea", fmt::format("{}.{}.{}, ABI {}, wire version {}", version.major, version.minor, version.patch, version.abi,
                             version.wire)},
      {"built with", fmt::format("CUDA {}, NCCL {}", or_none(version.cuda, "no"), or_none(version.nccl, "no"))},
      {"hwloc", version.hwloc},
      {"CUDA driver", or_none(version.cuda_driver, "none found")},
      {"UCX", fmt::format("{}, {} GPU memory", version.ucx, ucx_takes_gpu_memory() ? "takes" : "takes no")},
  };
  for (const std::string& transport : ucx_transports()) lines.emplace_back("", transport);
  return {"library", std::move(lines)};
}

Section machine(const System& system) {
  Lines lines = {
      {"processors", fmt::format("{}, {} of them for this process", system.processors, system.allowed_processors)},
      {"memory", size(system.memory_bytes)}};
  if (!system.machine) {
    lines.emplace_back("topology", system.machine_error);
    return {"machine", std::move(lines)};
  }
  const topology::Machine& found = *system.machine;
  lines.emplace_back("topology", fmt::format("{}, {} packages, {} NUMA nodes", found.source(),
                                             found.of(topology::DeviceKind::kPackage).size(),
                                             found.of(topology::DeviceKind::kNumaNode).size()));
  const auto devices = [&](topology::DeviceKind kind, const char* title) {
    if (found.of(kind).empty()) lines.emplace_back(title, "none");
    for (const topology::DeviceId id : found.of(kind)) {
      const topology::Device& device = found.device(id);
      std::string what = device.model;
      if (!device.os_names.empty()) what += fmt::format("{}({})", what.empty() ? "" : " ", fmt::join(device.os_names, ", "));
      if (device.numa != topology::kNoDevice) what += fmt::format(", near {}", found.device(device.numa).name);
      lines.emplace_back(device.name, what);
    }
  };
  devices(topology::DeviceKind::kGpu, "GPUs");
  devices(topology::DeviceKind::kNic, "NICs");
  const auto place = api::place_rank(found, 0, 1, system.variable("CARDEA_AFFINITY").value_or("auto"),
                                     [](const std::string& name) { return topology::find_port(name); });
  const auto ucx = system.variable("UCX_NET_DEVICES");
  lines.emplace_back("rails of a rank", !place.ok() ? place.status().message()
                                        : ucx       ? fmt::format("UCX_NET_DEVICES: {}", *ucx)
                                                    : topology::rails_text(place->nics));
  for (const std::string& note : found.notes()) lines.emplace_back("", note);
  return {"machine", std::move(lines)};
}

Section kernel(const System& system) {
  Lines lines;
  const auto file = [&](const char* name, const char* path) {
    if (const auto text = system.read(path)) lines.emplace_back(name, *text);
  };
  const auto trial = [](const Trial& of) {
    return std::string(!of.tried ? "not tried" : of.error == 0 ? "works" : std::strerror(of.error));
  };
  lines.emplace_back("host", system.read("/proc/sys/kernel/hostname").value_or("?"));
  file("Linux", "/proc/sys/kernel/osrelease");
  lines.emplace_back("user", fmt::to_string(system.user));
  lines.emplace_back("shared memory", fmt::format("{}, seals: {}", trial(system.trials.memfd), trial(system.trials.seal)));
  lines.emplace_back("process descriptors", trial(system.trials.pidfd));
  lines.emplace_back("reading ranks' memory", trial(system.trials.read_memory));
  file("yama ptrace scope", "/proc/sys/kernel/yama/ptrace_scope");
  file("huge pages", "/sys/kernel/mm/transparent_hugepage/enabled");
  file("NUMA balancing", "/proc/sys/kernel/numa_balancing");
  lines.emplace_back("descriptors", fmt::format("{} ({} at most)", count(system.limits.descriptors),
                                                count(system.limits.most_descriptors)));
  lines.emplace_back("locked memory", size(system.limits.locked_bytes));
  lines.emplace_back("/dev/shm", system.shm_bytes ? size(*system.shm_bytes) : "none");
  const std::string group = system.control_group();
  if (const auto limit = system.read("/sys/fs/cgroup" + group + "/memory.max")) lines.emplace_back("group's memory", *limit);
  if (const auto limit = system.read("/sys/fs/cgroup" + group + "/cpu.max"))
    lines.emplace_back("group's processors", *limit);
  const auto interfaces = system.list("/sys/class/net");
  lines.emplace_back("interfaces", interfaces.empty() ? "none" : fmt::format("{}", fmt::join(interfaces, ", ")));
  return {"kernel and limits", std::move(lines)};
}

Section environment(const System& system) {
  // What decides how ranks meet and move bytes; never a secret itself, only where it lies.
  static const std::set<std::string> kLaunchers = {
      "RANK",          "WORLD_SIZE",           "LOCAL_RANK",           "MASTER_ADDR",
      "MASTER_PORT",   "SLURM_PROCID",         "SLURM_NTASKS",         "SLURM_JOB_ID",
      "SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "CUDA_VISIBLE_DEVICES",
      "NCCL_TOPO_FILE"};
  Lines lines;
  for (const auto& [name, value] : system.variables) {
    if (name.starts_with("CARDEA_") || name.starts_with("UCX_") || kLaunchers.contains(name))
      lines.emplace_back(name, value);
  }
  if (lines.empty()) lines.emplace_back("", "nothing is set that Cardea or UCX reads");
  return {"environment", std::move(lines)};
}

}  // namespace

std::vector<std::string> ucx_transports() {
  std::map<std::string, std::set<std::string>> devices;
  uct_component_h* components = nullptr;
  unsigned components_found = 0;
  if (uct_query_components(&components, &components_found) != UCS_OK) return {};
  for (unsigned i = 0; i < components_found; ++i) {
    uct_component_attr_t about{};
    about.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT;
    if (uct_component_query(components[i], &about) != UCS_OK || about.md_resource_count == 0) continue;
    std::vector<uct_md_resource_desc_t> domains(about.md_resource_count);
    about.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCES;
    about.md_resources = domains.data();
    if (uct_component_query(components[i], &about) != UCS_OK) continue;
    for (const uct_md_resource_desc_t& domain : domains) {
      uct_md_config_t* config = nullptr;
      if (uct_md_config_read(components[i], nullptr, nullptr, &config) != UCS_OK) continue;
      uct_md_h opened = nullptr;
      if (uct_md_open(components[i], domain.md_name, config, &opened) == UCS_OK) {
        uct_tl_resource_desc_t* found = nullptr;
        unsigned number = 0;
        if (uct_md_query_tl_resources(opened, &found, &number) == UCS_OK) {
          for (unsigned k = 0; k < number; ++k) devices[found[k].tl_name].insert(found[k].dev_name);
          uct_release_tl_resource_list(found);
        }
        uct_md_close(opened);
      }
      uct_config_release(config);
    }
  }
  uct_release_component_list(components);
  std::vector<std::string> lines;
  for (const auto& [transport, of] : devices) lines.push_back(fmt::format("{}: {}", transport, fmt::join(of, ", ")));
  return lines;
}

std::vector<Section> inventory(const System& system) {
  return {library(), machine(system), kernel(system), environment(system)};
}

}  // namespace cardea::doctor
