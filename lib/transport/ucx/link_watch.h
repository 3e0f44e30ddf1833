// SPDX-License-Identifier: Apache-2.0
// Hears at once, from the kernel, that a network interface has gone down: pulled, switched off, or without a carrier. Over
// TCP nobody else would tell for minutes, since what is sent into it is only sent again. Engine thread only.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "lib/base/asio.h"
#include "lib/base/unique_fd.h"

namespace cardea::transport::ucx {

class LinkWatch {
 public:
  /// Watches those of `devices` that are network interfaces; `down(i)` runs once for each that goes down, as a handler of
  /// `io`. Where the kernel tells nothing, nothing is watched.
  LinkWatch(boost::asio::io_context& io, std::vector<std::string> devices, std::function<void(std::size_t)> down);
  LinkWatch(const LinkWatch&) = delete;
  LinkWatch& operator=(const LinkWatch&) = delete;
  ~LinkWatch() { *alive_ = false; }

 private:
  void wait();
  void heard();

  std::vector<std::string> devices_;
  std::vector<bool> watched_;
  std::function<void(std::size_t)> down_;
  boost::asio::posix::stream_descriptor news_;
  UniqueFd socket_;  // to ask by
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cardea::transport::ucx
