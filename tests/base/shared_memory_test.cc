// SPDX-License-Identifier: Apache-2.0
#include "lib/base/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/ranks.h"

namespace cardea {
namespace {

constexpr std::uint64_t kBytes = 5 * 1024 * 1024 + 123;

UniqueFd memfd_of(off_t bytes, int seals) {
  UniqueFd fd(memfd_create("cardea-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), bytes), 0);
  if (seals != 0) {
    EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  }
  return fd;
}

// Bytes of the mapping at `address` that this process's page tables reach without a fault.
std::uint64_t resident(const std::byte* address) {
  std::ifstream maps("/proc/self/smaps");
  const std::string start = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(address));
  std::string line;
  for (bool here = false; std::getline(maps, line);) {
    here = here || line.rfind(start, 0) == 0;
    if (here && line.rfind("Rss:", 0) == 0) return std::stoull(line.substr(4)) * 1024;
  }
  return 0;
}

TEST(SharedMemory, PeersSeeWhatTheOwnerWritesNowAndLater) {
  Result<SharedMemory> memory = SharedMemory::create("test", kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status().message();
  EXPECT_EQ(memory->size(), kBytes);
  memory->data()[kBytes - 1] = std::byte{7};
  Result<SharedMapping> mapping = SharedMapping::open(memory->descriptor(), kBytes);
  ASSERT_TRUE(mapping.ok()) << mapping.status().message();
  EXPECT_NE(mapping->data(), memory->data());
  EXPECT_EQ(mapping->data()[kBytes - 1], std::byte{7});
  memory->data()[0] = std::byte{9};
  const std::byte now = *static_cast<const volatile std::byte*>(mapping->data());
  EXPECT_EQ(now, std::byte{9});
}

TEST(SharedMemory, AddressesAreAlignedForHugePages) {
  for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{4096}, kBytes}) {
    Result<SharedMemory> memory = SharedMemory::create("test", bytes);
    ASSERT_TRUE(memory.ok());
    Result<SharedMapping> mapping = SharedMapping::open(memory->descriptor(), bytes);
    ASSERT_TRUE(mapping.ok());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data()) % (2 << 20), 0u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(mapping->data()) % (2 << 20), 0u);
  }
}

TEST(SharedMemory, EveryPageIsPresentOnBothSides) {
  Result<SharedMemory> memory = SharedMemory::create("test", kBytes);
  ASSERT_TRUE(memory.ok());
  struct stat file {};
  ASSERT_EQ(fstat(memory->descriptor(), &file), 0);
  EXPECT_GE(static_cast<std::uint64_t>(file.st_blocks) * 512, kBytes);
  Result<SharedMapping> mapping = SharedMapping::open(memory->descriptor(), kBytes);
  ASSERT_TRUE(mapping.ok());
  EXPECT_GE(resident(memory->data()), kBytes);
  EXPECT_GE(resident(mapping->data()), kBytes);
}

TEST(SharedMemory, PeersCanNeitherWriteNorResizeIt) {
  Result<SharedMemory> memory = SharedMemory::create("test", kBytes);
  ASSERT_TRUE(memory.ok());
  const int fd = memory->descriptor();
  EXPECT_EQ(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(fd, 4096), -1);
  EXPECT_EQ(ftruncate(fd, kBytes * 2), -1);
  EXPECT_EQ(pwrite(fd, "x", 1, 0), -1);
  EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
  Result<SharedMapping> mapping = SharedMapping::open(fd, kBytes);
  ASSERT_TRUE(mapping.ok());
  EXPECT_EQ(mprotect(const_cast<std::byte*>(mapping->data()), 4096, PROT_READ | PROT_WRITE), -1);
}

TEST(SharedMemory, MoreThanTheMachineHasIsNoMemoryAndNamesTheSize) {
  const std::uint64_t bytes = std::uint64_t{1} << 50;
  const Result<SharedMemory> memory = SharedMemory::create("test", bytes);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.status().code(), CARDEA_ERR_NO_MEMORY);
  EXPECT_NE(memory.status().message().find(std::to_string(bytes)), std::string::npos) << memory.status().message();
  EXPECT_EQ(SharedMemory::create("test", 0).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
}

TEST(SharedMemory, AFileSizeLimitIsNoMemoryAndKillsNobody) {
  test::run_ranks(1, [](unsigned) {
    rlimit limit{1 << 20, 1 << 20};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_EQ(SharedMemory::create("test", kBytes).status().code(), CARDEA_ERR_NO_MEMORY);
  });
}

TEST(SharedMemory, OutlivesItsOwnerInAPeersMapping) {
  SharedMapping mapping;
  {
    Result<SharedMemory> memory = SharedMemory::create("test", kBytes);
    ASSERT_TRUE(memory.ok());
    std::memset(memory->data(), 3, kBytes);
    mapping = std::move(SharedMapping::open(memory->descriptor(), kBytes)).value();
  }
  EXPECT_EQ(mapping.data()[kBytes / 2], std::byte{3});
}

TEST(SharedMapping, RefusesWhatCouldHarmAndSaysWhy) {
  const auto message = [](int fd, std::uint64_t bytes) {
    const Status status = SharedMapping::open(fd, bytes).status();
    EXPECT_EQ(status.code(), CARDEA_ERR_PROTOCOL) << status.message();
    return status.message();
  };
  EXPECT_NE(message(memfd_of(8192, 0).get(), 8192).find("not sealed"), std::string::npos);
  EXPECT_NE(message(memfd_of(8192, F_SEAL_GROW).get(), 8192).find("not sealed"), std::string::npos);
  EXPECT_NE(message(memfd_of(4096, F_SEAL_SHRINK).get(), 4097).find("4096 bytes where 4097"), std::string::npos);
  EXPECT_NE(message(memfd_of(4096, F_SEAL_SHRINK).get(), UINT64_MAX).find("were announced"), std::string::npos);
  EXPECT_NE(message(memfd_of(4096, F_SEAL_SHRINK).get(), 0).find("0 bytes"), std::string::npos);
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_NE(message(file.get(), 1).find("no memory"), std::string::npos);
  EXPECT_EQ(SharedMapping::open(-1, 1).status().code(), CARDEA_ERR_SYSTEM);
}

TEST(SharedMapping, IsBroughtInPartByPartAndReadableAllTheWhile) {
  constexpr std::uint64_t kWhole = (std::uint64_t{5} << 20) + 123;
  Result<SharedMemory> memory = SharedMemory::create("test", kWhole);
  ASSERT_TRUE(memory.ok());
  memory->data()[kWhole - 1] = std::byte{42};
  Result<SharedMapping> mapping = SharedMapping::open(memory->descriptor(), kWhole, MappedRange::Pages::kLater);
  ASSERT_TRUE(mapping.ok());
  EXPECT_EQ(mapping->data()[kWhole - 1], std::byte{42}) << "before anything was brought in";
  int parts = 0;
  for (bool whole = false; !whole; ++parts) {
    ASSERT_LT(parts, 100);
    const Result<bool> step = mapping->bring_in_next(memory->descriptor(), std::uint64_t{1} << 20);
    ASSERT_TRUE(step.ok()) << step.status().message();
    whole = *step;
  }
  EXPECT_EQ(parts, 6);
  EXPECT_TRUE(mapping->bring_in_next(-1, 1).value()) << "nothing is left to do";
}

}  // namespace
}  // namespace cardea
