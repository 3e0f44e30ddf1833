// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/link.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "lib/transport/shm/ancillary.h"
#include "lib/transport/shm/life_lock.h"

namespace cardea::shm {
namespace {

namespace asio = boost::asio;
using Wait = asio::posix::stream_descriptor;

constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kWritePerTurn = 1 << 20;
constexpr std::size_t kDrainLimit = 64 << 20;  // what a socket's buffer can hold, generously

}  // namespace

Link::Link(asio::io_context& io, Rank peer, UniqueFd socket, UniqueFd process, UniqueFd lock, LinkUser& user)
    : peer_(peer), user_(user), socket_(io, socket.release()), process_(io), lock_(std::move(lock)), lock_timer_(io) {
  if (process) process_.assign(process.release());
}

void Link::start() {
  wait_readable();
  watch_process();
  watch_lock();
}

void Link::wait_readable() {
  socket_.async_wait(Wait::wait_read, [weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (!self || !self->open_ || error) return;
    if (self->read_some(kReadPerTurn) && self->open_) self->wait_readable();
  });
}

// Tells of a death that the socket hides, because a child of the dead process holds the other end.
void Link::watch_process() {
  if (!process_.is_open()) return;
  process_.async_wait(Wait::wait_read, [weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (!self || !self->open_ || error) return;
    self->break_soon(Status::error(CARDEA_ERR_PEER_LOST, "rank {}: its process has ended", self->peer_));
  });
}

// The same, where only the lock tells. Nobody is waked by a lock that becomes free.
void Link::watch_lock() {
  if (process_.is_open() || !lock_) return;
  lock_timer_.expires_after(kLookAtLock);
  lock_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (!self || !self->open_ || error) return;
    if (life_lock_held(self->lock_.get())) return self->watch_lock();
    self->break_soon(Status::error(CARDEA_ERR_PEER_LOST, "rank {}: its process has ended", self->peer_));
  });
}

bool Link::process_ended() {
  if (!process_.is_open()) return lock_ && !life_lock_held(lock_.get());
  pollfd polled{process_.native_handle(), POLLIN, 0};
  return ::poll(&polled, 1, 0) == 1;
}

// False if the link ended; true if it may have more, later.
bool Link::read_some(std::size_t limit) {
  for (std::size_t total = 0; total < limit && open_;) {
    if (in_.size() < in_end_ + kReadBytes) in_.resize(in_end_ + kReadBytes);
    Received got = receive(socket_.native_handle(), std::span(in_).subspan(in_end_, kReadBytes), 1);
    if (got.error == EAGAIN) return true;
    if (got.error != 0) {
      broken(got.error == ECONNRESET ? Status::error(CARDEA_ERR_PEER_LOST, "rank {} closed its link: it left or died", peer_)
                                     : Status::from_errno(got.error, "recvmsg", fmt::format("link to rank {}", peer_)));
      return false;
    }
    if (got.truncated) {
      broken(Status::error(CARDEA_ERR_PROTOCOL, "rank {} passed more descriptors than a frame may carry", peer_));
      return false;
    }
    if (got.bytes == 0) {
      broken(Status::error(CARDEA_ERR_PEER_LOST, "rank {} closed its link: it left or died", peer_));
      return false;
    }
    for (UniqueFd& descriptor : got.descriptors) descriptors_.push_back(std::move(descriptor));
    in_end_ += got.bytes;
    total += got.bytes;
    if (Status status = parse(); !status.ok() && open_) {
      broken(status.code() == CARDEA_ERR_PROTOCOL ? status.within(fmt::format("rank {}", peer_)) : status);
      return false;
    }
  }
  return open_;
}

Status Link::parse() {
  while (open_ && in_end_ - in_begin_ >= kHeaderBytes) {
    const ByteView unread = ByteView(in_).subspan(in_begin_, in_end_ - in_begin_);
    Result<FrameInfo> info = decode_header(unread.first(kHeaderBytes));
    if (!info.ok()) return info.status();
    if (unread.size() - kHeaderBytes < info->length) break;
    UniqueFd descriptor;
    if (info->type == FrameType::kRegion) {
      if (descriptors_.empty()) return Status::error(CARDEA_ERR_PROTOCOL, "a region without a descriptor");
      descriptor = std::move(descriptors_.front());
      descriptors_.pop_front();
    }
    // The view stays valid during the call: nothing but read_some touches in_.
    if (Status status = user_.on_frame(peer_, info->type, unread.subspan(kHeaderBytes, info->length), std::move(descriptor));
        !status.ok()) {
      return status;
    }
    in_begin_ += kHeaderBytes + info->length;
  }
  if (in_begin_ == in_end_) {
    in_begin_ = in_end_ = 0;
  } else if (in_begin_ > 0) {
    std::memmove(in_.data(), in_.data() + in_begin_, in_end_ - in_begin_);
    in_end_ -= std::exchange(in_begin_, 0);
  }
  // A descriptor comes with the first byte of its frame, so at most one frame, unfinished, can wait for its own.
  if (descriptors_.size() > (in_end_ > 0 ? 1u : 0u))
    return Status::error(CARDEA_ERR_PROTOCOL, "a descriptor that belongs to no region");
  return {};
}

