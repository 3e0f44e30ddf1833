// SPDX-License-Identifier: Apache-2.0
#include "lib/base/short_slices.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <thread>

namespace cardea {
namespace {

std::string slice_of_this_thread() {
  std::ifstream file("/proc/self/task/" + std::to_string(syscall(SYS_gettid)) + "/sched");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("se.slice", 0) == 0) return line.substr(line.rfind(' ') + 1);
  }
  return "";
}

TEST(ShortSlices, AreThoseOfTheThreadThatAsksAndOfNoOther) {
  const std::string before = slice_of_this_thread();
  if (before.empty()) GTEST_SKIP() << "this kernel does not tell slices";
  std::string others;
  bool taken = false;
  std::thread([&] {
    taken = ask_for_short_slices();
    others = slice_of_this_thread();
  }).join();
  EXPECT_TRUE(taken);
  EXPECT_EQ(slice_of_this_thread(), before);
  if (others == before) GTEST_SKIP() << "this kernel ignores the advice";
  EXPECT_EQ(others, "300000");
}

}  // namespace
}  // namespace cardea
