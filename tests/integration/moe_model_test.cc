// SPDX-License-Identifier: Apache-2.0
// The parts of examples/moe_forward that stand apart from Cardea, against slow and obvious calculations in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>

#include "forward.h"
#include "model.h"
#include "report.h"
#include "routing.h"
#include "text.h"

namespace moe {
namespace {

Shape small_shape() {
  return {.hidden = 24, .inner = 40, .experts = 6, .top_k = 2, .layers = 2, .seed = 7};
}

std::vector<std::uint8_t> some_tokens(std::size_t count) {
  std::vector<std::uint8_t> tokens(count);
  for (std::size_t i = 0; i < count; ++i) tokens[i] = static_cast<std::uint8_t>(i * i * 31 + 7 * i);
  return tokens;
}

/// One row through an expert, in double.
std::vector<double> naive_expert(const Shape& s, const ExpertWeights& w, const float* in) {
  std::vector<double> activated(s.inner);
  for (std::uint32_t i = 0; i < s.inner; ++i) {
    double gate = 0.0;
    double up = 0.0;
    for (std::uint32_t j = 0; j < s.hidden; ++j) {
      gate += double{w.w13[std::size_t{i} * s.hidden + j]} * in[j];
      up += double{w.w13[(std::size_t{s.inner} + i) * s.hidden + j]} * in[j];
    }
    activated[i] = gate / (1.0 + std::exp(-gate)) * up;
  }
  std::vector<double> out(s.hidden);
  for (std::uint32_t j = 0; j < s.hidden; ++j) {
    for (std::uint32_t i = 0; i < s.inner; ++i) out[j] += w.w2[std::size_t{j} * s.inner + i] * activated[i];
  }
  return out;
}

/// Gives the experts in the opposite order.
class ReversedExperts : public ExpertSource {
 public:
  explicit ReversedExperts(const Shape& shape) : local_(shape) {}
  void visit(std::uint32_t layer, std::uint64_t version, std::span<const std::uint32_t> experts,
             const Compute& compute) override {
    const std::vector<std::uint32_t> reversed(experts.rbegin(), experts.rend());
    local_.visit(layer, version, reversed, compute);
  }

