// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/unique_id.h"

#include "tests/bootstrap/joining.h"

namespace cardea::bootstrap {
namespace {

UniqueId sample() {
  UniqueId id{.addresses = {{.host = "10.1.2.3", .port = 65535}, {.host = "2001:db8::7", .port = 1}}};
  crypto::random(id.job);
  crypto::random(id.secret);
  return id;
}

TEST(UniqueId, ReadsWhatWasWritten) {
  const UniqueId id = sample();
  const Result<UniqueId> read = decode_unique_id(encode(id));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->addresses, id.addresses);
  EXPECT_EQ(read->job, id.job);
  EXPECT_EQ(read->secret, id.secret);
}

TEST(UniqueId, ADamagedByteAnywhereIsFound) {
  const cardea_unique_id_t good = encode(sample());
  for (std::size_t i = 0; i < sizeof good.bytes; ++i) {
    cardea_unique_id_t bad = good;
    bad.bytes[i] ^= 0x10;
    EXPECT_EQ(decode_unique_id(bad).status().code(), CARDEA_ERR_INVALID_ARGUMENT) << i;
  }
  EXPECT_EQ(decode_unique_id({}).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
  UniqueId none = sample();
  none.addresses.clear();
  EXPECT_EQ(decode_unique_id(encode(none)).status().code(), CARDEA_ERR_INVALID_ARGUMENT);
}

TEST(UniqueId, TwoJobsFormAtOnceAndTheirMeetingPointsFinish) {
  Result<CreatedId> ids[] = {create_unique_id("127.0.0.1"), create_unique_id("localhost")};
  ASSERT_TRUE(ids[0].ok()) << ids[0].status().message();
  ASSERT_TRUE(ids[1].ok()) << ids[1].status().message();
  EXPECT_FALSE(ids[0]->meeting_point->finished());
  as_threads(6, [&](Rank thread) {
    const Result<Options> options = from_unique_id(ids[thread % 2]->id, thread / 2, 3);
    ASSERT_TRUE(options.ok());
    auto exchange = join(*options, in_seconds(60));
    ASSERT_TRUE(exchange.ok()) << exchange.status().message();
    expect_everybodys_name(**exchange);
  });
  for (auto& id : ids) {
    const auto deadline = in_seconds(30);
    while (!id->meeting_point->finished() && Clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_TRUE(id->meeting_point->finished());
  }
}

TEST(UniqueId, ALateSecondProcessOfOneNumberDoesNotHarmTheFormedJob) {
  Result<CreatedId> id = create_unique_id("127.0.0.1");
  ASSERT_TRUE(id.ok());
  const Result<Options> options = from_unique_id(id->id, 0, 1);
  auto exchange = join(*options, in_seconds(60));
  ASSERT_TRUE(exchange.ok()) << exchange.status().message();
  EXPECT_EQ(join(*options, in_seconds(60)).status().code(), CARDEA_ERR_MISMATCH);
  expect_everybodys_name(**exchange);
}

TEST(UniqueId, ItsMeetingPointGivesUpAtItsDeadline) {
  Result<CreatedId> id = create_unique_id("127.0.0.1", std::chrono::milliseconds(50));
  ASSERT_TRUE(id.ok());
  const auto deadline = in_seconds(30);
  while (!id->meeting_point->finished() && Clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE(id->meeting_point->finished());
}

TEST(UniqueId, AddressesThatCannotBeUsedAreRefused) {
  for (const char* address : {"192.0.2.1", "127.0.0.1:x", "127.0.0.1:65536", "no-such-host.invalid", "unix:x"}) {
    EXPECT_EQ(create_unique_id(address).status().code(), CARDEA_ERR_INVALID_ARGUMENT) << address;
  }
  setenv("CARDEA_BOOTSTRAP_ADDRESS", "192.0.2.1", 1);
  const Status status = create_unique_id(nullptr).status();
  unsetenv("CARDEA_BOOTSTRAP_ADDRESS");
  EXPECT_EQ(status.code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_NE(status.message().find("CARDEA_BOOTSTRAP_ADDRESS"), std::string::npos);
  auto first = create_unique_id("127.0.0.1");
  ASSERT_TRUE(first.ok());
  const std::string taken = to_string(first->meeting_point->endpoint());
  EXPECT_EQ(create_unique_id(taken.c_str()).status().code(), CARDEA_ERR_SYSTEM);
}

}  // namespace
}  // namespace cardea::bootstrap
