// SPDX-License-Identifier: Apache-2.0
// A file laid over a machine; the driver's GPUs; CUDA_VISIBLE_DEVICES.
#include "topology/merge.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/topology/samples.h"
#include "topology/check.h"
#include "topology/live.h"
#include "topology/load.h"
#include "topology/paths.h"
#include "topology/visible.h"

namespace cardea::topology {
namespace {

Description file() {
  return *load_text(samples::nccl(), "cloud.xml");
}
Description live() {
  return *load_text(samples::hwloc2_hidden(), "vm.xml");
}

Device& at(Description& description, const char* bus_id) {
  return description.devices[description.find(*parse_bus_id(bus_id))];
}

bool noted(const Description& description, const std::string& text) {
  return std::any_of(description.notes.begin(), description.notes.end(),
                     [&](const std::string& note) { return note.find(text) != std::string::npos; });
}

void expect_contradiction(const Description& from_file, const Description& from_machine, const std::string& expected) {
  const Result<Description> merged = merge(from_file, from_machine);
  ASSERT_FALSE(merged.ok()) << expected;
  EXPECT_EQ(merged.status().code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_NE(merged.status().message().find(expected), std::string::npos) << merged.status().message();
}

bool finds(const Machine& machine, const std::string& kind) {
  const auto findings = check(machine);
  return std::any_of(findings.begin(), findings.end(), [&](const Finding& finding) { return finding.kind == kind; });
}

TEST(Merge, TheFileGivesTheShapeAndTheMachineTheNames) {
  const Result<Description> merged = merge(file(), live());
  ASSERT_TRUE(merged.ok()) << merged.status().message();
  const Machine machine = *assemble(*merged);
  EXPECT_EQ(nearness(machine, machine.find("GPU0"), machine.find("mlx5_9"), false), Nearness::kOneSwitch);
  EXPECT_EQ(machine.device(machine.find("GPU0")).uuid, "GPU-aaaa1111");
  EXPECT_EQ(machine.device(machine.find("mlx5_9")).port_bandwidth, 25e9) << "the machine did not tell, so the file does";
  EXPECT_EQ(machine.nvlinks(machine.find("GPU0"), machine.find("GPU1")), 2U);
  EXPECT_EQ(machine.device(machine.find("NUMA0")).cores.size(), 2U) << "processors are the machine's";
}

TEST(Merge, WithoutTheFileCheckSaysThatTheTreeIsHiddenAndWithItNot) {
  EXPECT_TRUE(finds(*assemble(live()), "hidden-pcie-tree"));
  EXPECT_FALSE(finds(*assemble(*merge(file(), live())), "hidden-pcie-tree"));
}

TEST(Merge, DevicesOnlyInTheFileAreIgnoredWithANote) {
  const Description merged = *merge(file(), live());
  const Machine machine = *assemble(merged);
  EXPECT_EQ(machine.of(DeviceKind::kGpu).size(), 2U);
  EXPECT_EQ(machine.of(DeviceKind::kNic).size(), 1U);
  EXPECT_EQ(machine.of(DeviceKind::kPcieSwitch).size(), 1U) << "the other switch has nothing below it";
  EXPECT_TRUE(noted(merged, "5 devices of the file are not here and ignored: 0000:14:00.0, 0000:21:00.0"));
}

TEST(Merge, DevicesOnlyInTheMachineStayWhereItShowsThem) {
  Description machine = live();
  at(machine, "0000:13:00.0").bus_id = parse_bus_id("0000:00:05.0");
  const Description merged = *merge(file(), machine);
  EXPECT_TRUE(noted(merged, "NIC 0000:00:05.0 is not in the file"));
  const Machine assembled = *assemble(merged);
  EXPECT_EQ(assembled.device(assembled.device(assembled.find("mlx5_9")).parent).kind, DeviceKind::kHostBridge);
}

TEST(Merge, ContradictionsAboutPresentDevicesNameThem) {
  Description machine = live();
  at(machine, "0000:11:00.0").identity.device = 0x2335;
  expect_contradiction(file(), machine, "0000:11:00.0 is PCI device 10de:20b0 in the file, 10de:2335 here");
  machine = live();
  at(machine, "0000:12:00.0").kind = DeviceKind::kNic;
  machine.nvlinks.clear();
  expect_contradiction(file(), machine, "0000:12:00.0 is a GPU in the file, a NIC here");
  machine = live();
  at(machine, "0000:13:00.0").link.most_rate = 8;
  at(machine, "0000:13:00.0").link.most_width = 16;
  expect_contradiction(file(), machine, "0000:13:00.0 has a link of 31.5 GB/s in the file, but can do 15.8 GB/s");
  machine = live();
  machine.nvlinks[0].links = 4;
  expect_contradiction(file(), machine, "0000:11:00.0 has 2 NVLinks to 0000:12:00.0 in the file, 4 here");
}

TEST(Merge, AnotherNumaNodeIsAContradictionOnlyWhereTheMachineTells) {
  Description two = *load_text(samples::hwloc1(), "old.xml");
  Description other = file();
  at(other, "0000:11:00.0").bus_id = parse_bus_id("0000:81:00.0");
  expect_contradiction(other, two, "0000:81:00.0 is a GPU in the file, a NIC here");
  other = file();
  at(other, "0000:13:00.0").bus_id = parse_bus_id("0000:81:00.0");
  at(other, "0000:81:00.0").identity = {};
  at(other, "0000:81:00.0").link = {};
  expect_contradiction(other, two, "0000:81:00.0 is on NUMA node 0 in the file, on 1 here");
  // A virtual machine with one node cannot contradict.
  Description moved = file();
  at(moved, "0000:21:00.0").bus_id = parse_bus_id("0000:77:00.0");
  Description one = live();
  at(one, "0000:13:00.0").bus_id = parse_bus_id("0000:23:00.0");
  const Result<Description> merged = merge(moved, one);
  ASSERT_TRUE(merged.ok()) << merged.status().message();
  EXPECT_TRUE(noted(*merged, "NUMA node 1 is not visible here"));
}

TEST(Driver, GivesUuidsNumbersAndNvlinks) {
  Description description = live();
  description.nvlinks.clear();
  DriverGpu first;
  first.bus_id = *parse_bus_id("00000000:11:00.0");
  first.uuid = "GPU-1";
  first.model = "NVIDIA A100";
  first.links.assign(12, {DriverGpu::Link::Remote::kGpu, parse_bus_id("00000000:12:00.0")});
  DriverGpu second = first;
  second.index = 1;
  second.bus_id = *parse_bus_id("00000000:12:00.0");
  second.uuid = "GPU-2";
  second.links.assign(12, {DriverGpu::Link::Remote::kGpu, parse_bus_id("00000000:11:00.0")});
  add_driver_gpus(description, {first, second});
  const Machine machine = *assemble(description);
  EXPECT_EQ(machine.nvlinks(machine.find("GPU-1"), machine.find("GPU-2")), 12U);
  EXPECT_EQ(machine.device(machine.find("GPU1")).model, "NVIDIA A100");
}

TEST(Driver, LinksWithoutAVisibleEndGoToSwitchesIfTheDriverSaysSo) {
  for (const bool reachable : {true, false}) {
    Description description = live();
    description.nvlinks.clear();
    DriverGpu first;
    first.bus_id = *parse_bus_id("0000:11:00.0");
    first.links.resize(18);
    DriverGpu second = first;
    second.index = 1;
    second.bus_id = *parse_bus_id("0000:12:00.0");
    if (reachable) first.nvlink_peers = {second.bus_id}, second.nvlink_peers = {first.bus_id};
    add_driver_gpus(description, {first, second});
    const Machine machine = *assemble(description);
    EXPECT_EQ(machine.nvlinks(machine.find("GPU0"), machine.find("GPU1")), reachable ? 18U : 0U);
    EXPECT_EQ(machine.of(DeviceKind::kNvSwitch).size(), reachable ? 1U : 0U);
  }
}

TEST(Driver, AGpuThatThePciTreeDoesNotShowGetsANote) {
  Description description = live();
  DriverGpu stray;
  stray.bus_id = *parse_bus_id("0000:99:00.0");
  add_driver_gpus(description, {stray});
  EXPECT_TRUE(noted(description, "GPU 0 at 0000:99:00.0"));
}

std::vector<int> visible(const std::string& variable, std::string* note = nullptr) {
  Description description = live();
  apply_cuda_visible(description, variable);
  std::vector<int> ordinals;
  for (const char* bus_id : {"0000:11:00.0", "0000:12:00.0"}) {
    const auto& ordinal = at(description, bus_id).cuda_index;
    ordinals.push_back(ordinal ? static_cast<int>(*ordinal) : -1);
  }
  if (note) *note = description.notes.empty() ? "" : description.notes.back();
  return ordinals;
}

TEST(CudaVisibleDevices, ByNumberAndUuidInTheOrderGiven) {
  EXPECT_EQ(visible("0,1"), (std::vector<int>{0, 1}));
  EXPECT_EQ(visible("1,0"), (std::vector<int>{1, 0}));
  EXPECT_EQ(visible(" 1 "), (std::vector<int>{-1, 0}));
  EXPECT_EQ(visible("GPU-bbbb2222,GPU-aaaa"), (std::vector<int>{1, 0}));
  EXPECT_EQ(visible(""), (std::vector<int>{-1, -1}));
  EXPECT_EQ(visible("-1"), (std::vector<int>{-1, -1}));
}

TEST(CudaVisibleDevices, OddEntriesDoAsCudaDoesAndAreNoted) {
  std::string note;
  EXPECT_EQ(visible("1,7,0", &note), (std::vector<int>{-1, 0}));
  EXPECT_NE(note.find("no GPU is \"7\""), std::string::npos) << note;
  EXPECT_EQ(visible("0,0", &note), (std::vector<int>{-1, -1}));
  EXPECT_NE(note.find("twice"), std::string::npos) << note;
  EXPECT_EQ(visible("GPU-", &note), (std::vector<int>{-1, -1})) << "a beginning that fits two GPUs names none";
  EXPECT_EQ(visible("MIG-1234", &note), (std::vector<int>{-1, -1}));
  EXPECT_NE(note.find("MIG"), std::string::npos) << note;
}

}  // namespace
}  // namespace cardea::topology
