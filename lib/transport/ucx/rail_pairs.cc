// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/rail_pairs.h"

#include <algorithm>
#include <utility>

namespace cardea::transport::ucx {
namespace {

constexpr std::uint32_t kNone = UINT32_MAX;

template <typename Match>
void pair_where(std::span<const RailAddress> low, std::span<const RailAddress> high, std::vector<std::uint32_t>& of_low,
                std::vector<bool>& taken, Match match) {
  for (std::size_t i = 0; i < low.size(); ++i) {
    for (std::size_t j = 0; j < high.size() && of_low[i] == kNone; ++j) {
      if (taken[j] || !match(low[i], high[j])) continue;
      of_low[i] = static_cast<std::uint32_t>(j);
      taken[j] = true;
    }
  }
}

}  // namespace

std::vector<RailPair> pair_rails(Rank self, std::span<const RailAddress> mine, Rank peer,
                                 std::span<const RailAddress> theirs) {
  const bool lower = self < peer;
  const std::span<const RailAddress> low = lower ? mine : theirs, high = lower ? theirs : mine;
  std::vector<std::uint32_t> of_low(low.size(), kNone);
  std::vector<bool> taken(high.size(), false);
  pair_where(low, high, of_low, taken,
             [](const RailAddress& a, const RailAddress& b) { return !a.network.empty() && a.network == b.network; });
  pair_where(low, high, of_low, taken,
             [](const RailAddress& a, const RailAddress& b) { return a.network.empty() || b.network.empty(); });
  if (std::all_of(of_low.begin(), of_low.end(), [](std::uint32_t j) { return j == kNone; }))
    pair_where(low, high, of_low, taken, [](const RailAddress&, const RailAddress&) { return true; });
  std::vector<RailPair> pairs;
  for (std::uint32_t i = 0; i < of_low.size(); ++i) {
    if (of_low[i] != kNone) pairs.push_back(lower ? RailPair{i, of_low[i]} : RailPair{of_low[i], i});
  }
  return pairs;
}

RailRun run_of(const std::vector<RailPair>& pairs) {
  if (pairs.empty()) return {};
  std::vector<std::uint32_t> mine;
  for (const RailPair& pair : pairs) mine.push_back(pair.mine);
  std::sort(mine.begin(), mine.end());
  RailRun best{pairs.front().mine, 0};
  for (std::size_t from = 0; from < mine.size();) {
    std::size_t to = from + 1;
    while (to < mine.size() && mine[to] == mine[to - 1] + 1) ++to;
    const RailRun run{mine[from], static_cast<std::uint32_t>(to - from)};
    const std::uint32_t main = pairs.front().mine;
    const bool has_main = main >= run.first && main < run.first + run.count;
    if (run.count > best.count || (run.count == best.count && has_main)) best = run;
    from = to;
  }
  return best;
}

}  // namespace cardea::transport::ucx
