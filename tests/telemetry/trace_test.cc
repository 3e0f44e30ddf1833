// SPDX-License-Identifier: Apache-2.0
// A rank's records become a trace that keeps the rules of traces: slices that pair, rows that do not overlap, flows from
// requests by chunks to views; also when fetches fail, are destroyed, or their lists are broken.
#include "lib/telemetry/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "lib/telemetry/recorder.h"
#include "tests/telemetry/trace_check.h"

namespace cardea::telemetry {
namespace {

class Trace : public ::testing::Test {
 protected:
  Trace() : path_((std::filesystem::temp_directory_path() / fmt::format("cardea-trace-{}.json", getpid())).string()) {}
  ~Trace() override { std::filesystem::remove(path_); }

  static Clock::time_point at(std::int64_t nanoseconds) { return Clock::time_point{Nanoseconds(nanoseconds)}; }

  test::TraceFacts trace(const std::vector<Record>& records) {
    JobFacts facts;
    facts.self = 1;
    facts.node_of = {0, 0};
    facts.host = "a \"host\"";
    facts.lanes = {"network-in", "node-copy", "other"};
    facts.wall = 1'764'000'000'000'000'000;
    Result<OutputFile> file = OutputFile::create(path_, 1);
    TraceSink sink(std::move(*file), facts);
    sink.write(records);
    sink.close();
    return test::check_trace(test::read_file(path_));
  }

  Recorder recorder{{.self = 1, .lanes = {"network-in", "node-copy"}, .ring = 1 << 12}};

