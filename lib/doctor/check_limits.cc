// SPDX-License-Identifier: Apache-2.0
// Checks of what this process may have: descriptors, memory, processors.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "lib/doctor/checks.h"

namespace cardea::doctor {
namespace {

constexpr std::uint64_t kMebi = std::uint64_t{1} << 20;
constexpr std::uint64_t kGibi = std::uint64_t{1} << 30;

std::string size(std::uint64_t bytes) {
  if (bytes == kUnlimited) return "unlimited";
  if (bytes >= kGibi) return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / static_cast<double>(kGibi));
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / static_cast<double>(kMebi));
}

Findings descriptors(const System& system) {
  // Each peer of the node takes about four (link, process, memory), UCX one or more per peer and thirty for itself.
  constexpr std::uint64_t kFew = 256, kEnough = 1024;
  if (system.limits.descriptors >= kEnough) return {};
  const bool can = system.limits.most_descriptors >= kEnough;
  return {{system.limits.descriptors < kFew ? Severity::kError : Severity::kWarning, "",
           fmt::format("this process may have {} descriptors open", system.limits.descriptors),
           can ? "ulimit -n 65536 (or as many as the hard limit allows) before the job starts"
               : "raise nofile in /etc/security/limits.conf, LimitNOFILE= of the service, or --ulimit nofile= of the "
                 "container"}};
}

Findings locked_memory(const System& system) {
  if (system.list("/sys/class/infiniband").empty()) return {};  // nothing registers memory with hardware
  if (system.limits.locked_bytes >= 64 * kGibi) return {};
  return {{system.limits.locked_bytes < kGibi ? Severity::kError : Severity::kWarning, "",
           fmt::format("an RDMA device is here, and this process may lock {} of memory: UCX cannot register more with it",
                       size(system.limits.locked_bytes)),
           "ulimit -l unlimited: memlock in /etc/security/limits.conf, LimitMEMLOCK=infinity of slurmd or the service, "
           "--ulimit memlock=-1 of the container"}};
}

Findings file_size(const System& system) {
  if (system.limits.file_bytes >= 64 * kGibi) return {};
  return {{system.limits.file_bytes < kGibi ? Severity::kError : Severity::kWarning, "",
           fmt::format("files may have {} at most (RLIMIT_FSIZE), and so may shared memory", size(system.limits.file_bytes)),
           "ulimit -f unlimited"}};
}

Findings address_space(const System& system) {
  if (system.limits.address_space == kUnlimited) return {};
  return {{Severity::kWarning, "",
           fmt::format("the address space is limited to {} (RLIMIT_AS); experts of other ranks are mapped into it",
                       size(system.limits.address_space)),
           "ulimit -v unlimited; limit memory by the control group instead"}};
}

Findings group_memory(const System& system) {
  const auto limit = system.number("/sys/fs/cgroup" + system.control_group() + "/memory.max");
  if (!limit || *limit >= system.memory_bytes) return {};
  // As settings.cc has it: an eighth of the machine's memory, at most 8 GiB, unless told otherwise.
  std::uint64_t cache = std::min(system.memory_bytes / 8, 8 * kGibi);
  if (const auto told = system.variable("CARDEA_CACHE_BYTES"))
    std::from_chars(told->data(), told->data() + told->size(), cache);
  if (cache == 0 || cache <= *limit / 2) return {};
  return {
      {cache > *limit ? Severity::kError : Severity::kWarning, "",
       fmt::format("the control group allows {} of memory, of which the node cache may take {}", size(*limit), size(cache)),
       "set CARDEA_CACHE_BYTES to a part of what the group allows, or raise memory.max (--memory of the container)"}};
}

Findings shm(const System& system) {
  if (!system.shm_bytes) {
    return {{Severity::kWarning, "",
             "there is no /dev/shm: Cardea takes nothing of it, but UCX, NCCL and PyTorch's loaders do",
             "mount a tmpfs there; in a container --ipc=host or --shm-size"}};
  }
  if (*system.shm_bytes > 64 * kMebi) return {};
  return {{Severity::kWarning, "",
           fmt::format("/dev/shm has {}: Cardea takes nothing of it, but UCX, NCCL and PyTorch's loaders do",
                       size(*system.shm_bytes)),
           "--ipc=host or --shm-size=8g of the container, or mount -o remount,size=50% /dev/shm"}};
}

Findings overcommit(const System& system) {
  if (system.number("/proc/sys/vm/overcommit_memory") != 2) return {};
  return {{Severity::kWarning, "",
           "the kernel promises no more memory than it has (vm.overcommit_memory is 2): large mappings may be refused",
           "sysctl vm.overcommit_memory=0, or raise vm.overcommit_ratio"}};
}

Findings affinity(const System& system) {
  if (system.allowed_processors >= 2 || system.processors < 2) return {};
  return {
      {Severity::kWarning, "",
       fmt::format("this process may run on 1 of {} processors: its engine thread waits for the computation's time slices",
                   system.processors),
       "give each rank two processors or more (--cpus-per-task of srun, --bind-to none or --map-by slot:PE=2 of mpirun, "
       "--cpuset-cpus of the container)"}};
}

Findings quota(const System& system) {
  const auto text = system.read("/sys/fs/cgroup" + system.control_group() + "/cpu.max");
  if (!text) return {};
  std::uint64_t used = 0, period = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), used);
  if (error != std::errc() || *end != ' ') return {};  // "max 100000"
  std::from_chars(end + 1, text->data() + text->size(), period);
  if (period == 0 || used >= 2 * period) return {};
  return {{Severity::kWarning, "",
           fmt::format("the control group gives all of its processes {:.2f} processors; when they are used up, every thread "
                       "stands still, that of the heartbeats too",
                       static_cast<double>(used) / static_cast<double>(period)),
           "raise cpu.max (--cpus of the container), or raise CARDEA_LIVENESS_LIMIT"}};
}

constexpr std::array kChecks = {
    Check{"limits.descriptors", "how many descriptors a process may have", descriptors},
    Check{"limits.locked-memory", "memory that RDMA may register", locked_memory},
    Check{"limits.file-size", "size of files, and of shared memory", file_size},
    Check{"limits.address-space", "size of the address space", address_space},
    Check{"memory.group", "what the control group allows, against the node cache", group_memory},
    Check{"memory.shm", "/dev/shm of containers", shm},
    Check{"memory.overcommit", "whether the kernel refuses large mappings", overcommit},
    Check{"cpu.affinity", "processors for the engine thread", affinity},
    Check{"cpu.quota", "processor time of the control group", quota},
};

}  // namespace

std::span<const Check> limit_checks() {
  return kChecks;
}

}  // namespace cardea::doctor
