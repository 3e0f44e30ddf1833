// SPDX-License-Identifier: Apache-2.0
// Connections to the meeting point and its roster: bytes of up to three connections in any order, of strangers, and of
// members that prove themselves where an input says so.
#include "lib/bootstrap/meeting_session.h"

#include <sys/socket.h>

#include <array>
#include <map>

#include "lib/bootstrap/roster.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace bootstrap;  // NOLINT(google-build-using-namespace)

constexpr std::size_t kConnections = 3;
constexpr std::size_t kMostHeard = 64 << 10;

enum Op : std::uint8_t { kBytes, kHello, kProve, kGive, kLeave, kHangUp, kOps };

const Secret kSecret{std::byte{9}};

/// What the meeting point does with its sessions, without its thread: answers frames out of the roster.
class Point final : public Session::Owner {
 public:
  Point() {
    identity.job = job_tag("job", 0);
    identity.secret = kSecret;
  }
  void on_authenticated(const std::shared_ptr<Session>& session) override {
    members.push_back(session);
    const Status arrived = roster.arrive(session->hello());
    if (!arrived.ok()) return refuse(session, arrived);
    if (roster.formed()) tell_all(encode_formed());
  }
  void on_frame(const std::shared_ptr<Session>& session, Bytes body) override {
    require(session->authenticated(), "frames are of members");
    const Rank rank = session->hello().rank;
    const Result<FrameKind> kind = kind_of(body);
    Status status = kind.status();
    if (kind.ok() && *kind == FrameKind::kGive) {
      Result<Give> give = decode_give(body);
      status = give.ok() ? roster.give(rank, std::move(*give)) : roster.fail(give.status());
      if (status.ok()) {
        if (const auto all = roster.take_round()) {
          require(decode_all(encode(*all), roster.world_size()).ok(), "a round can be read by the members");
          tell_all(encode(*all));
          ++rounds;
        }
      }
    } else if (kind.ok() && *kind == FrameKind::kLeave) {
      status = roster.depart(rank, true);
    } else if (kind.ok()) {
      status = roster.fail(Status::error(CARDEA_ERR_PROTOCOL, "out of turn"));
    }
    if (!status.ok()) refuse(session, status);
  }
  void on_refused(const Hello& claimed, Refused) override {
    require(claimed.rank < claimed.world_size, "even a stranger's hello makes sense");
  }
  void on_closed(const std::shared_ptr<Session>& session) override {
    if (session->hello().world_size == roster.world_size() && roster.formed())
      static_cast<void>(roster.depart(session->hello().rank, false).ok());
  }
  void refuse(const std::shared_ptr<Session>& session, const Status& why) {
    require(!decode_failed(encode_failed(why)).ok(), "a failure can be read by the members");
    session->send(std::make_shared<const Bytes>(frame(encode_failed(why))));
    session->close();
  }
  void tell_all(const Bytes& body) {
    for (const auto& weak : members) {
      if (const auto session = weak.lock()) session->send(std::make_shared<const Bytes>(frame(body)));
    }
  }

  Session::Identity identity;
  Roster roster{kWireVersion};
  std::vector<std::weak_ptr<Session>> members;
  std::size_t rounds = 0;
};

struct Connection {
  UniqueFd socket;
  Bytes hello, heard;
};

class Scene {
 public:
  Scene() {
    for (Connection& connection : connections_) {
      int pair[2];
      require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0, "the test has sockets");
      connection.socket.reset(pair[0]);
      const auto session =
          std::make_shared<Session>(io_, Protocol::socket(io_, Protocol(AF_UNIX, 0), pair[1]), point_.identity, point_);
      session->start();
      sessions_.push_back(session);
    }
  }
  ~Scene() {
    for (const auto& weak : sessions_) {
      if (const auto session = weak.lock()) session->drop();
    }
    turn();
  }

  bool run(Draw draw) {
    while (!draw.empty()) {
      step(draw);
      turn();
    }
    return point_.rounds > 0;
  }

 private:
  void turn() {
    io_.restart();
    io_.poll();
    for (Connection& connection : connections_) {
      std::array<std::byte, 4096> buffer;
      ssize_t got = 0;
      while (connection.socket && (got = recv(connection.socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0) {
        if (connection.heard.size() < kMostHeard)
          connection.heard.insert(connection.heard.end(), buffer.begin(), buffer.begin() + got);
      }
    }
    io_.restart();
    io_.poll();
  }
  void say(const Connection& connection, ByteView bytes) const {
    if (connection.socket) static_cast<void>(send(connection.socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
  }
  void step(Draw& draw) {
    const std::uint8_t op = draw.byte();
    Connection& connection = connections_[op / 64 % kConnections];
    switch (op % 64 % kOps) {
      case kBytes:
        return say(connection, draw.blob());
      case kHello: {
        const auto world = static_cast<std::uint32_t>(1 + draw.below(3));
        Hello hello{.rank = static_cast<Rank>(draw.below(world)), .world_size = world, .place = "fuzz"};
        hello.job = point_.identity.job;
        connection.hello = encode(hello);
        return say(connection, frame(connection.hello));
      }
      case kProve: {
        // Right where a challenge was heard.
        if (connection.heard.size() < kLengthBytes) return;
        const std::size_t length = decode_length(ByteView(connection.heard).first(kLengthBytes));
        if (length > connection.heard.size() - kLengthBytes) return;
        const ByteView challenge = ByteView(connection.heard).subspan(kLengthBytes, length);
        return say(connection, frame(encode_proof(prove(kSecret, Role::kMember, connection.hello, challenge))));
      }
      case kGive: {
        Give give;
        give.round = static_cast<std::uint32_t>(draw.below(3));
        const ByteView bytes = draw.blob();
        give.bytes.assign(bytes.begin(), bytes.end());
        return say(connection, frame(encode(give)));
      }
      case kLeave:
        return say(connection, frame(encode_leave()));
      default:
        connection.socket.reset();
    }
  }

  boost::asio::io_context io_;
  Point point_;
  std::array<Connection, kConnections> connections_;
  std::vector<std::weak_ptr<Session>> sessions_;
};

bool run(ByteView input) {
  return Scene().run(Draw(input));
}

std::vector<Seed> seeds() {
  const auto on = [](unsigned connection, Op op) { return static_cast<std::uint8_t>(connection * 64 + op); };
  Script whole;
  for (unsigned member = 0; member < 2; ++member) {
    whole.byte(on(member, kHello)).byte(1).byte(static_cast<std::uint8_t>(member)).byte(on(member, kProve));
  }
  whole.byte(on(2, kBytes)).blob(as_bytes("GET / HTTP/1.0\r\n\r\n"));
  for (unsigned member = 0; member < 2; ++member) whole.byte(on(member, kGive)).byte(0).blob(Bytes(5));
  whole.byte(on(0, kLeave)).byte(on(1, kHangUp));
  Script alone;
  alone.byte(on(1, kHello))
      .byte(0)
      .byte(0)
      .byte(on(1, kProve))
      .byte(on(1, kGive))
      .byte(0)
      .blob({})
      .byte(on(1, kGive))
      .byte(1);
  alone.blob(Bytes(3));
  return {{"two", whole.bytes()}, {"one", alone.bytes()}};
}

}  // namespace

Target meeting_session() {
  return {"meeting_session", "connections to the meeting point, of strangers and members", run, seeds, 2048};
}

}  // namespace cardea::fuzz