 private:
  LocalExperts local_;
};

std::vector<float> run_model(const Shape& s, std::uint64_t version, ExpertSource& source, std::vector<float> x) {
  ForwardTimes times;
  for (std::uint32_t l = 0; l < s.layers; ++l) forward_layer(s, make_gate(s, l), l, version, source, x, times);
  return x;
}

TEST(Text, RanksTakePartsThatFollowOneAnotherAndGoRound) {
  const std::vector<std::uint8_t> text = {10, 11, 12, 13, 14};
  EXPECT_EQ(tokens_of_rank(text, 0, 3), (std::vector<std::uint8_t>{10, 11, 12}));
  EXPECT_EQ(tokens_of_rank(text, 1, 3), (std::vector<std::uint8_t>{13, 14, 10}));
  EXPECT_EQ(tokens_of_rank(text, 2, 7), (std::vector<std::uint8_t>{14, 10, 11, 12, 13, 14, 10}));
}

TEST(Text, DefaultIsALicence) {
  const Text text = load_text("");
  EXPECT_GT(text.bytes.size(), 5000u);
  EXPECT_FALSE(text.path.empty());
}

TEST(Text, AFileThatIsMissingOrEmptyIsNamed) {
  try {
    load_text("/nonexistent/text");
    FAIL() << "a missing file was read";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent/text"), std::string::npos) << error.what();
  }
  EXPECT_THROW(load_text("/dev/null"), std::runtime_error);
}

TEST(Model, ExpertEqualsTheNaiveLoop) {
  const Shape s = small_shape();
  std::vector<float> w13(s.w13_floats());
  std::vector<float> w2(s.w2_floats());
  make_expert(s, 1, 3, w13, w2);
  const std::size_t rows = 515;  // more than one block
  std::vector<float> in(rows * s.hidden);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = std::sin(static_cast<float>(i));
  std::vector<float> out(in.size());
  run_expert(s, {w13, w2}, in, out);
  for (const std::size_t row : {std::size_t{0}, std::size_t{511}, std::size_t{512}, rows - 1}) {
    const std::vector<double> expected = naive_expert(s, {w13, w2}, &in[row * s.hidden]);
    for (std::uint32_t j = 0; j < s.hidden; ++j) EXPECT_NEAR(out[row * s.hidden + j], expected[j], 1e-5) << row << " " << j;
  }
}

TEST(Model, WeightsFollowFromSeedLayerAndExpertAlone) {
  const Shape s = small_shape();
  std::vector<float> w13(s.w13_floats()), again(s.w13_floats()), other(s.w13_floats()), w2(s.w2_floats());
  make_expert(s, 0, 1, w13, w2);
  make_expert(s, 0, 1, again, w2);
  EXPECT_EQ(w13, again);
  make_expert(s, 0, 2, other, w2);
  EXPECT_NE(w13, other);
  make_expert(s, 1, 1, other, w2);
  EXPECT_NE(w13, other);
  Shape seeded = s;
  seeded.seed = 8;
  make_expert(seeded, 0, 1, other, w2);
  EXPECT_NE(w13, other);
}

TEST(Model, WeightsHaveTheVarianceOfTheirFanIn) {
  Shape s = small_shape();
  s.hidden = 200;
  s.inner = 300;
  std::vector<float> w13(s.w13_floats()), w2(s.w2_floats());
  make_expert(s, 0, 0, w13, w2);
  double sum = 0.0;
  double squares = 0.0;
  for (const float w : w13) {
    sum += w;
    squares += double{w} * w;
  }
  const auto n = static_cast<double>(w13.size());
  EXPECT_NEAR(sum / n, 0.0, 0.001);
  EXPECT_NEAR(squares / n * s.hidden, 1.0, 0.02);
}

TEST(Model, AnExpertOfAnotherVersionWouldNotPassTheCheck) {
  const Shape s = small_shape();
  const std::vector<float> x = embed(s, some_tokens(64));
  LocalExperts experts(s);
  std::vector<std::vector<float>> results;
  for (std::uint64_t version = 1; version <= 20; ++version) results.push_back(run_model(s, version, experts, x));
  for (std::size_t a = 0; a < results.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      EXPECT_GT(max_norm_error(results[a], results[b]), 1e-3) << "versions " << a + 1 << " and " << b + 1;
    }
  }
}

TEST(Model, EmbeddingDependsOnTheThreeBytesBeforeAndNoMore) {
  const Shape s = small_shape();
  const std::vector<std::uint8_t> tokens = {1, 2, 3, 4, 9, 2, 3, 4, 1, 1, 3, 4};
  const std::vector<float> x = embed(s, tokens);
  const auto row = [&](std::size_t t) { return std::vector<float>(&x[t * s.hidden], &x[t * s.hidden] + s.hidden); };
  EXPECT_NE(row(3), row(7));   // 1 2 3 4 and 9 2 3 4
  EXPECT_NE(row(7), row(11));  // 9 2 3 4 and 1 1 3 4
  const std::vector<std::uint8_t> longer = {5, 5, 1, 2, 3, 4};
  const std::vector<float> y = embed(s, longer);
  EXPECT_EQ(row(3), std::vector<float>(&y[5 * s.hidden], &y[5 * s.hidden] + s.hidden));
}

TEST(Model, NormedRowsHaveUnitMeanSquare) {
  const Shape s = small_shape();
  const std::vector<float> normed = rms_norm(s, embed(s, some_tokens(5)));
  for (std::size_t row = 0; row < 5; ++row) {
    double squares = 0.0;
    for (std::uint32_t i = 0; i < s.hidden; ++i) squares += double{normed[row * s.hidden + i]} * normed[row * s.hidden + i];
    EXPECT_NEAR(squares / s.hidden, 1.0, 1e-4);
  }
}

TEST(Model, ErrorIsTheLargestDifferenceOverTheLargestMagnitude) {
  const std::vector<float> reference = {1.0f, -4.0f, 2.0f};
  EXPECT_EQ(max_norm_error(reference, reference), 0.0);
  EXPECT_DOUBLE_EQ(max_norm_error(std::vector<float>{1.0f, -4.0f, 3.0f}, reference), 0.25);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isinf(max_norm_error(std::vector<float>{1.0f, nan, 2.0f}, reference)));
}

