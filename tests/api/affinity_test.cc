// SPDX-License-Identifier: Apache-2.0
// What a rank uses of its machine: machines from files, ports as a test wants them.
#include "lib/api/affinity.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>

#include <set>

#include "lib/base/numa_preference.h"
#include "tests/api/api_job.h"

namespace cardea::api {
namespace {

topology::Machine machine(const std::string& name) {
  Result<topology::Machine> made = topology::machine_from_file(CARDEA_SOURCE_DIR "/topology/machines/" + name + ".xml");
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(made).value();
}

/// Every RDMA device has its first port up.
std::optional<topology::NicPort> all_up(const std::string& device) {
  if (device.rfind("mlx5_", 0) != 0 || device == "mlx5_9") return std::nullopt;
  return topology::NicPort{device + ":1", true};
}

RankPlace place(const topology::Machine& of, unsigned local, unsigned locals, const std::string& wish = "auto") {
  const Result<RankPlace> placed = place_rank(of, local, locals, wish, all_up);
  EXPECT_TRUE(placed.ok()) << placed.status().message();
  return placed.ok() ? *placed : RankPlace{};
}

TEST(RankPlace, IsNearItsGpu) {
  const topology::Machine dgx = machine("dgx-a100");
  for (unsigned local = 0; local < 8; ++local) {
    const RankPlace own = place(dgx, local, 8);
    EXPECT_EQ(own.gpu, "GPU" + std::to_string(local));
    EXPECT_EQ(own.nics, std::vector<std::string>{"mlx5_" + std::to_string(local / 2) + ":1"}) << local;
    EXPECT_EQ(own.numa, local / 4);
    EXPECT_EQ(own.cpus.size(), 32u) << "16 cores of two processors each";
  }
}

/// As CUDA shows it to a process that sees all GPUs.
topology::Machine with_cuda(const std::string& name) {
  topology::Description description = machine(name).description();
  unsigned next = 0;
  for (topology::Device& device : description.devices) {
    if (device.kind == topology::DeviceKind::kGpu) device.cuda_index = next++;
  }
  Result<topology::Machine> made = topology::assemble(std::move(description));
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(made).value();
}

TEST(RankPlace, KnowsWhichGpusAreNearItsNics) {
  const topology::Machine hgx = with_cuda("hgx-h100");
  for (unsigned local = 0; local < 8; ++local) {
    const RankPlace own = place(hgx, local, 8);
    const std::vector<int> of_its_bridge = local < 4 ? std::vector<int>{0, 1, 2, 3} : std::vector<int>{4, 5, 6, 7};
    EXPECT_EQ(own.gpus_near_nics, of_its_bridge) << local;
  }
  // Two rails of different host bridges have no GPU that is near both; a rail that is no RDMA device has none at all.
  EXPECT_TRUE(place(hgx, 0, 8, "nic=mlx5_0,mlx5_7").gpus_near_nics.empty());
  const auto ethernet = [](const std::string& device) -> std::optional<topology::NicPort> {
    if (device != "eth0") return std::nullopt;
    return topology::NicPort{"eth0", false};
  };
  const Result<RankPlace> by_ethernet = place_rank(hgx, 0, 8, "nic=eth0", ethernet);
  ASSERT_TRUE(by_ethernet.ok()) << by_ethernet.status().message();
  EXPECT_TRUE(by_ethernet->gpus_near_nics.empty());
  EXPECT_TRUE(place(machine("hgx-h100"), 0, 8).gpus_near_nics.empty()) << "CUDA shows none of them";
  EXPECT_TRUE(place(hgx, 0, 8, "off").gpus_near_nics.empty());
}

TEST(RankPlace, NoTwoRanksHaveOneNicWhereThereIsOneForEach) {
  const topology::Machine hgx = machine("hgx-h200");
  std::set<std::string> taken;
  for (unsigned local = 0; local < 8; ++local) taken.insert(place(hgx, local, 8).nics.at(0));
  EXPECT_EQ(taken.size(), 8u);
}

TEST(RankPlace, ProcessorsAreDealtWithoutOverlap) {
  const topology::Machine dgx = machine("dgx-a100");
  std::set<unsigned> seen;
  for (unsigned local = 0; local < 8; ++local) {
    for (const unsigned cpu : place(dgx, local, 8).cpus) EXPECT_TRUE(seen.insert(cpu).second) << "processor " << cpu;
  }
}

TEST(RankPlace, MoreNicsThanRanksAreUsedTogether) {
  const RankPlace own = place(machine("hgx-h200"), 0, 4);
  EXPECT_EQ(own.nics.size(), 2u);
}

TEST(RankPlace, FewCoresAreLeftToTheKernel) {
  // Eight ranks on two cores of one NUMA node: nothing to bind, nothing to choose.
  topology::Description small;
  small.add({.kind = topology::DeviceKind::kMachine});
  const topology::DeviceId package = small.add({.kind = topology::DeviceKind::kPackage, .parent = 0, .os_index = 0});
  small.add({.kind = topology::DeviceKind::kNumaNode, .parent = package, .os_index = 0, .cores = {{0}, {1}}});
  const Result<topology::Machine> machine = topology::assemble(small);
  ASSERT_TRUE(machine.ok()) << machine.status().message();
  const RankPlace own = place(*machine, 5, 8);
  EXPECT_TRUE(own.cpus.empty());
  EXPECT_EQ(own.numa, std::nullopt);
  EXPECT_TRUE(own.nics.empty()) << "UCX chooses as ever";
  EXPECT_EQ(place(*machine, 0, 1).cpus, (std::vector<unsigned>{0, 1}));
}

TEST(RankPlace, WishesReplaceWhatIsComputed) {
  const topology::Machine dgx = machine("dgx-a100");
  const RankPlace own = place(dgx, 0, 8, "nic=mlx5_3,mlx5_2 numa=NUMA1 cpus=8-10");
  EXPECT_EQ(own.nics, (std::vector<std::string>{"mlx5_3:1", "mlx5_2:1"}));
  EXPECT_EQ(own.numa, 1u);
  EXPECT_EQ(own.cpus, (std::vector<unsigned>{8, 9, 10}));
  EXPECT_EQ(own.text(), "GPU0, NICs mlx5_3:1,mlx5_2:1, memory on NUMA node 1, engine thread on 8-10");
  const RankPlace off = place(dgx, 0, 8, "off");
  EXPECT_TRUE(off.nics.empty() && off.cpus.empty() && !off.numa);
}

TEST(RankPlace, AWishThatMakesNoSenseIsNamed) {
  const topology::Machine dgx = machine("dgx-a100");
  for (const char* const wish :
       {"nic=mlx5_9", "sideways", "numa=NUMA7", "cpus=x", "rank=1", "on", "rails=0", "rails=5", "rails=x",
        "rails=", "rails=2 nic=mlx5_1", "nic=mlx5_1,mlx5_1", "rails=-1", "rails=99999999999999999999"}) {
    const Result<RankPlace> wrong = place_rank(dgx, 0, 8, wish, all_up);
    ASSERT_FALSE(wrong.ok()) << wish;
    EXPECT_EQ(wrong.status().code(), CARDEA_ERR_CONFIGURATION);
    EXPECT_NE(wrong.status().message().find("CARDEA_AFFINITY"), std::string::npos) << wrong.status().message();
  }
  const auto none_up = [](const std::string&) -> std::optional<topology::NicPort> { return std::nullopt; };
  EXPECT_FALSE(place_rank(dgx, 0, 8, "nic=mlx5_1", none_up).ok());
}

TEST(RankPlace, AsManyRailsAsAskedForNearestFirst) {
  const topology::Machine hgx = machine("hgx-h200");
  const std::vector<std::string> nearest = place(hgx, 0, 1).nics;
  ASSERT_EQ(nearest.size(), 4u) << "a rank by itself takes as many as there may be";
  for (unsigned rails = 1; rails <= 4; ++rails) {
    const RankPlace own = place(hgx, 0, 8, "rails=" + std::to_string(rails));
    EXPECT_EQ(own.nics, std::vector<std::string>(nearest.begin(), nearest.begin() + rails));
  }
  EXPECT_EQ(place(hgx, 0, 8, "nic=mlx5_3,mlx5_2 rails=1").nics, std::vector<std::string>{"mlx5_3:1"});
}

TEST(RankPlace, TwoRanksUnderASwitchWithTwoNicsTakeThemInDifferentOrder) {
  // Both NICs are as near to both ranks.
  topology::Description small;
  small.add({.kind = topology::DeviceKind::kMachine});
  const topology::DeviceId package = small.add({.kind = topology::DeviceKind::kPackage, .parent = 0, .os_index = 0});
  const topology::DeviceId numa =
      small.add({.kind = topology::DeviceKind::kNumaNode, .parent = package, .os_index = 0, .cores = {{0}, {1}}});
  const topology::DeviceId bridge = small.add({.kind = topology::DeviceKind::kHostBridge, .parent = numa});
  const topology::DeviceId pcie = small.add({.kind = topology::DeviceKind::kPcieSwitch, .parent = bridge});
  for (const char* const name : {"eth0", "eth1"}) {
    small.add({.kind = topology::DeviceKind::kNic, .parent = pcie, .os_names = {name}, .port_bandwidth = 1e9});
  }
  const Result<topology::Machine> machine = topology::assemble(small);
  ASSERT_TRUE(machine.ok()) << machine.status().message();
  const auto ethernet = [](const std::string& name) -> std::optional<topology::NicPort> {
    if (name.rfind("eth", 0) != 0 && name != "bond0") return std::nullopt;
    return topology::NicPort{name, false};
  };
  const auto rails = [&](unsigned local, const std::string& wish) {
    const Result<RankPlace> own = place_rank(*machine, local, 2, wish, ethernet);
    EXPECT_TRUE(own.ok()) << own.status().message();
    return own.ok() ? own->nics : std::vector<std::string>();
  };
  EXPECT_EQ(rails(0, "rails=2"), (std::vector<std::string>{"eth0", "eth1"}));
  EXPECT_EQ(rails(1, "rails=2"), (std::vector<std::string>{"eth1", "eth0"}));
  EXPECT_EQ(rails(1, "rails=1"), std::vector<std::string>{"eth1"});
  EXPECT_TRUE(rails(0, "auto").empty()) << "Ethernet only if it is asked for";
  EXPECT_EQ(rails(0, "nic=bond0,eth1"), (std::vector<std::string>{"bond0", "eth1"}))
      << "an interface that is no device of the machine";
  EXPECT_EQ(place_rank(*machine, 0, 2, "rails=3", ethernet).status().message(),
            "CARDEA_AFFINITY: rails=3, and this machine has 2 NICs that can be used");
  EXPECT_FALSE(place_rank(*machine, 0, 2, "nic=eth7,bond1", ethernet).ok());
}

TEST(RankPlace, APortThatIsDownIsNotChosen) {
  const topology::Machine dgx = machine("dgx-a100");
  const auto first_is_down = [](const std::string& device) { return device == "mlx5_0" ? std::nullopt : all_up(device); };
  const Result<RankPlace> own = place_rank(dgx, 0, 8, "auto", first_is_down);
  ASSERT_TRUE(own.ok());
  EXPECT_EQ(own->nics, std::vector<std::string>{"mlx5_1:1"}) << "the next one of the socket";
  const auto one_is_up = [](const std::string& device) { return device == "mlx5_2" ? all_up(device) : std::nullopt; };
  EXPECT_TRUE(place_rank(dgx, 0, 8, "auto", one_is_up)->nics.empty()) << "there is nothing to choose";
}

TEST(KnownMachine, IsFoundOnce) {
  KnownMachine known;
  topology::Sources sources;
  sources.recorded = CARDEA_SOURCE_DIR "/topology/machines/dgx-a100.xml";
  const auto first = known.get(sources);
  ASSERT_TRUE(first.ok()) << first.status().message();
  EXPECT_EQ(known.get(sources)->get(), first->get());
  sources.recorded = CARDEA_SOURCE_DIR "/topology/machines/hgx-h200.xml";
  EXPECT_NE((*known.get(sources))->name(), (*first)->name()) << "another file is another machine";
  sources.recorded = "/no/such/file";
  EXPECT_EQ(known.get(sources).status().code(), CARDEA_ERR_CONFIGURATION);
}

int policy_of_this_thread() {
  int mode = -1;
  syscall(SYS_get_mempolicy, &mode, nullptr, 0UL, nullptr, 0UL);
  return mode;
}

TEST(NumaPreference, HoldsWhileInScopeAndLeavesAPolicyOfTheCallersAlone) {
  {
    const NumaPreference near(0u);
    if (!near.active()) GTEST_SKIP() << "this system lets nobody set a memory policy";
    EXPECT_EQ(policy_of_this_thread(), MPOL_PREFERRED);
    const NumaPreference inner(0u);
    EXPECT_FALSE(inner.active()) << "there is a policy already";
  }
  EXPECT_EQ(policy_of_this_thread(), MPOL_DEFAULT);
  const NumaPreference none(std::nullopt);
  EXPECT_EQ(policy_of_this_thread(), MPOL_DEFAULT);
}

TEST(BindThread, BindsToTheseProcessors) {
  std::thread thread([] {
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    unsigned one = 0;
    while (!CPU_ISSET(one, &allowed)) ++one;
    ASSERT_TRUE(bind_thread(pthread_self(), {one}));
    ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    EXPECT_EQ(CPU_COUNT(&allowed), 1);
    EXPECT_TRUE(CPU_ISSET(one, &allowed));
    EXPECT_FALSE(bind_thread(pthread_self(), {100'000})) << "no such processor";
    EXPECT_FALSE(bind_thread(pthread_self(), {}));
  });
  thread.join();
}

TEST(Affinity, AWrongFileOrWishStopsTheCreationOfAContext) {
  const auto create = [] {
    test::SharedExchange exchange(1);
    const cardea_config_t config = exchange.config(0);
    cardea_context_t context{};
    const cardea_status_t status = cardea_context_create(&config, &context);
    if (status == CARDEA_OK) {
      EXPECT_EQ(cardea_context_destroy(context), CARDEA_OK);
    }
    return status;
  };
  setenv("CARDEA_TOPO_FILE", "/no/such/topology.xml", 1);
  EXPECT_REFUSED(CARDEA_ERR_CONFIGURATION, {"/no/such/topology.xml"}, create());
  setenv("CARDEA_AFFINITY", "off", 1);
  EXPECT_EQ(create(), CARDEA_OK) << "nobody reads the file then";
  unsetenv("CARDEA_TOPO_FILE");
  setenv("CARDEA_AFFINITY", "sideways", 1);
  EXPECT_TRUE(test::refused(CARDEA_ERR_CONFIGURATION, {"CARDEA_AFFINITY", "sideways"}, create()));
  unsetenv("CARDEA_AFFINITY");
  EXPECT_EQ(create(), CARDEA_OK);
}

}  // namespace
}  // namespace cardea::api
