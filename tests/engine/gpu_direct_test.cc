// SPDX-License-Identifier: Apache-2.0
// When what comes over the network goes straight into a GPU's memory.
#include "lib/engine/gpu_direct.h"

#include <gtest/gtest.h>

namespace cardea::engine {
namespace {

using transport::DeviceMemory;

bool direct(const DirectFacts& facts) {
  return why_not_direct(facts).empty();
}

TEST(GpuDirectPolicy, ByItselfOnlyWhereANicNearTheGpuWritesThereAndNobodySharesIt) {
  const DirectFacts best{.can = DeviceMemory::kWritten, .near = true};
  EXPECT_TRUE(direct(best));
  for (const DeviceMemory can : {DeviceMemory::kNone, DeviceMemory::kCopied}) {
    DirectFacts other = best;
    other.can = can;
    EXPECT_FALSE(direct(other));
  }
  DirectFacts far = best;
  far.near = false;
  EXPECT_NE(why_not_direct(far).find("near"), std::string_view::npos);
  DirectFacts shared = best;
  shared.shared = true;
  EXPECT_NE(why_not_direct(shared).find("share"), std::string_view::npos);
}

TEST(GpuDirectPolicy, WishedForWhereverTheLibraryTakesDeviceMemory) {
  for (const bool shared : {false, true}) {
    for (const bool near : {false, true}) {
      for (const DeviceMemory can : {DeviceMemory::kNone, DeviceMemory::kCopied, DeviceMemory::kWritten}) {
        DirectFacts facts{.wish = GpuDirect::kOn, .can = can, .shared = shared, .near = near};
        EXPECT_EQ(direct(facts), can != DeviceMemory::kNone);
        facts.wish = GpuDirect::kOff;
        EXPECT_EQ(why_not_direct(facts), "CARDEA_GPU_DIRECT is off");
      }
    }
  }
}

TEST(GpuDirectPolicy, NeverWhereANicsWritesMustBeFlushedAndCannotBe) {
  for (const GpuDirect wish : {GpuDirect::kAuto, GpuDirect::kOn}) {
    DirectFacts facts{.wish = wish, .can = DeviceMemory::kWritten, .near = true, .must_flush = true};
    EXPECT_FALSE(direct(facts));
    facts.can_flush = true;
    EXPECT_TRUE(direct(facts));
  }
  // What the library copies is the driver's own write.
  EXPECT_TRUE(direct({.wish = GpuDirect::kOn, .can = DeviceMemory::kCopied, .must_flush = true}));
}

}  // namespace
}  // namespace cardea::engine
