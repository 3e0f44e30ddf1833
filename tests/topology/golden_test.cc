// SPDX-License-Identifier: Apache-2.0
// What `cardea-topo show` and `check` say of every machine that we describe, and of recorded ones where they are at hand.
// CARDEA_UPDATE_GOLDEN=1 writes the expected texts anew; then read the difference before committing it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "topology/discover.h"
#include "topology/load.h"
#include "topology/merge.h"
#include "topology/render.h"

namespace cardea::topology {
namespace {

namespace fs = std::filesystem;
const fs::path kSource = CARDEA_SOURCE_DIR;
const fs::path kOwn = kSource / "topology/machines";
const fs::path kShared = kSource.parent_path() / "shared/topologies";

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Golden : public ::testing::TestWithParam<const char*> {};

TEST_P(Golden, ShowAndCheckSayWhatIsExpected) {
  const std::string name = GetParam();
  const fs::path file = fs::exists(kOwn / name) ? kOwn / name : kShared / name;
  if (!fs::exists(file)) GTEST_SKIP() << name << " is not at hand: recorded machines lie in " << kShared;
  const Result<Machine> machine = machine_from_file(file);
  ASSERT_TRUE(machine.ok()) << machine.status().message();
  const std::string text =
      render(*machine, assign(*machine, natural_ranks(*machine))) + "\n" + render_findings(check(*machine));
  const fs::path expected = kSource / "tests/topology/golden" / fs::path(name).replace_extension(".txt");
  if (std::getenv("CARDEA_UPDATE_GOLDEN")) std::ofstream(expected) << text;
  ASSERT_TRUE(fs::exists(expected)) << expected << " is missing: run with CARDEA_UPDATE_GOLDEN=1";
  EXPECT_EQ(text, text_of(expected));
}

INSTANTIATE_TEST_SUITE_P(Machines, Golden,
                         ::testing::Values("dgx-a100.xml", "hgx-h100.xml", "hgx-h200.xml", "pcie-8gpu.xml",
                                           "cpu-2socket.xml", "coral-lassen.xml", "g4dnmetal.xml", "h200x2-vm.xml",
                                           "ndv4-topo.xml", "p4d-24xl-topo.xml"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

TEST(GoldenMachines, DescriptionsOfOursLookRight) {
  for (const char* name : {"dgx-a100.xml", "hgx-h100.xml", "hgx-h200.xml", "pcie-8gpu.xml", "cpu-2socket.xml"}) {
    const Result<Machine> machine = machine_from_file(kOwn / name);
    ASSERT_TRUE(machine.ok()) << machine.status().message();
    EXPECT_TRUE(check(*machine).empty()) << name << ": " << render_findings(check(*machine));
  }
}

TEST(GoldenMachines, TheVirtualH200sWithAnNcclFileBesideThemHaveTheFilesShape) {
  if (!fs::exists(kShared / "h200x2-vm.xml")) GTEST_SKIP() << "h200x2-vm.xml is not at hand";
  const std::string file =
      "<system version=\"1\"><cpu numaid=\"0\" arch=\"x86_64\">"
      "<pci busid=\"ffff:ff:01.0\" class=\"0x060400\" link_speed=\"32 GT/s\" link_width=\"16\">"
      "<pci busid=\"0000:00:06.0\" class=\"0x030200\" vendor=\"0x10de\" device=\"0x2335\" link_speed=\"32 GT/s\" "
      "link_width=\"16\">"
      "<gpu dev=\"0\" sm=\"90\"><nvlink target=\"fffffff:ffff:ff\" count=\"18\" tclass=\"0x068000\"/></gpu></pci>"
      "<pci busid=\"0000:00:07.0\" class=\"0x030200\" vendor=\"0x10de\" device=\"0x2335\" link_speed=\"32 GT/s\" "
      "link_width=\"16\">"
      "<gpu dev=\"1\" sm=\"90\"><nvlink target=\"fffffff:ffff:ff\" count=\"18\" tclass=\"0x068000\"/></gpu></pci>"
      "</pci></cpu></system>";
  const Description recorded = *load_file(kShared / "h200x2-vm.xml");
  const auto findings = check(*assemble(recorded));
  ASSERT_FALSE(findings.empty());
  EXPECT_EQ(findings.front().kind, "hidden-pcie-tree");
  const Result<Description> merged = merge(*load_text(file, "nccl.xml"), recorded);
  ASSERT_TRUE(merged.ok()) << merged.status().message();
  const Machine machine = *assemble(*merged);
  EXPECT_TRUE(check(machine).empty()) << render_findings(check(machine));
  EXPECT_EQ(nearness_label(machine, machine.find("GPU0"), machine.find("GPU1")), "NV18");
  EXPECT_EQ(nearness(machine, machine.find("GPU0"), machine.find("GPU1"), false), Nearness::kOneSwitch);
  EXPECT_NEAR(find_path(machine, machine.find("GPU0"), machine.find("GPU1"), MemoryKind::kDevice)->bandwidth, 391.5e9, 1e9);
}

}  // namespace
}  // namespace cardea::topology
