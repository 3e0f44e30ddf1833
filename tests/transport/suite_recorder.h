// SPDX-License-Identifier: Apache-2.0
// The listener of the transport suite: notes everything in order, lends experts from a list, and records a test failure
// whenever the transport breaks a rule that holds always. Used by one thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "lib/transport/transport.h"
#include "tests/transport/suite_memory.h"

namespace cardea::test {

class Recorder : public transport::Listener {
 public:
  struct Event {
    enum Kind { kMessage, kChunkDone, kPeerLost, kLend, kGiveBack, kClosed } kind;
    Rank peer = kNoRank;              // message, peer lost, lend
    transport::ChunkToken token = 0;  // chunk done
    Status status;                    // chunk done, peer lost, and of a failed lend
    std::uint64_t lease = 0;          // lend, give back
    std::uint64_t bytes = 0;          // of the message, lent, given back
  };

  explicit Recorder(Rank self) : self_(self) {}

  /// Everything that was called, in order.
  const std::vector<Event>& events() const { return events_; }
  std::size_t count(Event::Kind kind) const;
  std::deque<Bytes>& messages(Rank from) { return messages_[from]; }  // those not taken yet
  const std::map<transport::ChunkToken, Status>& completions() const { return completions_; }
  std::size_t completed(cardea_status_t code) const;
  const std::map<Rank, Status>& losses() const { return losses_; }
  std::size_t open_leases() const { return open_leases_.size(); }

  /// From now on an asker can borrow this expert, which lies in `region`.
  void add_lendable(const ExpertLayout& expert, const Region& region);
  /// Makes lend fail for this expert, whatever the version.
  void fail_lend(ExpertIndex expert, Status status);
  /// Called from within the listener's calls, after they were noted.
  void on_event(std::function<void(const Event&)> hook) { hook_ = std::move(hook); }

  // Kept by the harness.
  void note_started(transport::ChunkToken token, Rank source);
  void note_closed();
  void enter_call() { ++calls_; }
  void leave_call() { --calls_; }

  void on_message(Rank from, ByteView message) override;
  void on_chunk_done(transport::ChunkToken token, const Status& status) override;
  void on_peer_lost(Rank peer, const Status& why) override;
  Result<transport::Lease> lend(Rank asker, const transport::ExpertAddress& expert, std::uint64_t offset,
                                std::uint64_t bytes) override;
  void give_back(std::uint64_t lease, std::uint64_t bytes_sent) override;

 private:
  struct Lendable {
    ExpertLayout expert;
    std::byte* base;
  };

  void note(Event event, std::string_view what);

  const Rank self_;
  std::vector<Event> events_;
  std::map<Rank, std::deque<Bytes>> messages_;
  std::map<transport::ChunkToken, Rank> in_flight_;
  std::map<transport::ChunkToken, Status> completions_;
  std::map<Rank, Status> losses_;
  std::map<std::uint64_t, std::uint64_t> open_leases_;  // bytes of each
  std::vector<Lendable> lendable_;
  std::map<ExpertIndex, Status> lend_failures_;
  std::function<void(const Event&)> hook_;
  std::uint64_t last_lease_ = 0;
  int calls_ = 0;
  bool closed_ = false;
};

}  // namespace cardea::test
