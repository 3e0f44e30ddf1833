// SPDX-License-Identifier: Apache-2.0
// Several rails of a rank: that chunks come by all of them, that one that breaks costs its rate and nothing else, and what a
// peer may say of them.
#include <gmock/gmock.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

#include "lib/base/unique_fd.h"
#include "lib/transport/ucx/rails.h"
#include "tests/transport/ucx_rank.h"

namespace cardea::test {
namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)
using transport::ExpertAddress;
using transport::Lease;
using transport::RailRun;
using transport::ucx::LinkWatch;
using transport::ucx::Rails;

constexpr std::size_t kChunk = 256 << 10;
constexpr std::size_t kChunks = 32;
const std::vector<std::string> kTwo{"lo", "lo"};

Rails& rails(UcxRank& rank) {
  return static_cast<Rails&>(rank.transport());
}

void lend_all_of(UcxRank& rank, Bytes& expert) {
  rank.lender = [&expert](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
    return Lease{1, {{expert.data() + offset, bytes}}};
  };
}

/// Pulls all of the expert, chunks by rails in turn, as often as it takes until `enough`. True if all came and were right.
bool pull_by(UcxRank& rank, Rank source, const Bytes& expert, std::uint32_t by, const std::function<bool()>& enough) {
  Bytes landed(expert.size());
  const std::uint64_t first = rank.chunks.size();
  std::uint64_t next = first;
  const bool came = rank.pump([&] {
    const auto more = [&] { return next - first < kChunks || !enough(); };
    while (more() && next - rank.chunks.size() < 8) {
      const std::size_t at = next % kChunks * kChunk;
      rank.pull(next, source, at, {{landed.data() + at, kChunk}}, 1, static_cast<std::uint32_t>(next % by));
      ++next;
    }
    return !more() && rank.chunks.size() == next;
  });
  for (const auto& [token, status] : rank.chunks) EXPECT_TRUE(status.ok()) << token << ": " << status.message();
  return came && landed == expert;
}

TEST(UcxRails, ChunksComeByAllOfThemAndAreRight) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self), kTwo);
    EXPECT_EQ(rails(rank).rails(1 - self), (RailRun{0, 2}));
    Bytes mine = pattern(kChunk * kChunks, self);
    lend_all_of(rank, mine);
    EXPECT_TRUE(pull_by(rank, 1 - self, pattern(kChunk * kChunks, 1 - self), 2, [] { return true; }));
    EXPECT_EQ(rails(rank).arrived(0), kChunks / 2);
    EXPECT_EQ(rails(rank).arrived(1), kChunks / 2);
    EXPECT_TRUE(rank.lost.empty());
    EXPECT_TRUE(rank.barrier(0));
  });
}

TEST(UcxRails, APeerWithOneIsReachedByOneWhateverTheChunksAskFor) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self), self == 0 ? kTwo : std::vector<std::string>{"lo"});
    EXPECT_EQ(rails(rank).rails(1 - self), (RailRun{0, 1}));
    Bytes mine = pattern(kChunk * kChunks, self);
    lend_all_of(rank, mine);
    EXPECT_TRUE(pull_by(rank, 1 - self, pattern(kChunk * kChunks, 1 - self), 4, [] { return true; }));
    EXPECT_EQ(rails(rank).arrived(0), kChunks);
    EXPECT_TRUE(rank.barrier(0));
  });
}

TEST(UcxRails, NumbersOfThemThatCannotBeAreRefused) {
  run_ranks(1, [&](unsigned) {
    boost::asio::io_context io;
    UcxWorld world(1);
    UcxRank listener(world, 0, ucx_options(0));
    for (const std::size_t count : {std::size_t{0}, transport::kMaxUcxRails + 1}) {
      EXPECT_EQ(
          transport::make_ucx_rails(io, listener, ucx_options(0), std::vector<std::string>(count, "lo")).status().code(),
          CARDEA_ERR_INVALID_ARGUMENT);
    }
    const auto no_such = transport::make_ucx_rails(io, listener, ucx_options(0), {"no-such-nic", "lo"});
    EXPECT_THAT(no_such.status().message(), ::testing::HasSubstr("no-such-nic"));
    EXPECT_FALSE(transport::make_ucx_rails(io, listener, ucx_options(0), {std::string(200, 'e')}).ok());
  });
}

