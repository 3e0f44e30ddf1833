// SPDX-License-Identifier: Apache-2.0
// The handshake of node links against an impostor at the other end: proofs that are replayed, reflected or of another rank,
// and rank segments that hold nonsense.
#include "lib/transport/shm/handshake.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "lib/base/wire.h"
#include "lib/transport/shm/ancillary.h"
#include "lib/transport/shm/rank_segment.h"

namespace cardea::shm {
namespace {

constexpr std::size_t kHello = 48, kProof = 32, kNonce = 32;
constexpr std::uint64_t kSegmentMessage = 0x3167655372614321;

/// Rank 0 accepts; the test is who connected, and says that it is rank 1 of 2.
class ShmHandshake : public testing::Test {
 protected:
  ShmHandshake() : segment_(make_rank_segment(0).value()), context_{secret_, "job", 2, 0, &segment_} { connect(); }

  void connect() {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    peer_.reset(pair[1]);
    handshake_ = std::make_unique<Handshake>(UniqueFd(pair[0]), context_, std::nullopt);
    const Bytes hello = hear(kHello);
    ASSERT_EQ(hello.size(), kHello);
    theirs_.assign(hello.end() - kNonce, hello.end());
    head_.assign(hello.begin(), hello.begin() + 12);  // magic and wire version
  }
  Bytes hear(std::size_t bytes) {
    Bytes heard(bytes);
    const ssize_t got = recv(peer_.get(), heard.data(), bytes, MSG_DONTWAIT);
    heard.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return heard;
  }
  void say(ByteView bytes, int descriptor = -1) {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    ASSERT_EQ(shm::send(peer_.get(), {&piece, 1}, descriptor).bytes, bytes.size());
    handshake_->advance();
  }
  Bytes hello(std::uint8_t rank = 1) {
    Bytes bytes = head_;
    bytes.push_back(std::byte{rank});
    bytes.resize(bytes.size() + 3);
    bytes.insert(bytes.end(), mine_.begin(), mine_.end());
    return bytes;
  }
  /// As docs/wire-format.md says.
  crypto::Digest digest(std::string_view purpose, bool by_connector, Rank connector, ByteView theirs, ByteView extra) {
    WireWriter transcript;
    transcript.text("cardea node link").number(kWireVersion).text(purpose).number(static_cast<std::uint8_t>(by_connector));
    transcript.text("job").number(std::uint32_t{2}).number(connector).number(Rank{0});
    transcript.blob(mine_).blob(theirs).blob(extra);
    return crypto::hmac(secret_, transcript.bytes());
  }
  crypto::Digest right_proof() { return digest("proof", true, 1, theirs_, {}); }
  void authenticate() {
    say(hello());
    hear(kProof);
    say(right_proof());
    ASSERT_TRUE(handshake_->authenticated());
    hear(8);
  }
  void expect_failed(cardea_status_t code, const char* what) {
    EXPECT_EQ(handshake_->state(), Handshake::State::kFailed) << what;
    EXPECT_EQ(handshake_->failure().code(), code) << what << ": " << handshake_->failure().message();
  }
  static UniqueFd memory(const RankSegmentHeader& header, std::size_t bytes = kSegmentBytes, int seals = F_SEAL_SHRINK) {
    UniqueFd file(memfd_create("segment", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(write(file.get(), &header, sizeof header), static_cast<ssize_t>(sizeof header));
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    EXPECT_EQ(fcntl(file.get(), F_ADD_SEALS, seals), 0);
    return file;
  }
  static RankSegmentHeader right_header() {
    RankSegmentHeader header;
    header.layout = segment_layout_hash();
    header.rank = 1;
    return header;
  }

  const Bytes secret_ = Bytes(32, std::byte{7});
  const Bytes mine_ = Bytes(kNonce, std::byte{3});
  SharedMemory segment_;
  HandshakeContext context_;
  UniqueFd peer_;
  std::unique_ptr<Handshake> handshake_;
  Bytes theirs_, head_;
};

TEST_F(ShmHandshake, WhoKnowsTheSecretAndSharesMemoryIsProved) {
  authenticate();
  const UniqueFd file = memory(right_header());
  say(WireWriter().number(kSegmentMessage).take(), file.get());
  hear(kProof);
  RankSegmentHeader own;
  std::memcpy(&own, segment_.data(), sizeof own);
  say(digest("echo", true, 1, theirs_, own.nonce));
  EXPECT_EQ(handshake_->state(), Handshake::State::kProved) << handshake_->failure().message();
}

TEST_F(ShmHandshake, AReplayedProofIsWrongForItWasMadeForAnotherNonce) {
  say(hello());
  const crypto::Digest recorded = right_proof();
  say(recorded);
  ASSERT_TRUE(handshake_->authenticated());
  connect();  // again, with the same hello of this side
  say(hello());
  say(recorded);
  expect_failed(CARDEA_ERR_AUTHENTICATION, "replayed");
}

TEST_F(ShmHandshake, AReflectedProofIsWrongForItSaysWhoMadeIt) {
  say(hello());
  const Bytes theirs = hear(kProof);
  ASSERT_EQ(theirs.size(), kProof);
  say(theirs);
  expect_failed(CARDEA_ERR_AUTHENTICATION, "reflected");
}

TEST_F(ShmHandshake, AnotherRanksProofIsWrong) {
  say(hello());
  say(digest("proof", true, 0, theirs_, {}));
  expect_failed(CARDEA_ERR_AUTHENTICATION, "made for another rank");
}

TEST_F(ShmHandshake, RanksThatDoNotBelongHereAreRefusedAtOnce) {
  for (const std::uint8_t rank : {std::uint8_t{0}, std::uint8_t{2}, std::uint8_t{255}}) {
    connect();
    say(hello(rank));
    expect_failed(CARDEA_ERR_PROTOCOL, "a rank that is not above this one, or not of the job");
  }
  connect();
  Bytes other = hello();
  other[8] ^= std::byte{0xff};
  say(other);
  expect_failed(CARDEA_ERR_MISMATCH, "another wire version");
}

TEST_F(ShmHandshake, TruncatedAnywhereItWaitsAndFailsWhenTheLinkCloses) {
  const Bytes whole = hello();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    connect();
    if (length > 0) say(ByteView(whole).first(length));
    EXPECT_EQ(handshake_->state(), Handshake::State::kHello) << length;
    peer_.reset();
    handshake_->advance();
    expect_failed(CARDEA_ERR_PEER_LOST, "closed in the hello");
  }
}

TEST_F(ShmHandshake, ARankSegmentOfNonsenseIsRefused) {
  const auto expect_refused = [&](UniqueFd file, const char* what) {
    connect();
    authenticate();
    say(WireWriter().number(kSegmentMessage).take(), file.get());
    expect_failed(CARDEA_ERR_PROTOCOL, what);
  };
  RankSegmentHeader header = right_header();
  header.magic ^= 1;
  expect_refused(memory(header), "magic");
  header = right_header();
  header.layout ^= 1;
  expect_refused(memory(header), "layout");
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, std::uint64_t{1}, kSegmentBytes + 1, std::uint64_t{1} << 31, UINT64_MAX}) {
    header = right_header();
    header.bytes = bytes;
    expect_refused(memory(header), "size");
  }
  header = right_header();
  header.rank = 0;
  expect_refused(memory(header), "rank");
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, sizeof header, kSegmentBytes - 1})
    expect_refused(memory(right_header(), bytes), "memory that is too small");
  expect_refused(memory(right_header(), kSegmentBytes, 0), "memory that may shrink");
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd other(ends[1]);
  expect_refused(UniqueFd(ends[0]), "no memory at all");
}

TEST_F(ShmHandshake, AnEchoFromSomebodyWhoHasNotReadTheMemoryIsRefused) {
  authenticate();
  const UniqueFd file = memory(right_header());
  say(WireWriter().number(kSegmentMessage).take(), file.get());
  hear(kProof);
  say(digest("echo", true, 1, theirs_, Bytes(kNonce)));
  expect_failed(CARDEA_ERR_PROTOCOL, "an echo of another nonce");
}

}  // namespace
}  // namespace cardea::shm
