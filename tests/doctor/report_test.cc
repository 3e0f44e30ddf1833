// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/doctor/sample.h"

namespace cardea::doctor {
namespace {

using testing::HasSubstr;

Report broken() {
  Report report;
  report.sections = {{"library", {{"cardea", "0.1.0"}, {"UCX", "1.13.1"}, {"", "tcp: lo"}}}};
  report.probed = "a job";
  report.members = {sample_member()};
  report.findings = {{Severity::kNote, "a.note", "small", "nothing"}, {Severity::kError, "b.error", "large", "do this"}};
  return report;
}

TEST(ReportText, ShowsTheWorstFirstAndWhatToDo) {
  const std::string text = to_text(broken());
  EXPECT_LT(text.find("error    b.error: large\n           → do this"), text.find("note     a.note"));
  EXPECT_THAT(text, HasSubstr("  cardea  0.1.0\n  UCX     1.13.1\n          tcp: lo\n"));
  EXPECT_THAT(text, HasSubstr("ucx tcp/eth0        25.0      2.50"));
  EXPECT_THAT(text, HasSubstr("nothing came"));
  EXPECT_TRUE(text.ends_with("something is off, see the findings\n"));
}

TEST(ReportText, OfNotesAloneAllIsWell) {
  Report report = broken();
  report.findings.pop_back();
  EXPECT_THAT(to_text(report), HasSubstr("all is well"));
  report.findings.clear();
  EXPECT_THAT(to_text(report), HasSubstr("findings\n  none\n"));
}

TEST(ReportJson, HasTheSameInIt) {
  const auto all = nlohmann::json::parse(to_json(broken()));
  EXPECT_EQ(all.at("ok"), false);
  EXPECT_EQ(all.at("findings").size(), 2u);
  EXPECT_EQ(all.at("findings")[1].at("severity"), "error");
  EXPECT_EQ(all.at("members")[0].at("peers")[0].at("path"), "network");
  EXPECT_EQ(all.at("sections").at("library")[1].at("value"), "1.13.1");
}

}  // namespace
}  // namespace cardea::doctor
