// SPDX-License-Identifier: Apache-2.0
// The offer of a node cache by a leader that misbehaves: the ranks go without, and nobody waits.
#include "lib/transport/shm/node_arena.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/wire.h"
#include "lib/transport/shm/ancillary.h"

namespace cardea::shm {
namespace {

constexpr std::uint64_t kCapacity = 64 << 10, kChunk = 4096;
constexpr std::uint64_t kOffer = 0x3168636143724121;

class NodeArena : public testing::Test {
 protected:
  NodeArena() : arena_(cache::Arena::create(cache::Shape::of(kCapacity, kChunk).value()).value()) {}

  static Bytes offer(std::uint64_t magic, std::uint64_t present) {
    return WireWriter().number(magic).number(present).take();
  }
  /// What rank 1 makes of it. The leader closes its end afterwards.
  static Result<std::optional<cache::Arena>> accept(ByteView message, int descriptor) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    UniqueFd leader(pair[1]);
    Membership membership;
    membership.node_of = {0, 0};
    membership.node_ranks = {0, 1};
    membership.links.resize(1);
    membership.links[0].rank = 0;
    membership.links[0].socket.reset(pair[0]);
    const iovec piece{const_cast<std::byte*>(message.data()), message.size()};
    EXPECT_EQ(shm::send(leader.get(), {&piece, message.empty() ? 0u : 1u}, message.empty() ? -1 : descriptor).bytes,
              message.size());
    leader.reset();
    return share_arena(membership, 1, kCapacity, kChunk, Clock::now() + std::chrono::seconds(60));
  }
  static UniqueFd memory(std::size_t bytes, int seals = F_SEAL_SHRINK | F_SEAL_GROW) {
    UniqueFd file(memfd_create("arena", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    EXPECT_EQ(fcntl(file.get(), F_ADD_SEALS, seals), 0);
    return file;
  }

  cache::Arena arena_;
};

TEST_F(NodeArena, WhatTheLeaderHasIsAttachedTo) {
  const auto accepted = accept(offer(kOffer, 1), arena_.descriptor());
  ASSERT_TRUE(accepted.ok()) << accepted.status().message();
  ASSERT_TRUE(*accepted);
  EXPECT_EQ((*accepted)->directory().shape().capacity, arena_.directory().shape().capacity);
  const auto none = accept(offer(kOffer, 0), -1);
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(*none);
}

TEST_F(NodeArena, ATruncatedOfferIsTheLeadersLoss) {
  const Bytes whole = offer(kOffer, 1);
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_EQ(accept(ByteView(whole).first(length), -1).status().code(), CARDEA_ERR_PEER_LOST) << length;
}

TEST_F(NodeArena, AnOfferThatIsNoneIsRefused) {
  EXPECT_EQ(accept(offer(kOffer ^ 1, 1), arena_.descriptor()).status().code(), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(accept(offer(kOffer, 1), -1).status().code(), CARDEA_ERR_PROTOCOL) << "memory that did not come";
  EXPECT_EQ(accept(offer(kOffer, 0), arena_.descriptor()).status().code(), CARDEA_ERR_PROTOCOL) << "and that came unasked";
  for (const std::uint64_t present : {std::uint64_t{2}, std::uint64_t{1} << 31, UINT64_MAX})
    EXPECT_EQ(accept(offer(kOffer, present), arena_.descriptor()).status().code(), CARDEA_ERR_PROTOCOL) << present;
}

TEST_F(NodeArena, MemoryThatIsNoNodeCacheIsRefused) {
  const std::size_t total = arena_.directory().shape().total_bytes();
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, sizeof(cache::Header) - 1, total, total + 4096})
    EXPECT_EQ(accept(offer(kOffer, 1), memory(bytes).get()).status().code(), CARDEA_ERR_PROTOCOL)
        << bytes << " bytes of zeros";
  EXPECT_EQ(accept(offer(kOffer, 1), memory(total, 0).get()).status().code(), CARDEA_ERR_PROTOCOL) << "it may shrink";
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd in(ends[0]), out(ends[1]);
  EXPECT_EQ(accept(offer(kOffer, 1), in.get()).status().code(), CARDEA_ERR_PROTOCOL) << "a pipe";
}

}  // namespace
}  // namespace cardea::shm
