// SPDX-License-Identifier: Apache-2.0
// Counters, metrics and dumps through the C interface: they say what happened, and are refused where they cannot.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/api/api_job.h"
#include "tests/telemetry/exposition.h"
#include "tests/telemetry/trace_check.h"

namespace cardea::test {
namespace {

std::string metrics(cardea_context_t context) {
  std::string text(1 << 16, '\0');
  std::size_t needed = 0;
  CARDEA_MUST(cardea_metrics_text(context, text.data(), text.size(), &needed));
  if (needed > text.size()) throw std::runtime_error("the metrics are longer than 64 KiB");
  return text.substr(0, needed - 1);
}

std::string dump(cardea_context_t context, const char* reason) {
  std::string text(1 << 20, '\0');
  std::size_t needed = 0;
  CARDEA_MUST(cardea_dump_text(context, reason, text.data(), text.size(), &needed));
  if (needed > text.size()) throw std::runtime_error("the dump is longer than 1 MiB");
  return text.substr(0, needed - 1);
}

TEST(Telemetry, TrafficAndMetricsTellWhatAFetchOverTheNetworkMoved) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 0 ? "a" : "b");
    Layer layer(job, Shape{});
    layer.publish(1);
    EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 4u);

    std::uint32_t count = 0;
    CARDEA_MUST(cardea_traffic_query(job.context, nullptr, 0, &count));
    ASSERT_EQ(count, 1u);
    cardea_traffic_t rows[4] = {CARDEA_TRAFFIC_INIT, CARDEA_TRAFFIC_INIT, CARDEA_TRAFFIC_INIT, CARDEA_TRAFFIC_INIT};
    CARDEA_MUST(cardea_traffic_query(job.context, rows, 4, &count));
    EXPECT_STREQ(rows[0].lane, "network-in");
    EXPECT_EQ(rows[0].urgency, CARDEA_CLASS_DEMAND);
    EXPECT_EQ(rows[0].path, CARDEA_PATH_NETWORK);
    EXPECT_EQ(rows[0].chunks_done, rows[0].chunks_started);
    EXPECT_GE(rows[0].bytes, 2u * (40000 + 512 + 96));
    EXPECT_GT(rows[0].nanoseconds, 0u);
    EXPECT_STREQ(rows[1].lane, "") << "there is no second row";

    std::string wrong;
    const auto samples = parse_exposition(metrics(job.context), wrong);
    EXPECT_EQ(wrong, "");
    const std::string self = "rank=\"" + std::to_string(rank) + "\"";
    EXPECT_EQ(samples.at("cardea_chunk_bytes_total{" + self + ",lane=\"network-in\",class=\"demand\",path=\"network\"}"),
              static_cast<double>(rows[0].bytes));
    EXPECT_EQ(samples.at("cardea_ready_seconds_count{" + self + ",class=\"demand\",path=\"home\"}"), 2);
    EXPECT_EQ(samples.at("cardea_ready_seconds_count{" + self + ",class=\"demand\",path=\"network\"}"), 2);
    EXPECT_EQ(samples.at("cardea_network_received_bytes_total{" + self + "}"),
              static_cast<double>(job.counters().bytes_network_received));
    EXPECT_EQ(samples.at("cardea_requests_total{" + self + ",kind=\"release\"}"), 4);
    EXPECT_TRUE(board.barrier(0, 2));
  });
}

TEST(Telemetry, TheDumpNamesTheRankThatHasNotPublished) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(exchange, rank);
    Layer layer(job, Shape{.layer_id = 12});
    if (rank != 1) layer.publish(7);
    if (rank == 2) {
      const cardea_fetch_t fetch = layer.fetch(7, layer.everything());
      EXPECT_EQ(cardea_wait(fetch, 50 * kMilli), CARDEA_ERR_TIMEOUT) << "rank 1 has published nothing";
      const std::string text = dump(job.context, "a test\nasks");
      EXPECT_EQ(text.rfind("cardea dump: a test asks\nrank 2 of 3 on node 0, ", 0), 0u) << text;
      EXPECT_NE(text.find("\nat fault: rank 1 (2 experts, for "), std::string::npos) << text;
      EXPECT_NE(text.find(": it has not published version 7 of layer 12)\n"), std::string::npos) << text;
      EXPECT_NE(
          text.find("\noutstanding: 2 experts\n  fetch=1 layer=0 layer-id=12 expert=2 version=7 class=demand state=parked "
                    "peer=1 source=1 "),
          std::string::npos)
          << text;
      EXPECT_NE(text.find(" 2 fetch id=1 layer=0 version=7 class=0 gang=0 slots=0 views=1 segments=7 deadline=0 "
                          "experts=0,1,2,3,4,5\n"),
                std::string::npos)
          << text;
      EXPECT_TRUE(text.ends_with("end of dump\n"));
      CARDEA_MUST(cardea_fetch_destroy(fetch));
      EXPECT_NE(dump(job.context, "").find("\nat fault: nobody"), std::string::npos);
    }
    EXPECT_TRUE(board.barrier(0, 3));
  });
}

