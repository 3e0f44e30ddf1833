// SPDX-License-Identifier: Apache-2.0
// Each check finds what it is for in a system that has it, and nothing in one that does not.
#include "lib/doctor/checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <set>

namespace cardea::doctor {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::uint64_t kGibi = std::uint64_t{1} << 30;

/// A made-up machine that has everything, below a folder of its own.
class Checks : public ::testing::Test {
 protected:
  Checks() {
    system_.root = std::filesystem::temp_directory_path() / ("cardea-doctor-" + std::to_string(getpid()));
    std::filesystem::remove_all(system_.root);
    system_.variables = {{"HOME", (system_.root / "home").string()}};
    system_.limits = {65536, 1 << 20, kUnlimited, kUnlimited, kUnlimited};
    for (Trial* trial : {&system_.trials.memfd, &system_.trials.seal, &system_.trials.pidfd, &system_.trials.read_memory,
                         &system_.trials.abstract_socket})
      *trial = {true, 0};
    system_.processors = system_.allowed_processors = 64;
    system_.memory_bytes = 512 * kGibi;
    system_.shm_bytes = 256 * kGibi;
    file("proc/sys/kernel/osrelease", "6.1.0-13-amd64");
    file("proc/sys/kernel/numa_balancing", "0");
    file("proc/sys/kernel/yama/ptrace_scope", "0");
    file("proc/sys/vm/overcommit_memory", "0");
    file("proc/self/cgroup", "0::/job");
    file("sys/fs/cgroup/job/memory.max", "max");
    file("sys/fs/cgroup/job/cpu.max", "max 100000");
    file("sys/devices/system/node/online", "0-1");
    file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never");
    file("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never deny force");
    file("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance");
    file("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "acpi-cpufreq");
    file("sys/class/net/eth0/operstate", "up");
    file("sys/class/net/lo/operstate", "unknown");
  }
  ~Checks() override { std::filesystem::remove_all(system_.root); }

  void file(const std::string& path, const std::string& text) {
    const std::filesystem::path full = system_.root / path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text << '\n';
  }
  void set(const std::string& name, const std::string& value) { system_.variables[name] = value; }
  Findings run() const { return run_checks(system_); }
  /// The only finding; a failure if it is another.
  Finding only(const std::string& kind) const {
    const Findings found = run();
    EXPECT_EQ(found.size(), 1u) << kind;
    if (found.empty()) return {};
    EXPECT_EQ(found[0].kind, kind) << found[0].what;
    EXPECT_FALSE(found[0].what.empty());
    EXPECT_FALSE(found[0].advice.empty());
    return found[0];
  }

  System system_;
};

TEST_F(Checks, FindNothingInASaneSystem) {
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, HaveNamesOfTheirOwnAndSayWhatTheyAreAbout) {
  std::set<std::string> names;
  for (const Check& check : all_checks()) {
    EXPECT_TRUE(names.insert(check.name).second) << check.name;
    EXPECT_STRNE(check.about, "");
  }
  EXPECT_GT(names.size(), 20u);
}

TEST_F(Checks, FindNothingWhereNothingCanBeRead) {
  std::filesystem::remove_all(system_.root);
  system_.trials = {};
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, FewDescriptors) {
  system_.limits.descriptors = 512;
  EXPECT_EQ(only("limits.descriptors").severity, Severity::kWarning);
  system_.limits.descriptors = 64;
  EXPECT_EQ(only("limits.descriptors").severity, Severity::kError);
  EXPECT_THAT(only("limits.descriptors").advice, HasSubstr("ulimit -n"));
  system_.limits.most_descriptors = 64;
  EXPECT_THAT(only("limits.descriptors").advice, HasSubstr("limits.conf"));
}

TEST_F(Checks, LockedMemoryOnlyWhereAnRdmaDeviceIs) {
  system_.limits.locked_bytes = 8 << 20;
  EXPECT_THAT(run(), IsEmpty());
  file("sys/class/infiniband/mlx5_0/node_type", "1: CA");
  EXPECT_EQ(only("limits.locked-memory").severity, Severity::kError);
  system_.limits.locked_bytes = 8 * kGibi;
  EXPECT_EQ(only("limits.locked-memory").severity, Severity::kWarning);
}

TEST_F(Checks, SmallFilesAndAddressSpace) {
  system_.limits.file_bytes = kGibi / 2;
  EXPECT_EQ(only("limits.file-size").severity, Severity::kError);
  system_.limits.file_bytes = kUnlimited;
  system_.limits.address_space = 64 * kGibi;
  EXPECT_EQ(only("limits.address-space").severity, Severity::kWarning);
}

TEST_F(Checks, AGroupThatAllowsLessThanTheNodeCacheTakes) {
  file("sys/fs/cgroup/job/memory.max", std::to_string(4 * kGibi));
  EXPECT_EQ(only("memory.group").severity, Severity::kError);
  EXPECT_THAT(only("memory.group").what, HasSubstr("4.0 GiB"));
  set("CARDEA_CACHE_BYTES", std::to_string(3 * kGibi));
  EXPECT_EQ(only("memory.group").severity, Severity::kWarning);
  set("CARDEA_CACHE_BYTES", std::to_string(kGibi));
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, NoOrASmallShm) {
  system_.shm_bytes = 64 << 20;  // as containers have it
  EXPECT_THAT(only("memory.shm").what, HasSubstr("64.0 MiB"));
  system_.shm_bytes.reset();
  EXPECT_THAT(only("memory.shm").what, HasSubstr("no /dev/shm"));
}

TEST_F(Checks, StrictOvercommit) {
  file("proc/sys/vm/overcommit_memory", "2");
  EXPECT_EQ(only("memory.overcommit").severity, Severity::kWarning);
}

TEST_F(Checks, OneProcessorForAThreadThatComputesAndOneThatMoves) {
  system_.allowed_processors = 1;
  EXPECT_THAT(only("cpu.affinity").what, HasSubstr("1 of 64"));
  system_.processors = 1;
  EXPECT_THAT(run(), IsEmpty()) << "the machine has no more";
}

TEST_F(Checks, AQuotaOfLessThanTwoProcessors) {
  file("sys/fs/cgroup/job/cpu.max", "150000 100000");
  EXPECT_THAT(only("cpu.quota").what, HasSubstr("1.50"));
  file("sys/fs/cgroup/job/cpu.max", "800000 100000");
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, OldKernels) {
  file("proc/sys/kernel/osrelease", "4.18.0-553.el8");
  EXPECT_EQ(only("kernel.version").severity, Severity::kError);
  file("proc/sys/kernel/osrelease", "5.10.0");
  EXPECT_EQ(only("kernel.version").severity, Severity::kNote);
  EXPECT_FALSE(something_is_off(run()));
}

TEST_F(Checks, SystemCallsThatAreForbidden) {
  system_.trials.memfd.error = EPERM;
  EXPECT_EQ(only("kernel.shared-memory").severity, Severity::kError);
  system_.trials.memfd.error = 0;
  system_.trials.seal.error = EINVAL;
  EXPECT_EQ(only("kernel.shared-memory").severity, Severity::kError);
  system_.trials.seal.error = 0;
  system_.trials.abstract_socket.error = EACCES;
  EXPECT_EQ(only("kernel.sockets").severity, Severity::kError);
  system_.trials.abstract_socket.error = 0;
  system_.trials.pidfd.error = ENOSYS;
  EXPECT_EQ(only("kernel.processes").severity, Severity::kNote);
}

TEST_F(Checks, MemoryOfOthersThatMayNotBeReadNamesYama) {
  system_.trials.read_memory.error = EPERM;
  EXPECT_THAT(only("kernel.read-memory").advice, HasSubstr("SYS_PTRACE"));
  file("proc/sys/kernel/yama/ptrace_scope", "2");
  EXPECT_EQ(only("kernel.read-memory").severity, Severity::kWarning);
  EXPECT_THAT(only("kernel.read-memory").what, HasSubstr("ptrace_scope is 2"));
  EXPECT_THAT(only("kernel.read-memory").advice, HasSubstr("ptrace_scope=0"));
}

TEST_F(Checks, NumaBalancingOnlyWithSeveralNodes) {
  file("proc/sys/kernel/numa_balancing", "1");
  EXPECT_THAT(only("kernel.numa-balancing").what, HasSubstr("0-1"));
  file("sys/devices/system/node/online", "0");
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, HugePages) {
  file("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]");
  EXPECT_EQ(only("kernel.huge-pages").severity, Severity::kWarning);
  file("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
  file("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force");
  EXPECT_EQ(only("kernel.huge-pages").severity, Severity::kNote);
}

TEST_F(Checks, AGovernorThatSavesPower) {
  file("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave");
  EXPECT_THAT(only("cpu.governor").what, HasSubstr("powersave"));
  file("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "intel_pstate");
  EXPECT_THAT(run(), IsEmpty()) << "there it is the ordinary one";
}

TEST_F(Checks, ATopologyThatCannotBeReadAndOneThatLooksWrong) {
  system_.machine_error = "CARDEA_TOPO_FILE: the file is empty";
  EXPECT_THAT(only("machine.topology").what, HasSubstr("the file is empty"));
  system_.machine_error.clear();
  topology::Description description;
  description.name = "a virtual machine";
  description.add({.kind = topology::DeviceKind::kMachine});
  description.add({.kind = topology::DeviceKind::kPackage, .parent = 0});
  description.add({.kind = topology::DeviceKind::kNumaNode, .parent = 1, .os_index = 0U, .cores = {{0}}});
  description.add({.kind = topology::DeviceKind::kHostBridge, .parent = 2});
  topology::Device gpu{.kind = topology::DeviceKind::kGpu, .parent = 3};
  gpu.link_origin = topology::Origin::kSystem;
  description.add(gpu);
  auto machine = topology::assemble(description);
  ASSERT_TRUE(machine.ok()) << machine.status().message();
  system_.machine = std::move(*machine);
  EXPECT_THAT(only("machine.topology").what, HasSubstr("hidden-pcie-tree"));
}

TEST_F(Checks, AVariableThatNothingReadsSuggestsTheOneThatWasMeant) {
  set("CARDEA_CHUNK_BYTE", "4096");
  EXPECT_THAT(only("environment.unknown-variable").advice, HasSubstr("CARDEA_CHUNK_BYTES"));
  system_.variables.erase("CARDEA_CHUNK_BYTE");
  set("CARDEA_SOMETHING_ELSE_ALTOGETHER", "1");
  EXPECT_THAT(only("environment.unknown-variable").advice, HasSubstr("--variables"));
  system_.variables.erase("CARDEA_SOMETHING_ELSE_ALTOGETHER");
  set("CARDEA_TOPO_MEASURED", "figures.json");
  set("CARDEA_CHUNK_BYTES", "65536");
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, VariablesThatAreWrong) {
  set("CARDEA_CHUNK_BYTES", "lots");
  EXPECT_THAT(only("environment.settings").what, HasSubstr("CARDEA_CHUNK_BYTES is \"lots\""));
  system_.variables.erase("CARDEA_CHUNK_BYTES");
  set("CARDEA_DEBUG", "LOUD");
  EXPECT_THAT(only("environment.settings").what, HasSubstr("CARDEA_DEBUG"));
  set("CARDEA_DEBUG", "INFO:ucx,nonsense");
  EXPECT_EQ(only("environment.settings").severity, Severity::kError);
  set("CARDEA_DEBUG", "INFO:ucx");
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, HalfOfWhatALauncherSets) {
  set("CARDEA_RANK", "3");
  EXPECT_THAT(only("environment.launcher").what, HasSubstr("CARDEA_WORLD_SIZE is not"));
  set("CARDEA_WORLD_SIZE", "4");
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, ASecretThatOthersCanRead) {
  file("secret", "0123456789abcdef0123456789abcdef");
  const std::string path = (system_.root / "secret").string();
  set("CARDEA_SECRET_FILE", path);
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  EXPECT_THAT(only("environment.secret").what, HasSubstr("0644"));
  EXPECT_THAT(only("environment.secret").advice, HasSubstr("chmod 600 " + path));
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  EXPECT_THAT(run(), IsEmpty());
  set("CARDEA_SECRET_FILE", path + "-none");
  EXPECT_EQ(only("environment.secret").severity, Severity::kError);
  system_.variables.erase("CARDEA_SECRET_FILE");
  EXPECT_THAT(run(), IsEmpty()) << "the user's own is made at first use";
  file("home/.cardea/secret", "short");
  ASSERT_EQ(chmod((system_.root / "home/.cardea/secret").c_str(), 0600), 0);
  EXPECT_EQ(only("environment.secret").severity, Severity::kError);
  system_.variables.erase("HOME");
  EXPECT_EQ(only("environment.secret").severity, Severity::kWarning);
}

TEST_F(Checks, AMeetingPlaceThatCannotBeReachedSaysHow) {
  using Outcome = Reach::Outcome;
  const auto found = [&](Outcome outcome) {
    system_.root_reach = Reach{outcome, "head:29500", "10.0.0.1", "why"};
    return only("environment.root");
  };
  EXPECT_THAT(found(Outcome::kTimedOut).what, HasSubstr("firewall drops packets"));
  EXPECT_EQ(found(Outcome::kRefused).severity, Severity::kNote);
  EXPECT_THAT(found(Outcome::kRefused).what, HasSubstr("connection refused (10.0.0.1)"));
  EXPECT_THAT(found(Outcome::kUnresolved).what, HasSubstr("the host is not known"));
  EXPECT_THAT(found(Outcome::kUnreachable).what, HasSubstr("no way to it"));
  EXPECT_EQ(found(Outcome::kMalformed).severity, Severity::kError);
  EXPECT_EQ(found(Outcome::kFailed).severity, Severity::kError);
  system_.root_reach = Reach{Outcome::kConnected, "head:29500", "10.0.0.1", ""};
  EXPECT_THAT(run(), IsEmpty());
}

TEST_F(Checks, UcxWithoutAWayToAnotherHost) {
  set("UCX_TLS", "posix,self");
  EXPECT_THAT(only("environment.ucx-transports").what, HasSubstr("no way to another host"));
  set("UCX_TLS", "rc,self");
  EXPECT_THAT(only("environment.ucx-transports").what, HasSubstr("no RDMA device here"));
  set("UCX_TLS", "^tcp");
  EXPECT_EQ(only("environment.ucx-transports").severity, Severity::kError);
  for (const char* const fine : {"tcp,self", "all", "^sysv", "^posix,cma"}) {
    set("UCX_TLS", fine);
    EXPECT_THAT(run(), IsEmpty()) << fine;
  }
  file("sys/class/infiniband/mlx5_0/node_type", "1: CA");
  set("UCX_TLS", "rc,self");
  EXPECT_THAT(run(), IsEmpty());
  set("UCX_TLS", "tcp,self");
  EXPECT_THAT(only("environment.ucx-transports").what, HasSubstr("stays unused"));
  set("UCX_TLS", "rc,cuda_ipc");
  EXPECT_THAT(only("environment.ucx-transports").what, HasSubstr("contend"));
}

TEST_F(Checks, UcxDevicesThatAreNotThere) {
  set("UCX_NET_DEVICES", "mlx5_0:1,eth0");
  EXPECT_THAT(only("environment.ucx-devices").what, HasSubstr("mlx5_0 is no device here"));
  EXPECT_THAT(only("environment.ucx-devices").advice, HasSubstr("eth0, lo"));
  set("UCX_NET_DEVICES", "eth0");
  EXPECT_THAT(run(), IsEmpty());
  set("UCX_LOG_LEVEL", "TRACE");
  EXPECT_EQ(only("environment.ucx-log").severity, Severity::kWarning);
}

TEST(SystemOfThisProcess, IsReadAndTriedHere) {
  const System here = System::of_this_process();
  EXPECT_GE(here.processors, here.allowed_processors);
  EXPECT_GE(here.allowed_processors, 1u);
  EXPECT_GT(here.memory_bytes, 1u << 20);
  EXPECT_GT(here.limits.descriptors, 3u);
  EXPECT_TRUE(here.trials.memfd.tried);
  EXPECT_FALSE(here.trials.memfd.failed()) << "no test of shared memory could pass";
  EXPECT_TRUE(here.trials.read_memory.tried);
  EXPECT_TRUE(here.read("/proc/sys/kernel/osrelease").has_value());
  EXPECT_FALSE(here.list("/proc/self/fd").empty());
  EXPECT_FALSE(here.read("/nowhere/at/all").has_value());
  EXPECT_EQ(here.variables.contains("PATH"), std::getenv("PATH") != nullptr);
}

}  // namespace
}  // namespace cardea::doctor