/// An interface of this machine other than loopback that is up and has an address; empty if there is none.
std::string second_device() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  std::string found;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    if ((entry->ifa_flags & IFF_LOOPBACK) == 0 && (entry->ifa_flags & IFF_RUNNING) != 0) found = entry->ifa_name;
  }
  freeifaddrs(list);
  return found;
}

/// Ends all of this process's TCP connections that are not over the loopback address, as a reset does; how many they were.
int break_connections() {
  int broken = 0;
  for (int fd = 0; fd < 1024; ++fd) {
    sockaddr_in local{}, remote{};
    socklen_t size = sizeof local, remote_size = sizeof remote;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) != 0 || local.sin_family != AF_INET) continue;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&remote), &remote_size) != 0) continue;
    if (ntohl(local.sin_addr.s_addr) >> 24 == 127) continue;
    broken += ::shutdown(fd, SHUT_RDWR) == 0;
  }
  return broken;
}

TEST(UcxRails, OneThatBreaksIsTakenOutAndItsChunksComeByTheOther) {
  const std::string second = second_device();
  if (second.empty()) GTEST_SKIP() << "this machine has no interface beside loopback";
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self), {"lo", second});
    Bytes mine = pattern(kChunk * kChunks, self);
    const Bytes theirs = pattern(kChunk * kChunks, 1 - self);
    lend_all_of(rank, mine);
    int broken = 0;
    // Chunks are on their way by both when the source's connections of the second end.
    EXPECT_TRUE(pull_by(rank, 1 - self, theirs, 2, [&] {
      if (self == 0 && broken == 0 && rails(rank).arrived(1) >= kChunks / 2) broken = break_connections();
      world.board.set(self, rails(rank).is_out(1 - self, 1) ? 1 : 0);
      return world.board.get(0) == 1 && world.board.get(1) == 1;
    }));
    if (self == 0) {
      EXPECT_GT(broken, 0) << "nothing would be proven";
    }
    const std::uint64_t before = rails(rank).arrived(1);
    EXPECT_GT(before, 0u);
    EXPECT_TRUE(rank.barrier(0));
    EXPECT_TRUE(pull_by(rank, 1 - self, theirs, 2, [] { return true; })) << "the other one serves all";
    EXPECT_EQ(rails(rank).arrived(1), before);
    EXPECT_TRUE(rank.lost.empty());
    EXPECT_TRUE(rank.barrier(1));
  });
}

TEST(UcxRails, OneByWhichNothingComesIsTakenOut) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self), kTwo, 300ms);
    Bytes expert = pattern(kChunk * 2, 0);
    int asked = 0;
    // What is asked for first is never answered: so is a network that swallows it.
    rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t offset, std::uint64_t bytes) -> Result<Lease> {
      if (asked++ == 0) return Status(CARDEA_IN_PROGRESS, "not yet");
      return Lease{1, {{expert.data() + offset, bytes}}};
    };
    if (self == 1) {
      Bytes landed(kChunk);
      rank.pull(1, 0, kChunk, {{landed.data(), kChunk}}, 1, 1);
      EXPECT_TRUE(rank.pump([&] { return rank.chunks.contains(1); }));
      EXPECT_TRUE(rank.chunks.at(1).ok()) << rank.chunks.at(1).message();
      EXPECT_EQ(landed, Bytes(expert.begin() + kChunk, expert.end()));
      EXPECT_EQ(rails(rank).arrived(0), 1u) << "it came by the other";
      EXPECT_TRUE(rails(rank).is_out(0, 1));
    } else {
      EXPECT_TRUE(rank.pump([&] { return rails(rank).is_out(1, 1); })) << "the other side is told";
      EXPECT_TRUE(rank.pump([&] { return asked >= 2; })) << "the chunk is asked for again, it may be after that";
      EXPECT_EQ(asked, 2);
    }
    EXPECT_TRUE(rank.lost.empty());
    EXPECT_TRUE(rank.barrier(0));
  });
}

TEST(UcxRails, AnAnswerThatIsNoFaultOfTheRailIsNotAskedForAgain) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self), kTwo);
    int asked = 0;
    rank.lender = [&](Rank, const ExpertAddress&, std::uint64_t, std::uint64_t) -> Result<Lease> {
      ++asked;
      return Status(CARDEA_ERR_STALE, "retired");
    };
    if (self == 1) {
      Bytes landed(kChunk);
      rank.pull(1, 0, 0, {{landed.data(), kChunk}}, 1, 1);
      EXPECT_TRUE(rank.pump([&] { return rank.chunks.contains(1); }));
      EXPECT_EQ(rank.chunks.at(1).code(), CARDEA_ERR_STALE);
      EXPECT_FALSE(rails(rank).is_out(0, 1));
    }
    EXPECT_TRUE(rank.barrier(0));
    EXPECT_EQ(asked, self == 0 ? 1 : 0);
  });
}

