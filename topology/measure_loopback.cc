// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "lib/base/unique_fd.h"
#include "topology/measure.h"

namespace cardea::topology {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr std::size_t kStream = std::size_t{512} << 20;
constexpr std::size_t kMessage = std::size_t{1} << 20;
constexpr unsigned kRoundTrips = 2000;

bool send_all(int fd, const char* data, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t sent = ::send(fd, data, bytes, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    data += sent;
    bytes -= static_cast<std::size_t>(sent);
  }
  return true;
}

bool receive_all(int fd, char* data, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = ::recv(fd, data, bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    data += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

/// Echoes the round trips, then swallows the stream and confirms its end.
void answer(int fd, std::size_t stream) {
  std::vector<char> buffer(kMessage);
  for (unsigned i = 0; i < kRoundTrips; ++i) {
    if (!receive_all(fd, buffer.data(), 1) || !send_all(fd, buffer.data(), 1)) return;
  }
  for (std::size_t left = stream; left > 0; left -= std::min(left, kMessage)) {
    if (!receive_all(fd, buffer.data(), std::min(left, kMessage))) return;
  }
  send_all(fd, buffer.data(), 1);
}

struct Connection {
  UniqueFd here;
  UniqueFd there;
};

Result<Connection> connect_to_self() {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (!listener || ::bind(listener.get(), generic, length) != 0 || ::listen(listener.get(), 1) != 0)
    return Status::from_errno(errno, "listen", "127.0.0.1");
  if (::getsockname(listener.get(), generic, &length) != 0) return Status::from_errno(errno, "getsockname", "127.0.0.1");
  Connection connection;
  connection.here.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!connection.here || ::connect(connection.here.get(), generic, length) != 0)
    return Status::from_errno(errno, "connect", "127.0.0.1");
  connection.there.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.there) return Status::from_errno(errno, "accept", "127.0.0.1");
  // A stranger could have been first in the queue; on a port just made up that is as good as ruled out, but costs a line.
  sockaddr_in from{};
  sockaddr_in own{};
  socklen_t size = sizeof(from);
  ::getpeername(connection.there.get(), reinterpret_cast<sockaddr*>(&from), &size);
  size = sizeof(own);
  ::getsockname(connection.here.get(), reinterpret_cast<sockaddr*>(&own), &size);
  if (from.sin_port != own.sin_port) return Status::error(CARDEA_ERR_SYSTEM, "a stranger connected to the measuring port");
  const int on = 1;
  for (const int fd : {connection.here.get(), connection.there.get()}) {
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    const timeval patience{30, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  }
  return connection;
}

}  // namespace

Result<Measurement> measure_loopback(const Machine& machine, const MeasureOptions& options) {
  Result<Connection> connection = connect_to_self();
  if (!connection.ok()) return connection.status();
  const std::size_t stream = std::min(kStream, options.memory_bytes * 4);
  std::thread echo([&] { answer(connection->there.get(), stream); });
  std::vector<char> buffer(kMessage);
  std::vector<double> trips;
  const int fd = connection->here.get();
  bool good = true;
  for (unsigned i = 0; good && i < kRoundTrips; ++i) {
    const auto start = SteadyClock::now();
    good = send_all(fd, buffer.data(), 1) && receive_all(fd, buffer.data(), 1);
    trips.push_back(std::chrono::duration<double, std::nano>(SteadyClock::now() - start).count());
  }
  const auto start = SteadyClock::now();
  for (std::size_t left = stream; good && left > 0; left -= std::min(left, kMessage))
    good = send_all(fd, buffer.data(), std::min(left, kMessage));
  good = good && receive_all(fd, buffer.data(), 1);
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - start).count();
  ::shutdown(fd, SHUT_RDWR);
  echo.join();
  if (!good) return Status::error(CARDEA_ERR_SYSTEM, "the loopback connection broke off");
  std::nth_element(trips.begin(), trips.begin() + kRoundTrips / 2, trips.end());
  const Lane& lane = machine.lane(machine.find_lane(LaneKind::kLoopback, 0, 0));
  Measurement result{lane.name, static_cast<double>(stream) / seconds, trips[kRoundTrips / 2] / 2};
  if (options.progress)
    options.progress(fmt::format("{}: {:.1f} GB/s, {:.0f} ns", lane.name, result.bandwidth / 1e9, result.latency));
  return result;
}

}  // namespace cardea::topology