TEST(Routing, TakesTheLargestLogitsAndSortsThemByExpert) {
  Shape s = small_shape();
  s.experts = 4;
  const std::vector<float> logits = {0.0f, 3.0f,  1.0f, 2.0f,   // 1 and 3
                                     5.0f, 5.0f,  5.0f, 5.0f,   // equal: the lowest two
                                     9.0f, -1.0f, 0.0f, 8.0f};  // 0 and 3
  const Routing r = route_logits(s, logits);
  EXPECT_EQ(r.expert, (std::vector<std::uint32_t>{1, 3, 0, 1, 0, 3}));
  EXPECT_NEAR(r.weight[0], std::exp(3.0) / (std::exp(3.0) + std::exp(2.0)), 1e-6);
  EXPECT_NEAR(r.weight[0] + r.weight[1], 1.0, 1e-6);
  EXPECT_NEAR(r.weight[2], 0.5, 1e-6);
  EXPECT_EQ(r.chosen(), (std::vector<std::uint32_t>{0, 1, 3}));
}

TEST(Routing, LargeLogitsDoNotOverflow) {
  Shape s = small_shape();
  s.experts = 2;
  const Routing r = route_logits(s, std::vector<float>{1000.0f, 998.0f});
  EXPECT_NEAR(r.weight[0], 1.0 / (1.0 + std::exp(-2.0)), 1e-6);
}

TEST(Routing, EveryChoiceHasItsOwnRowAmongItsExperts) {
  const Shape s = small_shape();
  const std::vector<float> x = rms_norm(s, embed(s, some_tokens(200)));
  const Routing r = route(s, x, make_gate(s, 0));
  ASSERT_EQ(r.row.size(), 400u);
  std::set<std::uint32_t> rows(r.row.begin(), r.row.end());
  EXPECT_EQ(rows.size(), 400u);
  for (std::uint32_t choice = 0; choice < r.row.size(); ++choice) {
    const std::uint32_t row = r.row[choice];
    const std::uint32_t expert = r.expert[choice];
    EXPECT_GE(row, r.first_row[expert]);
    EXPECT_LT(row, r.first_row[expert + 1]);
    EXPECT_EQ(r.token[row], choice / s.top_k);
  }
  EXPECT_EQ(r.first_row[s.experts], 400u);
}

TEST(Routing, AllToAllCountsATokenOncePerRankOfAnotherNode) {
  Shape s = small_shape();  // experts 0 and 1 at rank 0, 2 and 3 at rank 1, 4 at rank 2, 5 at rank 3
  s.top_k = 3;
  const std::vector<std::uint32_t> home = {0, 0, 1, 1, 2, 3};
  const std::vector<std::uint32_t> node = {0, 0, 1, 1};
  const auto logits_of = [&](std::vector<std::vector<std::uint32_t>> choices) {
    std::vector<float> logits;
    for (const auto& token : choices) {
      for (std::uint32_t e = 0; e < s.experts; ++e) {
        logits.push_back(std::find(token.begin(), token.end(), e) != token.end() ? 1.0f : 0.0f);
      }
    }
    return logits;
  };
  const std::uint64_t trip = 2 * s.hidden * 4;
  // Seen from node 0, whose ranks are 0 and 1: only experts 4 and 5 are elsewhere, on two ranks.
  EXPECT_EQ(all_to_all_bytes(s, route_logits(s, logits_of({{0, 1, 2}})), home, node, 0), 0u);
  EXPECT_EQ(all_to_all_bytes(s, route_logits(s, logits_of({{0, 1, 4}})), home, node, 0), trip);
  EXPECT_EQ(all_to_all_bytes(s, route_logits(s, logits_of({{0, 4, 5}, {3, 4, 5}})), home, node, 0), 4 * trip);
  // Seen from node 1: 0 and 1 share a rank, and cost one trip.
  EXPECT_EQ(all_to_all_bytes(s, route_logits(s, logits_of({{0, 1, 4}})), home, node, 1), trip);
  EXPECT_EQ(all_to_all_bytes(s, route_logits(s, logits_of({{0, 1, 2}})), home, node, 1), 2 * trip);
}

