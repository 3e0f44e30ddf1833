// SPDX-License-Identifier: Apache-2.0
// Who takes part in a layer, and on which nodes: the group's ranks in the group's order, with the node of each. The leader
// of a node is its lowest rank in the group; finishes travel by leaders, one message for each pair of nodes. Immutable
// value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "lib/base/types.h"

namespace cardea::core {

class Membership {
 public:
  /// `node_of` is indexed by rank and covers all of the job.
  Membership(Rank self, std::vector<Rank> ranks, const std::vector<Node>& node_of) : self_(self), ranks_(std::move(ranks)) {
    for (const Rank rank : ranks_) nodes_[node_of[rank]].push_back(rank);
    for (auto& [node, members] : nodes_) std::sort(members.begin(), members.end());
    for (const Rank rank : ranks_) node_by_rank_[rank] = node_of[rank];
  }

  Rank self() const { return self_; }
  const std::vector<Rank>& ranks() const { return ranks_; }
  bool contains(Rank rank) const { return node_by_rank_.contains(rank); }
  Node node(Rank rank) const { return node_by_rank_.at(rank); }
  Node own_node() const { return node(self_); }
  bool has_node(Node node) const { return nodes_.contains(node); }
  const std::map<Node, std::vector<Rank>>& nodes() const { return nodes_; }
  const std::vector<Rank>& ranks_of(Node node) const { return nodes_.at(node); }

  /// Where `rank` comes in the order that starts after this rank and goes round, nodes before ranks: the staggered order,
  /// in which no two ranks begin with the same source (Janus, section 5.2).
  std::pair<std::uint32_t, std::uint32_t> stagger(Rank rank) const { return {node_distance(rank), rank_distance(rank)}; }

 private:
  std::uint32_t node_distance(Rank rank) const {
    const auto place = [&](Node node) {
      return static_cast<std::uint32_t>(std::distance(nodes_.begin(), nodes_.find(node)));
    };
    const auto count = static_cast<std::uint32_t>(nodes_.size());
    return (place(node(rank)) + count - place(own_node())) % count;
  }
  std::uint32_t rank_distance(Rank rank) const {
    // Within a node, ranks are taken from the place that this rank has in its own node, so that the ranks of one node
    // begin with different ranks of the next.
    const auto place_in = [&](Rank who) {
      const auto& peers = ranks_of(node(who));
      return static_cast<std::uint32_t>(std::distance(peers.begin(), std::find(peers.begin(), peers.end(), who)));
    };
    const auto count = static_cast<std::uint32_t>(ranks_of(node(rank)).size());
    const bool own = node(rank) == own_node();
    const std::uint32_t start = own ? place_in(self_) + 1 : place_in(self_);
    return (place_in(rank) + count - start % count) % count;
  }

  Rank self_;
  std::vector<Rank> ranks_;
  std::map<Node, std::vector<Rank>> nodes_;
  std::map<Rank, Node> node_by_rank_;
};

}  // namespace cardea::core
