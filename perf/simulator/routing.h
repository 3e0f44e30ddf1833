// SPDX-License-Identifier: Apache-2.0
// How many tokens of each rank go to each expert of a layer, and so which experts the rank wants: all evenly, skewed by a
// seeded Zipf law, or as counts in a file say. Immutable once made.
//
// A file of counts is CSV. Its first line names the columns: e0, e1, … are counts of the experts; "layer", "rank" and
// "iter" say what a row is about, other columns are ignored. Rows of one layer, rank and step are summed; what a layer,
// rank or step has no rows of its own is taken from those that are there, in turns. Without a "rank" column all ranks share.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "perf/simulator/plan.h"

namespace cardea::simulator {

class Routing {
 public:
  /// INVALID_ARGUMENT if the file cannot be read or says something else than this.
  static Result<Routing> make(const Plan& plan);

  /// Tokens for each expert. Sums to about tokens * top_k.
  std::vector<double> tokens(std::uint64_t step, std::uint64_t layer, Rank rank) const;
  /// The experts that have any.
  std::vector<ExpertIndex> wanted(std::uint64_t step, std::uint64_t layer, Rank rank) const;
  /// Of computing with one expert.
  Nanoseconds compute_time(double tokens) const;

 private:
  explicit Routing(const Plan& plan) : plan_(plan) {}
  Status read(const std::string& path);
  std::vector<double> shares(std::uint64_t step, std::uint64_t layer, Rank rank) const;

  Plan plan_;
  // step, layer, rank → counts; the keys are places in the order of the numbers found
  std::vector<std::vector<std::vector<std::vector<double>>>> counts_;
};

}  // namespace cardea::simulator
