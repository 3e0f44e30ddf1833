// SPDX-License-Identifier: Apache-2.0
#include "lib/launcher/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>

#include <array>
#include <cerrno>
#include <string_view>

namespace cardea::launcher {
namespace {

constexpr std::size_t kLongestLine = 64 << 10;

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(fd, text.data(), text.size());
    if (count >= 0) {
      text.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno == EAGAIN) {
      pollfd writable{.fd = fd, .events = POLLOUT, .revents = 0};
      poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return;  // nobody reads any more; the ranks go on
    }
  }
}

}  // namespace

TaggedOutput::TaggedOutput(unsigned rank, UniqueFd from, int to)
    : tag_(fmt::format("[{}] ", rank)), from_(std::move(from)), to_(to) {
  fcntl(from_.get(), F_SETFL, O_NONBLOCK);
}

void TaggedOutput::pass_on(std::string_view line) {
  write_all(to_, fmt::format("{}{}\n", tag_, line));
}

bool TaggedOutput::pump() {
  std::array<char, 16384> buffer;
  for (int turns = 0; turns < 16; ++turns) {
    const ssize_t count = ::read(from_.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return true;
    if (count <= 0) {
      if (!partial_.empty()) pass_on(partial_);
      partial_.clear();
      return false;
    }
    partial_.append(buffer.data(), static_cast<std::size_t>(count));
    std::size_t start = 0;
    for (std::size_t end; (end = partial_.find('\n', start)) != std::string::npos; start = end + 1) {
      pass_on(std::string_view(partial_).substr(start, end - start));
    }
    partial_.erase(0, start);
    if (partial_.size() > kLongestLine) {
      pass_on(partial_);
      partial_.clear();
    }
  }
  return true;
}

}  // namespace cardea::launcher
