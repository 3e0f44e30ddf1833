// SPDX-License-Identifier: Apache-2.0
// The life of a layer's versions, seen from one rank, without a global barrier:
//
//   source:  unpublished ── publish(v) ──► published(v) ── all nodes finished v, nothing lent ── collect(v) ──► unpublished
//   member:  finish(v) ──► its node's leader ──► (all of the node have) ──► every other node's leader ──► its members
//
// so that an update of the weights cannot start under a reader. Plain state machine: no threads, no I/O. What is to be told
// to others comes out as Notices, which the caller sends in order.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "lib/base/status.h"
#include "lib/core/membership.h"

namespace cardea::core {

/// Something to tell another rank of the layer.
struct Notice {
  enum class Kind : std::uint8_t {
    kPublished = 1,     // the sender's experts are valid at `version`
    kRankFinished = 2,  // the sender has finished `version`; to the leader of its node
    kNodeFinished = 3   // all ranks of `node` have finished `version`; from a leader
  };
  Rank to = kNoRank;
  Kind kind = Kind::kPublished;
  Node node = 0;
  Version version = 0;
};

class Versions {
 public:
  explicit Versions(Membership members);

  const Membership& members() const { return members_; }

  /// This rank as a source.
  Status publish(Version version, std::vector<Notice>& out);
  /// OK, IN_PROGRESS, STALE, BUSY (this rank itself has not finished), INVALID_ARGUMENT, PEER_LOST (a node has not finished,
  /// and a rank that would have to, or to report it, is gone); OK retires the version.
  Status collect(Version version, bool lent);

  /// This rank as a member. The caller has made sure that nothing of the version is open.
  Status may_finish(Version version) const;
  void finish(Version version, std::vector<Notice>& out);

  /// A notice that a peer sent. PROTOCOL if the peer may not say that.
  Status receive(Rank from, const Notice& notice, std::vector<Notice>& out);
  void lose(Rank rank);
  /// A member that is alive has ended its part in the layer: it holds nothing of any version any more.
  void leave(Rank rank, std::vector<Notice>& out);

  /// What a source has published last, kNoVersion if nothing so far. Own rank included.
  Version published(Rank source) const;
  bool valid_here(Version version) const { return own_ == version; }
  /// Everything up to here was finished by this rank; nothing is while there is no value.
  std::optional<Version> finished() const { return finished_; }

 private:
  void rank_finished(Rank rank, Version version, std::vector<Notice>& out);
  void node_finished(Node node, Version version);
  std::optional<Rank> missing_for(Node node) const;

  Membership members_;
  std::optional<Version> own_;             // published by this rank and not collected
  std::optional<Version> retired_;         // the last one collected
  std::optional<Version> finished_;        // by this rank
  std::map<Rank, Version> published_;      // by others
  std::map<Rank, Version> rank_finished_;  // at a leader: by ranks of its node
  std::map<Node, Version> node_finished_;
  std::set<Rank> lost_;
  std::set<Rank> left_;
};

}  // namespace cardea::core
