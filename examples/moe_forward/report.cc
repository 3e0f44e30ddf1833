// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "routing.h"

namespace moe {
namespace {

std::uint64_t sum(std::span<const RankReport> reports, std::uint64_t RankReport::*field) {
  std::uint64_t total = 0;
  for (const RankReport& r : reports) total += r.*field;
  return total;
}

double mebibytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

bool passed(std::span<const RankReport> reports) {
  return std::all_of(reports.begin(), reports.end(), [](const RankReport& r) { return r.error <= kErrorLimit; });
}

std::string format_table(const RunDescription& run, std::span<const RankReport> reports) {
  std::string text;
  const auto line = [&text]<typename... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
    text += '\n';
  };
  const Shape& s = run.shape;
  line("{} ranks on {} nodes, {} steps of {} layers, {} tokens per rank, top-{} of {} experts ({:.2f} MiB each, {} slots)",
       run.ranks, run.nodes, run.steps, s.layers, run.tokens, s.top_k, s.experts, mebibytes(s.expert_bytes()), run.slots);
  line("hidden {}, inner {}, text {}", s.hidden, s.inner, run.text);

  struct Path {
    const char* name;
    std::uint64_t RankReport::*count;
  };
  const Path paths[] = {{"home", &RankReport::experts_home},
                        {"node, mapped", &RankReport::experts_node_mapped},
                        {"node, copied", &RankReport::experts_node_copied},
                        {"node cache", &RankReport::experts_cache},
                        {"network", &RankReport::experts_network}};
  std::uint64_t all = 0;
  for (const Path& path : paths) all += sum(reports, path.count);
  line("");
  line("{:<36}{:>12}{:>12}", "experts by path, all ranks", "experts", "share");
  for (const Path& path : paths) {
    const std::uint64_t count = sum(reports, path.count);
    line("  {:<34}{:>12}{:>10.1f} %", path.name, count, percent(count, all));
  }

  std::uint64_t from_cache = sum(reports, &RankReport::experts_cache) * s.expert_bytes();
  const std::uint64_t moved = sum(reports, &RankReport::bytes_network_received);
  const std::uint64_t tokens_would = sum(reports, &RankReport::bytes_all_to_all);
  line("");
  line("{:<36}{:>12}{:>12}", "bytes between nodes", "MiB", "ratio");
  line("  {:<34}{:>12.1f}{:>12.2f}", "experts moved (counted)", mebibytes(moved), 1.0);
  line("  {:<34}{:>12.1f}{:>12}", "served from the node cache", mebibytes(from_cache),
       moved == 0 ? "-" : fmt::format("{:.2f}", static_cast<double>(from_cache) / static_cast<double>(moved)));
  line("  {:<34}{:>12.1f}{:>12}", "all-to-all would have sent", mebibytes(tokens_would),
       moved == 0 ? "-" : fmt::format("{:.2f}", static_cast<double>(tokens_would) / static_cast<double>(moved)));
  line("  all-to-all: 2 H 4 bytes for each token and rank of another node with an expert of its choice");
  line("  {:<34}{:>12}{:>12.2f}", "R = B S k / (4 n H E)", "", janus_ratio(s, run.tokens, run.nodes, run.ranks));

  const std::uint64_t span = sum(reports, &RankReport::fetch_span);
  const std::uint64_t blocked = sum(reports, &RankReport::fetch_blocked);
  line("");
  line("{:<36}{:>12}", "fetch time, submit to last ready", "seconds");
  line("  {:<34}{:>12.3f}", "in all, summed over ranks", static_cast<double>(span) / 1e9);
  line("  {:<34}{:>12.3f}", "waited with nothing to compute", static_cast<double>(blocked) / 1e9);
  line("  {:<34}{:>10.1f} %", "hidden behind computation", span == 0 ? 100.0 : 100.0 - percent(blocked, span));

  if (run.prefetch) {
    const std::uint64_t prefetched = sum(reports, &RankReport::prefetched);
    const std::uint64_t chosen = sum(reports, &RankReport::prefetched_chosen);
    const std::uint64_t guessed = sum(reports, &RankReport::choices_guessed);
    const std::uint64_t right = sum(reports, &RankReport::choices_right);
    const std::uint64_t wasted = sum(reports, &RankReport::bytes_prefetch_wasted);
    line("");
    line("{:<36}{:>12}{:>12}", "prefetch, the next layer's experts", "", "share");
    line("  {:<34}{:>12}{:>10.1f} %", "tokens' choices guessed right", right, percent(right, guessed));
    line("  {:<34}{:>12}{:>12}", "experts prefetched", prefetched, "");
    line("  {:<34}{:>12}{:>10.1f} %", "of them chosen", chosen, percent(chosen, prefetched));
    line("  {:<34}{:>12.1f}{:>10.1f} %", "MiB moved and never read", mebibytes(wasted), percent(wasted, moved));
    line("  guess: the next layer's gate, applied to this layer's input");
  }

  const Path phases[] = {{"gate", &RankReport::gate},
                         {"guessing the next layer's experts", &RankReport::guess},
                         {"waiting for experts", &RankReport::fetch_blocked},
                         {"experts", &RankReport::experts},
                         {"combine", &RankReport::combine},
                         {"collecting versions", &RankReport::collect},
                         {"updating weights", &RankReport::update},
                         {"reference (not part of the model)", &RankReport::reference},
                         {"all steps", &RankReport::total}};
  line("");
  line("{:<36}{:>12}{:>12}", "seconds per rank", "mean", "most");
  for (const Path& phase : phases) {
    std::uint64_t most = 0;
    for (const RankReport& r : reports) most = std::max(most, r.*phase.count);
    line("  {:<34}{:>12.3f}{:>12.3f}", phase.name, static_cast<double>(sum(reports, phase.count)) / 1e9 / run.ranks,
         static_cast<double>(most) / 1e9);
  }

  line("");
  if (!run.checked) {
    line("not compared with a single-process run (--no-check)");
    return text;
  }
  double worst = 0.0;
  for (const RankReport& r : reports) worst = std::max(worst, r.error);
  line("{:<36}{:>12.2g}{:>12}", "largest relative error", worst, fmt::format("(<= {:g})", kErrorLimit));
  line("{}: {} a single-process run", passed(reports) ? "PASS" : "FAIL", passed(reports) ? "equals" : "differs from");
  return text;
}

}  // namespace moe
