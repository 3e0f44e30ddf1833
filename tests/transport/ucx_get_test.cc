// SPDX-License-Identifier: Apache-2.0
// One-sided GET, in contexts without peer error mode over shared memory, where UCX of any version has it.
#include <cstring>

#include "tests/transport/ucx_rank.h"

namespace cardea::test {
namespace {

using transport::ChunkOrder;
using transport::GetPolicy;
using transport::RegionKey;

transport::UcxOptions get_options(Rank self, GetPolicy policy) {
  auto options = ucx_options(self);
  options.get = policy;
  options.peer_errors = false;
  return options;
}

struct Source {
  Bytes memory = pattern(9 << 20, 8);
  std::uint64_t* version() { return reinterpret_cast<std::uint64_t*>(memory.data() + 64); }
};

// The chunk: 5 MiB and some from the middle, cut differently on either side, version stamp at 64.
ChunkOrder order_for(transport::ChunkToken token, std::byte* into, Version version) {
  const RegionKey region{0, 7};
  ChunkOrder order;
  order.token = token;
  order.source = 0;
  order.expert.version = version;
  order.source_pieces = {{region, 1000, 3}, {region, 5000, 4 << 20}, {region, (5 << 20) + 1, 1000003}};
  const std::size_t payload = 3 + (4 << 20) + 1000003;
  order.bytes = payload;
  order.destination = {{into, 1 << 20}, {into + (1 << 20), 0}, {into + (1 << 20), payload - (1 << 20)}};
  order.stamp = {region, 64, 8};
  return order;
}

Bytes expected_from(const Bytes& memory) {
  Bytes bytes;
  const auto append = [&](std::size_t at, std::size_t count) {
    bytes.insert(bytes.end(), memory.begin() + static_cast<std::ptrdiff_t>(at),
                 memory.begin() + static_cast<std::ptrdiff_t>(at + count));
  };
  append(1000, 3);
  append(5000, 4 << 20);
  append((5 << 20) + 1, 1000003);
  return bytes;
}

// Rank 0 offers; rank 1 reads one chunk with the right version, one with a retired one. Counts what was lent.
void read_chunks(const char* tls, GetPolicy policy, bool expect_asking) {
  UcxWorld world(2);
  run_ranks(2, [&](unsigned self) {
    setenv("UCX_TLS", tls, 1);
    UcxRank rank(world, self, get_options(self, policy));
    Source source;
    *source.version() = 3;
    if (self == 0) {
      unsigned lent = 0;
      Bytes payload = expected_from(source.memory);
      rank.lender = [&](Rank, const transport::ExpertAddress& expert, std::uint64_t,
                        std::uint64_t) -> Result<transport::Lease> {
        ++lent;
        if (expert.version != 3) return Status(CARDEA_ERR_STALE, "retired");
        return transport::Lease{1, {{payload.data(), payload.size()}}};
      };
      const Rank peer = 1;
      const auto descriptor = rank.transport().offer(7, source.memory.data(), source.memory.size(), -1, {&peer, 1});
      ASSERT_TRUE(descriptor.ok()) << descriptor.status().message();
      const auto again = rank.transport().offer(7, source.memory.data(), source.memory.size(), -1, {&peer, 1});
      EXPECT_EQ(*again, *descriptor);
      rank.transport().send(1, *descriptor);
      EXPECT_TRUE(rank.barrier(0));
      EXPECT_EQ(lent, expect_asking ? 2u : 0u);
      rank.transport().withdraw(7);
    } else {
      ASSERT_TRUE(rank.pump([&] { return rank.messages.size() == 1; }));
      Bytes descriptor = rank.messages[0].second;
      const RegionKey region{0, 7};
      EXPECT_EQ(rank.transport().accept(region, source.memory.size(), ByteView(descriptor).first(5)).code(),
                CARDEA_ERR_PROTOCOL);
      ASSERT_TRUE(rank.transport().accept(region, source.memory.size(), descriptor).ok());
      EXPECT_EQ(rank.transport().mapped(region), nullptr);
      const Bytes expected = expected_from(source.memory);
      Bytes landed(expected.size());
      rank.transport().start(order_for(1, landed.data(), 3));
      ASSERT_TRUE(rank.pump([&] { return rank.chunks.contains(1); }));
      EXPECT_TRUE(rank.chunks[1].ok()) << rank.chunks[1].message();
      EXPECT_TRUE(landed == expected);
      rank.transport().start(order_for(2, landed.data(), 2));
      ASSERT_TRUE(rank.pump([&] { return rank.chunks.contains(2); }));
      EXPECT_EQ(rank.chunks[2].code(), CARDEA_ERR_STALE) << rank.chunks[2].message();
      rank.transport().forget(region);
      EXPECT_TRUE(rank.barrier(0));
    }
    EXPECT_TRUE(rank.barrier(1));
  });
}

TEST(UcxGet, ChunksAreReadWithTheirStampAndNothingIsAsked) {
  read_chunks("posix,sysv,cma", GetPolicy::kAlways, false);
}

TEST(UcxGet, NeverAsksTheSource) {
  read_chunks("posix,sysv,cma", GetPolicy::kNever, true);
}

TEST(UcxGet, AutoAsksTheSourceOverTcpWhereGetIsEmulated) {
  read_chunks("tcp,self", GetPolicy::kAuto, true);
}

}  // namespace
}  // namespace cardea::test