/// What rank 1 does loses it at rank 0, by PROTOCOL, once.
void expect_loss(const std::function<void(Rails&)>& offence) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self), kTwo);
    if (self == 1) {
      offence(rails(rank));
      EXPECT_TRUE(rank.pump([&] { return world.board.get(0) != 0; }));
      return;
    }
    EXPECT_TRUE(rank.pump([&] { return rank.lost.contains(1); }));
    EXPECT_EQ(rank.lost.at(1).code(), CARDEA_ERR_PROTOCOL) << rank.lost.at(1).message();
    EXPECT_TRUE(rank.messages.empty());
    world.board.set(0, 1);
  });
}

TEST(UcxRails, NonsenseAboutThemLosesThePeer) {
  expect_loss([](Rails& of) { of.rail(0).tell_rail_out(0, 0); });              // the one that it says so by
  expect_loss([](Rails& of) { of.rail(0).tell_rail_out(0, 3); });              // one that is not paired
  expect_loss([](Rails& of) { of.rail(1).tell_rail_out(0, 1); });              // by another than the main one
  expect_loss([](Rails& of) { of.rail(1).send(0, Bytes(3, std::byte{7})); });  // a message where only chunks go
}

TEST(UcxRails, WhoHasNoneIsNotToldOfThem) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self));
    if (self == 1) {
      static_cast<transport::ucx::UcxTransport&>(rank.transport()).tell_rail_out(0, 1);
      EXPECT_TRUE(rank.pump([&] { return world.board.get(0) != 0; }));
      return;
    }
    EXPECT_TRUE(rank.pump([&] { return rank.lost.contains(1); }));
    EXPECT_EQ(rank.lost.at(1).code(), CARDEA_ERR_PROTOCOL);
    world.board.set(0, 1);
  });
}

TEST(UcxRails, AnotherNumberOfDescriptorsThanOfRailsIsRefused) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    UcxRank rank(world, self, ucx_options(self), self == 0 ? kTwo : std::vector<std::string>{"lo"});
    Bytes memory(4096);
    const std::vector<Rank> peers{1 - self};
    const auto offered = rank.transport().offer(1, memory.data(), memory.size(), -1, peers);
    if (!offered.ok()) {
      ADD_FAILURE() << offered.status().message();
    } else {
      // What this rank offers describes its own rails, of which the other has another number.
      EXPECT_EQ(rank.transport().accept({1 - self, 1}, memory.size(), *offered).code(), CARDEA_ERR_PROTOCOL);
    }
    EXPECT_TRUE(rank.barrier(0));
  });
}

TEST(LinkWatch, HearsThatAnInterfaceGoesDownAndOnlyOnce) {
  run_ranks(1, [&](unsigned) {
    if (unshare(CLONE_NEWNET) != 0) {
      std::printf("not tried: this system lets nobody make network namespaces\n");
      return;
    }
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto set = [&](bool up) {
      ifreq request{};
      std::memcpy(request.ifr_name, "lo", 2);
      ASSERT_EQ(ioctl(socket.get(), SIOCGIFFLAGS, &request), 0);
      request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
      ASSERT_EQ(ioctl(socket.get(), SIOCSIFFLAGS, &request), 0);
    };
    set(true);
    boost::asio::io_context io;
    std::vector<std::size_t> down;
    LinkWatch watch(io, {"mlx5_0:1", "lo", "no-such"}, [&](std::size_t i) { down.push_back(i); });
    const auto turn = [&](auto done) {
      for (int i = 0; i < 400 && !done(); ++i) {
        io.restart();
        io.run_one_for(100ms);
      }
    };
    set(false);
    turn([&] { return !down.empty(); });
    EXPECT_THAT(down, ::testing::ElementsAre(1));
    set(true);
    set(false);
    io.restart();
    io.run_for(50ms);
    EXPECT_EQ(down.size(), 1u);
  });
}

}  // namespace
}  // namespace cardea::test
