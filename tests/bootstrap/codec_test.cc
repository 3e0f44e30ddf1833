// SPDX-License-Identifier: Apache-2.0
// Every decoder of the bootstrap against truncation, wrong lengths and values; and the handshake's proofs.
#include <gtest/gtest.h>

#include "lib/base/wire.h"
#include "lib/bootstrap/endpoint.h"
#include "lib/bootstrap/frames.h"
#include "lib/bootstrap/handshake.h"
#include "lib/bootstrap/roster.h"

namespace cardea::bootstrap {
namespace {

Hello sample_hello() {
  Hello hello{.rank = 3, .world_size = 8, .patience_ms = 1000, .place = "host (process 7)"};
  crypto::random(hello.nonce);
  hello.job = job_tag("job", 1);
  return hello;
}

template <typename Decode>
void expect_truncation_refused(const Bytes& body, Decode decode) {
  ASSERT_TRUE(decode(body));
  for (std::size_t length = 0; length < body.size(); ++length) EXPECT_FALSE(decode(ByteView(body).first(length))) << length;
  Bytes longer = body;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode(longer));
}

TEST(BootstrapCodec, TruncationAtEveryByteIsRefused) {
  Challenge challenge;
  crypto::random(challenge.nonce);
  expect_truncation_refused(encode(sample_hello()), [](ByteView in) { return decode_hello(in).ok(); });
  expect_truncation_refused(encode(challenge), [](ByteView in) { return decode_challenge(in).ok(); });
  expect_truncation_refused(encode_proof({}), [](ByteView in) { return decode_proof(in).ok(); });
  expect_truncation_refused(encode_refusal(Refused::kOtherJob), [](ByteView in) { return decode_refusal(in).ok(); });
  expect_truncation_refused(encode(Give{.round = 2, .bytes = Bytes(5)}), [](ByteView in) { return decode_give(in).ok(); });
  expect_truncation_refused(encode(All{.round = 2, .bytes = {Bytes(5), Bytes(), Bytes(1)}}),
                            [](ByteView in) { return decode_all(in, 3).ok(); });
  expect_truncation_refused(encode_failed(Status(CARDEA_ERR_TIMEOUT, "who").with_peer(2)),
                            [](ByteView in) { return decode_failed(in).code() == CARDEA_ERR_TIMEOUT; });
}

TEST(BootstrapCodec, ReadsWhatWasWritten) {
  const Hello hello = sample_hello();
  const Result<Hello> read = decode_hello(encode(hello));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->rank, 3u);
  EXPECT_EQ(read->world_size, 8u);
  EXPECT_EQ(read->nonce, hello.nonce);
  EXPECT_EQ(read->job, hello.job);
  EXPECT_EQ(read->place, hello.place);
  const Status failed = decode_failed(encode_failed(Status(CARDEA_ERR_PEER_LOST, "rank 5").with_peer(5)));
  EXPECT_EQ(failed.code(), CARDEA_ERR_PEER_LOST);
  EXPECT_EQ(failed.message(), "rank 5");
  EXPECT_EQ(failed.detail().peer, 5u);
}

TEST(BootstrapCodec, LengthsZeroCapAboveCapAndHuge) {
  EXPECT_TRUE(decode_give(encode(Give{.bytes = Bytes()})).ok());
  EXPECT_TRUE(decode_give(encode(Give{.bytes = Bytes(Exchange::kMaxBytes)})).ok());
  EXPECT_FALSE(decode_give(encode(Give{.bytes = Bytes(Exchange::kMaxBytes + 1)})).ok());
  for (const std::uint32_t length : {1u << 31, UINT32_MAX}) {
    Bytes give = encode(Give{.bytes = Bytes(4)});
    for (unsigned i = 0; i < 4; ++i) give[9 + i] = static_cast<std::byte>(length >> (8 * i));
    EXPECT_FALSE(decode_give(give).ok());
  }
  EXPECT_FALSE(decode_all(encode(All{.bytes = {Bytes(Exchange::kMaxBytes + 1)}}), 1).ok());
  EXPECT_FALSE(decode_all(encode(All{.bytes = {Bytes(1)}}), 2).ok());
}

