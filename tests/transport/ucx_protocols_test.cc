// SPDX-License-Identifier: Apache-2.0
// Which of UCX's protocols the ranks of a job agree on.
#include "lib/transport/ucx/protocols.h"

#include <gtest/gtest.h>

#include <vector>

namespace cardea::test {
namespace {

using transport::agree_on_ucx_protocols;
using transport::ucx::agree_on_old_protocols;
using transport::ucx::decode_wish;
using transport::ucx::encode_wish;
using transport::ucx::ProtocolWish;
using Forced = ProtocolWish::Forced;

bool old_ones(std::vector<ProtocolWish> wishes) {
  const auto old = agree_on_old_protocols(wishes);
  EXPECT_TRUE(old.ok());
  return old.ok() && *old;
}

TEST(UcxProtocols, OldOnesAreUsedWhereTheyAreBetterOrAnyRankHasNoOthers) {
  const ProtocolWish plain{.minor = 22}, rdma{.minor = 22, .rdma = true}, gpu{.minor = 17, .needed = true};
  EXPECT_TRUE(old_ones({plain, plain}));
  EXPECT_FALSE(old_ones({plain, rdma})) << "one has a NIC for RDMA";
  EXPECT_FALSE(old_ones({gpu, plain}));
  for (const std::uint8_t minor : {13, 15, 16}) EXPECT_TRUE(old_ones({rdma, {.minor = minor}, gpu})) << +minor;
}

TEST(UcxProtocols, WhatTheEnvironmentOfSomeForcesIsUsedByAll) {
  const ProtocolWish plain{.minor = 22}, rdma{.minor = 22, .rdma = true}, ancient{.minor = 13};
  const ProtocolWish off{.minor = 22, .forced = Forced::kOld}, on{.minor = 22, .forced = Forced::kNew};
  EXPECT_TRUE(old_ones({rdma, off, rdma}));
  EXPECT_FALSE(old_ones({plain, ancient, on}));
  const auto differ = agree_on_old_protocols(std::vector<ProtocolWish>{plain, on, plain, off});
  ASSERT_FALSE(differ.ok());
  EXPECT_EQ(differ.status().code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_NE(differ.status().message().find("UCX_PROTO_ENABLE is off at rank 3 and on at rank 1"), std::string::npos)
      << differ.status().message();
}

TEST(UcxProtocols, WhatARankSaysIsReadBackAndAnythingElseIsRefusedByItsName) {
  const ProtocolWish said{.minor = 22, .rdma = true, .needed = false, .forced = Forced::kNew};
  const Bytes good = encode_wish(said);
  const auto read = decode_wish(good, 1);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->minor, 22);
  EXPECT_TRUE(read->rdma);
  EXPECT_FALSE(read->needed);
  EXPECT_EQ(read->forced, Forced::kNew);
  std::vector<Bytes> bad;
  for (std::size_t length = 0; length < good.size(); ++length)
    bad.emplace_back(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length));
  bad.push_back(good);
  bad.back().push_back(std::byte{0});
  for (std::size_t at = 1; at < good.size(); ++at) {
    bad.push_back(good);
    bad.back()[at] = std::byte{3};
  }
  for (const Bytes& bytes : bad) {
    const auto refused = agree_on_ucx_protocols(std::vector<Bytes>{good, bytes});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), CARDEA_ERR_PROTOCOL);
    EXPECT_EQ(refused.status().detail().peer, 1u);
    EXPECT_NE(refused.status().message().find("rank 1"), std::string::npos) << refused.status().message();
  }
}

}  // namespace
}  // namespace cardea::test
