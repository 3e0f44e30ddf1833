// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <type_traits>

#include "lib/doctor/probe.h"

namespace cardea::doctor {
namespace {

Severity severity_of(const std::string& name) {
  return name == "error" ? Severity::kError : name == "warning" ? Severity::kWarning : Severity::kNote;
}

/// Numbers that are none of their type would be turned into others.
template <typename Number>
Number whole(const nlohmann::json& value) {
  const bool fits =
      std::is_signed_v<Number>
          ? value.is_number_integer() && !(value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)
          : value.is_number_unsigned() && value.get<std::uint64_t>() <= std::numeric_limits<Number>::max();
  if (!fits) throw std::out_of_range("a number is out of its range");
  return value.get<Number>();
}

}  // namespace

std::string to_json(const Member& member) {
  nlohmann::ordered_json all = {{"rank", member.rank},
                                {"host", member.host},
                                {"node_id", member.node_id},
                                {"node", member.node},
                                {"wall_ns", member.wall_ns},
                                {"peers", nlohmann::json::array()},
                                {"findings", nlohmann::json::array()}};
  for (const Peer& peer : member.peers) {
    all["peers"].push_back({{"rank", peer.rank},
                            {"host", peer.host},
                            {"node", peer.node},
                            {"path", peer.path},
                            {"way", peer.way},
                            {"seconds", peer.seconds},
                            {"bytes_per_second", peer.bytes_per_second},
                            {"error", peer.error}});
  }
  for (const Finding& finding : member.findings) {
    all["findings"].push_back({{"severity", to_string(finding.severity)},
                               {"kind", finding.kind},
                               {"what", finding.what},
                               {"advice", finding.advice}});
  }
  return all.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Result<Member> member_from_json(const std::string& text) {
  const nlohmann::json all = nlohmann::json::parse(text, nullptr, false);
  if (!all.is_object()) return Status::error(CARDEA_ERR_CONFIGURATION, "no report of a rank");
  try {
    Member member;
    member.rank = whole<Rank>(all.at("rank"));
    member.host = all.at("host").get<std::string>();
    member.node_id = all.at("node_id").get<std::string>();
    member.node = whole<unsigned>(all.at("node"));
    member.wall_ns = whole<std::int64_t>(all.at("wall_ns"));
    for (const auto& one : all.at("peers")) {
      Peer peer;
      peer.rank = whole<Rank>(one.at("rank"));
      peer.host = one.at("host").get<std::string>();
      peer.node = whole<unsigned>(one.at("node"));
      peer.path = one.at("path").get<std::string>();
      peer.way = one.at("way").get<std::string>();
      peer.seconds = one.at("seconds").get<double>();
      peer.bytes_per_second = one.at("bytes_per_second").get<double>();
      peer.error = one.at("error").get<std::string>();
      member.peers.push_back(std::move(peer));
    }
    for (const auto& one : all.at("findings")) {
      member.findings.push_back({severity_of(one.at("severity").get<std::string>()), one.at("kind").get<std::string>(),
                                 one.at("what").get<std::string>(), one.at("advice").get<std::string>()});
    }
    return member;
  } catch (const std::exception& error) {
    return Status::error(CARDEA_ERR_CONFIGURATION, "no report of a rank: {}", error.what());
  }
}

std::vector<Rank> peers_of(Rank self, const std::vector<unsigned>& node_of) {
  std::vector<Rank> near;
  std::map<unsigned, std::vector<Rank>> far;
  std::size_t place = 0;  // of this rank within its node
  for (Rank rank = 0; rank < node_of.size(); ++rank) {
    if (node_of[rank] != node_of[self]) {
      far[node_of[rank]].push_back(rank);
    } else if (rank != self) {
      near.push_back(rank);
      if (rank < self) ++place;
    }
  }
  std::vector<Rank> chosen;
  for (const auto& [node, ranks] : far) chosen.push_back(ranks[place % ranks.size()]);
  // Both kinds of way have to be seen.
  const std::size_t most_far =
      near.empty() ? kMostPeers : std::max(kMostPeers / 2, kMostPeers - std::min(kMostPeers, near.size()));
  if (chosen.size() > most_far) chosen.resize(most_far);
  for (const Rank rank : near) {
    if (chosen.size() < kMostPeers) chosen.push_back(rank);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::string devices_of(const std::string& ucx_log) {
  std::set<std::string> devices;
  std::istringstream lines(ucx_log);
  for (std::string line; std::getline(lines, line);) {
    // As UCX 1.13 writes it, and as 1.15 to 1.22 do.
    const std::size_t at = std::min(line.find("ep_cfg["), line.find(" cfg#"));
    if (at == std::string::npos) continue;
    line.erase(0, at);
    for (std::size_t open = line.find('('); open != std::string::npos; open = line.find('(', open + 1)) {
      const std::size_t close = line.find(')', open);
      if (close == std::string::npos) break;
      const std::string inside = line.substr(open + 1, close - open - 1);
      for (std::size_t word = 0; word < inside.size();) {
        const std::size_t space = std::min(inside.find(' ', word), inside.size());
        const std::string device = inside.substr(word, space - word);
        if (device.find('/') != std::string::npos && !device.starts_with("self/")) devices.insert(device);
        word = space + 1;
      }
    }
  }
  std::string all;
  for (const std::string& device : devices) all += (all.empty() ? "" : " ") + device;
  return all;
}

Findings judge(const std::vector<Member>& members) {
  Findings found;
  const Member* earliest = nullptr;
  const Member* latest = nullptr;
  for (const Member& member : members) {
    for (const Peer& peer : member.peers) {
      if (peer.error.empty()) continue;
      found.push_back(
          {Severity::kError, "job.peer",
           fmt::format("rank {} ({}) got nothing from rank {} ({}): {}", member.rank, member.host, peer.rank, peer.host,
                       peer.error),
           "see what the error says; between hosts check UCX_NET_DEVICES, routes and firewalls for UCX's ports"});
    }
    if (earliest == nullptr || member.wall_ns < earliest->wall_ns) earliest = &member;
    if (latest == nullptr || member.wall_ns > latest->wall_ns) latest = &member;
  }
  constexpr double kSecond = 1e9;
  const double apart =
      earliest == nullptr ? 0 : static_cast<double>(latest->wall_ns) - static_cast<double>(earliest->wall_ns);
  if (earliest != nullptr && apart > kSecond && latest->host != earliest->host) {
    found.push_back(
        {Severity::kWarning, "job.clocks",
         fmt::format(
             "the clocks of {} and {} differ by {:.1f} s: their ranks are shifted against each other in traces and logs",
             earliest->host, latest->host, apart / kSecond),
         "run chrony or another NTP client on all hosts"});
  }
  std::map<std::string_view, const Member*> first;  // of each host
  for (const Member& member : members) {
    if (!member.node_id.empty()) continue;
    const Member& other = *first.try_emplace(member.host, &member).first->second;
    if (other.node == member.node) continue;
    found.push_back(
        {Severity::kWarning, "job.nodes",
         fmt::format("ranks {} and {} both run on {} and share no memory: between them everything goes over the network",
                     other.rank, member.rank, member.host),
         "run them in one container, or as one user in one network namespace; two machines of one name need other names"});
    break;  // one pair shows it
  }
  return found;
}

}  // namespace cardea::doctor