TEST(BootstrapCodec, ValuesOutOfRangeAreRefused) {
  Hello hello = sample_hello();
  hello.rank = hello.world_size;
  EXPECT_FALSE(decode_hello(encode(hello)).ok());
  hello = sample_hello();
  hello.world_size = kMaxRanks + 1;
  EXPECT_FALSE(decode_hello(encode(hello)).ok());
  hello = sample_hello();
  hello.place = "a\nb";
  EXPECT_FALSE(decode_hello(encode(hello)).ok());
  EXPECT_FALSE(kind_of(Bytes()).ok());
  EXPECT_FALSE(kind_of(Bytes{std::byte{15}}).ok());
  EXPECT_FALSE(kind_of(Bytes{std::byte{21}}).ok());
}

TEST(BootstrapCodec, AHandshakeFitsIntoWhatIsReadUnauthenticated) {
  Hello hello = sample_hello();
  hello.place = std::string(200, 'x');
  const std::size_t to_root = frame(encode(hello)).size() + frame(encode_proof({})).size();
  const std::size_t to_member = frame(encode(Challenge{})).size() + frame(encode_proof({})).size();
  EXPECT_LE(to_root, kMaxUnauthenticatedBytes);
  EXPECT_LE(to_member, kMaxUnauthenticatedBytes);
}

TEST(Handshake, AReflectedReplayedOrForeignProofIsWrong) {
  Secret secret{}, other{};
  crypto::random(secret);
  crypto::random(other);
  Challenge challenge;
  crypto::random(challenge.nonce);
  const Bytes hello = encode(sample_hello()), first = encode(challenge);
  const crypto::Digest proof = prove(secret, Role::kMember, hello, first);
  EXPECT_EQ(proof, prove(secret, Role::kMember, hello, first));
  EXPECT_NE(proof, prove(secret, Role::kRoot, hello, first)) << "reflected";
  EXPECT_NE(proof, prove(other, Role::kMember, hello, first));
  crypto::random(challenge.nonce);
  EXPECT_NE(proof, prove(secret, Role::kMember, hello, encode(challenge))) << "replayed to a fresh nonce of the root";
  EXPECT_NE(proof, prove(secret, Role::kMember, encode(sample_hello()), first)) << "replayed to a fresh nonce of the member";
}

TEST(Roster, NamesBothProcessesOfOneNumber) {
  Roster roster(1);
  Hello hello{.wire_version = 1, .rank = 1, .world_size = 3, .place = "alpha (process 1)"};
  ASSERT_TRUE(roster.arrive(hello).ok());
  hello.place = "beta (process 2)";
  const Status status = roster.arrive(hello);
  EXPECT_EQ(status.code(), CARDEA_ERR_MISMATCH);
  EXPECT_EQ(status.message(),
            "two processes say that they are rank 1: one on alpha (process 1), another on beta (process 2)");
  EXPECT_EQ(status.detail().peer, 1u);
}

TEST(Roster, AContributionOutOfTurnIsTheMembersFault) {
  Roster roster(1);
  ASSERT_TRUE(roster.arrive({.wire_version = 1, .rank = 0, .world_size = 2}).ok());
  ASSERT_TRUE(roster.arrive({.wire_version = 1, .rank = 1, .world_size = 2}).ok());
  ASSERT_TRUE(roster.give(1, {.round = 0}).ok());
  const Status twice = roster.give(1, {.round = 0});
  EXPECT_EQ(twice.code(), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(twice.detail().peer, 1u);
}

TEST(Roster, ListsRanksInRanges) {
  EXPECT_EQ(list_ranks({3}), "3");
  EXPECT_EQ(list_ranks({0, 1, 2, 7, 9, 10}), "0-2, 7, 9-10");
  std::vector<Rank> even;
  for (Rank rank = 0; rank < 100; rank += 2) even.push_back(rank);
  EXPECT_NE(list_ranks(even).find("and 18 more"), std::string::npos);
}

TEST(Endpoint, ReadsAndWritesAllForms) {
  for (const char* text : {"host:1", "10.0.0.1:65535", "[::1]:80", "unix:name"}) {
    const Result<Endpoint> endpoint = parse_endpoint(text);
    ASSERT_TRUE(endpoint.ok()) << text;
    EXPECT_EQ(to_string(*endpoint), text);
  }
  for (const char* text : {"", "host", ":1", "host:", "host:0", "host:65536", "host:99999", "host:-1", "host:1x", "::1:80",
                           "unix:", "[[]]:118", "[a]b]:1", "a[b:1"}) {
    EXPECT_EQ(parse_endpoint(text).status().code(), CARDEA_ERR_INVALID_ARGUMENT) << text;
  }
}

}  // namespace
}  // namespace cardea::bootstrap
