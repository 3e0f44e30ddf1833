// SPDX-License-Identifier: Apache-2.0
// A connected socket to one rank of the node that carries frames in order, both ways, on the engine's io_context.
//
//   idle ──start()──► open ──end of stream, error, nonsense, fail()──► broken ──► closed
//                       └────────────────────close()──────────────────────────────►
//
// Outgoing: frames queue without bound in number and up to kMaxQueued in bytes; whenever the socket takes more, one queued
// frame and one frame of bulk data (which the user makes only then) take turns, so that neither starves the other.
// Incoming: at most kReadPerTurn bytes per turn of the io_context. What a peer sent before it died is read before the link
// breaks, whichever of end of stream, write error or the process's end is noticed first.
//
// Used on the engine thread. Calls its user only from the io_context, never from inside a call made to it. Held by
// shared_ptr; the user may drop it at any time.
#pragma once

#include <sys/uio.h>

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "lib/base/asio.h"
#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/base/unique_fd.h"
#include "lib/transport/shm/frames.h"

namespace cardea::shm {

class Link;

/// A frame of which part lies in memory that the user keeps valid until bulk_sent, or until the link was closed.
struct BulkFrame {
  FrameType type = FrameType::kData;
  Bytes prefix;
  std::vector<iovec> pieces;
};

class LinkUser {
 public:
  virtual ~LinkUser() = default;
  /// A failure breaks the link. `descriptor` came with this frame (kRegion only).
  virtual Status on_frame(Rank from, FrameType type, ByteView body, UniqueFd descriptor) = 0;
  /// Once, when the link is of no use any more.
  virtual void on_broken(Rank from, const Status& why) = 0;
  /// The next frame of bulk data for this rank, if there is any.
  virtual std::optional<BulkFrame> next_bulk(Rank to) = 0;
  /// The frame that next_bulk gave last has left.
  virtual void bulk_sent(Rank to) = 0;
  /// Everything has left.
  virtual void on_drained(Rank to) = 0;
};

class Link : public std::enable_shared_from_this<Link> {
 public:
  static constexpr std::size_t kMaxQueued = 256 << 20;
  static constexpr std::size_t kReadPerTurn = 256 << 10;
  static constexpr std::chrono::milliseconds kLookAtLock{200};

  /// `process` is a pidfd or none; `lock` a file with the peer's life lock, to be looked at where there is no pidfd. `user`
  /// must outlive the link or close() it before.
  Link(boost::asio::io_context& io, Rank peer, UniqueFd socket, UniqueFd process, UniqueFd lock, LinkUser& user);

  void start();
  /// Queues a frame, and a descriptor to go with it. Too much in the queue breaks the link.
  void send(FrameType type, Bytes body, UniqueFd descriptor = {});
  /// next_bulk has something to give.
  void wake();
  /// Nothing queued or half sent.
  bool drained() const { return !current_ && queue_.empty(); }
  /// Breaks it from outside: on_broken follows.
  void fail(Status why);
  /// Closes once what is queued has left; takes nothing more.
  void close_when_drained();
  void close();
  /// Whether the peer's process has ended; false if that cannot be known.
  bool process_ended();

 private:
  struct Frame {
    FrameHeader header;
    Bytes body;
    std::vector<iovec> pieces;
    UniqueFd descriptor;
    std::size_t bytes = 0;
    std::size_t sent = 0;
    bool bulk = false;
  };

  void wait_readable();
  void wait_writable();
  void watch_process();
  void watch_lock();
  bool read_some(std::size_t limit);
  Status parse();
  void pump();
  void schedule_pump();
  bool take_next();
  int write_current();
  void break_soon(Status why);
  void broken(const Status& why);

  const Rank peer_;
  LinkUser& user_;
  boost::asio::posix::stream_descriptor socket_;
  boost::asio::posix::stream_descriptor process_;
  const UniqueFd lock_;
  boost::asio::steady_timer lock_timer_;
  bool open_ = true;
  bool breaking_ = false;
  bool finishing_ = false;

  std::deque<Frame> queue_;
  std::size_t queued_bytes_ = 0;
  std::optional<Frame> current_;
  bool bulk_next_ = false;  // whose turn it is
  bool pump_scheduled_ = false;
  bool waiting_writable_ = false;

  Bytes in_;
  std::size_t in_begin_ = 0, in_end_ = 0;  // what of in_ has not been parsed
  std::deque<UniqueFd> descriptors_;
};

}  // namespace cardea::shm
