// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/routing.h"

#include <charconv>
#include <cmath>
#include <fstream>
#include <numeric>
#include <sstream>

#include "perf/simulator/random.h"

namespace cardea::simulator {
namespace {

std::vector<std::string> cells(const std::string& line) {
  std::vector<std::string> found;
  std::istringstream in(line);
  for (std::string cell; std::getline(in, cell, ',');) found.push_back(std::move(cell));
  return found;
}

bool whole(const std::string& text, std::uint64_t& value) {
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  return end.ec == std::errc() && end.ptr == text.data() + text.size();
}

}  // namespace

Result<Routing> Routing::make(const Plan& plan) {
  Routing made(plan);
  if (plan.routing != "all" && plan.routing != "zipf") {
    if (const Status status = made.read(plan.routing); !status.ok()) return status;
  }
  return made;
}

Status Routing::read(const std::string& path) {
  const auto wrong = [&](std::string_view what) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "routing {}: {}", path, what);
  };
  std::ifstream in(path);
  if (!in) return wrong("neither all, nor zipf, nor a file that can be read");
  std::string line;
  if (!std::getline(in, line)) return wrong("is empty");
  std::map<std::size_t, ExpertIndex> expert_in;
  std::map<std::string, std::size_t> column;
  const std::vector<std::string> names = cells(line);
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::uint64_t expert = 0;
    if (names[i].starts_with('e') && whole(names[i].substr(1), expert)) {
      if (expert >= plan_.experts) return wrong(fmt::format("counts expert {}; the layer has {}", expert, plan_.experts));
      expert_in[i] = static_cast<ExpertIndex>(expert);
    } else {
      column[names[i]] = i;
    }
  }
  if (expert_in.empty()) return wrong("its first line names no column e0, e1, …");

  std::map<std::uint64_t, std::map<std::uint64_t, std::map<std::uint64_t, std::vector<double>>>> found;
  for (std::uint64_t at = 2; std::getline(in, line); ++at) {
    const std::vector<std::string> row = cells(line);
    if (row.size() != names.size())
      return wrong(fmt::format("line {} has {} cells; the first has {}", at, row.size(), names.size()));
    const auto key = [&](const char* name, std::uint64_t& value) {
      const auto where = column.find(name);
      return where == column.end() || whole(row[where->second], value);
    };
    std::uint64_t step = 0, layer = 0, rank = 0;
    if (!key("iter", step) || !key("layer", layer) || !key("rank", rank))
      return wrong(fmt::format("line {}: no number", at));
    auto& counts = found[step][layer][rank];
    counts.resize(plan_.experts);
    for (const auto& [i, expert] : expert_in) {
      std::uint64_t count = 0;
      if (!whole(row[i], count)) return wrong(fmt::format("line {}: \"{}\" is no count", at, row[i]));
      counts[expert] += static_cast<double>(count);
    }
  }
  if (found.empty()) return wrong("has no rows");
  for (auto& [step, layers] : found) {
    auto& to = counts_.emplace_back();
    for (auto& [layer, ranks] : layers) {
      auto& of_layer = to.emplace_back();
      for (auto& [rank, counts] : ranks) {
        if (std::accumulate(counts.begin(), counts.end(), 0.0) == 0)
          return wrong(fmt::format("layer {} rank {} counts nothing", layer, rank));
        of_layer.push_back(std::move(counts));
      }
    }
  }
  return {};
}

std::vector<double> Routing::shares(std::uint64_t step, std::uint64_t layer, Rank rank) const {
  std::vector<double> shares(plan_.experts, 1.0);
  if (!counts_.empty()) {
    const auto& layers = counts_[step % counts_.size()];
    const auto& ranks = layers[layer % layers.size()];
    shares = ranks[rank % ranks.size()];
  } else if (plan_.routing == "zipf") {
    Random random(plan_.seed, 0x21bf ^ layer << 20);  // which experts are hot differs by layer, not by rank
    std::vector<ExpertIndex> order(plan_.experts);
    std::iota(order.begin(), order.end(), 0u);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    for (std::size_t i = 0; i < order.size(); ++i) shares[order[i]] = std::pow(static_cast<double>(i + 1), -plan_.zipf);
  }
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

std::vector<double> Routing::tokens(std::uint64_t step, std::uint64_t layer, Rank rank) const {
  std::vector<double> tokens = shares(step, layer, rank);
  const auto pairs = static_cast<double>(plan_.tokens * plan_.top_k);
  if (plan_.routing == "all") {
    for (double& of : tokens) of *= pairs;
    return tokens;
  }
  // A whole number, and no expert has more than all tokens; the rest is drawn, so that ranks differ.
  Random random(plan_.seed, 0x70ce ^ step << 40 ^ layer << 20 ^ rank);
  for (double& of : tokens) of = std::min(std::floor(of * pairs + random.unit()), static_cast<double>(plan_.tokens));
  return tokens;
}

std::vector<ExpertIndex> Routing::wanted(std::uint64_t step, std::uint64_t layer, Rank rank) const {
  std::vector<ExpertIndex> wanted;
  const std::vector<double> all = tokens(step, layer, rank);
  for (std::size_t e = 0; e < all.size(); ++e) {
    if (all[e] > 0) wanted.push_back(static_cast<ExpertIndex>(e));
  }
  if (wanted.empty()) wanted.push_back(0);
  return wanted;
}

Nanoseconds Routing::compute_time(double tokens) const {
  double time = static_cast<double>(plan_.expert_time);
  // Two bytes and two operations for each parameter and token: bytes * tokens operations.
  if (plan_.tflops > 0) time += tokens * static_cast<double>(plan_.expert_bytes) / (plan_.tflops * 1e3);
  return Nanoseconds(static_cast<std::int64_t>(std::llround(time)));
}

}  // namespace cardea::simulator
