// SPDX-License-Identifier: Apache-2.0
#include "tests/transport/suite_recorder.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace cardea::test {

using transport::ChunkToken;
using transport::ExpertAddress;
using transport::Lease;

std::size_t Recorder::count(Event::Kind kind) const {
  return static_cast<std::size_t>(
      std::count_if(events_.begin(), events_.end(), [kind](const Event& e) { return e.kind == kind; }));
}

std::size_t Recorder::completed(cardea_status_t code) const {
  return static_cast<std::size_t>(std::count_if(completions_.begin(), completions_.end(),
                                                [code](const auto& done) { return done.second.code() == code; }));
}

void Recorder::add_lendable(const ExpertLayout& expert, const Region& region) {
  lendable_.push_back({expert, region.base()});
}

void Recorder::fail_lend(ExpertIndex expert, Status status) {
  lend_failures_.insert_or_assign(expert, std::move(status));
}

void Recorder::note_started(ChunkToken token, Rank source) {
  ASSERT_TRUE(in_flight_.emplace(token, source).second) << "the scenario used token " << token << " twice";
}

void Recorder::note_closed() {
  EXPECT_FALSE(closed_) << "rank " << self_ << ": close() reported its end twice";
  EXPECT_TRUE(in_flight_.empty()) << "rank " << self_ << ": closed with " << in_flight_.size() << " chunks never completed";
  EXPECT_EQ(calls_, 0) << "rank " << self_ << ": the end of close() was reported from inside a call";
  closed_ = true;
  events_.push_back({.kind = Event::kClosed});
}

void Recorder::note(Event event, std::string_view what) {
  EXPECT_FALSE(closed_) << "rank " << self_ << ": " << what << " after close() had ended";
  EXPECT_EQ(calls_, 0) << "rank " << self_ << ": " << what << " from inside a call to the transport";
  events_.push_back(event);
  if (hook_) hook_(event);
}

void Recorder::on_message(Rank from, ByteView message) {
  messages_[from].emplace_back(message.begin(), message.end());
  EXPECT_FALSE(losses_.contains(from)) << "rank " << self_ << ": a message of lost rank " << from;
  note({.kind = Event::kMessage, .peer = from, .bytes = message.size()}, "on_message");
}

void Recorder::on_chunk_done(ChunkToken token, const Status& status) {
  EXPECT_EQ(in_flight_.erase(token), 1u) << "rank " << self_ << ": chunk " << token
                                         << " completed twice or unasked: " << status.message();
  completions_.insert_or_assign(token, status);
  note({.kind = Event::kChunkDone, .token = token, .status = status}, "on_chunk_done");
}

void Recorder::on_peer_lost(Rank peer, const Status& why) {
  EXPECT_FALSE(why.ok()) << "rank " << self_ << ": lost rank " << peer << " without a reason";
  EXPECT_TRUE(losses_.emplace(peer, why).second)
      << "rank " << self_ << ": rank " << peer << " lost twice: " << why.message();
  const bool chunks_left =
      std::any_of(in_flight_.begin(), in_flight_.end(), [peer](const auto& c) { return c.second == peer; });
  EXPECT_FALSE(chunks_left) << "rank " << self_ << ": rank " << peer << " reported lost before its chunks were completed";
  note({.kind = Event::kPeerLost, .peer = peer, .status = why}, "on_peer_lost");
}

Result<Lease> Recorder::lend(Rank asker, const ExpertAddress& expert, std::uint64_t offset, std::uint64_t bytes) {
  const auto answer = [&]() -> Result<Lease> {
    if (const auto failure = lend_failures_.find(expert.expert); failure != lend_failures_.end()) return failure->second;
    const Lendable* found = nullptr;
    for (const Lendable& one : lendable_) {
      if (one.expert.address.layer == expert.layer && one.expert.address.expert == expert.expert) found = &one;
    }
    if (!found) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "no expert {} on rank {}", expert.expert, self_);
    if (found->expert.address.version != expert.version)
      return Status::error(CARDEA_ERR_STALE, "version {} was retired", expert.version);
    if (offset > found->expert.packed_bytes || bytes > found->expert.packed_bytes - offset) {
      return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} bytes at {} are beyond expert {}", bytes, offset, expert.expert);
    }
    Lease lease{.id = ++last_lease_, .pieces = {}};
    for (const auto& part : found->expert.cut(offset, bytes)) {
      lease.pieces.push_back({.iov_base = found->base + part.region_offset, .iov_len = part.bytes});
    }
    open_leases_.emplace(lease.id, found->expert.payload(offset, bytes));
    return lease;
  };
  Result<Lease> result = answer();
  note({.kind = Event::kLend,
        .peer = asker,
        .status = result.status(),
        .lease = result.ok() ? result->id : 0,
        .bytes = bytes},
       "lend");
  return result;
}

void Recorder::give_back(std::uint64_t lease, std::uint64_t bytes_sent) {
  const auto open = open_leases_.find(lease);
  ASSERT_TRUE(open != open_leases_.end()) << "rank " << self_ << ": lease " << lease << " given back twice or never lent";
  EXPECT_LE(bytes_sent, open->second) << "rank " << self_ << ": lease " << lease;
  open_leases_.erase(open);
  note({.kind = Event::kGiveBack, .lease = lease, .bytes = bytes_sent}, "give_back");
}

}  // namespace cardea::test
