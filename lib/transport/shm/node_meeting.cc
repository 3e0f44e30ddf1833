// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/node_meeting.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "lib/base/log.h"

namespace cardea::shm {
namespace {

constexpr std::size_t kMaxUnauthenticated = 128;  // accepted and waiting; the oldest has to go for one more

struct Address {
  sockaddr_un raw{};
  socklen_t length = 0;
};

Result<Address> abstract_address(const std::string& name) {
  Address address;
  address.raw.sun_family = AF_UNIX;
  if (name.size() + 1 > sizeof address.raw.sun_path) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "socket name of {} bytes is too long", name.size());
  }
  std::memcpy(address.raw.sun_path + 1, name.data(), name.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

UniqueFd new_socket() {
  return UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

class Host {
 public:
  Host(const MeetingPoint& point, const HandshakeContext& context, std::chrono::milliseconds stranger_timeout)
      : point_(point), context_(context), stranger_timeout_(stranger_timeout) {}

  void run(const std::map<Rank, std::string>& expected, Clock::time_point deadline);
  Meeting take() { return std::move(meeting_); }

 private:
  struct Guest {
    std::unique_ptr<Handshake> handshake;
    Clock::time_point until;
    bool connected = false;  // by this rank
  };

  void connect_some();
  bool connect(Rank rank, const std::string& name);
  void accept_some();
  void settle();
  void wait(Clock::time_point deadline);

  const MeetingPoint& point_;
  const HandshakeContext& context_;
  const std::chrono::milliseconds stranger_timeout_;
  std::map<Rank, std::string> to_connect_;
  std::map<Rank, std::string> missing_;
  std::vector<Guest> guests_;
  Meeting meeting_;
};

void Host::run(const std::map<Rank, std::string>& expected, Clock::time_point deadline) {
  missing_ = expected;
  for (const auto& [rank, name] : expected) {
    if (rank < context_.self) to_connect_.emplace(rank, name);
  }
  while (!missing_.empty() && Clock::now() < deadline) {
    connect_some();
    accept_some();
    settle();
    if (!missing_.empty()) wait(deadline);
  }
  for (const auto& [rank, name] : missing_) {
    meeting_.failed.emplace(rank, Status(CARDEA_ERR_TIMEOUT, "it did not prove itself in time", {.peer = rank}));
  }
}

// Those whose queue was full are tried again in the next round.
void Host::connect_some() {
  for (auto it = to_connect_.begin(); it != to_connect_.end();)
    it = connect(it->first, it->second) ? to_connect_.erase(it) : std::next(it);
}

bool Host::connect(Rank rank, const std::string& name) {
  const auto give_up = [&](const Status& why) {
    meeting_.failed.emplace(rank, why.with_peer(rank));
    missing_.erase(rank);
    return true;
  };
  Result<Address> address = abstract_address(name);
  if (!address.ok()) return give_up(address.status());
  UniqueFd socket = new_socket();
  if (!socket) return give_up(Status::from_errno(errno, "socket"));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address->raw), address->length) != 0) {
    if (errno == EAGAIN || errno == EINTR) return false;
    return give_up(Status::from_errno(errno, "connect", "@" + name));
  }
  guests_.push_back({std::make_unique<Handshake>(std::move(socket), context_, rank), Clock::time_point::max(), true});
  return true;
}

void Host::accept_some() {
  for (int i = 0; i < 64; ++i) {
    UniqueFd socket(accept4(point_.descriptor(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) return;
    const auto waiting = [](const Guest& guest) { return !guest.connected && !guest.handshake->authenticated(); };
    if (static_cast<std::size_t>(std::count_if(guests_.begin(), guests_.end(), waiting)) >= kMaxUnauthenticated) {
      guests_.erase(std::find_if(guests_.begin(), guests_.end(), waiting));
    }
    guests_.push_back(
        {std::make_unique<Handshake>(std::move(socket), context_, std::nullopt), Clock::now() + stranger_timeout_});
  }
}

// Goes on with every handshake, and takes out those that have ended.
void Host::settle() {
  for (auto it = guests_.begin(); it != guests_.end();) {
    Handshake& handshake = *it->handshake;
    handshake.advance();
    if (!handshake.ended() && Clock::now() > it->until) handshake.fail(Status(CARDEA_ERR_TIMEOUT, "it stayed silent"));
    if (!handshake.ended()) {
      ++it;
      continue;
    }
    const Rank rank = handshake.peer();
    if (handshake.state() == Handshake::State::kProved && missing_.erase(rank) > 0) {
      meeting_.proved.emplace(rank, std::move(it->handshake));
    } else if (it->connected && missing_.erase(rank) > 0) {
      meeting_.failed.emplace(rank, handshake.failure());
    } else {
      // A stranger, or somebody who took a rank's name: the rank itself may still come.
      log::print(log::Level::kWarn, std::to_string(context_.self), "shm",
                 "dropped a connection to this rank's node socket: {}",
                 handshake.failure().ok() ? "that rank has a link already" : handshake.failure().message());
    }
    it = guests_.erase(it);
  }
}

void Host::wait(Clock::time_point deadline) {
  std::vector<pollfd> polled{{point_.descriptor(), POLLIN, 0}};
  Clock::time_point until = deadline;
  for (const Guest& guest : guests_) {
    polled.push_back({guest.handshake->descriptor(), POLLIN, 0});
    until = std::min(until, guest.until);
  }
  if (!to_connect_.empty()) until = std::min(until, Clock::now() + std::chrono::milliseconds(5));
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  ::poll(polled.data(), polled.size(), static_cast<int>(std::clamp<std::int64_t>(left, 0, 60000)));
}

}  // namespace

Result<MeetingPoint> MeetingPoint::open(const std::string& name) {
  Result<Address> address = abstract_address(name);
  if (!address.ok()) return address.status();
  MeetingPoint point;
  point.name_ = name;
  point.socket_ = new_socket();
  if (!point.socket_) return Status::from_errno(errno, "socket", "@" + name);
  if (bind(point.descriptor(), reinterpret_cast<const sockaddr*>(&address->raw), address->length) != 0) {
    return Status::from_errno(errno, "bind", "@" + name);
  }
  if (listen(point.descriptor(), 1024) != 0) return Status::from_errno(errno, "listen", "@" + name);
  return point;
}

Meeting meet(const MeetingPoint& point, const HandshakeContext& context, const std::map<Rank, std::string>& expected,
             std::chrono::milliseconds stranger_timeout, Clock::time_point deadline) {
  Host host(point, context, stranger_timeout);
  host.run(expected, deadline);
  return host.take();
}

}  // namespace cardea::shm
