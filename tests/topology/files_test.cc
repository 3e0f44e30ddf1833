// SPDX-License-Identifier: Apache-2.0
// Files of all formats, and files that are none: each yields an error that says what is wrong, never a crash or a hang.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/topology/samples.h"
#include "topology/load.h"
#include "topology/paths.h"
#include "topology/xml_file.h"

namespace cardea::topology {
namespace {

class TopologyFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "cardea-topology-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& text) {
    std::ofstream(folder_ + "/file.xml") << text;
    return folder_ + "/file.xml";
  }
  std::string folder_;
};

/// The error must be CONFIGURATION and contain `expected`.
void expect_refused(const std::string& text, const std::string& expected) {
  const Result<Description> result = load_text(text, "bad.xml");
  ASSERT_FALSE(result.ok()) << "accepted, though: " << expected;
  EXPECT_EQ(result.status().code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_NE(result.status().message().find(expected), std::string::npos) << result.status().message();
  EXPECT_EQ(result.status().message().rfind("bad.xml: ", 0), 0U) << result.status().message();
}

std::string changed(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(BadFile, EmptyOrNotXml) {
  expect_refused("", "empty");
  expect_refused(" \n\t", "empty");
  expect_refused("hello", "not well-formed XML");
  expect_refused(std::string("<sys\0tem/>", 10), "NUL");
  expect_refused("\x89PNG\r\n\x1a\n", "not well-formed XML");
}

TEST(BadFile, TruncatedAnywhere) {
  for (const std::string& whole : {samples::nccl(), samples::hwloc1(), samples::hwloc2_hidden()}) {
    const std::size_t end = whole.rfind('<');
    for (std::size_t length = 1; length <= end; length += 7) {
      EXPECT_FALSE(load_text(whole.substr(0, length), "cut").ok()) << length;
    }
  }
}

TEST(BadFile, WrongRoot) {
  expect_refused("<html/>", "<html>, neither <topology>");
  expect_refused("<system version=\"1\"/><system/>", "2 root elements");
  expect_refused("<system version=\"1\"></system>", "no <cpu>");
  expect_refused("<topology version=\"2.0\"><object type=\"Core\"/></topology>", "no Machine");
  expect_refused("<topology version=\"3.0\"/>", "only 1.x and 2.x");
}

TEST(BadFile, EntityBombs) {
  expect_refused("<!DOCTYPE lolz [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><system>&b;</system>", "entities");
  expect_refused("<!DOCTYPE lolz [ <!ELEMENT x ANY> ]><system/>", "internal subset");
  expect_refused("<!DOCTYPE lolz ", "truncated within its DOCTYPE");
}

TEST(BadFile, Cycles) {
  const std::string text = changed(samples::nccl(), "busid=\"0000:11:00.0\"", "busid=\"0000:10:00.0\"");
  expect_refused(text, "0000:10:00.0\"> lies within itself");
  expect_refused(changed(samples::hwloc1(), "pci_busid=\"0000:01:00.0\"", "pci_busid=\"0000:00:01.0\""),
                 "0000:00:01.0 lies within itself");
  expect_refused(changed(samples::nccl(), "target=\"0000:12:00.0\"", "target=\"0000:11:00.0\""),
                 "0000:11:00.0: <nvlink> ends at its own GPU");
}

TEST(BadFile, DuplicateBusIds) {
  expect_refused(changed(samples::nccl(), "busid=\"0000:12:00.0\"", "busid=\"0000:11:00.0\""),
                 "0000:11:00.0\"> is there twice");
  expect_refused(changed(samples::hwloc1(), "0000:81:00.0", "0000:01:00.0"), "0000:01:00.0 is there twice");
  expect_refused(changed(samples::nccl(), "numaid=\"1\"", "numaid=\"0\""), "two NUMA nodes have number 0");
}

TEST(BadFile, SpeedsThatAreNone) {
  for (const char* bad : {"0 GT/s", "-16 GT/s", "1e300 GT/s", "nan GT/s", "16 furlongs"}) {
    expect_refused(changed(samples::nccl(), "16 GT/s", bad), "0000:10:00.0: link_speed=");
  }
  for (const char* bad : {"0", "-1", "33", "x", "99999999999999999999"}) {
    expect_refused(changed(samples::nccl(), "link_width=\"16\"", std::string("link_width=\"") + bad + "\""), "link_width=");
  }
  for (const char* bad : {"0", "-200000", "1e99", "fast", ""}) {
    expect_refused(changed(samples::nccl(), "speed=\"200000\"", std::string("speed=\"") + bad + "\""), "speed=");
  }
  for (const char* bad : {"-1", "1e99", "nan", "4,0"}) {
    expect_refused(changed(samples::hwloc2_hidden(), "31.507692", bad), "0000:11:00.0 has pci_link_speed=");
  }
  for (const char* bad : {"0", "65", "-2", "many"}) {
    expect_refused(changed(samples::nccl(), "count=\"2\"", std::string("count=\"") + bad + "\""), "count=");
  }
}

TEST(BadFile, MalformedAddressesMasksAndNumbers) {
  expect_refused(changed(samples::nccl(), "0000:11:00.0", "pizza"), "\"pizza\", which is no PCI address");
  expect_refused(changed(samples::nccl(), "numaid=\"0\"", "numaid=\"zero\""), "numaid=\"zero\"");
  expect_refused(changed(samples::nccl(), "affinity=\"0000000f\"", "affinity=\"0xzz\""), "no processor mask");
  expect_refused(changed(samples::nccl(), "0x030200", "0xnine"), "class=\"0xnine\"");
  expect_refused(changed(samples::hwloc1(), "cpuset=\"0x00000003\"", "cpuset=\"three\""), "no processor mask");
  expect_refused(changed(samples::hwloc1(), "0302 [10de:1db4]", "GPU"), "pci_type=\"GPU");
}

TEST(BadFile, TooManyDevicesAndTooDeep) {
  std::string many = "<system version=\"1\"><cpu numaid=\"0\">";
  for (int i = 0; i < 4200; ++i) many += "<pci busid=\"0000:00:00.0\"/>";
  expect_refused(many + "</cpu></system>", "more than 4096 devices");
  std::string deep = "<system>";
  for (int i = 0; i < 100; ++i) deep += "<x>";
  for (int i = 0; i < 100; ++i) deep += "</x>";
  expect_refused(deep + "</system>", "deeper than 64");
  std::string tags = "<system>";
  for (int i = 0; i < 500000; ++i) tags += "<x/>";
  expect_refused(tags + "</system>", "tags, more than");
}

TEST_F(TopologyFile, TooLargeIsRefusedUnread) {
  const std::string path = write("<system/>");
  std::filesystem::resize_file(path, kMostFileBytes + 1);
  const Result<Description> result = load_file(path);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("8388609 bytes, more than 8388608"), std::string::npos)
      << result.status().message();
}

TEST_F(TopologyFile, UnreadableMissingOrNoFileAtAll) {
  EXPECT_NE(load_file(folder_ + "/nothing").status().message().find("No such file"), std::string::npos);
  EXPECT_NE(load_file(folder_).status().message().find("not a regular file"), std::string::npos);
  EXPECT_NE(load_file("/dev/zero").status().message().find("not a regular file"), std::string::npos);
  const std::string fifo = folder_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_NE(load_file(fifo).status().message().find("not a regular file"), std::string::npos) << "a FIFO must not hang";
  const std::string path = write(samples::nccl());
  ASSERT_TRUE(load_file(path).ok());
  chmod(folder_.c_str(), 0755);
  chmod(path.c_str(), 0);
  // Root may read anything, so it tries as nobody.
  const uid_t user = geteuid();
  ASSERT_TRUE(user != 0 || seteuid(65534) == 0);
  const std::string message = load_file(path).status().message();
  ASSERT_EQ(seteuid(user), 0);
  EXPECT_NE(message.find("Permission denied"), std::string::npos) << message;
}

TEST(HwlocXml, Version1PutsNodesAboveSockets) {
  const Machine machine = *assemble(*load_text(samples::hwloc1(), "old.xml"));
  EXPECT_EQ(machine.source(), "hwloc 1 XML old.xml");
  ASSERT_EQ(machine.of(DeviceKind::kNumaNode).size(), 2U);
  EXPECT_EQ(machine.device(machine.find("GPU0")).numa, machine.find("NUMA0"));
  EXPECT_EQ(machine.device(machine.find("mlx5_0")).numa, machine.find("NUMA1"));
  EXPECT_NE(machine.package_of(machine.find("GPU0")), machine.package_of(machine.find("NIC0")));
  EXPECT_EQ(machine.device(machine.find("NUMA1")).cores, (std::vector<std::vector<unsigned>>{{2}, {3}}));
}

TEST(HwlocXml, NvlinkMatrixOfTheNvmlBackend) {
  const Machine machine = *assemble(*load_text(samples::hwloc2_hidden(), "vm.xml"));
  EXPECT_EQ(machine.nvlinks(machine.find("GPU0"), machine.find("GPU1")), 2U);
  EXPECT_EQ(machine.device(machine.find("GPU1")).uuid, "GPU-bbbb2222");
  expect_refused(changed(samples::hwloc2_hidden(), "1000000 50000 50000 1000000", "1000000 50000 50000"),
                 "3 values for 2 devices");
}

TEST(NcclFile, PicksUpPortsNvlinksAndCores) {
  const Machine machine = *assemble(*load_text(samples::nccl(), "x"));
  EXPECT_EQ(machine.of(DeviceKind::kGpu).size(), 4U);
  EXPECT_EQ(machine.device(machine.find("mlx5_0")).port_bandwidth, 25e9);
  EXPECT_EQ(machine.nvlinks(machine.find("GPU0"), machine.find("GPU1")), 2U);
  EXPECT_EQ(machine.device(machine.find("NUMA1")).cores.size(), 4U);
}

TEST(NcclFile, UnknownSpeedsAreGuessed) {
  const Machine machine = *assemble(*load_text(
      changed(samples::nccl(), "link_speed=\"16 GT/s\" link_width=\"16\"", "link_speed=\"\" link_width=\"0\""), "x"));
  const Lane& lane = machine.lane(machine.find_lane(LaneKind::kPcieUp, machine.find("SW0"), machine.find("NUMA0")));
  EXPECT_EQ(lane.bandwidth.origin, Origin::kGuess);
}

}  // namespace
}  // namespace cardea::topology
