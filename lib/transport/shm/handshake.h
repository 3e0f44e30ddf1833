// SPDX-License-Identifier: Apache-2.0
// Two ranks prove to each other, over one connected Unix stream socket, that they belong to the same job and share memory.
// docs/wire-format.md, "Node links", has the bytes. Both ends run the same states:
//
//   kHello    sends and awaits rank and nonce            (48 bytes)
//   kProof    sends and awaits an HMAC over both hellos  (32 bytes; 80 in all are read from a peer not yet authenticated)
//   kSegment  sends and awaits a memfd, its rank segment (8 bytes and one descriptor)
//   kEcho     sends and awaits an HMAC over the nonce that lies in the other's segment: only who mapped it can know it
//   kProved   the socket is ready for messages           ── any state ──► kFailed, which says why
//
// Never blocks: everything sent fits into a fresh socket's buffer. Reads exactly the bytes of its state and none beyond.
// Used by one thread. Resource type.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "lib/base/crypto.h"
#include "lib/base/shared_memory.h"
#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/base/unique_fd.h"

namespace cardea::shm {

/// What both ends must agree on, and this rank's own part.
struct HandshakeContext {
  ByteView secret;
  std::string job_id;
  std::uint32_t world_size = 0;
  Rank self = kNoRank;
  const SharedMemory* segment = nullptr;  // this rank's
  bool pidfds = true;                     // false: as where processes cannot be seen
};

/// Of a process on this machine; together they never name another one.
struct ProcessIdentity {
  pid_t pid = 0;                 // in this process's pid namespace; 0 if it cannot be seen from here
  std::uint64_t start_time = 0;  // clock ticks after boot, field 22 of /proc/PID/stat; 0 if unknown
  UniqueFd descriptor;           // pidfd: readable when the process has ended; none if pid is 0
  UniqueFd lock;                 // its rank segment, if it holds the life lock there and pidfds tell nothing of it
};

class Handshake {
 public:
  enum class State { kHello, kProof, kSegment, kEcho, kProved, kFailed };

  /// `socket` is connected and non-blocking. `expected` is the peer's rank for whoever connected; nobody's for whoever
  /// accepted, which takes any rank above its own. Sends this rank's hello.
  Handshake(UniqueFd socket, const HandshakeContext& context, std::optional<Rank> expected);

  /// To be called when the socket is readable; goes on as far as it can.
  void advance();
  /// Fails it from outside, for a deadline that passed.
  void fail(Status why);

  State state() const { return state_; }
  bool ended() const { return state_ == State::kProved || state_ == State::kFailed; }
  bool authenticated() const { return state_ > State::kProof && state_ != State::kFailed; }
  const Status& failure() const { return failure_; }
  int descriptor() const { return socket_.get(); }
  Rank peer() const { return peer_; }  // as claimed, until authenticated

  /// Once proved; each may be taken once.
  UniqueFd take_socket() { return std::move(socket_); }
  SharedMapping take_segment() { return std::move(segment_); }
  ProcessIdentity take_process() { return std::move(process_); }

 private:
  bool identify_peer();
  void send_all(ByteView bytes, int descriptor = -1);
  bool fill(std::size_t wanted);
  std::size_t wanted() const;
  void step();
  void take_hello();
  void take_proof();
  void take_segment_message();
  void take_echo();
  crypto::Digest digest(std::string_view purpose, bool by_connector, ByteView extra) const;
  void failed(cardea_status_t code, std::string message);

  UniqueFd socket_;
  const HandshakeContext& context_;
  const bool connector_;
  Rank peer_;
  State state_ = State::kHello;
  Status failure_;
  Bytes own_nonce_, peer_nonce_;
  Bytes in_;
  UniqueFd received_;
  SharedMapping segment_;
  ProcessIdentity process_;
};

}  // namespace cardea::shm
