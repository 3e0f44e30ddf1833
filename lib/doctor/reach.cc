// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/reach.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

#include "lib/base/unique_fd.h"

namespace cardea::doctor {
namespace {

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

int milliseconds_until(Clock::time_point end) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
}

/// getaddrinfo knows no deadline: a thread of its own may outlive this call, and then nobody reads its answer.
struct Resolution {
  std::mutex mutex;
  std::condition_variable done;
  bool over = false;
  int error = 0;
  addrinfo* found = nullptr;
  ~Resolution() {
    if (found != nullptr) freeaddrinfo(found);
  }
};

std::shared_ptr<Resolution> resolve(const std::string& host, const std::string& port, Clock::time_point end) {
  auto resolution = std::make_shared<Resolution>();
  std::thread([resolution, host, port] {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
    const std::lock_guard held(resolution->mutex);
    resolution->over = true;
    resolution->error = error;
    resolution->found = found;
    resolution->done.notify_all();
  }).detach();
  std::unique_lock held(resolution->mutex);
  resolution->done.wait_until(held, end, [&] { return resolution->over; });
  return resolution->over ? resolution : nullptr;
}

Reach::Outcome outcome_of(int error) {
  switch (error) {
    case 0:
      return Reach::Outcome::kConnected;
    case ECONNREFUSED:
      return Reach::Outcome::kRefused;
    case ETIMEDOUT:
      return Reach::Outcome::kTimedOut;
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
      return Reach::Outcome::kUnreachable;
    default:
      return Reach::Outcome::kFailed;
  }
}

/// errno; 0: connected.
int connect_to(const addrinfo& at, Clock::time_point end) {
  const UniqueFd socket(::socket(at.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return errno;
  if (connect(socket.get(), at.ai_addr, at.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd writable{socket.get(), POLLOUT, 0};
  const int ready = poll(&writable, 1, milliseconds_until(end));
  if (ready == 0) return ETIMEDOUT;
  if (ready < 0) return errno;
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

}  // namespace

Reach reach(const std::string& target, Nanoseconds patience) {
  Reach result;
  result.target = target;
  const Clock::time_point end = Clock::now() + patience;
  const std::size_t colon = target.rfind(':');
  std::string host = target.substr(0, colon == std::string::npos ? 0 : colon);
  const std::string port = colon == std::string::npos ? "" : target.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const bool digits = !port.empty() && port.size() <= 5 && port.find_first_not_of("0123456789") == std::string::npos;
  if (host.empty() || !digits || std::stoi(port) > 65535) {
    result.outcome = Reach::Outcome::kMalformed;
    result.detail = "it is not host:port";
    return result;
  }
  const auto resolution = resolve(host, port, end);
  if (!resolution || resolution->error != 0) {
    result.outcome = Reach::Outcome::kUnresolved;
    result.detail = resolution ? gai_strerror(resolution->error) : "the resolver did not answer";
    return result;
  }
  int untried = 0;
  for (const addrinfo* at = resolution->found; at != nullptr; at = at->ai_next) ++untried;
  for (const addrinfo* at = resolution->found; at != nullptr; at = at->ai_next, --untried) {
    char text[NI_MAXHOST] = {};
    getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
    result.address = text;
    // An address that does not answer leaves time for the others.
    const int error = connect_to(*at, Clock::now() + (end - Clock::now()) / untried);
    result.outcome = outcome_of(error);
    result.detail = error == 0 ? "" : std::strerror(error);
    if (error == 0) break;
  }
  return result;
}

}  // namespace cardea::doctor
