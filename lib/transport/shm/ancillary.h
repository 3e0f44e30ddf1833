// SPDX-License-Identifier: Apache-2.0
// sendmsg and recvmsg on a non-blocking Unix stream socket, with descriptors beside the bytes. Nothing received can leak:
// what is not expected is closed. Thread-safe, like the calls.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>
#include <vector>

#include "lib/base/unique_fd.h"

namespace cardea::shm {

struct Sent {
  std::size_t bytes = 0;
  int error = 0;  // errno; EAGAIN: nothing fits now
};

struct Received {
  std::size_t bytes = 0;  // 0 without error: the peer has closed its end
  /// errno. EAGAIN: nothing there now. EMFILE: descriptors came and were dropped, for this process may have no more.
  int error = 0;
  bool truncated = false;  // more descriptors came than were asked for; all of them have been closed
  std::vector<UniqueFd> descriptors;
};

inline constexpr std::size_t kMaxDescriptors = 4;  // that receive() takes per call

/// Sends what fits. The descriptor, if not -1, goes with the first byte. Raises no signal.
Sent send(int socket, std::span<const iovec> pieces, int descriptor);

/// Receives what is there, up to buffer.size(), and at most `descriptors` (up to kMaxDescriptors) descriptors,
/// close-on-exec.
Received receive(int socket, std::span<std::byte> buffer, std::size_t descriptors);

}  // namespace cardea::shm
