// SPDX-License-Identifier: Apache-2.0
// What ranks get, what check finds, what measuring keeps.
#include "topology/affinity.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "tests/topology/samples.h"
#include "topology/check.h"
#include "topology/discover.h"
#include "topology/load.h"
#include "topology/measure.h"
#include "topology/paths.h"
#include "topology/render.h"

namespace cardea::topology {
namespace {

std::string changed(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

Machine machine_of(const std::string& text) {
  Result<Description> description = load_text(text, "sample");
  EXPECT_TRUE(description.ok()) << description.status().message();
  return *assemble(*description);
}

std::vector<std::string> kinds(const Machine& machine) {
  std::vector<std::string> all;
  for (const Finding& finding : check(machine)) all.push_back(finding.kind);
  return all;
}

TEST(Affinity, RanksUnderASwitchWithTwoNicsTakeDifferentOnes) {
  const Machine machine = machine_of(samples::nccl());
  const auto ranks = assign(machine, natural_ranks(machine));
  ASSERT_EQ(ranks.size(), 4U);
  std::set<DeviceId> first;
  for (const RankAffinity& rank : ranks) {
    first.insert(rank.nics.front());
    EXPECT_EQ(nearness(machine, rank.gpu, rank.nics.front()), Nearness::kOneSwitch);
    EXPECT_EQ(nearness(machine, rank.gpu, rank.nics[1]), Nearness::kOneSwitch) << "the neighbour's NIC comes second";
    EXPECT_EQ(rank.nics.size(), 4U);
    EXPECT_EQ(rank.numa, machine.device(rank.gpu).numa);
  }
  EXPECT_EQ(first.size(), 4U);
}

TEST(Affinity, ASlowNicIsLastHoweverNear) {
  std::string text = samples::nccl();
  text = changed(text, "speed=\"200000\"", "speed=\"1000\"");
  const Machine machine = machine_of(text);
  for (const RankAffinity& rank : assign(machine, natural_ranks(machine)))
    EXPECT_EQ(rank.nics.back(), machine.find("mlx5_0"));
}

TEST(Affinity, CoresOfANodeAreDealtOutWithoutOverlap) {
  const Machine machine = machine_of(samples::nccl());
  std::set<unsigned> taken;
  for (const RankAffinity& rank : assign(machine, natural_ranks(machine))) {
    EXPECT_EQ(rank.cpus.size(), 2U);
    for (const unsigned cpu : rank.cpus) EXPECT_TRUE(taken.insert(cpu).second) << cpu;
  }
}

TEST(Affinity, MoreRanksThanCoresShareThem) {
  const Machine machine = machine_of(samples::hwloc1());
  for (const RankAffinity& rank : assign(machine, std::vector<DeviceId>(6, machine.find("GPU0"))))
    EXPECT_EQ(rank.cpus.size(), 1U);
}

TEST(Affinity, WithoutGpusRanksAreDealtToTheNodes) {
  const Machine machine = machine_of(samples::hwloc1());
  const auto ranks = assign(machine, {kNoDevice, kNoDevice, kNoDevice});
  EXPECT_EQ(ranks[0].numa, machine.find("NUMA0"));
  EXPECT_EQ(ranks[1].numa, machine.find("NUMA1"));
  EXPECT_EQ(ranks[2].numa, machine.find("NUMA0"));
}

TEST(Affinity, OverridesWinAndOthersMakeRoom) {
  const Machine machine = machine_of(samples::nccl());
  const auto wish = parse_override(machine, "rank=1 nic=mlx5_0 numa=NUMA1 cpus=6-7");
  ASSERT_TRUE(wish.ok()) << wish.status().message();
  const auto ranks = assign(machine, natural_ranks(machine), {*wish});
  EXPECT_EQ(ranks[1].nics, (std::vector<DeviceId>{machine.find("mlx5_0")}));
  EXPECT_EQ(ranks[1].numa, machine.find("NUMA1"));
  EXPECT_EQ(ranks[1].cpus, (std::vector<unsigned>{6, 7}));
  EXPECT_EQ(ranks[0].nics.front(), machine.find("mlx5_1"));
  for (const char* bad :
       {"", "nic=mlx5_0", "rank=x", "rank=0 nic=GPU1", "rank=0 nic=eth7", "rank=0 cpus=z", "rank=0 colour=red", "rank"}) {
    EXPECT_EQ(parse_override(machine, bad).status().code(), CARDEA_ERR_CONFIGURATION) << bad;
  }
}

TEST(Check, NothingWrongWithTheSample) {
  EXPECT_EQ(kinds(machine_of(samples::nccl())), std::vector<std::string>{});
}

TEST(Check, FarNicLinkBelowItsWidthAndUnevenNvlinks) {
  EXPECT_EQ(kinds(machine_of(samples::hwloc1())), std::vector<std::string>{"far-nic"});
  const std::string narrow =
      changed(samples::hwloc1(), "07\" pci_link_speed=\"15.753846\"", "07\" pci_link_speed=\"7.876923\"");
  EXPECT_EQ(kinds(machine_of(narrow)), (std::vector<std::string>{"far-nic", "narrow-link"}));
  const std::string uplink = changed(samples::nccl(), "link_width=\"16\"", "link_width=\"4\"");
  EXPECT_EQ(kinds(machine_of(uplink)), std::vector<std::string>{"narrow-uplink"});
  const std::string uneven = changed(samples::nccl(), "count=\"2\"", "count=\"1\"");
  EXPECT_EQ(kinds(machine_of(uneven)), (std::vector<std::string>{"nvlink-uneven", "nvlink-down"}));
}

TEST(Check, HiddenTreeAndUnseenNvlinks) {
  std::string text = samples::hwloc2_hidden();
  text.replace(text.find("NVLinkBandwidth"), 15, "SomethingElse..");
  EXPECT_EQ(kinds(machine_of(text)), (std::vector<std::string>{"hidden-pcie-tree", "nvlink-unseen"}));
  for (const Finding& finding : check(machine_of(text))) EXPECT_FALSE(finding.remedy.empty());
}

TEST(Check, AnIdleGpusRateIsNoFindingButItsWidthIs) {
  const std::string port = "07\" pci_link_speed=\"15.753846\"";
  EXPECT_EQ(kinds(machine_of(changed(samples::hwloc1(), port, "07\" pci_link_speed=\"4.0\""))),
            std::vector<std::string>{"far-nic"});
  const Machine half = machine_of(changed(samples::hwloc1(), port, "07\" pci_link_speed=\"2.0\""));
  EXPECT_EQ(kinds(half), (std::vector<std::string>{"far-nic", "narrow-link"}));
  const Device& gpu = half.device(half.find("GPU0"));
  const Lane& lane = half.lane(half.find_lane(LaneKind::kPcieUp, half.find("GPU0"), gpu.parent));
  EXPECT_NEAR(lane.bandwidth.value, 0.87 * raw_bandwidth(8, 8), 1e6) << "eight lanes at the rate that the GPU has when busy";
}

class Measured : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "cardea-measured-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/deep/er/measured.json";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
  std::string path_;
};

TEST_F(Measured, FiguresReplaceGuessesOnThatMachineOnly) {
  Machine machine = machine_of(samples::nccl());
  const Machine other = machine_of(samples::hwloc1());
  ASSERT_TRUE(save_measured(path_, other, {{"memory:NUMA0", 7e9, 70}}).ok());
  ASSERT_TRUE(save_measured(path_, machine, {{"memory:NUMA0", 9e9, 90}, {"nvlink:GPU0>GPU1", 3e11, 0}}).ok());
  const auto figures = load_measured(path_, machine.fingerprint());
  ASSERT_TRUE(figures.ok()) << figures.status().message();
  EXPECT_EQ(apply_measured(machine, *figures), 2U);
  const Lane& lane = machine.lane(machine.find_lane(LaneKind::kMemory, machine.find("NUMA0"), machine.find("NUMA0")));
  EXPECT_EQ(lane.bandwidth.value, 9e9);
  EXPECT_EQ(lane.bandwidth.origin, Origin::kMeasured);
  EXPECT_EQ(load_measured(path_, other.fingerprint())->front().bandwidth, 7e9) << "the other machine's figures stay";
  EXPECT_TRUE(load_measured(path_, "0123456789abcdef")->empty());
  EXPECT_TRUE(load_measured(folder_ + "/none", "x")->empty());
}

TEST_F(Measured, AFileThatIsNotOursIsAnErrorNotACrash) {
  const std::string file = folder_ + "/bad.json";
  for (const char* bad :
       {"", "[]", "{", "{\"version\":2,\"machines\":{}}", "{\"version\":1}", "{\"version\":1,\"machines\":{\"m\":3}}",
        "{\"version\":1,\"machines\":{\"m\":{\"lanes\":{\"a\":{\"bytes_per_second\":-1}}}}}",
        "{\"version\":1,\"machines\":{\"m\":{\"lanes\":{\"a\":{\"bytes_per_second\":1e300}}}}}",
        "{\"version\":1,\"machines\":{\"m\":{\"lanes\":{\"a\":{\"latency_ns\":\"slow\"}}}}}",
        "{\"version\":1,\"machines\":{\"m\":{\"lanes\":{\"a\":3}}}}"}) {
    std::ofstream(file) << bad;
    EXPECT_EQ(load_measured(file, "m").status().code(), CARDEA_ERR_CONFIGURATION) << bad;
  }
  std::ofstream(file) << std::string(2000000, '[');
  EXPECT_EQ(load_measured(file, "m").status().code(), CARDEA_ERR_CONFIGURATION);
}

TEST(Live, TheMachineAtHandIsDiscoveredMeasuredAndRendered) {
  Sources sources;
  Result<Machine> machine = discover(sources);
  ASSERT_TRUE(machine.ok()) << machine.status().message();
  ASSERT_FALSE(machine->of(DeviceKind::kNumaNode).empty());
  MeasureOptions options;
  options.memory_bytes = 4 << 20;
  options.repeats = 1;
  options.gpus = false;
  const auto measurements = measure(*machine, options);
  ASSERT_TRUE(measurements.ok()) << measurements.status().message();
  EXPECT_EQ(apply_measured(*machine, *measurements), measurements->size())
      << "every measurement is of a lane of this machine";
  const Lane& loopback = machine->lane(machine->find_lane(LaneKind::kLoopback, 0, 0));
  EXPECT_EQ(loopback.bandwidth.origin, Origin::kMeasured);
  EXPECT_GT(loopback.bandwidth.value, 1e6);
  EXPECT_NE(render_json(*machine, assign(*machine, natural_ranks(*machine))).find("\"measured\""), std::string::npos);
}

TEST(Live, SysfsGivesLinksAndPortSpeeds) {
  std::string pattern = ::testing::TempDir() + "cardea-sys-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  const std::string sys = pattern;
  const auto put = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(sys + path).parent_path());
    std::ofstream(sys + path) << text << "\n";
  };
  const std::string nic = "/bus/pci/devices/0000:81:00.0/";
  put(nic + "max_link_speed", "16.0 GT/s PCIe");
  put(nic + "max_link_width", "16");
  put(nic + "current_link_speed", "16.0 GT/s PCIe");
  put(nic + "current_link_width", "8");
  put("/class/infiniband/mlx5_0/ports/1/rate", "200 Gb/sec (4X HDR)");
  const std::string gpu = "/bus/pci/devices/0000:01:00.0/";
  put(gpu + "max_link_speed", "garbage");
  put(gpu + "current_link_speed", "-3");
  put(gpu + "current_link_width", "9999");
  Description description = *load_text(samples::hwloc1(), "x");
  add_sysfs(description, sys);
  std::filesystem::remove_all(sys);
  const Machine machine = *assemble(description);
  const Device& device = machine.device(machine.find("mlx5_0"));
  EXPECT_EQ(device.port_bandwidth, 25e9);
  EXPECT_EQ(device.port_origin, Origin::kSystem);
  EXPECT_EQ(device.link.width, 8U);
  EXPECT_EQ(kinds(machine), (std::vector<std::string>{"far-nic", "narrow-link"}));
  EXPECT_NEAR(machine.device(machine.find("GPU0")).link.raw, 15.754e9, 1e7) << "nonsense leaves what was known";
}

}  // namespace
}  // namespace cardea::topology
