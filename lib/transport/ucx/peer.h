// SPDX-License-Identifier: Apache-2.0
// What the transport keeps per peer, per chunk in flight and per message under way. Plain state; ucx_transport.h has the
// rules.
#pragma once

#include <ucp/api/ucp.h>

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/asio.h"
#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/transport/transport.h"
#include "lib/transport/ucx/in_order.h"
#include "lib/transport/ucx/pace.h"
#include "lib/transport/ucx/wire.h"

namespace cardea::transport::ucx {

class UcxTransport;
struct Peer;

/// A connection for the payload of chunks, one way (stream.cc).
///     at the asker:   none ──offered──► awaited ──caller let in──► open ──error──► over
///     at the source:  none ──offer came──► connecting ──connected──► open ──error──► over
///     any ──impossible, peer lost──► over
struct Stream {
  enum class State { kNone, kAwaited, kConnecting, kOpen, kOver };

  Peer* peer = nullptr;
  State state = State::kNone;
  ucp_ep_h endpoint = nullptr;
  bool closing = false;
  // Of the source's:
  std::string where;                               // for messages
  std::optional<boost::asio::steady_timer> grace;  // before its end is told, or taken for the peer's
};

/// open ──error, nonsense, disconnect()──► losing ──chunks complete, endpoint closed──► lost
struct Peer {
  enum class State { kOpen, kLosing, kLost };

  UcxTransport* owner = nullptr;
  Rank rank = kNoRank;
  Bytes worker_address;
  Pass pass_out{};
  Pass pass_in{};
  std::uint64_t caller = 0;  // its client id
  ucp_ep_h endpoint = nullptr;
  bool endpoint_closing = false;
  bool flushing = false;
  Stream inbound_stream;   // by which its chunks come
  Stream outbound_stream;  // by which it is sent chunks

  State state = State::kOpen;
  bool condemned = false;     // to be lost at the next turn; nothing more is taken from it
  bool disconnected = false;  // from above: what it sent before is not delivered any more
  bool tell_listener = false;
  Status why;

  std::uint64_t next_sequence = 0;
  InOrder inbound;
  std::size_t chunks = 0;               // pulled from it
  std::size_t gets = 0;                 // ucp_get under way
  std::size_t serving = 0;              // asked for by it, not yet sent
  std::size_t streaming = 0;            // of them, those that UCX has been given
  Pace pace;                            // at which chunks leave for it
  std::deque<ChunkRequest> unanswered;  // the others, in the order of their coming
  std::deque<ChunkRequest> not_yet;     // what is still being brought to where it can be sent from
  std::optional<bool> hardware_get;
  std::map<RegionKey, ucp_rkey_h> rkeys;  // unpacked on `endpoint`
  std::vector<ucp_rkey_h> retired_rkeys;  // forgotten while ucp_get may still use them

  bool closing() const { return endpoint_closing || inbound_stream.closing || outbound_stream.closing; }
};

/// asked ──rendezvous──► moving ──UCX done──► gone;  asked ──eager data, error──► gone;  reading: ucp_get, then its stamp
struct Pull {
  enum class State { kAsked, kMoving, kReading };

  UcxTransport* owner = nullptr;
  Peer* peer = nullptr;
  ChunkOrder order;
  std::uint64_t payload = 0;
  State state = State::kAsked;
  std::size_t gets = 0;
  bool stamp_read = false;
  std::uint64_t stamp = 0;
  Status failure;  // known while UCX still holds the destination
  std::vector<ucp_dt_iov_t> iov;
};

/// An active message under way; owns what UCX reads until it is done.
struct Send {
  UcxTransport* owner = nullptr;
  Peer* peer = nullptr;
  Bytes header;
  Bytes payload;
  std::vector<ucp_dt_iov_t> iov;
  std::optional<std::uint64_t> lease;
  std::uint64_t bytes = 0;
  bool by_stream = false;
  bool ended = false;     // with its endpoint; only UCX has not said so yet (send.cc)
  std::size_t place = 0;  // of a chunk: among those streaming when it was posted, from 1
  Clock::time_point posted{};
  std::list<Send>::iterator self;
};

}  // namespace cardea::transport::ucx
