// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/handshake.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "lib/base/wire.h"
#include "lib/transport/shm/ancillary.h"
#include "lib/transport/shm/life_lock.h"
#include "lib/transport/shm/rank_segment.h"

namespace cardea::shm {
namespace {

constexpr std::uint64_t kHelloMagic = 0x316b6e694c726143;      // "CarLink1"
constexpr std::uint64_t kSegmentMessage = 0x3167655372614321;  // "!CarSeg1"
constexpr std::size_t kNonceBytes = 32;
constexpr std::size_t kHelloBytes = 8 + 4 + 4 + kNonceBytes;

// Field 22 of /proc/PID/stat, counted after the name, which may hold anything but ends at the last ')'.
std::uint64_t start_time_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::uint64_t field = 2;
  for (std::size_t at = name_end + 1; at < text.size(); ++at) {
    if (text[at] == ' ' && ++field == 22) return std::strtoull(text.c_str() + at + 1, nullptr, 10);
  }
  return 0;
}

}  // namespace

Handshake::Handshake(UniqueFd socket, const HandshakeContext& context, std::optional<Rank> expected)
    : socket_(std::move(socket)), context_(context), connector_(expected.has_value()), peer_(expected.value_or(kNoRank)) {
  if (!identify_peer()) return;
  own_nonce_.resize(kNonceBytes);
  crypto::random(own_nonce_);
  WireWriter hello;
  hello.number(kHelloMagic).number(kWireVersion).number(context_.self);
  Bytes bytes = hello.take();
  bytes.insert(bytes.end(), own_nonce_.begin(), own_nonce_.end());
  send_all(bytes);
}

// The pidfd is opened before the peer has answered our nonce. So it stands for the process that later answers: had that
// one died and its number been given to another, no answer would come.
bool Handshake::identify_peer() {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    fail(Status::from_errno(errno, "getsockopt(SO_PEERCRED)"));
    return false;
  }
  if (peer.uid != geteuid()) {
    failed(CARDEA_ERR_AUTHENTICATION, fmt::format("the peer runs as user {}, this rank as {}", peer.uid, geteuid()));
    return false;
  }
  process_.pid = peer.pid;
  if (peer.pid > 0 && context_.pidfds) {
    process_.descriptor.reset(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
    process_.start_time = start_time_of(peer.pid);
  }
  return true;
}

void Handshake::advance() {
  while (!ended() && fill(wanted())) step();
}

std::size_t Handshake::wanted() const {
  switch (state_) {
    case State::kHello:
      return kHelloBytes;
    case State::kSegment:
      return sizeof kSegmentMessage;
    default:
      return sizeof(crypto::Digest);
  }
}

void Handshake::step() {
  switch (state_) {
    case State::kHello:
      take_hello();
      break;
    case State::kProof:
      take_proof();
      break;
    case State::kSegment:
      take_segment_message();
      break;
    default:
      take_echo();
  }
  in_.clear();
}

void Handshake::take_hello() {
  WireReader reader(in_);
  const auto magic = reader.number<std::uint64_t>();
  const auto version = reader.number<std::uint32_t>();
  const auto rank = reader.number<std::uint32_t>();
  if (magic != kHelloMagic) return failed(CARDEA_ERR_PROTOCOL, "the peer does not speak the protocol of node links");
  if (version != kWireVersion) {
    return failed(CARDEA_ERR_MISMATCH, fmt::format("the peer speaks wire version {}, this rank {}", version, kWireVersion));
  }
  if (connector_ ? rank != peer_ : rank <= context_.self || rank >= context_.world_size) {
    return failed(CARDEA_ERR_PROTOCOL,
                  fmt::format("the peer claims to be rank {}, which does not belong on this link", rank));
  }
  peer_ = rank;
  peer_nonce_.assign(in_.end() - kNonceBytes, in_.end());
  state_ = State::kProof;
  send_all(digest("proof", connector_, {}));
}

