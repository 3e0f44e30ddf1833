// SPDX-License-Identifier: Apache-2.0
#include "topology/cpu_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace cardea::topology {
namespace {

template <typename Use>
bool each_part(std::string_view text, const Use& use) {
  while (true) {
    const auto comma = text.find(',');
    if (!use(text.substr(0, comma))) return false;
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
  }
}

std::optional<unsigned> number(std::string_view text, int base) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

}  // namespace

CpuSet::CpuSet(const std::vector<unsigned>& numbers) {
  for (const unsigned each : numbers) add(each);
}

std::optional<CpuSet> CpuSet::parse_mask(std::string_view text) {
  if (static_cast<unsigned>(std::count(text.begin(), text.end(), ',')) >= kMost / 32) return {};
  std::vector<unsigned> words;
  const bool good = each_part(text, [&](std::string_view word) {
    if (word.substr(0, 2) == "0x") word.remove_prefix(2);
    const auto value = word.empty() ? std::optional(0U) : word.size() > 8 ? std::nullopt : number(word, 16);
    if (value) words.push_back(*value);
    return value.has_value();
  });
  if (!good) return {};
  CpuSet set;
  for (std::size_t word = 0; word < words.size(); ++word) {
    const unsigned value = words[words.size() - 1 - word];
    for (unsigned bit = 0; bit < 32; ++bit) {
      if (value >> bit & 1) set.add(static_cast<unsigned>(word) * 32 + bit);
    }
  }
  return set;
}

std::optional<CpuSet> CpuSet::parse_list(std::string_view text) {
  CpuSet set;
  if (text.empty()) return set;
  const bool good = each_part(text, [&](std::string_view part) {
    const auto dash = part.find('-');
    const auto first = number(part.substr(0, dash), 10);
    const auto last = dash == std::string_view::npos ? first : number(part.substr(dash + 1), 10);
    if (!first || !last || *first > *last || *last >= kMost) return false;
    for (unsigned each = *first; each <= *last; ++each) set.add(each);
    return true;
  });
  if (!good) return {};
  return set;
}

void CpuSet::add(unsigned number) {
  if (number >= kMost) return;
  if (number >= bits_.size()) bits_.resize(number + 1);
  bits_[number] = true;
}

bool CpuSet::includes(const CpuSet& other) const {
  const auto all = other.numbers();
  return std::all_of(all.begin(), all.end(), [&](unsigned each) { return has(each); });
}

bool CpuSet::intersects(const CpuSet& other) const {
  return !(*this & other).empty();
}

CpuSet CpuSet::operator&(const CpuSet& other) const {
  CpuSet both;
  for (const unsigned each : numbers()) {
    if (other.has(each)) both.add(each);
  }
  return both;
}

std::vector<unsigned> CpuSet::numbers() const {
  std::vector<unsigned> all;
  for (unsigned each = 0; each < bits_.size(); ++each) {
    if (bits_[each]) all.push_back(each);
  }
  return all;
}

std::string CpuSet::to_list() const {
  std::string text;
  const auto all = numbers();
  for (std::size_t i = 0; i < all.size();) {
    std::size_t last = i;
    while (last + 1 < all.size() && all[last + 1] == all[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", all[i]);
    if (last > i) text += fmt::format("-{}", all[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace cardea::topology
