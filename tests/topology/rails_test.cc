// SPDX-License-Identifier: Apache-2.0
// Ports as the system shows them. Which of them a rank takes is tested with machines in tests/api/affinity_test.cc.
#include "topology/rails.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace cardea::topology {
namespace {

TEST(FindPort, OfAnRdmaDeviceIsTheFirstThatTheKernelCallsActive) {
  const std::filesystem::path sys = std::filesystem::temp_directory_path() / ("cardea-ports-" + std::to_string(getpid()));
  const auto write = [&](const std::string& device, int port, const char* state) {
    const auto directory = sys / "class" / "infiniband" / device / "ports" / std::to_string(port);
    std::filesystem::create_directories(directory);
    std::ofstream(directory / "state") << state << "\n";
  };
  write("mlx5_0", 1, "1: DOWN");
  write("mlx5_0", 2, "4: ACTIVE");
  write("mlx5_1", 1, "2: INIT");
  EXPECT_EQ(find_port("mlx5_0", sys.string()), (NicPort{"mlx5_0:2", true}));
  EXPECT_EQ(find_port("mlx5_1", sys.string()), std::nullopt);
  EXPECT_EQ(find_port("../infiniband/mlx5_0", sys.string()), std::nullopt) << "names come from files";
  std::filesystem::remove_all(sys);
}

TEST(FindPort, AnInterfaceThatIsUpAndHasAnAddressIsOne) {
  EXPECT_EQ(find_port("lo"), (NicPort{"lo", false}));
  EXPECT_EQ(find_port("no-such-interface"), std::nullopt);
  EXPECT_EQ(find_port(""), std::nullopt);
}

}  // namespace
}  // namespace cardea::topology
