// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/ancillary.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace cardea::shm {

Sent send(int socket, std::span<const iovec> pieces, int descriptor) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  for (;;) {
    const ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return {.bytes = static_cast<std::size_t>(sent)};
    if (errno != EINTR) return {.error = errno == EWOULDBLOCK ? EAGAIN : errno};
  }
}

Received receive(int socket, std::span<std::byte> buffer, std::size_t descriptors) {
  iovec piece{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)] = {};
  message.msg_control = control;
  // CMSG_SPACE pads, so that more may fit than was asked for: counted again below.
  const std::size_t wanted = std::min(descriptors, kMaxDescriptors);
  message.msg_controllen = wanted > 0 ? CMSG_SPACE(sizeof(int) * wanted) : 0;

  ssize_t got = 0;
  do got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  Received received;
  if (got < 0) {
    received.error = errno == EWOULDBLOCK ? EAGAIN : errno;
    return received;
  }
  received.bytes = static_cast<std::size_t>(got);
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof descriptor);
      received.descriptors.emplace_back(descriptor);
    }
  }
  const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;
  if (cut && received.descriptors.size() < wanted) {
    // There was room for more: the kernel stopped where this process's descriptors ended.
    received.error = EMFILE;
    received.descriptors.clear();
  } else if (cut || received.descriptors.size() > wanted) {
    received.truncated = true;
    received.descriptors.clear();
  }
  return received;
}

}  // namespace cardea::shm
