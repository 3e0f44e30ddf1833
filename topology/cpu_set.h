// SPDX-License-Identifier: Apache-2.0
// A set of processor (or NUMA node) numbers as topology files write it. Value type.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cardea::topology {

class CpuSet {
 public:
  static constexpr unsigned kMost = 65536;  // processors that a file may number

  CpuSet() = default;
  explicit CpuSet(const std::vector<unsigned>& numbers);
  /// hwloc's "0x0000ffff,,0x3" or NCCL's "0000ffff,00000000,00000003": words of 32 bits, the highest first, an empty
  /// word being zero. None if it is anything else or numbers more than kMost processors.
  static std::optional<CpuSet> parse_mask(std::string_view text);
  /// "0-3,8,10-11"; empty text is the empty set. None if it is anything else.
  static std::optional<CpuSet> parse_list(std::string_view text);

  void add(unsigned number);
  bool has(unsigned number) const { return number < bits_.size() && bits_[number]; }
  bool empty() const { return numbers().empty(); }
  bool includes(const CpuSet& other) const;
  bool intersects(const CpuSet& other) const;
  CpuSet operator&(const CpuSet& other) const;
  std::vector<unsigned> numbers() const;  // in order
  std::string to_list() const;            // "0-3,8"

 private:
  std::vector<bool> bits_;
};

}  // namespace cardea::topology
