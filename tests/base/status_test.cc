// SPDX-License-Identifier: Apache-2.0
#include "lib/base/status.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace cardea {
namespace {

TEST(Status, DefaultIsSuccess) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), CARDEA_OK);
  EXPECT_EQ(status.message(), "");
  EXPECT_EQ(status.detail().peer, kNoRank);
}

TEST(Status, KeepsItsDetailThroughChanges) {
  const Status status =
      Status(CARDEA_ERR_STALE, "version 4 was retired", {.layer = 3, .expert = 9}).with_peer(2).within("fetch");
  EXPECT_EQ(status.code(), CARDEA_ERR_STALE);
  EXPECT_EQ(status.message(), "fetch: version 4 was retired");
  EXPECT_EQ(status.detail().peer, 2u);
  EXPECT_EQ(status.detail().layer, 3u);
  EXPECT_EQ(status.detail().expert, 9u);
}

TEST(Status, ASuccessStaysOne) {
  EXPECT_TRUE(Status().with_peer(1).within("x").ok());
  EXPECT_TRUE(Status(CARDEA_OK, "ignored").ok());
}

TEST(Status, ErrnoBecomesSystemOrNoMemory) {
  EXPECT_EQ(Status::from_errno(ENOSPC, "fallocate").code(), CARDEA_ERR_NO_MEMORY);
  const Status denied = Status::from_errno(EACCES, "open", "/etc/shadow");
  EXPECT_EQ(denied.code(), CARDEA_ERR_SYSTEM);
  EXPECT_EQ(denied.message(), "open: /etc/shadow: Permission denied");
}

TEST(Result, HoldsValueOrStatus) {
  const Result<int> value(7);
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(*value, 7);
  const Result<int> failure(Status(CARDEA_ERR_LIMIT, "too many"));
  EXPECT_FALSE(failure.ok());
  EXPECT_EQ(failure.status().code(), CARDEA_ERR_LIMIT);
}

}  // namespace
}  // namespace cardea