TEST(Routing, AGuessSharesTheChoicesOfEachTokenWhateverTheirPlace) {
  Shape s = small_shape();                                                     // top-2 of 6
  const std::vector<float> real = {1, 2, 0, 0, 0, 0, /**/ 0, 0, 0, 0, 3, 4};   // {0, 1}, {4, 5}
  const std::vector<float> guess = {0, 2, 1, 0, 0, 0, /**/ 1, 2, 0, 0, 0, 0};  // {1, 2}, {0, 1}: one right, then none
  EXPECT_EQ(choices_shared(route_logits(s, guess), route_logits(s, real)), 1u);
  EXPECT_EQ(choices_shared(route_logits(s, real), route_logits(s, real)), 4u);
}

TEST(Routing, RatioIsThatOfJanus) {
  Shape s = small_shape();
  s.hidden = 768;
  s.top_k = 2;
  s.experts = 32;
  // B S k / (4 n H E) with 32768 tokens, 4 nodes, 32 ranks with 1 expert each.
  EXPECT_DOUBLE_EQ(janus_ratio(s, 32768, 4, 32), 32768.0 * 2 / (4.0 * 4 * 768 * 1));
}

TEST(Routing, HomesAreContiguousAndAsEvenAsCanBe) {
  for (const std::uint32_t experts : {1u, 3u, 8u, 17u}) {
    for (const std::uint32_t ranks : {1u, 2u, 4u, 5u, 20u}) {
      std::vector<std::uint32_t> count(ranks);
      std::uint32_t before = 0;
      for (std::uint32_t e = 0; e < experts; ++e) {
        const std::uint32_t home = home_of(e, experts, ranks);
        ASSERT_LT(home, ranks);
        EXPECT_GE(home, before);
        before = home;
        ++count[home];
      }
      const auto [least, most] = std::minmax_element(count.begin(), count.end());
      EXPECT_LE(*most - *least, 1u) << experts << " experts, " << ranks << " ranks";
    }
  }
}

TEST(Forward, EqualsTheNaiveLoop) {
  const Shape s = small_shape();
  const std::vector<float> x = embed(s, some_tokens(50));
  const std::vector<float> gate = make_gate(s, 0);
  LocalExperts experts(s);
  ForwardTimes times;
  std::vector<float> result = x;
  forward_layer(s, gate, 0, 1, experts, result, times);

  const std::vector<float> normed = rms_norm(s, x);
  std::vector<float> w13(s.w13_floats()), w2(s.w2_floats());
  for (std::size_t t = 0; t < 50; ++t) {
    std::vector<double> logit(s.experts);
    for (std::uint32_t e = 0; e < s.experts; ++e) {
      for (std::uint32_t j = 0; j < s.hidden; ++j) {
        logit[e] += double{gate[std::size_t{e} * s.hidden + j]} * normed[t * s.hidden + j];
      }
    }
    std::vector<std::uint32_t> order(s.experts);
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return logit[a] > logit[b]; });
    const double sum = std::exp(logit[order[0]]) + std::exp(logit[order[1]]);
    std::vector<double> expected(&x[t * s.hidden], &x[t * s.hidden] + s.hidden);
    for (const std::uint32_t e : {order[0], order[1]}) {
      make_expert(s, 0, e, w13, w2);
      const std::vector<double> out = naive_expert(s, {w13, w2}, &normed[t * s.hidden]);
      for (std::uint32_t j = 0; j < s.hidden; ++j) expected[j] += std::exp(logit[e]) / sum * out[j];
    }
    for (std::uint32_t j = 0; j < s.hidden; ++j) EXPECT_NEAR(result[t * s.hidden + j], expected[j], 1e-5);
  }
}

TEST(Forward, OrderOfArrivalDoesNotChangeABit) {
  const Shape s = small_shape();
  const std::vector<float> x = embed(s, some_tokens(300));
  LocalExperts forwards(s);
  ReversedExperts backwards(s);
  EXPECT_EQ(run_model(s, 3, forwards, x), run_model(s, 3, backwards, x));
}

