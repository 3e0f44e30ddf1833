// SPDX-License-Identifier: Apache-2.0
#include "lib/core/versions.h"

#include <algorithm>

namespace cardea::core {

Versions::Versions(Membership members) : members_(std::move(members)) {}

Status Versions::may_publish(Version version) const {
  if (version == kNoVersion) return Status(CARDEA_ERR_INVALID_ARGUMENT, "version 2^64-1 means \"none\"");
  if (own_) {
    return Status::error(CARDEA_ERR_BUSY, "version {} was not collected; it must be before version {} is published", *own_,
                         version);
  }
  if (retired_ && version <= *retired_) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "version {} is not greater than version {}, published before", version,
                         *retired_);
  }
  return {};
}

Status Versions::publish(Version version, std::vector<Notice>& out) {
  if (const Status status = may_publish(version); !status.ok()) return status;
  own_ = version;
  for (const Rank rank : members_.ranks()) {
    if (rank != members_.self()) out.push_back({rank, Notice::Kind::kPublished, 0, version});
  }
  return {};
}

Status Versions::collect(Version version, bool lent) {
  if (retired_ && version <= *retired_) return Status::error(CARDEA_ERR_STALE, "version {} was collected already", version);
  if (own_ != version)
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "version {} was not published by this rank", version);
  if (!finished_ || *finished_ < version) {
    return Status::error(CARDEA_ERR_BUSY, "this rank itself has not finished version {}", version);
  }
  for (const auto& [node, ranks] : members_.nodes()) {
    const auto done = node_finished_.find(node);
    if (done != node_finished_.end() && done->second >= version) continue;
    if (std::all_of(ranks.begin(), ranks.end(), [&](Rank rank) { return left_.contains(rank); })) continue;
    for (const Rank rank : ranks) {
      if (!died_.contains(rank)) continue;
      return Status::error(CARDEA_ERR_PEER_LOST, "rank {} was lost before its node had finished version {}", rank, version)
          .with_peer(rank);
    }
    return Status::error(CARDEA_IN_PROGRESS, "node {} has not finished version {}", node, version);
  }
  if (lent) return Status::error(CARDEA_IN_PROGRESS, "transfers of version {} are still under way", version);
  own_.reset();
  retired_ = version;
  return {};
}

Status Versions::may_finish(Version version) const {
  if (version == kNoVersion) return Status(CARDEA_ERR_INVALID_ARGUMENT, "version 2^64-1 means \"none\"");
  if (finished_ && version <= *finished_) return Status::error(CARDEA_ERR_STALE, "version {} was finished already", version);
  return {};
}

void Versions::finish(Version version, std::vector<Notice>& out) {
  finished_ = version;
  rank_finished_[members_.self()] = version;
  if (is_leader()) {
    look_at_own_node(out);
  } else {
    out.push_back({*leader(members_.own_node()), Notice::Kind::kRankFinished, 0, version});
  }
}

std::optional<Rank> Versions::leader(Node node) const {
  for (const Rank rank : members_.ranks_of(node)) {
    if (!died_.contains(rank) && !left_.contains(rank)) return rank;
  }
  return std::nullopt;
}

void Versions::look_at_own_node(std::vector<Notice>& out) {
  const Node node = members_.own_node();
  std::optional<Version> least;
  for (const Rank peer : members_.ranks_of(node)) {
    if (left_.contains(peer)) continue;
    const auto found = rank_finished_.find(peer);
    if (found == rank_finished_.end()) return;
    least = std::min(least.value_or(found->second), found->second);
  }
  if (const auto known = node_finished_.find(node); known != node_finished_.end() && known->second >= *least) return;
  node_finished(node, *least);
  tell_others(node, *least, out);
  tell_own_node(node, *least, out);
}

void Versions::tell_others(Node node, Version version, std::vector<Notice>& out) const {
  for (const auto& [other, ranks] : members_.nodes()) {
    if (other == node) continue;
    if (const auto to = leader(other)) out.push_back({*to, Notice::Kind::kNodeFinished, node, version});
  }
}

void Versions::tell_own_node(Node node, Version version, std::vector<Notice>& out) const {
  for (const Rank peer : members_.ranks_of(members_.own_node())) {
    if (peer == members_.self() || died_.contains(peer) || left_.contains(peer)) continue;
    out.push_back({peer, Notice::Kind::kNodeFinished, node, version});
  }
}

void Versions::node_finished(Node node, Version version) {
  const auto [place, fresh] = node_finished_.emplace(node, version);
  if (!fresh) place->second = std::max(place->second, version);
}

Status Versions::receive(Rank from, const Notice& notice, std::vector<Notice>& out) {
  const auto refuse = [&](std::string_view what) {
    return Status::error(CARDEA_ERR_PROTOCOL, "rank {} {}", from, what).with_peer(from);
  };
  if (!members_.contains(from)) return refuse("speaks of a layer of which it is no member");
  if (notice.version == kNoVersion) return refuse("announces no version");
  const Node own = members_.own_node();
  switch (notice.kind) {
    case Notice::Kind::kPublished: {
      const auto [place, fresh] = published_.emplace(from, notice.version);
      if (!fresh && notice.version <= place->second) return refuse("publishes a version that is not greater than its last");
      place->second = notice.version;
      return {};
    }
    case Notice::Kind::kRankFinished: {
      if (members_.node(from) != own) return refuse("reports its finish to a rank of another node");
      // The same again is no mistake: it is repeated when a leader has gone. Nor is being told without leading: the sender
      // may know of a loss before this rank does.
      Version& known = rank_finished_.try_emplace(from, notice.version).first->second;
      known = std::max(known, notice.version);
      if (is_leader()) look_at_own_node(out);
      return {};
    }
    case Notice::Kind::kNodeFinished:
      if (!members_.has_node(notice.node)) return refuse("reports a finish of an unknown node");
      if (notice.node == own && is_leader()) return refuse("reports the finish of a node that this rank leads");
      // From its own node, or passed on within mine. Who leads a node is not asked: ranks learn of losses at different
      // times.
      if (members_.node(from) != notice.node && members_.node(from) != own)
        return refuse("reports the finish of a node that is not its own");
      if (members_.node(from) != own && is_leader()) tell_own_node(notice.node, notice.version, out);
      node_finished(notice.node, notice.version);
      return {};
  }
  return refuse("sent an unknown notice");
}

void Versions::lose(Rank rank, bool left, std::vector<Notice>& out) {
  if (!members_.contains(rank) || died_.contains(rank) || left_.contains(rank)) return;
  const Node node = members_.node(rank);
  const Node own = members_.own_node();
  const bool led = leader(node) == rank;
  (left ? left_ : died_).insert(rank);
  if (node == own) {
    if (is_leader()) {
      if (finished_) look_at_own_node(out);
      if (!led) return;
      // What the last leader knew it may not have passed on.
      for (const auto& [known, version] : std::map<Node, Version>(node_finished_)) {
        tell_own_node(known, version, out);
        if (known == own) tell_others(own, version, out);
      }
    } else if (led && finished_) {
      out.push_back({*leader(own), Notice::Kind::kRankFinished, 0, *finished_});
    }
  } else if (led && is_leader()) {
    const auto known = node_finished_.find(own);
    const auto successor = leader(node);
    if (known != node_finished_.end() && successor) {
      out.push_back({*successor, Notice::Kind::kNodeFinished, own, known->second});
    }
  }
}

Version Versions::published(Rank source) const {
  if (source == members_.self()) return own_.value_or(kNoVersion);
  const auto found = published_.find(source);
  return found == published_.end() ? kNoVersion : found->second;
}

}  // namespace cardea::core
