// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/link_watch.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <optional>

namespace cardea::transport::ucx {
namespace {

/// Nothing if there is no interface of that name.
std::optional<bool> is_up(int socket, const std::string& device) {
  ifreq request{};
  if (device.empty() || device.size() >= sizeof request.ifr_name) return std::nullopt;
  std::memcpy(request.ifr_name, device.data(), device.size());
  if (ioctl(socket, SIOCGIFFLAGS, &request) != 0) return std::nullopt;
  return (request.ifr_flags & IFF_UP) != 0 && (request.ifr_flags & IFF_RUNNING) != 0;
}

}  // namespace

LinkWatch::LinkWatch(boost::asio::io_context& io, std::vector<std::string> devices, std::function<void(std::size_t)> down)
    : devices_(std::move(devices)),
      watched_(devices_.size(), false),
      down_(std::move(down)),
      news_(io),
      socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
  UniqueFd link(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl groups{};
  groups.nl_family = AF_NETLINK;
  groups.nl_groups = RTMGRP_LINK;
  if (!socket_ || !link || ::bind(link.get(), reinterpret_cast<const sockaddr*>(&groups), sizeof groups) != 0) return;
  boost::system::error_code error;
  news_.assign(link.get(), error);
  if (error) return;
  static_cast<void>(link.release());
  for (std::size_t i = 0; i < devices_.size(); ++i) watched_[i] = is_up(socket_.get(), devices_[i]).value_or(false);
  wait();
}

void LinkWatch::wait() {
  news_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                   [this, alive = alive_](const boost::system::error_code& error) {
                     if (*alive && !error) heard();
                   });
}

// What it says is not read: messages may have been lost, and the interfaces can be asked.
void LinkWatch::heard() {
  std::array<char, 8192> news{};
  for (;;) {
    const ssize_t got = ::recv(news_.native_handle(), news.data(), news.size(), 0);
    if (got == 0 || (got < 0 && errno != EINTR && errno != ENOBUFS)) break;
  }
  const std::shared_ptr<bool> alive = alive_;
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    if (!watched_[i] || is_up(socket_.get(), devices_[i]).value_or(false)) continue;
    watched_[i] = false;
    down_(i);
    if (!*alive) return;
  }
  wait();
}

}  // namespace cardea::transport::ucx