 private:
  std::string path_;
};

Chunk chunk_of(std::uint64_t number, std::uint32_t expert, std::uint32_t lane) {
  return {.number = number, .version = 5, .bytes = 100, .layer = 1, .expert = expert, .source = 0, .lane = lane, .path = 6};
}

TEST_F(Trace, AFlowLeadsFromTheRequestByItsChunksToTheView) {
  recorder.fetch(at(100), {.fetch = 9, .version = 5, .layer = 1}, kWantsViews, 1, 0, std::vector<ExpertIndex>{4, 2});
  recorder.ready(at(100), {.fetch = 9, .version = 5, .layer = 1, .expert = 2, .path = 2}, Nanoseconds(0));
  recorder.start(at(110), chunk_of(1, 4, 0));
  recorder.start(at(120), chunk_of(2, 4, 0));
  recorder.start(at(125), chunk_of(3, 7, 1));
  recorder.done(at(130), chunk_of(1, 4, 0), Nanoseconds(20), 0);
  recorder.done(at(140), chunk_of(2, 4, 0), Nanoseconds(20), 0);
  recorder.ready(at(140), {.fetch = 9, .version = 5, .layer = 1, .expert = 4, .path = 6}, Nanoseconds(40));
  recorder.of_fetch(at(150), What::kTake, 9, 2);
  recorder.release(at(160), 9, 2);
  recorder.release(at(170), 9, 4);
  recorder.of_fetch(at(180), What::kDestroy, 9);
  recorder.done(at(190), chunk_of(3, 7, 1), Nanoseconds(65), CARDEA_ERR_PEER_LOST);
  recorder.lend(at(200), 3, chunk_of(0, 1, 0), 0);
  recorder.give_back(at(210), 3, 100);
  recorder.of_version(at(220), What::kFinish, 1, 5);
  recorder.told(at(230), 0, 3, 1, 5);
  const test::TraceFacts facts = trace(recorder.recent());
  EXPECT_EQ(facts.wrong, "");
  EXPECT_EQ(facts.slices, (std::map<std::string, std::uint64_t>{
                              {"requests", 1}, {"network-in", 2}, {"node-copy", 1}, {"views", 2}, {"serving", 1}}));
  EXPECT_EQ(facts.flows, 3u);  // one for each of two chunks, one straight
  EXPECT_EQ(facts.flows_by_chunk, 2u);
  EXPECT_EQ(facts.moments, (std::map<std::string, std::uint64_t>{{"finish", 1}, {"rank", 1}}));
}

TEST_F(Trace, BatchesOfTheGpuLieOneAfterTheOtherByTheDevicesTime) {
  recorder.copied(at(5000), GpuQueue::kUpload, 1, 300, 2, at(1000), Nanoseconds(2000));
  recorder.copied(at(6000), GpuQueue::kUpload, 2, 500, 1, at(2995), Nanoseconds(1005));  // a little early, by its clock
  recorder.copied(at(7000), GpuQueue::kPull, 1, 7, 1, at(1500), Nanoseconds(0));
  const test::TraceFacts facts = trace(recorder.recent());
  EXPECT_EQ(facts.wrong, "");
  EXPECT_EQ(facts.slices, (std::map<std::string, std::uint64_t>{{"gpu pulls", 1}, {"gpu uploads", 2}}));
  EXPECT_EQ(facts.bytes_in_slices, (std::map<std::string, std::uint64_t>{{"gpu pulls", 7}, {"gpu uploads", 800}}));
}

TEST_F(Trace, ALaterFetchOfTheExpertHasItsOwnFlows) {
  for (const std::uint64_t fetch : {1u, 2u}) {
    const auto when = static_cast<std::int64_t>(fetch * 100);
    const Outcome of{.fetch = fetch, .version = 5, .layer = 1, .expert = 4, .path = 6};
    recorder.fetch(at(when), of, kWantsViews, 1, 0, std::vector<ExpertIndex>{4});
    recorder.start(at(when + 1), chunk_of(fetch, 4, 0));
    recorder.done(at(when + 2), chunk_of(fetch, 4, 0), Nanoseconds(1), 0);
    recorder.ready(at(when + 3), of, Nanoseconds(3));
    recorder.of_fetch(at(when + 4), What::kTake, fetch, 1);
    recorder.release(at(when + 5), fetch, 4);  // the fetch itself stays
  }
  const test::TraceFacts facts = trace(recorder.recent());
  EXPECT_EQ(facts.wrong, "");
  EXPECT_EQ(facts.flows_by_chunk, 2u);
}

TEST_F(Trace, ChunksOfASlotThatWasTakenBackAreOnTheWayToTheView) {
  const Outcome of{.fetch = 1, .version = 5, .layer = 1, .expert = 4, .path = 6};
  recorder.fetch(at(1), of, kWantsViews, 1, 0, std::vector<ExpertIndex>{4});
  for (const std::uint64_t chunk : {1u, 2u, 3u}) {
    const auto when = static_cast<std::int64_t>(chunk * 10);
    recorder.start(at(when), chunk_of(chunk, 4, 0));
    recorder.done(at(when + 1), chunk_of(chunk, 4, 0), Nanoseconds(1), 0);
    recorder.ready(at(when + 2), of, Nanoseconds(3));  // the request ends with the first
  }
  recorder.of_fetch(at(50), What::kTake, 1, 1);
  recorder.release(at(51), 1, 4);
  const test::TraceFacts facts = trace(recorder.recent());
  EXPECT_EQ(facts.wrong, "");
  EXPECT_EQ(facts.flows, 1u);
  EXPECT_EQ(facts.flows_by_chunk, 1u);
}

TEST_F(Trace, FailedDestroyedAndBrokenFetchesKeepTheRules) {
  const Outcome of{.fetch = 1, .version = 5, .layer = 1};
  recorder.fetch(at(1), of, kWantsViews, 1, 0, std::vector<ExpertIndex>{0, 1, 2});
  recorder.start(at(2), chunk_of(1, 0, 0));
  recorder.failed(at(3), {.fetch = 1, .version = 5, .layer = 1, .expert = 0}, CARDEA_ERR_CANCELED);
  recorder.ready(at(3), {.fetch = 1, .version = 5, .layer = 1, .expert = 1, .path = 5}, Nanoseconds(2));
  recorder.ready(at(4), {.fetch = 1, .version = 5, .layer = 1, .expert = 1, .path = 5},
                 Nanoseconds(2));  // taken back before
  recorder.of_fetch(at(5), What::kTake, 1, 2);
  recorder.of_fetch(at(6), What::kDestroy, 1);
  recorder.done(at(7), chunk_of(1, 0, 0), Nanoseconds(5), CARDEA_ERR_CANCELED);
  recorder.release(at(8), 1, 1);
  recorder.release(at(9), 77, 1);  // of a fetch that nobody knows
  recorder.fetch(at(10), {.fetch = 2, .version = 5, .layer = 1, .urgency = 2}, 0, 1, 0, std::vector<ExpertIndex>(30, 3));
  std::vector<Record> records = recorder.recent();
  records.pop_back();  // its list breaks off
  Recorder more({.self = 1, .lanes = {}, .ring = 8});
  more.of_fetch(at(11), What::kDestroy, 2);
  records.push_back(more.recent().front());
  const test::TraceFacts facts = trace(records);
  EXPECT_EQ(facts.wrong, "");
  EXPECT_EQ(facts.slices.at("requests"), 2u);
  EXPECT_EQ(facts.slices.at("views"), 1u);
  EXPECT_EQ(facts.flows, 1u);
}

TEST_F(Trace, TheCheckFindsMistakes) {
  const std::string head = R"([{"pid":1,"tid":200000,"ph":"M","name":"thread_name","args":{"name":"requests"}},)";
  for (
      const char* const body :
      {R"({"pid":1,"tid":200000,"ph":"B","ts":5,"name":"a"}])",
       R"({"pid":1,"tid":200000,"ph":"B","ts":5,"name":"a"},{"pid":1,"tid":200000,"ph":"E","ts":4}])",
       R"({"pid":1,"tid":200000,"ph":"E","ts":4}])", R"({"pid":1,"tid":200001,"ph":"i","ts":4,"name":"x"}])",
       R"({"pid":1,"tid":200000,"ph":"s","ts":5,"id":"0x1"}])",
       R"({"pid":1,"tid":200000,"ph":"X","ts":5,"dur":3,"args":{}},{"pid":1,"tid":200000,"ph":"X","ts":7,"dur":3,"args":{}}])",
       "{}", R"({"pid":1,"tid":200000,"ph":"B","ts":5,"name":"a"},)"}) {
    EXPECT_NE(test::check_trace(head + body).wrong, "") << body;
  }
}

}  // namespace
}  // namespace cardea::telemetry