RunDescription two_by_two() {
  return {
      .shape = {.hidden = 256, .inner = 768, .experts = 8}, .ranks = 4, .nodes = 2, .tokens = 8192, .steps = 1, .slots = 3};
}

/// The table's line that begins with `label`, without runs of blanks.
std::string line_of(const std::string& table, const std::string& label) {
  const std::size_t begin = table.find("\n  " + label) + 3;
  std::string line = table.substr(begin, table.find('\n', begin) - begin);
  line.erase(std::unique(line.begin(), line.end(), [](char a, char b) { return a == ' ' && b == ' '; }), line.end());
  return line;
}

TEST(Report, SumsTheRanks) {
  std::vector<RankReport> reports(4);
  for (RankReport& r : reports) {
    r.experts_home = 1;
    r.experts_network = 3;
    r.bytes_network_received = 3 << 20;
    r.bytes_all_to_all = 6 << 20;
    r.fetch_span = 1'000'000'000;
    r.fetch_blocked = 250'000'000;
  }
  reports[2].collect = 2'000'000'000;
  const std::string table = format_table(two_by_two(), reports);
  EXPECT_EQ(line_of(table, "home"), "home 4 25.0 %");
  EXPECT_EQ(line_of(table, "network"), "network 12 75.0 %");
  EXPECT_EQ(line_of(table, "experts moved (counted)"), "experts moved (counted) 12.0 1.00");
  EXPECT_EQ(line_of(table, "all-to-all would have sent"), "all-to-all would have sent 24.0 2.00");
  EXPECT_EQ(line_of(table, "R ="), "R = B S k / (4 n H E) 4.00");
  EXPECT_EQ(line_of(table, "hidden behind computation"), "hidden behind computation 75.0 %");
  EXPECT_EQ(line_of(table, "collecting versions"), "collecting versions 0.500 2.000");
  EXPECT_NE(table.find("PASS"), std::string::npos);
}

TEST(Report, TellsWhatTheNodeCacheServedAndHowGoodTheGuessesWere) {
  std::vector<RankReport> reports(4);
  for (RankReport& r : reports) {
    r.experts_network = 1;
    r.experts_cache = 3;
    r.bytes_network_received = two_by_two().shape.expert_bytes();
    r.bytes_prefetch_wasted = r.bytes_network_received / 2;
    r.prefetched = 4;
    r.prefetched_chosen = 3;
    r.choices_guessed = 100;
    r.choices_right = 90;
  }
  RunDescription run = two_by_two();
  std::string table = format_table(run, reports);
  EXPECT_EQ(line_of(table, "node cache"), "node cache 12 75.0 %");
  EXPECT_TRUE(line_of(table, "served from the node cache").ends_with(" 3.00"));
  EXPECT_EQ(table.find("prefetch"), std::string::npos);
  run.prefetch = true;
  table = format_table(run, reports);
  EXPECT_EQ(line_of(table, "tokens' choices guessed right"), "tokens' choices guessed right 360 90.0 %");
  EXPECT_EQ(line_of(table, "experts prefetched"), "experts prefetched 16 ");
  EXPECT_EQ(line_of(table, "of them chosen"), "of them chosen 12 75.0 %");
  EXPECT_TRUE(line_of(table, "MiB moved and never read").ends_with(" 50.0 %"));
}

TEST(Report, OneRankOverTheLimitIsAFailure) {
  std::vector<RankReport> reports(4);
  reports[3].error = kErrorLimit;
  EXPECT_TRUE(passed(reports));
  reports[3].error = 2 * kErrorLimit;
  EXPECT_FALSE(passed(reports));
  const std::string table = format_table(two_by_two(), reports);
  EXPECT_NE(table.find("FAIL"), std::string::npos);
  EXPECT_EQ(table.find("PASS"), std::string::npos);
  reports[3].error = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(passed(reports));
}

TEST(Report, NothingIsClaimedThatWasNotChecked) {
  RunDescription run = two_by_two();
  run.checked = false;
  const std::string table = format_table(run, std::vector<RankReport>(4));
  EXPECT_EQ(table.find("PASS"), std::string::npos);
}

}  // namespace
}  // namespace moe
