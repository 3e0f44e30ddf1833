// SPDX-License-Identifier: Apache-2.0
#include "perf/simulator/event_log.h"

#include <gtest/gtest.h>

#include <sstream>

namespace cardea::simulator {
namespace {

Result<RecordedRun> read(const std::string& lines) {
  std::istringstream in("# cardea events 1\n# plan nodes=2 ranks-per-node=2 nics=1 layers=2 experts=4 top-k=2\n" + lines);
  return read_log(in);
}

TEST(EventLog, ReadsRequestsAndSkipsEvents) {
  const Result<RecordedRun> run = read(
      "0 1 publish layer=1 version=3\n"
      "5 1 fetch id=7 layer=1 version=3 class=2 gang=1 slots=1 views=0 segments=5 deadline=99 experts=0,3\n"
      "6 1 start chunk=1 lane=0 whatever=5\n"
      "7 1 destroy id=7\n"
      "9 1 stop for=100\n");
  ASSERT_TRUE(run.ok()) << run.status().message();
  EXPECT_EQ(run->plan.nodes, 2u);
  ASSERT_EQ(run->requests.size(), 4u);
  const LoggedRequest& fetch = run->requests[1];
  EXPECT_EQ(fetch.when, 5u);
  EXPECT_EQ(fetch.rank, 1u);
  EXPECT_EQ(fetch.what, LoggedRequest::What::kFetch);
  EXPECT_EQ(fetch.experts, (std::vector<ExpertIndex>{0, 3}));
  EXPECT_EQ(std::tuple(fetch.id, fetch.layer, fetch.version, fetch.urgency, fetch.gang, fetch.views, fetch.segments,
                       fetch.deadline),
            std::tuple(7u, 1u, 3u, 2u, 1u, 0u, 5u, 99u));
  EXPECT_EQ(run->requests[3].nanoseconds, 100u);
}

TEST(EventLog, NamesTheLineThatIsWrong) {
  const std::pair<std::string, std::string> wrong[] = {
      {"x 0 publish layer=0 version=1\n", "time"},
      {"0 y publish layer=0 version=1\n", "rank"},
      {"0 4 publish layer=0 version=1\n", "rank 4 of 4"},
      {"0 0 publish layer=2 version=1\n", "layer 2 of 2"},
      {"0 0 publish layer=zero version=1\n", "layer=zero"},
      {"0 0 publish size=1\n", "size=1"},
      {"0 0 take id=5 count=1\n", "fetch 5 is unknown"},
      {"0 0 fetch id=1 layer=0 version=1 segments=1\n", "no experts"},
      {"0 0 fetch id=1 layer=0 version=1 segments=8 experts=0\n", "segments 8"},
      {"0 0 fetch id=1 layer=0 version=1 class=4 segments=1 experts=0\n", "class 4"},
      {"0 0 fetch id=1 layer=0 version=1 segments=1 experts=0,x\n", "experts=0,x"},
      {"0 0 fetch id=1 layer=0 version=1 segments=1 experts=0,4\n", "expert 4 of 4"},
      {"5 0 publish layer=0 version=1\n", ""},
  };
  for (const auto& [line, what] : wrong) {
    const Result<RecordedRun> run =
        read("4 0 publish layer=1 version=1\n" + (what.empty() ? "3 0 leave\n" : "4" + line.substr(1)));
    if (line.front() == 'x') {
      EXPECT_FALSE(read(line).ok());
      continue;
    }
    ASSERT_FALSE(run.ok()) << line;
    EXPECT_NE(run.status().message().find("line 4"), std::string::npos) << run.status().message();
    EXPECT_NE(run.status().message().find(what), std::string::npos) << run.status().message();
  }
  EXPECT_NE(read("4 0 leave\n# plan nodes=1\n").status().message().find("line 4 of the log: a plan after requests"),
            std::string::npos);
  std::istringstream other("# something else\n");
  EXPECT_FALSE(read_log(other).ok());
}

TEST(EventLog, HashesWhatIsNotWritten) {
  EventLog one, same, other;
  one.event(Clock::time_point{}, 1, "take", {{"id", 4}});
  same.event(Clock::time_point{}, 1, "take", {{"id", 4}});
  other.event(Clock::time_point{}, 1, "take", {{"id", 5}});
  EXPECT_EQ(one.hash(), same.hash());
  EXPECT_NE(one.hash(), other.hash());
}

TEST(Plan, IsTheSameAfterItWasWritten) {
  Plan plan;
  plan.nodes = 3;
  plan.stagger = false;
  plan.zipf = 1.25;
  plan.routing = "zipf";
  const Result<Plan> read = from_line(to_line(plan));
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(to_line(*read), to_line(plan));
  EXPECT_FALSE(from_line("nodes=many").ok());
  EXPECT_FALSE(from_line("nodes=0").ok());
  EXPECT_FALSE(from_line("knots=1").ok());
}

}  // namespace
}  // namespace cardea::simulator
