// SPDX-License-Identifier: Apache-2.0
#include "perf/fetch_all_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

namespace cardea::perf {
namespace {

struct Path {
  const char* name;
  const char* key;
  std::uint64_t RankFigures::*experts;
};
constexpr std::array<Path, 5> kPaths = {{{"home", "home", &RankFigures::experts_home},
                                         {"node, mapped", "node_mapped", &RankFigures::experts_node_mapped},
                                         {"node, copied", "node_copied", &RankFigures::experts_node_copied},
                                         {"node cache", "cache", &RankFigures::experts_cache},
                                         {"network", "network", &RankFigures::experts_network}}};

std::uint64_t sum(const Figures& figures, std::uint64_t RankFigures::*field) {
  std::uint64_t total = 0;
  for (const auto& ranks : figures) {
    for (const RankFigures& rank : ranks) total += rank.*field;
  }
  return total;
}

double most_seconds(const std::vector<RankFigures>& ranks) {
  double most = 0;
  for (const RankFigures& rank : ranks) most = std::max(most, rank.seconds);
  return most;
}

/// A node: its ranks share memory, so every expert of another node need come to it only once.
struct Node {
  std::string host;
  std::uint32_t ranks = 0;
  std::uint64_t distinct_remote_bytes = 0;  // per repetition
  std::uint64_t network_bytes = 0;          // all repetitions
  std::vector<double> seconds;              // per repetition, until its last rank had all
  double goodput = 0;                       // bytes/s: distinct bytes of all repetitions but the warm-up over their time
};

std::map<std::uint32_t, Node> by_node(const FetchAllShape& shape, const Figures& figures) {
  std::map<std::uint32_t, Node> nodes;
  const auto& first = figures.front();
  const auto world = static_cast<std::uint32_t>(first.size());
  for (const RankFigures& rank : first) {
    Node& node = nodes[rank.node];
    node.host = std::string(rank.host, strnlen(rank.host, sizeof(rank.host)));
    ++node.ranks;
  }
  for (auto& [number, node] : nodes) {
    for (std::uint32_t e = 0; e < shape.experts; ++e) {
      if (first[shape.home_of(e, world)].node != number) node.distinct_remote_bytes += shape.layers * shape.expert_bytes;
    }
    double timed = 0;
    for (std::size_t repetition = 0; repetition < figures.size(); ++repetition) {
      double most = 0;
      for (const RankFigures& rank : figures[repetition]) {
        if (rank.node != number) continue;
        most = std::max(most, rank.seconds);
        node.network_bytes += rank.network_bytes;
      }
      node.seconds.push_back(most);
      if (repetition != 0) timed += most;
    }
    const auto repetitions = static_cast<double>(figures.size() - 1);
    if (timed > 0) node.goodput = static_cast<double>(node.distinct_remote_bytes) * repetitions / timed;
  }
  return nodes;
}

double megabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e6;
}

}  // namespace

std::string format_table(const FetchAllShape& shape, const Figures& figures, bool checked) {
  std::string text;
  const auto line = [&text]<typename... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
    text += '\n';
  };
  const auto nodes = by_node(shape, figures);
  line("{} ranks on {} nodes, each fetches all of {} layers of {} experts of {:.3f} MB in {} segments, {} slots",
       figures.front().size(), nodes.size(), shape.layers, shape.experts, megabytes(shape.expert_bytes), shape.segments,
       shape.slots);
  line("fetches of {} layers are open at a time", std::min(shape.ahead, shape.layers));
  line("");
  line("{:<16}{:>12}", "repetition", "seconds");
  for (std::size_t r = 0; r < figures.size(); ++r) {
    line("{:<16}{:>12.4f}", r == 0 ? "warm-up" : std::to_string(r), most_seconds(figures[r]));
  }
  line("");
  line("{:<16}{:>12}{:>16}", "all repetitions", "experts", "payload MB");
  for (const Path& path : kPaths) {
    const std::uint64_t experts = sum(figures, path.experts);
    line("{:<16}{:>12}{:>16.3f}", path.name, experts, megabytes(experts * shape.expert_bytes));
  }
  line("");
  line("{:<16}{:>12}{:>16}{:>16}{:>10}{:>14}", "node", "ranks", "distinct MB", "received MB", "ratio", "goodput MB/s");
  for (const auto& [number, node] : nodes) {
    const std::uint64_t distinct = node.distinct_remote_bytes * figures.size();
    line(
        "{:<16}{:>12}{:>16.3f}{:>16.3f}{:>10}{:>14.1f}", fmt::format("{} {}", number, node.host).substr(0, 15), node.ranks,
        megabytes(distinct), megabytes(node.network_bytes),
        distinct == 0 ? "-" : fmt::format("{:.3f}", static_cast<double>(node.network_bytes) / static_cast<double>(distinct)),
        node.goodput / 1e6);
  }
  line("distinct: remote experts of a node, each once per repetition; received: what the library received for them");
  line("goodput: distinct bytes over the time in which the node's last rank had them all, without the warm-up");
  if (const std::uint64_t wrong = sum(figures, &RankFigures::wrong_experts); wrong != 0) {
    line("FAIL: {} experts had wrong bytes", wrong);
  } else if (checked) {
    line("every byte that was looked at was right");
  }
  return text;
}

std::string format_json(const FetchAllShape& shape, const Figures& figures) {
  using Json = nlohmann::ordered_json;
  Json json = {{"ranks", figures.front().size()},
               {"layers", shape.layers},
               {"experts", shape.experts},
               {"segments", shape.segments},
               {"expert_bytes", shape.expert_bytes},
               {"slots", shape.slots},
               {"ahead", shape.ahead},
               {"repetitions", figures.size() - 1},
               {"wrong_experts", sum(figures, &RankFigures::wrong_experts)}};
  for (const auto& ranks : figures) json["seconds"].push_back(most_seconds(ranks));
  for (const Path& path : kPaths) {
    const std::uint64_t experts = sum(figures, path.experts);
    json["paths"][path.key] = {{"experts", experts}, {"bytes", experts * shape.expert_bytes}};
  }
  for (const auto& [number, node] : by_node(shape, figures)) {
    json["nodes"].push_back({{"node", number},
                             {"host", node.host},
                             {"ranks", node.ranks},
                             {"distinct_remote_bytes", node.distinct_remote_bytes * figures.size()},
                             {"received_bytes", node.network_bytes},
                             {"seconds", node.seconds},
                             {"goodput", node.goodput}});
  }
  return json.dump(2) + '\n';
}

}  // namespace cardea::perf
