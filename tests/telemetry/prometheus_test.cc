// SPDX-License-Identifier: Apache-2.0
// The metrics page obeys the exposition format: every family has HELP and TYPE before its samples and stands together, no
// sample occurs twice, histograms add up; and it says what was counted.
#include "lib/telemetry/prometheus.h"

#include <gtest/gtest.h>

#include "lib/telemetry/recorder.h"
#include "tests/telemetry/exposition.h"

namespace cardea::telemetry {
namespace {

Counters some_counters() {
  Recorder recorder({.self = 1, .lanes = {"network-in", "odd\"\\lane"}, .ring = 8});
  const Chunk chunk{.bytes = 4096, .lane = 0, .urgency = 0, .path = CARDEA_PATH_NETWORK};
  recorder.start({}, chunk);
  recorder.done({}, chunk, Nanoseconds(500), CARDEA_OK);
  recorder.start({}, chunk);
  recorder.start({}, {.bytes = 1, .lane = 1, .urgency = 2, .path = CARDEA_PATH_NODE_COPY});
  recorder.ready({}, {.path = CARDEA_PATH_NETWORK}, Nanoseconds(3'000'000));
  recorder.ready({}, {.path = CARDEA_PATH_NETWORK}, Nanoseconds(900));
  recorder.ready({}, {.path = CARDEA_PATH_NETWORK}, std::chrono::hours(1));
  recorder.failed({}, {}, CARDEA_ERR_STALE);
  recorder.of_version({}, What::kPublish, 1, 1);
  return recorder.counters();
}

TEST(Prometheus, ThePageObeysTheExpositionFormat) {
  const std::string text =
      prometheus_text(some_counters(), {.rank = 1, .node = 0, .version = "0.1\"\n\\", .cache_capacity = 5});
  std::string wrong;
  const auto samples = test::parse_exposition(text, wrong);
  EXPECT_EQ(wrong, "") << text;
  EXPECT_GT(samples.size(), 30u);
  for (const auto& [name, value] : samples) EXPECT_NE(name.find("rank=\"1\""), std::string::npos) << name;
}

TEST(Prometheus, SaysWhatWasCounted) {
  std::string wrong;
  const auto samples =
      test::parse_exposition(prometheus_text(some_counters(), {.rank = 1, .peers = 3, .peers_alive = 2}), wrong);
  const auto value = [&](const std::string& name) {
    const auto found = samples.find(name);
    return found == samples.end() ? -1.0 : found->second;
  };
  const std::string lane = "rank=\"1\",lane=\"network-in\",class=\"demand\",path=\"network\"";
  EXPECT_EQ(value("cardea_chunks_started_total{" + lane + "}"), 2);
  EXPECT_EQ(value("cardea_chunks_in_flight{" + lane + "}"), 1);
  EXPECT_EQ(value("cardea_chunk_bytes_total{" + lane + "}"), 4096);
  EXPECT_EQ(value(R"(cardea_chunks_started_total{rank="1",lane="odd\"\\lane",class="prefetch",path="node-copy"})"), 1);
  const std::string ready = "rank=\"1\",class=\"demand\",path=\"network\"";
  EXPECT_EQ(value("cardea_ready_seconds_count{" + ready + "}"), 3);
  EXPECT_EQ(value("cardea_ready_seconds_bucket{" + ready + ",le=\"1e-06\"}"), 1);
  EXPECT_EQ(value("cardea_ready_seconds_bucket{" + ready + ",le=\"0.004096\"}"), 2);
  EXPECT_EQ(value("cardea_ready_seconds_bucket{" + ready + ",le=\"+Inf\"}"), 3);
  EXPECT_NEAR(value("cardea_ready_seconds_sum{" + ready + "}"), 3600.0030009, 1e-6);
  EXPECT_EQ(value("cardea_experts_failed_total{rank=\"1\",status=\"CARDEA_ERR_STALE\"}"), 1);
  EXPECT_EQ(value("cardea_requests_total{rank=\"1\",kind=\"publish\"}"), 1);
  EXPECT_EQ(value("cardea_peers_alive{rank=\"1\"}"), 2);
  EXPECT_EQ(samples.count("cardea_cache_capacity_bytes{rank=\"1\"}"), 0u) << "there is no cache";
}

TEST(Prometheus, TheParserOfTheseTestsFindsMistakes) {
  for (const char* const text :
       {"cardea_x 1\n", "# HELP a b\n# TYPE a counter\na{rank=\"1} 2\n", "# HELP a b\n# TYPE a counter\na 1\na 1\n",
        "# TYPE a counter\na 1\n", "# HELP a b\n# TYPE a counter\na x\n", "# HELP a b\n# TYPE a counter\na 1",
        "# HELP h b\n# TYPE h histogram\nh_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 2\n",
        "# HELP h b\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n"}) {
    std::string wrong;
    test::parse_exposition(text, wrong);
    EXPECT_NE(wrong, "") << text;
  }
}

}  // namespace
}  // namespace cardea::telemetry
