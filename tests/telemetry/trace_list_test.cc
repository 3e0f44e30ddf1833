// SPDX-License-Identifier: Apache-2.0
// CARDEA_TRACE names what it can, and is refused otherwise; ranks do not write into one another's files.
#include "lib/telemetry/trace_list.h"

#include <gtest/gtest.h>

#include "lib/telemetry/open_traces.h"

namespace cardea::telemetry {
namespace {

TEST(TraceList, NamesTracesAndEventLogsByTheirEnds) {
  const auto targets = parse_trace_list("a/b.%r.json,c.%h.%p.events");
  ASSERT_TRUE(targets.ok());
  ASSERT_EQ(targets->size(), 2u);
  EXPECT_EQ((*targets)[0].kind, TraceTarget::Kind::kPerfetto);
  EXPECT_EQ((*targets)[0].pattern, "a/b.%r.json");
  EXPECT_EQ((*targets)[1].kind, TraceTarget::Kind::kEvents);
}

TEST(TraceList, AnythingElseIsRefused) {
  for (const char* const text : {"", ",", "a.json,", "a.txt", ".json", ".events", "a%.json", "a%z.json", "json"}) {
    const auto targets = parse_trace_list(text);
    ASSERT_FALSE(targets.ok()) << text;
    EXPECT_EQ(targets.status().code(), CARDEA_ERR_CONFIGURATION);
  }
}

TEST(TraceList, SeveralRanksNeedTheirOwnFiles) {
  JobFacts facts;
  facts.node_of = {0, 0};
  const auto sinks = open_traces({{TraceTarget::Kind::kEvents, "x.events"}}, facts);
  ASSERT_FALSE(sinks.ok());
  EXPECT_EQ(sinks.status().code(), CARDEA_ERR_CONFIGURATION);
  EXPECT_NE(sinks.status().message().find("%r"), std::string::npos);
  const auto nowhere = open_traces({{TraceTarget::Kind::kEvents, "/nonexistent-directory/x.%r.events"}}, facts);
  ASSERT_FALSE(nowhere.ok());
  EXPECT_NE(nowhere.status().message().find("/nonexistent-directory/x.0.events"), std::string::npos);
}

}  // namespace
}  // namespace cardea::telemetry
