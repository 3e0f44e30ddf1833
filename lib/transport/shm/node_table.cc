// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/node_table.h"

#include <algorithm>
#include <map>

namespace cardea::shm {
namespace {

// Splits one proposed node; `ranks` ascend.
void split(const Proofs& proofs, std::vector<Rank> ranks, std::vector<std::vector<Rank>>& nodes) {
  while (!ranks.empty()) {
    std::vector<Rank> left;  // those that go
    for (;;) {
      std::size_t worst = 0, most_missing = 0;
      for (std::size_t i = 0; i < ranks.size(); ++i) {
        const auto missing = static_cast<std::size_t>(std::count_if(ranks.begin(), ranks.end(), [&](Rank other) {
          return other != ranks[i] && !(proofs.proved[ranks[i]][other] && proofs.proved[other][ranks[i]]);
        }));
        if (missing > 0 && missing >= most_missing) {
          worst = i;
          most_missing = missing;
        }
      }
      if (most_missing == 0) break;
      left.push_back(ranks[worst]);
      ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(worst));
    }
    nodes.push_back(std::move(ranks));
    std::sort(left.begin(), left.end());
    ranks = std::move(left);
  }
}

}  // namespace

std::vector<Node> make_node_table(const Proofs& proofs) {
  std::map<std::uint32_t, std::vector<Rank>> proposed;
  for (Rank rank = 0; rank < proofs.proposal.size(); ++rank) proposed[proofs.proposal[rank]].push_back(rank);
  std::vector<std::vector<Rank>> nodes;
  for (auto& [key, ranks] : proposed) split(proofs, std::move(ranks), nodes);
  std::sort(nodes.begin(), nodes.end(), [](const auto& a, const auto& b) { return a.front() < b.front(); });
  std::vector<Node> node_of(proofs.proposal.size());
  for (Node node = 0; node < nodes.size(); ++node) {
    for (const Rank rank : nodes[node]) node_of[rank] = node;
  }
  return node_of;
}

}  // namespace cardea::shm
