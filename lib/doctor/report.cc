// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

namespace cardea::doctor {
namespace {

std::string rate(double bytes_per_second) {
  return bytes_per_second <= 0 ? "-" : fmt::format("{:.2f}", bytes_per_second / 1e9);
}

std::string latency(double seconds) {
  return seconds <= 0 ? "-" : fmt::format("{:.1f}", seconds * 1e6);
}

}  // namespace

std::string to_text(const Report& report) {
  std::string text;
  const auto to = std::back_inserter(text);
  for (const Section& section : report.sections) {
    std::size_t width = 0;
    for (const auto& [name, value] : section.lines) width = std::max(width, name.size());
    fmt::format_to(to, "{}\n", section.title);
    for (const auto& [name, value] : section.lines) fmt::format_to(to, "  {:{}}  {}\n", name, width, value);
    text += '\n';
  }

  fmt::format_to(to, "paths\n  {}\n", report.probed);
  if (!report.members.empty()) {
    std::size_t host = 4, way = 3;
    for (const Member& member : report.members) {
      for (const Peer& peer : member.peers) {
        host = std::max(host, peer.host.size());
        way = std::max(way, peer.way.size());
      }
    }
    fmt::format_to(to, "  {:>5} {:>5} {:>5}  {:{}}  {:12}  {:{}}  {:>10} {:>9}\n", "rank", "peer", "node", "host", host,
                   "path", "by", way, "latency us", "GB/s");
    for (const Member& member : report.members) {
      for (const Peer& peer : member.peers) {
        fmt::format_to(to, "  {:>5} {:>5} {:>5}  {:{}}  {:12}  {:{}}  {:>10} {:>9}{}{}\n", member.rank, peer.rank, peer.node,
                       peer.host, host, peer.path.empty() ? "none" : peer.path, peer.way, way, latency(peer.seconds),
                       rate(peer.bytes_per_second), peer.error.empty() ? "" : "  ", peer.error);
      }
    }
  }

  text += "\nfindings\n";
  if (report.findings.empty()) text += "  none\n";
  Findings sorted = report.findings;
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.severity > b.severity; });
  for (const Finding& finding : sorted) {
    fmt::format_to(to, "  {:7}  {}: {}\n           → {}\n", to_string(finding.severity), finding.kind, finding.what,
                   finding.advice);
  }
  fmt::format_to(
      to, "\n{}\n",
      something_is_off(report.findings) ? "something is off, see the findings" : "all is well, as far as can be seen");
  return text;
}

std::string to_json(const Report& report) {
  nlohmann::ordered_json all;
  all["ok"] = !something_is_off(report.findings);
  nlohmann::ordered_json sections = nlohmann::ordered_json::object();
  for (const Section& section : report.sections) {
    nlohmann::ordered_json lines = nlohmann::ordered_json::array();
    for (const auto& [name, value] : section.lines) lines.push_back({{"name", name}, {"value", value}});
    sections[section.title] = std::move(lines);
  }
  all["sections"] = std::move(sections);
  all["probed"] = report.probed;
  all["members"] = nlohmann::ordered_json::array();
  for (const Member& member : report.members) all["members"].push_back(nlohmann::ordered_json::parse(to_json(member)));
  all["findings"] = nlohmann::ordered_json::array();
  for (const Finding& finding : report.findings) {
    all["findings"].push_back({{"severity", to_string(finding.severity)},
                               {"kind", finding.kind},
                               {"what", finding.what},
                               {"advice", finding.advice}});
  }
  return all.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace cardea::doctor