void Handshake::take_proof() {
  if (!crypto::equal(in_, digest("proof", !connector_, {}))) {
    return failed(CARDEA_ERR_AUTHENTICATION, "the peer does not know the job's secret");
  }
  state_ = State::kSegment;
  send_all(WireWriter().number(kSegmentMessage).take(), context_.segment->descriptor());
}

void Handshake::take_segment_message() {
  if (WireReader(in_).number<std::uint64_t>() != kSegmentMessage || !received_) {
    return failed(CARDEA_ERR_PROTOCOL, "the peer passed no rank segment");
  }
  Result<SharedMapping> segment = open_rank_segment(received_.get(), peer_);
  if (segment.ok() && !process_.descriptor && life_lock_held(received_.get())) process_.lock = std::move(received_);
  received_.reset();
  if (!segment.ok()) return fail(segment.status());
  segment_ = std::move(*segment);
  state_ = State::kEcho;
  send_all(digest("echo", connector_, read_header(segment_).nonce));
}

void Handshake::take_echo() {
  RankSegmentHeader own;
  std::memcpy(&own, context_.segment->data(), sizeof own);
  if (!crypto::equal(in_, digest("echo", !connector_, own.nonce))) {
    return failed(CARDEA_ERR_PROTOCOL, "the peer did not read this rank's segment");
  }
  state_ = State::kProved;
}

// `by_connector` tells the two directions apart, so that nobody's own digest can be sent back to it.
crypto::Digest Handshake::digest(std::string_view purpose, bool by_connector, ByteView extra) const {
  WireWriter transcript;
  transcript.text("cardea node link").number(kWireVersion).text(purpose).number(static_cast<std::uint8_t>(by_connector));
  transcript.text(context_.job_id).number(context_.world_size);
  transcript.number(connector_ ? context_.self : peer_).number(connector_ ? peer_ : context_.self);
  transcript.blob(connector_ ? own_nonce_ : peer_nonce_).blob(connector_ ? peer_nonce_ : own_nonce_).blob(extra);
  return crypto::hmac(context_.secret, transcript.bytes());
}

// Appends to in_ until it holds `count` bytes; false when they are not there yet, or never will be.
bool Handshake::fill(std::size_t count) {
  while (in_.size() < count) {
    std::array<std::byte, kHelloBytes> buffer;
    // Descriptors are taken in only where one is due; the kernel drops any sent before.
    Received got = receive(socket_.get(), std::span(buffer).first(count - in_.size()), state_ == State::kSegment ? 1 : 0);
    if (got.error == EAGAIN) return false;
    if (got.error != 0) return fail(Status::from_errno(got.error, "recvmsg", "node link")), false;
    if (got.truncated) return failed(CARDEA_ERR_PROTOCOL, "the peer passed descriptors where none are due"), false;
    if (got.bytes == 0) {
      static constexpr std::array kDuring = {"hello", "proof", "rank segment", "echo"};
      failed(CARDEA_ERR_PEER_LOST,
             fmt::format("the peer closed the link before its {}", kDuring[static_cast<std::size_t>(state_)]));
      return false;
    }
    in_.insert(in_.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(got.bytes));
    if (!got.descriptors.empty()) received_.reset(got.descriptors.front().release());
  }
  return true;
}

void Handshake::send_all(ByteView bytes, int descriptor) {
  if (state_ == State::kFailed) return;
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  const Sent sent = send(socket_.get(), std::span(&piece, 1), descriptor);
  if (sent.error != 0) return fail(Status::from_errno(sent.error, "sendmsg", "node link"));
  if (sent.bytes != bytes.size()) failed(CARDEA_ERR_SYSTEM, "the buffer of a fresh socket does not hold a handshake");
}

void Handshake::failed(cardea_status_t code, std::string message) {
  fail(Status(code, std::move(message)));
}

void Handshake::fail(Status why) {
  if (ended()) return;
  state_ = State::kFailed;
  failure_ = peer_ == kNoRank ? std::move(why) : why.with_peer(peer_);
  socket_.reset();
  received_.reset();
}

}  // namespace cardea::shm
