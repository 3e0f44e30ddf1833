// SPDX-License-Identifier: Apache-2.0
// Checks of what the kernel gives, and of what the topology library finds wrong with the machine.
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <utility>

#include "lib/doctor/checks.h"
#include "topology/check.h"

namespace cardea::doctor {
namespace {

Findings version(const System& system) {
  const std::string release = system.read("/proc/sys/kernel/osrelease").value_or("");
  unsigned major = 0, minor = 0;
  if (std::sscanf(release.c_str(), "%u.%u", &major, &minor) != 2) return {};
  const auto older = [&](unsigned than_major, unsigned than_minor) {
    return std::pair(major, minor) < std::pair(than_major, than_minor);
  };
  if (older(5, 1)) {
    return {{Severity::kError, "", fmt::format("Linux {} cannot seal shared memory against writers (5.1 can)", release),
             "run a kernel of 5.14 or newer"}};
  }
  if (older(5, 14)) {
    return {{Severity::kNote, "",
             fmt::format("Linux {} lacks {}", release,
                         older(5, 3) ? "process descriptors (5.3) and populating of mappings (5.14)"
                                     : "populating of mappings (5.14)"),
             "Cardea does without, a little slower; 5.14 or newer has it"}};
  }
  return {};
}

Findings shared_memory(const System& system) {
  Findings found;
  if (system.trials.memfd.failed()) {
    found.push_back({Severity::kError, "",
                     fmt::format("memfd_create fails ({}): ranks of this node cannot share memory",
                                 std::strerror(system.trials.memfd.error)),
                     "a seccomp profile forbids it: use the container runtime's default, or allow memfd_create"});
  }
  if (system.trials.seal.failed()) {
    found.push_back({Severity::kError, "",
                     fmt::format("shared memory cannot be sealed ({}): ranks of this node refuse each other's",
                                 std::strerror(system.trials.seal.error)),
                     "run a kernel of 5.1 or newer"});
  }
  return found;
}

Findings sockets(const System& system) {
  if (!system.trials.abstract_socket.failed()) return {};
  return {{Severity::kError, "",
           fmt::format("Unix sockets without a file cannot be made ({}): ranks of this node cannot find each other",
                       std::strerror(system.trials.abstract_socket.error)),
           "AppArmor or seccomp forbids it: allow abstract Unix sockets"}};
}

Findings processes(const System& system) {
  if (!system.trials.pidfd.failed()) return {};
  return {
      {Severity::kNote, "",
       fmt::format("processes have no descriptors here (pidfd_open: {}): deaths on the node are noticed by locks, within "
                   "0.2 s instead of at once",
                   std::strerror(system.trials.pidfd.error)),
       "a kernel of 5.3 or newer, and a seccomp profile that allows pidfd_open"}};
}

Findings read_memory(const System& system) {
  if (!system.trials.read_memory.failed()) return {};
  const auto scope = system.number("/proc/sys/kernel/yama/ptrace_scope");
  std::string why = std::strerror(system.trials.read_memory.error);
  std::string advice =
      "a seccomp profile or a security module forbids process_vm_readv: allow it (--cap-add=SYS_PTRACE of the container)";
  if (scope && *scope != 0) {
    why += fmt::format("; kernel.yama.ptrace_scope is {}", *scope);
    advice = "sysctl kernel.yama.ptrace_scope=0, or give the ranks CAP_SYS_PTRACE";
  }
  return {
      {Severity::kWarning, "",
       fmt::format("ranks cannot read each other's memory ({}): experts in memory that is not Cardea's are copied by their "
                   "owner's engine, which is slower",
                   why),
       advice + "; or let Cardea allocate the weights (cardea_memory_alloc), then they are mapped"}};
}

Findings numa_balancing(const System& system) {
  const auto on = system.number("/proc/sys/kernel/numa_balancing");
  const std::string nodes = system.read("/sys/devices/system/node/online").value_or("0");
  if (!on || *on == 0 || nodes == "0") return {};
  return {
      {Severity::kWarning, "",
       fmt::format("the kernel moves memory between NUMA nodes {} by itself (kernel.numa_balancing is {}): it unmaps pages "
                   "to see who reads them, which stalls readers of mapped experts",
                   nodes, *on),
       "sysctl kernel.numa_balancing=0"}};
}

Findings huge_pages(const System& system) {
  const auto chosen = [&](const char* path) {
    const std::string text = system.read(path).value_or("");
    const std::size_t open = text.find('['), close = text.find(']');
    return open == std::string::npos || close == std::string::npos ? std::string() : text.substr(open + 1, close - open - 1);
  };
  Findings found;
  if (chosen("/sys/kernel/mm/transparent_hugepage/enabled") == "never") {
    found.push_back({Severity::kWarning, "",
                     "huge pages are switched off: slabs and copies take more page faults and TLB misses",
                     "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"});
  }
  const std::string shared = chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  if (shared == "never" || shared == "deny") {
    found.push_back(
        {Severity::kNote, "",
         fmt::format("shared memory gets no huge pages (shmem_enabled is {}): mapping many gigabytes takes longer", shared),
         "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"});
  }
  return found;
}

Findings governor(const System& system) {
  const std::string policy = "/sys/devices/system/cpu/cpu0/cpufreq/";
  const auto set = system.read(policy + "scaling_governor");
  const std::string driver = system.read(policy + "scaling_driver").value_or("");
  // Of these drivers, "powersave" is the ordinary governor: the hardware chooses.
  const bool by_hardware = driver == "intel_pstate" || driver.starts_with("amd-pstate");
  if (!set || *set == "performance" || *set == "schedutil" || *set == "ondemand" || by_hardware) return {};
  return {{Severity::kWarning, "", fmt::format("the processors' clock is governed by \"{}\" ({})", *set, driver),
           "cpupower frequency-set -g performance"}};
}

Findings machine(const System& system) {
  if (!system.machine) {
    if (system.machine_error.empty()) return {};
    return {{Severity::kError, "", fmt::format("the machine's topology cannot be read: {}", system.machine_error),
             "correct or unset CARDEA_TOPO_FILE (or NCCL_TOPO_FILE); cardea topo show tells more"}};
  }
  Findings found;
  for (const topology::Finding& one : topology::check(*system.machine))
    found.push_back({Severity::kWarning, "", fmt::format("{}: {}", one.kind, one.what), one.remedy});
  return found;
}

constexpr std::array kChecks = {
    Check{"kernel.version", "whether the kernel has what Cardea uses", version},
    Check{"kernel.shared-memory", "memfd and seals", shared_memory},
    Check{"kernel.sockets", "Unix sockets without files", sockets},
    Check{"kernel.processes", "process descriptors", processes},
    Check{"kernel.read-memory", "whether ranks may read each other's memory", read_memory},
    Check{"kernel.numa-balancing", "whether the kernel moves memory by itself", numa_balancing},
    Check{"kernel.huge-pages", "huge pages", huge_pages},
    Check{"cpu.governor", "what governs the clock", governor},
    Check{"machine.topology", "what cardea topo check finds", machine},
};

}  // namespace

std::span<const Check> kernel_checks() {
  return kChecks;
}

}  // namespace cardea::doctor
