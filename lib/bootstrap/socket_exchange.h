// SPDX-License-Identifier: Apache-2.0
// An Exchange through the job's meeting point: this rank's connection to it, and on the rank that runs it, the meeting point
// itself. Used by one thread. Nothing of it remains after destruction: sockets closed, threads joined.
//
//     connecting ── proved to each other ──► waiting ── all ranks here ──► formed ── destroyed ──► left
//         └── wrong secret, deadline ────────► failed ◄── told by the meeting point, connection lost ──┘
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/bootstrap/exchange.h"
#include "lib/bootstrap/frames.h"
#include "lib/bootstrap/handshake.h"
#include "lib/bootstrap/meeting_point.h"
#include "lib/bootstrap/sockets.h"

namespace cardea::bootstrap {

class SocketExchange : public Exchange {
 public:
  struct Settings {
    Rank rank = 0;
    std::uint32_t world_size = 1;
    std::vector<Endpoint> roots;  // tried in turn
    Rank root_rank = kNoRank;     // the rank that runs the meeting point, if it is known
    JobTag job{};
    Secret secret{};
    std::string secret_origin;  // where the secret came from, for the message that it is wrong
    std::uint32_t wire_version = kWireVersion;
    std::string place;
    bool one_pass = false;  // try each root once only
  };

  /// Tries until the deadline to reach the meeting point, then waits for all ranks. TIMEOUT (no meeting point, or it lists
  /// the ranks that are missing), AUTHENTICATION (this rank's secret is not the job's), MISMATCH (world size, wire version,
  /// rank taken), PEER_LOST. `own` is kept until destruction.
  static Result<std::unique_ptr<SocketExchange>> connect(Settings settings, std::unique_ptr<MeetingPoint> own,
                                                         Clock::time_point deadline);
  ~SocketExchange() override;

  Rank rank() const override { return settings_.rank; }
  std::uint32_t world_size() const override { return settings_.world_size; }
  const std::string& job_id() const override { return identity_.id; }
  const Secret& secret() const override { return identity_.secret; }
  Result<std::vector<Bytes>> allgather(ByteView mine, Clock::time_point deadline) override;

 private:
  SocketExchange(Settings settings, std::unique_ptr<MeetingPoint> own);
  struct Attempt {
    bool again = false;  // it may come right later
    Status status;
  };
  Attempt attempt(const SocketAddress& address, Clock::time_point deadline);
  Attempt prove_to_each_other(Clock::time_point deadline, Clock::time_point patience);
  Status find_meeting_point(Clock::time_point deadline);
  Status await_formation(Clock::time_point deadline);
  /// The next frame of the wanted kind; what else came instead, or did not, as a status.
  Result<Bytes> receive(FrameKind wanted, std::size_t cap, Clock::time_point deadline);
  Status fail(Status status);

  Settings settings_;
  std::unique_ptr<MeetingPoint> own_;
  DeadlineStream link_;
  JobIdentity identity_;
  std::uint32_t round_ = 0;
  Status failure_;
};

/// "host (process 4711)" of this process, printable.
std::string this_place();

}  // namespace cardea::bootstrap