TEST(Telemetry, ViewsThatHoldEverySlotAreThisRanksOwnFault) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 0 ? "a" : "b");
    Layer layer(job, Shape{.per_rank = 3, .slots = 1});
    layer.publish(1);
    if (rank == 1) {
      const cardea_fetch_t fetch = layer.fetch(1, {0, 1});
      cardea_status_t status{};
      const std::vector<cardea_view_t> first = next(fetch, 1, kPatience, &status);
      ASSERT_EQ(first.size(), 1u);
      const std::string text = dump(job.context, "stuck");
      EXPECT_NE(text.find("\nat fault: rank 1 (1 experts, for "), std::string::npos) << text;
      EXPECT_NE(text.find(" state=starved "), std::string::npos) << text;
      release(first);
      EXPECT_EQ(read_all(layer, fetch, 1), 1u);
    }
    EXPECT_TRUE(board.barrier(0, 2));
  });
}

TEST(Telemetry, TheTraceOfARealJobKeepsTheRulesOfTraces) {
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() / ("cardea-traces-" + std::to_string(getpid()));
  std::filesystem::create_directory(directory);
  const std::string pattern = (directory / "%r.json").string() + "," + (directory / "%r.events").string();
  SharedExchange exchange(4);
  SharedBoard board;
  run_ranks(4, [&](unsigned rank) {
    setenv("CARDEA_TRACE", pattern.c_str(), 1);
    {
      Job job(exchange, rank, rank < 2 ? "a" : "b");
      Layer layer(job, Shape{});
      for (std::uint64_t version = 1; version <= 3; ++version) {
        layer.publish(version);
        EXPECT_EQ(read_all(layer, layer.fetch(version, layer.everything()), version), 8u);
        layer.finish(version);
        layer.collect(version);
      }
      EXPECT_TRUE(board.barrier(0, 4));
      EXPECT_EQ(parse_exposition(metrics(job.context), *std::make_unique<std::string>())
                    .at("cardea_records_lost_total{rank=\"" + std::to_string(rank) + "\"}"),
                0);
    }
    const TraceFacts facts = check_trace(read_file((directory / (std::to_string(rank) + ".json")).string()));
    EXPECT_EQ(facts.wrong, "");
    EXPECT_EQ(facts.processes, std::set<std::uint64_t>{rank});
    EXPECT_EQ(facts.slices.at("requests"), 3u);
    EXPECT_EQ(facts.slices.at("views"), 24u);
    EXPECT_EQ(facts.flows, 24u);
    EXPECT_EQ(facts.moments.at("publish"), 3u);
    EXPECT_EQ(facts.moments.at("collect"), 3u);
    const std::string events = read_file((directory / (std::to_string(rank) + ".events")).string());
    EXPECT_EQ(events.rfind("# cardea events 1\n# job rank=" + std::to_string(rank) + " ranks=4 nodes=0,0,1,1 ", 0), 0u);
    EXPECT_TRUE(events.ends_with(" leave\n# end\n"));
  });
  std::filesystem::remove_all(directory);
}

TEST(Telemetry, TextIsCutToItsRoomAndTheRestIsTold) {
  run_ranks(1, [](unsigned) {
    Alone alone;
    const cardea_context_t context = alone.job.context;
    std::size_t needed = 0;
    CARDEA_MUST(cardea_metrics_text(context, nullptr, 0, &needed));
    EXPECT_EQ(needed, metrics(context).size() + 1);
    char small[8];
    std::memset(small, 'x', sizeof small);
    std::size_t again = 0;
    CARDEA_MUST(cardea_metrics_text(context, small, 7, &again));
    EXPECT_EQ(again, needed);
    EXPECT_STREQ(small, "# HELP");
    EXPECT_EQ(small[7], 'x') << "beyond the capacity";
    CARDEA_MUST(cardea_dump_text(context, "r", small, 7, &again));
    EXPECT_STREQ(small, "cardea");

    const auto wrong = CARDEA_ERR_INVALID_ARGUMENT;
    EXPECT_REFUSED(wrong, ({"needed"}), cardea_metrics_text(context, small, 7, nullptr));
    EXPECT_REFUSED(wrong, ({"text is null"}), cardea_metrics_text(context, nullptr, 7, &needed));
    EXPECT_REFUSED(wrong, ({"reason"}), cardea_dump_text(context, nullptr, small, 7, &needed));
    EXPECT_REFUSED(wrong, ({"text is null"}), cardea_dump_text(context, "r", nullptr, 7, &needed));
    EXPECT_REFUSED(wrong, ({"count"}), cardea_traffic_query(context, nullptr, 0, nullptr));
    std::uint32_t count = 0;
    EXPECT_REFUSED(wrong, ({"rows"}), cardea_traffic_query(context, nullptr, 1, &count));
    cardea_traffic_t rows[2] = {CARDEA_TRAFFIC_INIT, CARDEA_TRAFFIC_INIT};
    rows[1].size = 3;
    EXPECT_REFUSED(wrong, ({"rows[1]"}), cardea_traffic_query(context, rows, 2, &count));
    EXPECT_STREQ(cardea_class_string(CARDEA_CLASS_PREFETCH), "prefetch");
    EXPECT_STREQ(cardea_class_string(static_cast<cardea_class_t>(99999)), "unknown");
  });
}

}  // namespace
}  // namespace cardea::test
