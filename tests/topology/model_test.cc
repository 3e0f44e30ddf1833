// SPDX-License-Identifier: Apache-2.0
// Names, numbers, lanes and paths of the model itself.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/topology/samples.h"
#include "topology/cpu_set.h"
#include "topology/load.h"
#include "topology/paths.h"
#include "topology/vendor.h"

namespace cardea::topology {
namespace {

Machine sample() {
  Result<Description> description = load_text(samples::nccl(), "sample");
  EXPECT_TRUE(description.ok()) << description.status().message();
  Result<Machine> machine = assemble(*description);
  EXPECT_TRUE(machine.ok());
  return std::move(machine).value();
}

std::vector<std::string> lanes_of(const Machine& machine, const std::string& from, const std::string& to, MemoryKind kind) {
  const Result<Path> path = find_path(machine, machine.find(from), machine.find(to), kind);
  EXPECT_TRUE(path.ok()) << path.status().message();
  std::vector<std::string> names;
  for (const LaneId lane : path->lanes) names.push_back(machine.lane(lane).name);
  return names;
}

TEST(BusId, ReadsWhatSysfsNvmlAndNcclWriteAndNothingElse) {
  const BusId expected{0, 0x10, 0x1c, 0};
  EXPECT_EQ(parse_bus_id("0000:10:1c.0"), expected);
  EXPECT_EQ(parse_bus_id("00000000:10:1C.0"), expected);
  EXPECT_EQ(parse_bus_id("10:1c.0"), expected);
  for (const char* bad : {"", ":", "0000:10:1c", "0000:10:20.0", "0000:10:1c.8", "0000:100:1c.0", "x:10:1c.0",
                          "0000:10:1c.0 ", "-1:10:1c.0"}) {
    EXPECT_FALSE(parse_bus_id(bad)) << bad;
  }
}

TEST(PciLink, RateTimesWidthAfterCodingAndBack) {
  EXPECT_NEAR(raw_bandwidth(8, 16), 15.754e9, 1e6);
  EXPECT_NEAR(raw_bandwidth(32, 16), 63.015e9, 1e6);
  EXPECT_EQ(link_of_raw(63.015385e9).rate, 32);
  EXPECT_EQ(link_of_raw(1.969231e9).width, 2U);
  EXPECT_EQ(parse_link_rate("16.0 GT/s PCIe"), 16.0);
  EXPECT_EQ(parse_link_rate("Unknown"), 0.0);
  for (const char* bad : {"0 GT/s", "-8 GT/s", "1e9 GT/s", "nan GT/s", "inf", "8 parsec", "fast"})
    EXPECT_FALSE(parse_link_rate(bad)) << bad;
}

TEST(CpuSet, ReadsMasksOfHwlocAndNcclAndListsOfLinux) {
  EXPECT_EQ(CpuSet::parse_mask("0x0000ffff,,0x3")->to_list(), "0-1,64-79");
  EXPECT_EQ(CpuSet::parse_mask("00000001,00000000")->to_list(), "32");
  EXPECT_EQ(CpuSet::parse_list("0-3,8")->numbers(), (std::vector<unsigned>{0, 1, 2, 3, 8}));
  EXPECT_FALSE(CpuSet::parse_mask("0xg"));
  EXPECT_FALSE(CpuSet::parse_mask("123456789"));
  EXPECT_FALSE(CpuSet::parse_mask(std::string(5000, ',')));
  EXPECT_FALSE(CpuSet::parse_list("3-1"));
  EXPECT_FALSE(CpuSet::parse_list("0-999999999"));
}

TEST(Paths, NvlinkBeatsPcieAndOnlyBetweenTheGpusThatHaveIt) {
  const Machine machine = sample();
  EXPECT_EQ(lanes_of(machine, "GPU0", "GPU1", MemoryKind::kDevice), (std::vector<std::string>{"nvlink:GPU0>GPU1"}));
  EXPECT_EQ(lanes_of(machine, "GPU0", "GPU2", MemoryKind::kDevice),
            (std::vector<std::string>{"pcie-up:GPU0>SW0", "pcie-up:SW0>NUMA0", "interconnect:PKG0>PKG1",
                                      "pcie-down:NUMA1>SW1", "pcie-down:SW1>GPU2"}));
  EXPECT_EQ(nearness_label(machine, machine.find("GPU0"), machine.find("GPU1")), "NV2");
  EXPECT_EQ(nearness_label(machine, machine.find("GPU0"), machine.find("GPU2")), "SYS");
}

TEST(Paths, MemoryKindDecidesWhereBytesStart) {
  const Machine machine = sample();
  EXPECT_EQ(lanes_of(machine, "GPU0", "GPU1", MemoryKind::kHost),
            (std::vector<std::string>{"memory:NUMA0", "pcie-down:NUMA0>SW0", "pcie-down:SW0>GPU1"}));
  EXPECT_EQ(lanes_of(machine, "GPU0", "NIC0", MemoryKind::kDevice),
            (std::vector<std::string>{"pcie-up:GPU0>SW0", "pcie-down:SW0>NIC0", "nic-out:NIC0"}));
  EXPECT_EQ(lanes_of(machine, "NIC2", "NUMA1", MemoryKind::kHost),
            (std::vector<std::string>{"nic-in:NIC2", "pcie-up:NIC2>SW1", "pcie-up:SW1>NUMA1", "memory:NUMA1"}));
  EXPECT_EQ(lanes_of(machine, "NUMA0", "NUMA1", MemoryKind::kHost),
            (std::vector<std::string>{"memory:NUMA0", "memory-copy:NUMA0>NUMA1", "interconnect:PKG0>PKG1", "memory:NUMA1"}));
}

TEST(Paths, TimeIsLatencyPlusBytesOverTheBottleneck) {
  Machine machine = sample();
  ASSERT_TRUE(machine.set_measured("pcie-down:NUMA0>SW0", 5e9, 250));
  const Result<Path> path = find_path(machine, machine.find("NUMA0"), machine.find("GPU0"), MemoryKind::kHost);
  ASSERT_TRUE(path.ok());
  EXPECT_EQ(machine.lane(path->bottleneck).name, "pcie-down:NUMA0>SW0");
  EXPECT_EQ(path->bandwidth, 5e9);
  EXPECT_EQ(path->origin, Origin::kMeasured);
  EXPECT_DOUBLE_EQ(path->latency, vendor::kMemoryLatency + 250 + vendor::kPcieDeviceLatency);
  EXPECT_DOUBLE_EQ(path->expected_time(5000), path->latency + 1000);
}

TEST(Paths, SwitchesAndPackagesAreNoEnds) {
  const Machine machine = sample();
  EXPECT_EQ(find_path(machine, machine.find("SW0"), machine.find("GPU0"), MemoryKind::kDevice).status().code(),
            CARDEA_ERR_INVALID_ARGUMENT);
  EXPECT_EQ(find_path(machine, 100000, machine.find("GPU0"), MemoryKind::kDevice).status().code(),
            CARDEA_ERR_INVALID_ARGUMENT);
}

TEST(Lanes, AnUplinkIsSharedByAllThatIsBelowIt) {
  const Machine machine = sample();
  const LaneId uplink = machine.find_lane(LaneKind::kPcieUp, machine.find("SW0"), machine.find("NUMA0"));
  ASSERT_NE(uplink, kNoLane);
  EXPECT_TRUE(machine.lane(uplink).shared());
  EXPECT_EQ(machine.lane(uplink).users.size(), 4U);
  EXPECT_FALSE(machine.lane(machine.find_lane(LaneKind::kPcieUp, machine.find("GPU0"), machine.find("SW0"))).shared());
}

TEST(Lanes, EveryFigureTellsItsOrigin) {
  Machine machine = sample();
  const auto origin = [&](LaneKind kind, const char* from, const char* to) {
    return machine.lane(machine.find_lane(kind, machine.find(from), machine.find(to))).bandwidth.origin;
  };
  EXPECT_EQ(origin(LaneKind::kPcieUp, "GPU0", "SW0"), Origin::kFile);
  EXPECT_EQ(origin(LaneKind::kDeviceMemory, "GPU0", "GPU0"), Origin::kVendorTable);
  EXPECT_EQ(origin(LaneKind::kMemory, "NUMA0", "NUMA0"), Origin::kGuess);
  machine.set_measured("memory:NUMA0", 1e11, 0);
  EXPECT_EQ(origin(LaneKind::kMemory, "NUMA0", "NUMA0"), Origin::kMeasured);
}

TEST(Machine, FingerprintKnowsTheMachineNotItsName) {
  const std::string text = samples::nccl();
  std::string renamed = text;
  renamed.replace(renamed.find("sample"), 6, "elpmas");
  std::string other = text;
  other.replace(other.find("0x20b0"), 6, "0x20b2");
  const auto fingerprint = [](const std::string& xml) { return assemble(*load_text(xml, "x"))->fingerprint(); };
  EXPECT_EQ(fingerprint(text), fingerprint(renamed));
  EXPECT_NE(fingerprint(text), fingerprint(other));
}

TEST(Machine, FoundByNameBusIdAndOperatingSystemName) {
  const Machine machine = sample();
  EXPECT_NE(machine.find("GPU3"), kNoDevice);
  EXPECT_EQ(machine.find("0000:11:00.0"), machine.find("GPU0"));
  EXPECT_EQ(machine.find("mlx5_3"), machine.find("NIC3"));
  EXPECT_EQ(machine.find("mlx5_4"), kNoDevice);
}

TEST(Assemble, RefusesDescriptionsThatContradictThemselves) {
  Description description = *load_text(samples::nccl(), "x");
  Description twice = description;
  twice.devices.back().bus_id = twice.devices[3].bus_id;
  EXPECT_NE(assemble(twice).status().message().find("0000:10:00.0"), std::string::npos)
      << assemble(twice).status().message();
  Description disordered = description;
  disordered.devices[2].parent = 5;
  EXPECT_FALSE(assemble(disordered).ok());
  Description looped = description;
  looped.nvlinks[0].to = looped.nvlinks[0].from;
  EXPECT_FALSE(assemble(looped).ok());
  Description nowhere = description;
  nowhere.nvlinks[0].to = 4000;
  EXPECT_FALSE(assemble(nowhere).ok());
}

}  // namespace
}  // namespace cardea::topology
