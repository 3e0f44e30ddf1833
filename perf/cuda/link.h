// SPDX-License-Identifier: Apache-2.0
// What two ranks of a measurement say to each other: whole blobs over a socket pair.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace cardea::perf {

/// One end of the socket pair, which it owns. Throws std::runtime_error when the other rank has gone.
class Link {
 public:
  Link(int descriptor, unsigned rank) : descriptor_(descriptor), rank_(rank) {}
  ~Link() { ::close(descriptor_); }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  unsigned rank() const { return rank_; }

  void give(const void* data, std::size_t bytes) {
    move(bytes, [&](std::size_t done) {
      return ::send(descriptor_, static_cast<const char*>(data) + done, bytes - done, MSG_NOSIGNAL);
    });
  }
  void take(void* data, std::size_t bytes) {
    move(bytes, [&](std::size_t done) { return ::recv(descriptor_, static_cast<char*>(data) + done, bytes - done, 0); });
  }
  /// Both give, both take.
  template <typename T>
  T swap(const T& mine) {
    T theirs;
    give(&mine, sizeof mine);
    take(&theirs, sizeof theirs);
    return theirs;
  }
  /// Both have come here.
  void meet() { swap<char>(0); }

 private:
  template <typename Step>
  static void move(std::size_t bytes, Step step) {
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t n = step(done);
      if (n > 0) {
        done += static_cast<std::size_t>(n);
      } else if (n == 0 || errno != EINTR) {
        throw std::runtime_error("the other rank has gone");
      }
    }
  }

  int descriptor_;
  unsigned rank_;
};

}  // namespace cardea::perf
