// SPDX-License-Identifier: Apache-2.0
// The life of a layer's versions, seen from one rank, without a global barrier:
//
//   source:  unpublished ── publish(v) ──► published(v) ── all nodes finished v, nothing lent ── collect(v) ──► unpublished
//   member:  finish(v) ──► its node's leader ──► (all of the node have) ──► every other node's leader ──► its members
//
// so that an update of the weights cannot start under a reader. The leader of a node is its lowest rank that is still there;
// when one goes, its successor hears everything again, so that nothing depends on what it had passed on. A rank that left of
// its own will reads nothing any more and counts as having finished everything; one that died keeps collects from
// completing, and they say so. Plain state machine: no threads, no I/O. What is to be told
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
  Status may_publish(Version version) const;
  Status publish(Version version, std::vector<Notice>& out);
  /// OK, IN_PROGRESS, STALE, BUSY (this rank itself has not finished), INVALID_ARGUMENT, PEER_LOST; OK retires the version.
  Status collect(Version version, bool lent);

  /// This rank as a member. The caller has made sure that nothing of the version is open.
  Status may_finish(Version version) const;
  void finish(Version version, std::vector<Notice>& out);

  /// A notice that a peer sent. PROTOCOL if the peer may not say that.
  Status receive(Rank from, const Notice& notice, std::vector<Notice>& out);
  /// A rank is gone: it `left` of its own will, or died.
  void lose(Rank rank, bool left, std::vector<Notice>& out);

  /// What a source has published last, kNoVersion if nothing so far. Own rank included.
  Version published(Rank source) const;
  bool valid_here(Version version) const { return own_ == version; }
  /// Everything up to here was finished by this rank; nothing is while there is no value.
  std::optional<Version> finished() const { return finished_; }
  /// Everything up to here was finished by all ranks of this node.
  std::optional<Version> finished_by_node() const {
    const auto found = node_finished_.find(members_.own_node());
    return found == node_finished_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::optional<Rank> leader(Node node) const;
  bool is_leader() const { return leader(members_.own_node()) == members_.self(); }
  void look_at_own_node(std::vector<Notice>& out);
  void tell_others(Node node, Version version, std::vector<Notice>& out) const;
  void tell_own_node(Node node, Version version, std::vector<Notice>& out) const;
  void node_finished(Node node, Version version);

  Membership members_;
  std::optional<Version> own_;             // published by this rank and not collected
  std::optional<Version> retired_;         // the last one collected
  std::optional<Version> finished_;        // by this rank
  std::map<Rank, Version> published_;      // by others
  std::map<Rank, Version> rank_finished_;  // by ranks of this node, as far as told
  std::map<Node, Version> node_finished_;
  std::set<Rank> died_, left_;
};

}  // namespace cardea::core
