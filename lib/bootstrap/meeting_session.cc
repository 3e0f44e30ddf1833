// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/meeting_session.h"

namespace cardea::bootstrap {
namespace {

using boost::system::error_code;

constexpr std::size_t kDiscardBytes = 64 << 10;

std::shared_ptr<const Bytes> framed(ByteView body) {
  return std::make_shared<const Bytes>(frame(body));
}

}  // namespace

Session::Session(boost::asio::io_context& io, Protocol::socket socket, const Identity& identity, Owner& owner)
    : timer_(io), socket_(std::move(socket)), identity_(identity), owner_(owner) {}

void Session::start() {
  prepare(socket_.native_handle());
  timer_.expires_after(kHandshakeDeadline);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && !self->authenticated()) self->drop();
  });
  read_frame();
}

void Session::read_frame() {
  if (state_ == State::kDraining || state_ == State::kRefused) return discard();
  if (state_ != State::kMember && allowance_ < kLengthBytes) return drop();
  boost::asio::async_read(socket_, boost::asio::buffer(head_),
                          [self = shared_from_this()](const error_code& error, std::size_t) {
                            if (error) return self->drop();
                            if (self->state_ == State::kDraining) return self->discard();
                            const std::size_t length = decode_length(self->head_);
                            const bool member = self->state_ == State::kMember;
                            if (!member) self->allowance_ -= kLengthBytes;
                            if (length == 0 || length > (member ? kMaxGiveFrame : self->allowance_)) return self->drop();
                            if (!member) self->allowance_ -= length;
                            self->inbound_.resize(length);
                            boost::asio::async_read(self->socket_, boost::asio::buffer(self->inbound_),
                                                    [self](const error_code& failed, std::size_t) {
                                                      if (failed) return self->drop();
                                                      self->handle(std::exchange(self->inbound_, {}));
                                                      if (self->state_ != State::kClosed) self->read_frame();
                                                    });
                          });
}

void Session::discard() {
  const std::size_t most = state_ == State::kRefused ? allowance_ : kDiscardBytes;
  if (most == 0) return drop();
  inbound_.resize(most);
  socket_.async_read_some(boost::asio::buffer(inbound_),
                          [self = shared_from_this()](const error_code& error, std::size_t count) {
                            if (error) return self->drop();
                            if (self->state_ == State::kRefused) self->allowance_ -= count;
                            self->discard();
                          });
}

void Session::handle(Bytes body) {
  switch (state_) {
    case State::kHello:
      return handle_hello(std::move(body));
    case State::kProof:
      return handle_proof(body);
    case State::kMember:
      return owner_.on_frame(shared_from_this(), std::move(body));
    case State::kRefused:
    case State::kDraining:
    case State::kClosed:
      return;
  }
}

void Session::handle_hello(Bytes body) {
  Result<Hello> hello = decode_hello(body);
  if (!hello.ok()) return drop();
  hello_ = std::move(*hello);
  hello_bytes_ = std::move(body);
  if (hello_.job != identity_.job) {
    return refuse(Refused::kOtherJob);
  }
  Challenge challenge{.wire_version = identity_.wire_version, .nonce = {}, .salt = identity_.salt};
  crypto::random(challenge.nonce);
  challenge_bytes_ = encode(challenge);
  state_ = State::kProof;
  send(framed(challenge_bytes_));
}

void Session::handle_proof(const Bytes& body) {
  const Result<crypto::Digest> proof = decode_proof(body);
  if (!proof.ok()) return drop();
  if (!crypto::equal(*proof, prove(identity_.secret, Role::kMember, hello_bytes_, challenge_bytes_))) {
    return refuse(Refused::kWrongSecret);
  }
  state_ = State::kMember;
  timer_.cancel();
  send(framed(encode_proof(prove(identity_.secret, Role::kRoot, hello_bytes_, challenge_bytes_))));
  owner_.on_authenticated(shared_from_this());
}

void Session::refuse(Refused reason) {
  state_ = State::kRefused;
  send(framed(encode_refusal(reason)));
  owner_.on_refused(hello_, reason);
}

void Session::send(std::shared_ptr<const Bytes> frame) {
  if (state_ == State::kClosed || state_ == State::kDraining) return;
  outbound_.push_back(std::move(frame));
  if (outbound_.size() == 1) write_next();
}

void Session::write_next() {
  const auto frame = outbound_.front();
  boost::asio::async_write(socket_, boost::asio::buffer(*frame),
                           [self = shared_from_this(), frame](const error_code& error, std::size_t) {
                             if (self->state_ == State::kClosed) return;
                             if (error) return self->drop();
                             self->outbound_.pop_front();
                             if (!self->outbound_.empty()) return self->write_next();
                             error_code ignored;
                             // A close with unread input would reset the connection and might take the last frame with it.
                             if (self->state_ == State::kDraining || self->state_ == State::kRefused)
                               self->socket_.shutdown(Protocol::socket::shutdown_send, ignored);
                           });
}

void Session::close() {
  if (state_ == State::kDraining) return;
  if (state_ != State::kMember) return drop();
  state_ = State::kDraining;
  error_code ignored;
  if (outbound_.empty()) socket_.shutdown(Protocol::socket::shutdown_send, ignored);
}

void Session::drop() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  outbound_.clear();
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
  owner_.on_closed(shared_from_this());
}

}  // namespace cardea::bootstrap