void Link::send(FrameType type, Bytes body, UniqueFd descriptor) {
  if (!open_ || breaking_ || finishing_) return;
  Frame frame;
  frame.header = encode_header(type, body.size());
  frame.bytes = kHeaderBytes + body.size();
  frame.body = std::move(body);
  frame.descriptor = std::move(descriptor);
  queued_bytes_ += frame.bytes;
  queue_.push_back(std::move(frame));
  if (queued_bytes_ > kMaxQueued)
    return fail(Status::error(CARDEA_ERR_PEER_LOST, "rank {} left {} bytes of messages unread", peer_, queued_bytes_));
  schedule_pump();
}

void Link::wake() {
  schedule_pump();
}

void Link::schedule_pump() {
  if (!open_ || breaking_ || pump_scheduled_ || waiting_writable_) return;
  pump_scheduled_ = true;
  asio::post(socket_.get_executor(), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->pump_scheduled_ = false;
      self->pump();
    }
  });
}

void Link::pump() {
  std::size_t written = 0;
  while (open_ && !breaking_ && (current_ || take_next())) {
    if (written >= kWritePerTurn) return schedule_pump();
    const std::size_t before = current_->sent;
    const int error = write_current();
    if (error == EAGAIN) return wait_writable();
    if (error != 0) {
      return break_soon(error == EPIPE || error == ECONNRESET
                            ? Status::error(CARDEA_ERR_PEER_LOST, "rank {} closed its link: it left or died", peer_)
                            : Status::from_errno(error, "sendmsg", fmt::format("link to rank {}", peer_)));
    }
    written += current_->sent - before;
    if (current_->sent < current_->bytes) continue;
    const bool bulk = current_->bulk;
    if (!bulk) queued_bytes_ -= current_->bytes;
    current_.reset();
    if (bulk) user_.bulk_sent(peer_);
  }
  if (open_ && finishing_ && drained()) return close();
  if (open_ && !breaking_) user_.on_drained(peer_);
}

bool Link::take_next() {
  bulk_next_ = !bulk_next_;
  if (queue_.empty() || bulk_next_) {
    if (std::optional<BulkFrame> bulk = user_.next_bulk(peer_)) {
      std::size_t length = bulk->prefix.size();
      for (const iovec& piece : bulk->pieces) length += piece.iov_len;
      Frame& frame = current_.emplace(Frame{});
      frame.header = encode_header(bulk->type, length);
      frame.body = std::move(bulk->prefix);
      frame.pieces = std::move(bulk->pieces);
      frame.bytes = kHeaderBytes + length;
      frame.bulk = true;
      return true;
    }
  }
  if (queue_.empty()) return false;
  current_ = std::move(queue_.front());
  queue_.pop_front();
  return true;
}

int Link::write_current() {
  Frame& frame = *current_;
  std::vector<iovec> pieces;
  std::size_t skip = frame.sent;
  const auto add = [&](const void* data, std::size_t bytes) {
    const std::size_t skipped = std::min(skip, bytes);
    skip -= skipped;
    // 64 pieces at a time: far below IOV_MAX; the rest follows in the next call.
    if (bytes > skipped && pieces.size() < 64) {
      pieces.push_back({const_cast<std::byte*>(static_cast<const std::byte*>(data)) + skipped, bytes - skipped});
    }
  };
  add(frame.header.data(), frame.header.size());
  add(frame.body.data(), frame.body.size());
  for (const iovec& piece : frame.pieces) add(piece.iov_base, piece.iov_len);
  const Sent sent = shm::send(socket_.native_handle(), pieces, frame.descriptor.get());
  if (sent.error != 0) return sent.error;
  if (sent.bytes > 0) frame.descriptor.reset();
  frame.sent += sent.bytes;
  return 0;
}

void Link::wait_writable() {
  waiting_writable_ = true;
  socket_.async_wait(Wait::wait_write, [weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (!self) return;
    self->waiting_writable_ = false;
    if (self->open_ && !error) self->pump();
  });
}

void Link::fail(Status why) {
  break_soon(std::move(why));
}

// Reads what the peer sent before, which may break the link for a better reason, and then breaks it.
void Link::break_soon(Status why) {
  if (!open_ || breaking_) return;
  breaking_ = true;
  asio::post(socket_.get_executor(), [weak = weak_from_this(), why = std::move(why)] {
    const auto self = weak.lock();
    if (!self || !self->open_) return;
    if (why.code() == CARDEA_ERR_PEER_LOST) self->read_some(kDrainLimit);
    if (self->open_) self->broken(why);
  });
}

void Link::broken(const Status& why) {
  if (!open_) return;
  const auto self = shared_from_this();
  close();
  user_.on_broken(peer_, why.with_peer(peer_));
}

void Link::close_when_drained() {
  finishing_ = true;
  if (drained()) close();
}

void Link::close() {
  if (!open_) return;
  open_ = false;
  boost::system::error_code ignored;
  socket_.close(ignored);
  process_.close(ignored);
  lock_timer_.cancel();
  queue_.clear();
  current_.reset();
  descriptors_.clear();
}

}  // namespace cardea::shm
