// SPDX-License-Identifier: Apache-2.0
// fetch_perf's table in the manner of nccl-tests: a row for each way and size, each beside the raw limits measured between
// its own iterations, with its bytes checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cardea::perf {

struct TableSettings {
  std::size_t least = 1 << 20, most = 64 << 20;
  std::size_t step = 0;  // bytes from size to size; 0: by the factor
  double factor = 4;
  unsigned experts = 4;  // of each fetch
  unsigned iterations = 20, warmup = 3;
  bool check = true;
  bool spoil = false;  // changes a byte behind the library's back, to show that the check finds it
  std::vector<std::string> ways = {"mapped", "copy", "network"};
};

/// A raw limit beside a row: the same bytes, moved as plainly as can be.
struct RawLimit {
  std::string name;  // "memcpy", "socket", "UCX AM"
  double rate = 0;   // bytes/s
};

struct TableRow {
  std::string way;
  std::size_t bytes = 0;  // of an expert
  unsigned experts = 0;
  std::vector<double> times;  // of each iteration, seconds from cardea_fetch to the last view
  std::uint64_t wrong = 0;    // bytes
  bool moves = true;          // false: mapped, so that a rate means nothing
  std::vector<RawLimit> limits;

  double time() const;  // mean
  double algbw() const { return static_cast<double>(bytes) * experts / time(); }
  double busbw() const { return algbw(); }  // one sender, one receiver: what is moved is what is asked for
  /// Of the best limit.
  double ratio() const;
};

/// Measures one row. Throws std::runtime_error.
TableRow measure_row(const TableSettings& settings, const std::string& way, std::size_t bytes);
std::vector<std::size_t> sizes_of(const TableSettings& settings);

std::string table_head(const TableSettings& settings);
std::string to_line(const TableRow& row);
std::string table_foot(const std::vector<TableRow>& rows);
/// For perf/plot.py.
std::string to_json(const TableSettings& settings, const std::vector<TableRow>& rows);

}  // namespace cardea::perf
