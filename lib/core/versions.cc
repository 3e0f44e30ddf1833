// SPDX-License-Identifier: Apache-2.0
#include "lib/core/versions.h"

#include <algorithm>

namespace cardea::core {

Versions::Versions(Membership members) : members_(std::move(members)) {}

Status Versions::publish(Version version, std::vector<Notice>& out) {
  if (version == kNoVersion) return Status(CARDEA_ERR_INVALID_ARGUMENT, "version 2^64-1 means \"none\"");
  if (own_) {
    return Status::error(CARDEA_ERR_BUSY, "version {} was not collected; it must be before version {} is published", *own_,
                         version);
  }
  if (retired_ && version <= *retired_) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "version {} is not greater than version {}, published before", version,
                         *retired_);
  }
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
    if (const auto rank = missing_for(node)) {
      return Status::error(CARDEA_ERR_PEER_LOST, "rank {} {} before node {} had finished version {}", *rank,
                           lost_.contains(*rank) ? "was lost" : "ended its part in the layer", node, version)
          .with_peer(*rank);
    }
    return Status::error(CARDEA_IN_PROGRESS, "node {} has not finished version {}", node, version);
  }
  if (lent) return Status::error(CARDEA_IN_PROGRESS, "transfers of version {} are still under way", version);
  own_.reset();
  retired_ = version;
  return {};
}

/// Without whom no word of the node's finish can come any more.
std::optional<Rank> Versions::missing_for(Node node) const {
  for (const Rank rank : members_.ranks_of(node)) {
    if (lost_.contains(rank)) return rank;
  }
  for (const Rank leader : {members_.leader(node), members_.leader(members_.own_node())}) {
    if (lost_.contains(leader) || left_.contains(leader)) return leader;
  }
  return std::nullopt;
}

Status Versions::may_finish(Version version) const {
  if (version == kNoVersion) return Status(CARDEA_ERR_INVALID_ARGUMENT, "version 2^64-1 means \"none\"");
  if (finished_ && version <= *finished_) return Status::error(CARDEA_ERR_STALE, "version {} was finished already", version);
  return {};
}

void Versions::finish(Version version, std::vector<Notice>& out) {
  finished_ = version;
  if (members_.is_leader()) {
    rank_finished(members_.self(), version, out);
  } else {
    out.push_back({members_.leader(members_.own_node()), Notice::Kind::kRankFinished, 0, version});
  }
}

void Versions::rank_finished(Rank rank, Version version, std::vector<Notice>& out) {
  rank_finished_[rank] = version;
  const Node node = members_.own_node();
  Version least = version;
  for (const Rank peer : members_.ranks_of(node)) {
    const auto found = rank_finished_.find(peer);
    if (found == rank_finished_.end()) return;
    least = std::min(least, found->second);
  }
  const auto known = node_finished_.find(node);
  if (known != node_finished_.end() && known->second >= least) return;
  node_finished(node, least);
  for (const auto& [other, ranks] : members_.nodes()) {
    if (other != node) out.push_back({members_.leader(other), Notice::Kind::kNodeFinished, node, least});
  }
  for (const Rank peer : members_.ranks_of(node)) {
    if (peer != members_.self()) out.push_back({peer, Notice::Kind::kNodeFinished, node, least});
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
    case Notice::Kind::kRankFinished:
      if (!members_.is_leader() || members_.node(from) != own)
        return refuse("reports a finish to a rank that does not lead its node");
      if (const auto before = rank_finished_.find(from);
          before != rank_finished_.end() && notice.version <= before->second) {
        return refuse("finishes a version that is not greater than its last");
      }
      rank_finished(from, notice.version, out);
      return {};
    case Notice::Kind::kNodeFinished:
      if (!members_.has_node(notice.node)) return refuse("reports a finish of an unknown node");
      if (from == members_.leader(notice.node) && notice.node != own && members_.is_leader()) {
        for (const Rank peer : members_.ranks_of(own)) {
          if (peer != members_.self()) out.push_back({peer, Notice::Kind::kNodeFinished, notice.node, notice.version});
        }
      } else if (from != members_.leader(own) || members_.is_leader()) {
        return refuse("reports the finish of a node that it does not lead");
      }
      node_finished(notice.node, notice.version);
      return {};
  }
  return refuse("sent an unknown notice");
}

void Versions::lose(Rank rank) {
  if (members_.contains(rank)) lost_.insert(rank);
}

void Versions::leave(Rank rank, std::vector<Notice>& out) {
  if (!members_.contains(rank) || !left_.insert(rank).second) return;
  if (members_.is_leader() && members_.node(rank) == members_.own_node()) rank_finished(rank, kNoVersion - 1, out);
}

Version Versions::published(Rank source) const {
  if (source == members_.self()) return own_.value_or(kNoVersion);
  const auto found = published_.find(source);
  return found == published_.end() ? kNoVersion : found->second;
}

}  // namespace cardea::core
