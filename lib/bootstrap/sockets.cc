// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/sockets.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>

#include "lib/bootstrap/frames.h"

namespace cardea::bootstrap {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

SocketAddress abstract_address(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::copy_n(name.data(), std::min(name.size(), kMaxUnixName), address.sun_path + 1);
  return {&address, offsetof(sockaddr_un, sun_path) + 1 + name.size()};
}

Status failure(const error_code& error, std::string_view call) {
  if (error == asio::error::eof || error == asio::error::connection_reset || error == asio::error::broken_pipe) {
    return Status::error(CARDEA_ERR_PEER_LOST, "the other side closed the connection");
  }
  return Status::from_errno(error.value(), call);
}

void set_option(int fd, int level, int name, int value = 1) {
  setsockopt(fd, level, name, &value, sizeof value);
}

}  // namespace

Clock::time_point later(Clock::time_point deadline, Clock::duration extra) {
  return deadline > Clock::time_point::max() - extra ? Clock::time_point::max() : deadline + extra;
}

Result<std::vector<SocketAddress>> resolve(const Endpoint& endpoint) {
  if (!endpoint.unix_name.empty()) return std::vector{abstract_address(endpoint.unix_name)};
  asio::io_context io;
  asio::ip::tcp::resolver resolver(io);
  error_code error;
  const auto look_up = [&](const std::string& host) {
    return resolver.resolve(host, std::to_string(endpoint.port), asio::ip::resolver_base::numeric_service, error);
  };
  auto found = look_up(endpoint.host);
  // RFC 6761, section 6.3: that name is this machine, also where nobody has written it into /etc/hosts.
  if (error && endpoint.host == "localhost") found = look_up("127.0.0.1");
  std::vector<SocketAddress> addresses;
  if (!error) {
    for (const auto& entry : found) addresses.emplace_back(entry.endpoint());
  }
  if (addresses.empty()) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "host \"{}\" cannot be resolved: {}", endpoint.host, error.message());
  }
  return addresses;
}

Endpoint to_endpoint(const SocketAddress& address) {
  asio::ip::tcp::endpoint tcp;
  if (address.size() > tcp.capacity()) return {};
  tcp.resize(address.size());
  std::memcpy(tcp.data(), address.data(), address.size());
  return {.host = tcp.address().to_string(), .port = tcp.port()};
}

Result<UniqueFd> listen_on(const SocketAddress& address) {
  UniqueFd fd(::socket(address.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Status::from_errno(errno, "socket");
  const int family = address.protocol().family();
  if (family != AF_UNIX) set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR);
  if (family == AF_INET6) set_option(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  const bool listening =
      ::bind(fd.get(), address.data(), static_cast<socklen_t>(address.size())) == 0 && ::listen(fd.get(), SOMAXCONN) == 0;
  if (listening) return fd;
  if (errno == EADDRINUSE) return Status::error(CARDEA_ERR_BUSY, "the address is in use");
  if (errno == EADDRNOTAVAIL) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "it is not an address of this machine");
  return Status::from_errno(errno, "bind");
}

Result<Endpoint> local_endpoint(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return Status::from_errno(errno, "getsockname");
  return to_endpoint(SocketAddress(&storage, length));
}

void prepare(int fd) {
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE);
  set_option(fd, IPPROTO_TCP, TCP_NODELAY);  // fails on a Unix socket, which needs none
}

template <typename Start>
Status DeadlineStream::run(Start start, Clock::time_point deadline) {
  bool done = false;
  error_code result;
  // One operation at a time, and it has ended when this returns: the handler may refer to what is on this stack.
  start([&](const error_code& error, auto&&...) {
    done = true;
    result = error;
  });
  io_.restart();
  while (!done && Clock::now() < deadline) io_.run_one_until(deadline);
  if (done) return result ? failure(result, "connection") : Status();
  close();
  io_.restart();
  io_.run();
  return Status::error(CARDEA_ERR_TIMEOUT, "no answer in time");
}

Status DeadlineStream::connect(const SocketAddress& address, Clock::time_point deadline) {
  close();
  UniqueFd fd(::socket(address.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return Status::from_errno(errno, "socket");
  prepare(fd.get());
  error_code error;
  socket_.assign(address.protocol(), fd.get(), error);
  if (error) return failure(error, "socket");
  fd.release();
  return run([&](auto handler) { socket_.async_connect(address, std::move(handler)); }, deadline);
}

Status DeadlineStream::read(std::span<std::byte> out, Clock::time_point deadline) {
  return run([&](auto handler) { asio::async_read(socket_, asio::buffer(out.data(), out.size()), std::move(handler)); },
             deadline);
}

Status DeadlineStream::write(ByteView in, Clock::time_point deadline) {
  return run([&](auto handler) { asio::async_write(socket_, asio::buffer(in.data(), in.size()), std::move(handler)); },
             deadline);
}

Result<Bytes> DeadlineStream::read_frame(std::size_t cap, Clock::time_point deadline) {
  constexpr std::size_t kPiece = std::size_t{4} << 20;
  std::array<std::byte, kLengthBytes> head{};
  if (Status status = read(head, deadline); !status.ok()) return status;
  const std::size_t length = decode_length(head);
  if (length == 0 || length > cap)
    return Status::error(CARDEA_ERR_PROTOCOL, "a frame of {} bytes, at most {} allowed", length, cap);
  Bytes body;
  while (body.size() < length) {
    const std::size_t before = body.size();
    body.resize(std::min(length, before + kPiece));
    if (Status status = read(std::span(body).subspan(before), deadline); !status.ok()) return status;
  }
  return body;
}

void DeadlineStream::close() {
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace cardea::bootstrap
