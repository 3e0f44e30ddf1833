// SPDX-License-Identifier: Apache-2.0
// What the meeting point knows of its job: who has arrived, who has left, and what each has given to the present round.
// Sans-I/O: events in, a Status for the whole job out. Once the job has failed it stays failed with the first reason.
// Not thread-safe.
//
//     forming ── all arrived ──► formed (round 0, 1, …) ── all departed ──► over
//        └── disagreement, loss, deadline ──► failed ◄──┘
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/bootstrap/frames.h"
#include "lib/bootstrap/handshake.h"

namespace cardea::bootstrap {

class Roster {
 public:
  explicit Roster(std::uint32_t wire_version) : wire_version_(wire_version) {}

  /// An authenticated rank. MISMATCH (failing the job) if it has another world size or wire version than the others, or a
  /// number that is taken. A number that is taken when the job has formed already is MISMATCH for the newcomer alone.
  Status arrive(const Hello& hello);
  /// A member's bytes. PROTOCOL for a wrong round or a second contribution, PEER_LOST if someone has left, LIMIT if the
  /// round exceeds kMaxAllFrame.
  Status give(Rank rank, Give give);
  /// PEER_LOST (failing the job) if the rank went without notice, or while the others still wait for it.
  Status depart(Rank rank, bool in_good_order);
  /// TIMEOUT, listing the ranks that are missing.
  Status expire();
  Status fail(Status status);

  bool formed() const { return world_size_ > 0 && arrived_ == world_size_; }
  bool over() const { return formed() && departed_ == world_size_; }
  const Status& failure() const { return failure_; }
  std::uint32_t world_size() const { return world_size_; }
  bool round_open() const { return given_ > 0; }
  /// Everybody's bytes once all have given, and on to the next round.
  std::optional<All> take_round();

 private:
  struct Member {
    std::optional<std::string> place;
    bool departed = false;
    std::optional<Bytes> given;
  };
  std::string describe(Rank rank) const;
  std::vector<Rank> missing() const;

  std::uint32_t wire_version_;
  std::uint32_t world_size_ = 0;
  Rank first_ = kNoRank;  // whose word on the world size counts
  std::vector<Member> members_;
  std::uint32_t arrived_ = 0, departed_ = 0, given_ = 0, round_ = 0;
  std::size_t round_bytes_ = 0;
  Status failure_;
};

/// "3, 5-9 and 12 more" for sorted ranks.
std::string list_ranks(const std::vector<Rank>& ranks);

}  // namespace cardea::bootstrap
