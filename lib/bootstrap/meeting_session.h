// SPDX-License-Identifier: Apache-2.0
// One connection to the meeting point. All on the meeting point's thread.
//
//     hello ── well-formed, of this job ──► proof ── right ──► member ── close() ──► draining ── written, read to the end
//     ──► closed
//       └────────── malformed, wrong, 5 s ────┴──────► closed (a stranger)
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "lib/bootstrap/frames.h"
#include "lib/bootstrap/handshake.h"
#include "lib/bootstrap/sockets.h"

namespace cardea::bootstrap {

class Session : public std::enable_shared_from_this<Session> {
 public:
  /// What a session tells the meeting point, which outlives it.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void on_authenticated(const std::shared_ptr<Session>& session) = 0;
    virtual void on_frame(const std::shared_ptr<Session>& session, Bytes body) = 0;
    /// It was of another job, or could not prove itself; what it says of itself may be a lie.
    virtual void on_refused(const Hello& claimed, Refused reason) = 0;
    /// Once, however it ended.
    virtual void on_closed(const std::shared_ptr<Session>& session) = 0;
  };
  struct Identity {
    JobTag job{};
    Secret secret{};
    Nonce salt{};
    std::uint32_t wire_version = kWireVersion;
  };

  Session(boost::asio::io_context& io, Protocol::socket socket, const Identity& identity, Owner& owner);

  void start();
  /// Queues a whole frame, length included.
  void send(std::shared_ptr<const Bytes> frame);
  /// Sends what is queued, says that no more will come, and ignores what arrives until the other side closes.
  void close();
  /// At once.
  void drop();

  /// Whether it has proved itself, until it is closed.
  bool authenticated() const { return state_ == State::kMember || state_ == State::kDraining; }
  bool idle() const { return outbound_.empty(); }
  const Hello& hello() const { return hello_; }
  Clock::time_point born() const { return born_; }
  bool settled = false;  // the owner's note: this member's departure is accounted for

 private:
  enum class State { kHello, kProof, kRefused, kMember, kDraining, kClosed };

  void read_frame();
  void discard();
  void handle(Bytes body);
  void handle_hello(Bytes body);
  void handle_proof(const Bytes& body);
  void refuse(Refused reason);
  void write_next();

  boost::asio::steady_timer timer_;
  Protocol::socket socket_;
  const Identity& identity_;
  Owner& owner_;
  const Clock::time_point born_ = Clock::now();
  State state_ = State::kHello;
  std::size_t allowance_ = kMaxUnauthenticatedBytes;
  std::array<std::byte, kLengthBytes> head_{};
  Bytes inbound_;
  Hello hello_;
  Bytes hello_bytes_, challenge_bytes_;
  std::deque<std::shared_ptr<const Bytes>> outbound_;
};

}  // namespace cardea::bootstrap
