// SPDX-License-Identifier: Apache-2.0
// Stream sockets, TCP or abstract Unix, behind one type; and a blocking face of one with a deadline on everything.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "lib/base/asio.h"
#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/base/unique_fd.h"
#include "lib/bootstrap/endpoint.h"

namespace cardea::bootstrap {

using Protocol = boost::asio::generic::stream_protocol;
using SocketAddress = Protocol::endpoint;

/// The addresses of an endpoint, in the order to try them. A name is looked up by the system's resolver, which has time
/// limits of its own. INVALID_ARGUMENT if it cannot be resolved.
Result<std::vector<SocketAddress>> resolve(const Endpoint& endpoint);

/// A TCP endpoint of an address; its host is a literal.
Endpoint to_endpoint(const SocketAddress& address);

/// A socket that listens. BUSY if the address is taken, INVALID_ARGUMENT if it is not this machine's, else SYSTEM.
Result<UniqueFd> listen_on(const SocketAddress& address);
/// Where a listening TCP socket listens, with the port that the system chose.
Result<Endpoint> local_endpoint(int fd);

/// Marks a socket close-on-exec, and a TCP one no-delay and keep-alive.
void prepare(int fd);

/// One connection, used by one thread. Every call ends by its deadline; after a failure only close() makes sense.
/// TIMEOUT, PEER_LOST (the other side closed), or SYSTEM.
class DeadlineStream {
 public:
  Status connect(const SocketAddress& address, Clock::time_point deadline);
  Status read(std::span<std::byte> out, Clock::time_point deadline);
  Status write(ByteView in, Clock::time_point deadline);
  void close();

  /// Reads a frame: its length must be 1 to `cap`; memory grows with what arrives.
  Result<Bytes> read_frame(std::size_t cap, Clock::time_point deadline);

 private:
  template <typename Start>
  Status run(Start start, Clock::time_point deadline);

  boost::asio::io_context io_{1};
  Protocol::socket socket_{io_};
};

/// `deadline` and then some, without overflow.
Clock::time_point later(Clock::time_point deadline, Clock::duration extra);

}  // namespace cardea::bootstrap
