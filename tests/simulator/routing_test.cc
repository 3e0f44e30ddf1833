// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/routing.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <numeric>

namespace cardea::simulator {
namespace {

Plan plan_with(std::string routing) {
  Plan plan;
  plan.experts = 8;
  plan.top_k = 2;
  plan.tokens = 100;
  plan.routing = std::move(routing);
  return plan;
}

std::string file_with(const std::string& text) {
  const std::string path = testing::TempDir() + "/routing.csv";
  std::ofstream(path) << text;
  return path;
}

TEST(Routing, OfAllIsEven) {
  const Routing routing = *Routing::make(plan_with("all"));
  EXPECT_EQ(routing.wanted(0, 0, 0).size(), 8u);
  EXPECT_DOUBLE_EQ(routing.tokens(0, 0, 0)[3], 25);
}

TEST(Routing, OfZipfIsSkewedAndTheSameForTheSameSeed) {
  Plan plan = plan_with("zipf");
  plan.zipf = 1.5;
  const Routing routing = *Routing::make(plan);
  std::vector<double> tokens = routing.tokens(0, 0, 0);
  EXPECT_EQ(tokens, Routing::make(plan)->tokens(0, 0, 0));
  EXPECT_NE(tokens, routing.tokens(0, 0, 1)) << "ranks draw for themselves";
  std::sort(tokens.begin(), tokens.end());
  EXPECT_GT(tokens.back(), 4 * tokens.front());
  EXPECT_LE(tokens.back(), 100) << "no expert has more than all tokens";
}

TEST(Routing, FromAFileFollowsItsCounts) {
  const std::string path = file_with("iter,rank,layer,e0,e1,e2\n1,0,0,10,0,30\n1,1,0,0,5,0\n");
  const Routing routing = *Routing::make(plan_with(path));
  EXPECT_EQ(routing.wanted(0, 0, 0), (std::vector<ExpertIndex>{0, 2}));
  EXPECT_EQ(routing.wanted(0, 0, 1), (std::vector<ExpertIndex>{1}));
  EXPECT_EQ(routing.wanted(5, 7, 2), routing.wanted(0, 0, 0)) << "what it does not tell is taken in turns";
}

TEST(Routing, RefusesWhatItCannotRead) {
  const std::pair<std::string, std::string> wrong[] = {{"layer\n0\n", "no column"}, {"e0,e9\n1,2\n", "expert 9"},
                                                       {"e0,e1\n1\n", "line 2"},    {"e0,e1\n1,x\n", "no count"},
                                                       {"e0,e1\n", "no rows"},      {"e0,e1\n0,0\n", "nothing"}};
  for (const auto& [text, what] : wrong) {
    const Result<Routing> routing = Routing::make(plan_with(file_with(text)));
    ASSERT_FALSE(routing.ok()) << text;
    EXPECT_NE(routing.status().message().find(what), std::string::npos) << routing.status().message();
  }
  EXPECT_FALSE(Routing::make(plan_with("/nowhere")).ok());
}

}  // namespace
}  // namespace cardea::simulator
