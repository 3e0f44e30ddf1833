// SPDX-License-Identifier: Apache-2.0
// The handshake of node links and the rank segment. The fuzzer holds the other end, and where an input says so it knows the
// secret, so that what lies behind the proofs is reached; the segment that it passes holds what the input says.
#include "lib/transport/shm/handshake.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "lib/base/wire.h"
#include "lib/transport/shm/ancillary.h"
#include "lib/transport/shm/rank_segment.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace shm;  // NOLINT(google-build-using-namespace)

constexpr Rank kSelf = 0, kPeer = 1;
constexpr std::uint32_t kWorld = 2;
constexpr std::size_t kNonceBytes = 32, kHelloBytes = 48;
constexpr std::string_view kJob = "0123456789abcdef";

/// How a step's bytes are made: the right ones, or the input's.
struct Step {
  bool right = false;
  Bytes bytes;
};

class Impostor {
 public:
  Impostor(int socket, const Bytes& secret) : socket_(socket), secret_(secret) {}

  Bytes hear(std::size_t bytes) const {
    Bytes heard(bytes);
    const ssize_t got = recv(socket_, heard.data(), bytes, MSG_DONTWAIT);
    heard.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return heard;
  }
  void say(ByteView bytes, int descriptor = -1) const {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    if (!bytes.empty()) static_cast<void>(shm::send(socket_, {&piece, 1}, descriptor));
  }
  // docs/wire-format.md, "Node links": this side is the one that connected.
  crypto::Digest digest(std::string_view purpose, bool by_connector, ByteView theirs, ByteView mine, ByteView extra) const {
    WireWriter transcript;
    transcript.text("cardea node link").number(kWireVersion).text(purpose).number(static_cast<std::uint8_t>(by_connector));
    transcript.text(kJob).number(kWorld).number(kPeer).number(kSelf).blob(mine).blob(theirs).blob(extra);
    return crypto::hmac(secret_, transcript.bytes());
  }

 private:
  const int socket_;
  const Bytes& secret_;
};

bool run(ByteView input) {
  Draw draw(input);
  Step steps[4];
  for (Step& step : steps) {
    step.right = (draw.byte() & 1) == 0;
    const ByteView bytes = draw.blob();
    step.bytes.assign(bytes.begin(), bytes.end());
  }
  const ByteView segment_bytes = draw.rest();

  int pair[2];
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0, "the test has sockets");
  const UniqueFd peer(pair[1]);
  const Bytes secret(32, std::byte{7});
  static const SharedMemory own = make_rank_segment(kSelf).value();
  const HandshakeContext context{secret, std::string(kJob), kWorld, kSelf, &own};
  Handshake handshake(UniqueFd(pair[0]), context, std::nullopt);
  const Impostor impostor(peer.get(), secret);

  const Bytes hello = impostor.hear(kHelloBytes);
  require(hello.size() == kHelloBytes, "a handshake begins with a hello");
  const ByteView theirs = ByteView(hello).subspan(kHelloBytes - kNonceBytes);
  const Bytes mine(kNonceBytes, std::byte{3});
  Bytes right = Bytes(hello.begin(), hello.begin() + 12);  // magic and wire version
  for (const std::byte byte : {std::byte{kPeer}, std::byte{0}, std::byte{0}, std::byte{0}}) right.push_back(byte);
  right.insert(right.end(), mine.begin(), mine.end());
  impostor.say(steps[0].right ? right : steps[0].bytes);
  handshake.advance();

  impostor.hear(sizeof(crypto::Digest));
  const crypto::Digest proof = impostor.digest("proof", true, theirs, mine, {});
  impostor.say(steps[1].right ? ByteView(proof) : ByteView(steps[1].bytes));
  handshake.advance();
  require(steps[1].right || !handshake.authenticated(), "who does not know the secret is not authenticated");

  const UniqueFd memory(memfd_create("segment", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  require(memory && write(memory.get(), segment_bytes.data(), segment_bytes.size()) >= 0, "the test has memory");
  if (steps[2].right) {
    require(ftruncate(memory.get(), kSegmentBytes) == 0, "the test sets a size");
    fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  }
  impostor.hear(8);
  static const Bytes announced = WireWriter().number(std::uint64_t{0x3167655372614321}).take();
  impostor.say(steps[2].right ? announced : steps[2].bytes, memory.get());
  handshake.advance();

  impostor.hear(sizeof(crypto::Digest));
  RankSegmentHeader own_header;
  std::copy_n(own.data(), sizeof own_header, reinterpret_cast<std::byte*>(&own_header));
  const crypto::Digest echo = impostor.digest("echo", true, theirs, mine, own_header.nonce);
  impostor.say(steps[3].right ? ByteView(echo) : ByteView(steps[3].bytes));
  handshake.advance();
  const bool proved = handshake.state() == Handshake::State::kProved;
  require(!proved || (steps[1].right && steps[3].right), "who cannot prove it is not proved");
  if (!handshake.ended()) handshake.fail(Status(CARDEA_ERR_TIMEOUT, "it stayed silent"));
  require(proved || !handshake.failure().ok(), "a failed handshake has a reason");
  return proved;
}

std::vector<Seed> seeds() {
  RankSegmentHeader header;
  header.layout = segment_layout_hash();
  header.rank = kPeer;
  Script all_right;
  for (int step = 0; step < 4; ++step) all_right.byte(0).blob({});
  all_right.rest(std::as_bytes(std::span(&header, 1)));
  return {{"all_right", all_right.bytes()}};
}

}  // namespace

Target shm_handshake() {
  return {"shm_handshake", "the handshake of node links and the rank segment", run, seeds, 1024};
}

}  // namespace cardea::fuzz
