// SPDX-License-Identifier: Apache-2.0
// A member's connection to a meeting point that may be anybody: what it answers to hello, proof and contribution. Where an
// input says so it knows the secret.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <thread>

#include "lib/bootstrap/socket_exchange.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace bootstrap;  // NOLINT(google-build-using-namespace)

const Secret kSecret{std::byte{4}};
constexpr std::uint32_t kWorld = 2;

/// Listens on an abstract socket for as long as the process lives.
class Listening {
 public:
  Listening() : name_(fmt::format("cardea-fuzz-{}", getpid())), socket_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name_.data(), name_.size());
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name_.size());
    require(bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0 && listen(socket_.get(), 8) == 0,
            "the test listens");
  }
  const std::string& name() const { return name_; }
  UniqueFd accept_one() const { return UniqueFd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }
  int descriptor() const { return socket_.get(); }

 private:
  std::string name_;
  UniqueFd socket_;
};

Bytes read_frame(int socket) {
  Bytes head(kLengthBytes);
  if (recv(socket, head.data(), head.size(), MSG_WAITALL) != static_cast<ssize_t>(head.size())) return {};
  Bytes body(std::min<std::size_t>(decode_length(head), 4096));
  if (recv(socket, body.data(), body.size(), MSG_WAITALL) != static_cast<ssize_t>(body.size())) return {};
  return body;
}

void say(int socket, ByteView bytes) {
  static_cast<void>(send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL));
}

void serve(const Listening& listening, ByteView input) {
  const UniqueFd peer = listening.accept_one();
  if (!peer) return;
  Draw draw(input);
  const std::uint8_t flags = draw.byte();
  const Bytes hello = read_frame(peer.get());
  const Bytes challenge = encode(Challenge{});
  if ((flags & 1) != 0) return say(peer.get(), draw.rest());
  say(peer.get(), frame(challenge));
  read_frame(peer.get());
  if ((flags & 2) != 0) return say(peer.get(), draw.rest());
  say(peer.get(), frame(encode_proof(prove(kSecret, Role::kRoot, hello, challenge))));
  if ((flags & 4) != 0) return say(peer.get(), draw.rest());
  say(peer.get(), frame(encode_formed()));
  read_frame(peer.get());
  say(peer.get(), draw.rest());
}

bool run(ByteView input) {
  static const Listening listening;
  std::thread point([input] { serve(listening, input); });
  SocketExchange::Settings settings{.rank = 1, .world_size = kWorld, .roots = {Endpoint{.unix_name = listening.name()}}};
  settings.secret = kSecret;
  settings.one_pass = true;
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  auto exchange = SocketExchange::connect(std::move(settings), nullptr, deadline);
  bool whole = false;
  if (exchange.ok()) {
    const auto all = (*exchange)->allgather(Bytes(3), deadline);
    whole = all.ok();
    if (whole) require(all->size() == kWorld, "a round has a contribution of each rank");
  }
  require(Clock::now() < deadline, "whatever the meeting point says, nobody waits for long");
  exchange = Status(CARDEA_ERR_CANCELED, "over");
  point.join();
  return whole;
}

std::vector<Seed> seeds() {
  return {{"round", of_kind(0, frame(encode(All{0, {Bytes(2), Bytes(3)}})))}};
}

}  // namespace

Target member() {
  return {"member", "what a meeting point, or who claims to be it, sends to a member", run, seeds, 1024};
}

}  // namespace cardea::fuzz
