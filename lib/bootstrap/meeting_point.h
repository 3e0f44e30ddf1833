// SPDX-License-Identifier: Apache-2.0
// The job's central process, as long as it has one: a listening socket and a thread to which all ranks connect, prove that
// they hold the job's secret, and through which they exchange bytes until their transports are up.
//
// Strangers cost nothing but their connection: at most kMaxUnauthenticatedBytes are read from one, for at most
// kHandshakeDeadline, from at most kMaxStrangers at a time (when there are more, the oldest goes, then accepting waits).
// Only ranks that hold the secret can make the job fail.
//
// Owned by one thread; finished() may be asked from any.
#pragma once

#include <memory>
#include <string>

#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/bootstrap/endpoint.h"
#include "lib/bootstrap/exchange.h"
#include "lib/bootstrap/handshake.h"

namespace cardea::bootstrap {

class MeetingPoint {
 public:
  static constexpr std::size_t kMaxStrangers = 128;

  struct Settings {
    JobTag job{};
    Secret secret{};
    Clock::time_point deadline;  // for the job to form; each rank's own patience may shorten it
    std::uint32_t wire_version = kWireVersion;
  };

  /// Listens and starts the thread. A host that is a literal address or "localhost" is listened on; for another name, which
  /// may stand for loopback on its own machine (Debian's 127.0.1.1), all addresses are. BUSY if the address is taken,
  /// INVALID_ARGUMENT if it cannot be resolved or is not this machine's, SYSTEM otherwise.
  static Result<std::unique_ptr<MeetingPoint>> open(const Endpoint& where, const Settings& settings);

  /// Closes every socket and joins the thread; before that, for 2 s at most, lets what is queued for the members leave, and
  /// tells ranks that arrive only now why their job has failed.
  ~MeetingPoint();

  /// How a rank of this machine reaches it; the port is the one that the system chose.
  const Endpoint& endpoint() const { return endpoint_; }
  /// All ranks have come and gone, or the deadline passed without them.
  bool finished() const;
  /// Connections dropped without having proved anything, so far.
  std::uint64_t strangers_dropped() const;

 private:
  class Server;
  MeetingPoint(Endpoint endpoint, std::unique_ptr<Server> server);

  Endpoint endpoint_;
  std::unique_ptr<Server> server_;
};

}  // namespace cardea::bootstrap
