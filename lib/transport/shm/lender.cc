// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/lender.h"

#include <algorithm>

#include "lib/base/wire.h"

namespace cardea::shm {

Result<std::optional<EndFrame>> Lender::ask(const AskFrame& frame) {
  if (loans_.size() + not_yet_.size() >= kMaxOpen)
    return Status::error(CARDEA_ERR_PROTOCOL, "more than {} chunks were asked for at a time", kMaxOpen);
  const auto same = [&](const auto& other) { return other.request == frame.request; };
  if (std::any_of(loans_.begin(), loans_.end(), same) || std::any_of(not_yet_.begin(), not_yet_.end(), same)) {
    return Status::error(CARDEA_ERR_PROTOCOL, "request {} was made twice", frame.request);
  }
  return lend(frame);
}

std::vector<EndFrame> Lender::ask_again() {
  std::vector<EndFrame> ends;
  for (const AskFrame& frame : std::exchange(not_yet_, {})) {
    if (auto end = lend(frame)) ends.push_back(std::move(*end));
  }
  return ends;
}

std::optional<EndFrame> Lender::lend(const AskFrame& frame) {
  Result<transport::Lease> lease = listener_.lend(peer_, frame.expert, frame.offset, frame.bytes);
  if (lease.status().code() == CARDEA_IN_PROGRESS) {
    not_yet_.push_back(frame);
    return std::nullopt;
  }
  if (!lease.ok()) return EndFrame{frame.request, lease.status()};
  Loan loan{.request = frame.request, .lease = std::move(*lease)};
  std::erase_if(loan.lease.pieces, [](const iovec& piece) { return piece.iov_len == 0; });
  for (const iovec& piece : loan.lease.pieces) loan.total += piece.iov_len;
  if (loan.total == 0) {
    listener_.give_back(loan.lease.id, 0);
    return EndFrame{frame.request, {}};
  }
  loans_.push_back(std::move(loan));
  return std::nullopt;
}

std::optional<BulkFrame> Lender::next() {
  if (loans_.empty()) return std::nullopt;
  const Loan& loan = loans_.front();
  BulkFrame frame;
  frame.prefix = WireWriter().number(loan.request).take();
  in_flight_ = 0;
  std::size_t offset = loan.offset;
  for (std::size_t i = loan.piece; i < loan.lease.pieces.size() && in_flight_ < kMaxData; ++i) {
    const iovec& piece = loan.lease.pieces[i];
    const std::size_t bytes = std::min<std::size_t>(piece.iov_len - offset, kMaxData - in_flight_);
    frame.pieces.push_back({static_cast<std::byte*>(piece.iov_base) + offset, bytes});
    in_flight_ += bytes;
    offset = 0;
  }
  return frame;
}

std::optional<EndFrame> Lender::sent() {
  if (loans_.empty()) return std::nullopt;
  Loan loan = std::move(loans_.front());
  loans_.pop_front();
  loan.sent += in_flight_;
  loan.offset += std::exchange(in_flight_, 0);
  while (loan.piece < loan.lease.pieces.size() && loan.offset >= loan.lease.pieces[loan.piece].iov_len) {
    loan.offset -= loan.lease.pieces[loan.piece++].iov_len;
  }
  if (loan.sent == loan.total) {
    listener_.give_back(loan.lease.id, loan.sent);
    return EndFrame{loan.request, {}};
  }
  loans_.push_back(std::move(loan));
  return std::nullopt;
}

void Lender::stop() {
  not_yet_.clear();
  for (const Loan& loan : std::exchange(loans_, {})) listener_.give_back(loan.lease.id, loan.sent);
}

}  // namespace cardea::shm
