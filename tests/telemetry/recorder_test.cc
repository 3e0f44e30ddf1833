// SPDX-License-Identifier: Apache-2.0
// What is noted is counted and kept: the last records when nobody reads them, every record once when somebody does, and
// those that did not fit are told of.
#include "lib/telemetry/recorder.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

namespace cardea::telemetry {
namespace {

Clock::time_point at(std::int64_t nanoseconds) {
  return Clock::time_point{Nanoseconds(nanoseconds)};
}

RecorderOptions options(std::size_t ring) {
  return {.self = 3, .lanes = {"in", "copy"}, .ring = ring};
}

TEST(Recorder, CountsChunksByLaneClassAndPath) {
  Recorder recorder(options(16));
  const Chunk chunk{
      .number = 7, .bytes = 1000, .layer = 1, .expert = 4, .source = 2, .lane = 1, .urgency = 2, .path = CARDEA_PATH_CACHE};
  recorder.start(at(10), chunk);
  recorder.start(at(20), chunk);
  recorder.start(at(25), chunk);
  recorder.done(at(30), chunk, Nanoseconds(20), CARDEA_OK);
  recorder.done(at(40), chunk, Nanoseconds(20), CARDEA_ERR_PEER_LOST);
  const Traffic& traffic = recorder.counters().traffic(1, 2, CARDEA_PATH_CACHE);
  EXPECT_EQ(traffic.started, 3u);
  EXPECT_EQ(traffic.done, 1u);
  EXPECT_EQ(traffic.failed, 1u);
  EXPECT_EQ(traffic.bytes, 1000u);
  EXPECT_EQ(traffic.nanoseconds, 20u);
  EXPECT_EQ(recorder.counters().traffic(0, 2, CARDEA_PATH_CACHE).started, 0u);
  EXPECT_EQ(recorder.counters().traffic(1, 0, CARDEA_PATH_CACHE).started, 0u);
  EXPECT_EQ(recorder.counters().traffic(1, 2, CARDEA_PATH_NETWORK).started, 0u);
}

TEST(Recorder, ALaneThatNobodyNamedIsCountedAsOther) {
  Recorder recorder(options(4));
  recorder.start(at(0), {.lane = 77, .urgency = 200, .path = 99});
  EXPECT_EQ(recorder.counters().lanes().back(), "other");
  EXPECT_EQ(recorder.counters().traffic(2, kClassCount - 1, kPathCount - 1).started, 1u);
}

TEST(Recorder, ReadyTimesFallIntoTheBucketOfTheirBound) {
  EXPECT_EQ(ReadyTimes::bucket_of(0), 0u);
  EXPECT_EQ(ReadyTimes::bucket_of(1000), 0u);
  EXPECT_EQ(ReadyTimes::bucket_of(1001), 1u);
  EXPECT_EQ(ReadyTimes::bucket_of(4000), 1u);
  EXPECT_EQ(ReadyTimes::bucket_of(UINT64_MAX), ReadyTimes::kBuckets - 1);
  Recorder recorder(options(4));
  recorder.ready(at(0), {.urgency = 0, .path = CARDEA_PATH_HOME}, Nanoseconds(3000));
  recorder.ready(at(0), {.urgency = 0, .path = CARDEA_PATH_HOME}, Nanoseconds(5000));
  const ReadyTimes& times = recorder.counters().ready(0, CARDEA_PATH_HOME);
  EXPECT_EQ(times.count, 2u);
  EXPECT_EQ(times.nanoseconds, 8000u);
  EXPECT_EQ(times.buckets[1], 1u);
  EXPECT_EQ(times.buckets[2], 1u);
}

TEST(Recorder, KeepsTheLastRecordsWhenNobodyReads) {
  Recorder recorder(options(8));
  for (std::uint64_t i = 0; i < 20; ++i) recorder.of_version(at(static_cast<std::int64_t>(i)), What::kPublish, 1, i);
  const std::vector<Record> recent = recorder.recent();
  ASSERT_EQ(recent.size(), 8u);
  for (std::size_t i = 0; i < recent.size(); ++i) EXPECT_EQ(recent[i].body.version, 12 + i);
  EXPECT_EQ(recorder.made(), 20u);
  EXPECT_EQ(recorder.counters().records_lost, 0u);
}

TEST(Recorder, AReaderGetsWhatTheRingHeldAndThenEveryRecordOnce) {
  Recorder recorder(options(8));
  for (std::uint64_t i = 0; i < 3; ++i) recorder.of_version(at(0), What::kPublish, 1, i);
  recorder.attach();
  for (std::uint64_t i = 3; i < 5; ++i) recorder.of_version(at(0), What::kPublish, 1, i);
  std::vector<Record> out(4);
  ASSERT_EQ(recorder.drain(out), 4u);
  EXPECT_EQ(out[0].body.version, 0u);
  EXPECT_EQ(out[3].body.version, 3u);
  ASSERT_EQ(recorder.drain(out), 1u);
  EXPECT_EQ(out[0].body.version, 4u);
  EXPECT_EQ(recorder.drain(out), 0u);
}

TEST(Recorder, LeavesOutAndCountsWhatAReaderIsTooSlowFor) {
  Recorder recorder(options(8));
  recorder.attach();
  for (std::uint64_t i = 0; i < 11; ++i) recorder.of_version(at(0), What::kPublish, 1, i);
  EXPECT_EQ(recorder.counters().records_lost, 3u);
  EXPECT_EQ(recorder.counters().happened[static_cast<std::size_t>(What::kPublish)], 11u) << "counted nevertheless";
  std::vector<Record> out(16);
  ASSERT_EQ(recorder.drain(out), 8u);
  EXPECT_EQ(out[7].body.version, 7u) << "nothing unread was overwritten";
}

TEST(Recorder, ALongFetchTakesSeveralRecords) {
  Recorder recorder(options(64));
  std::vector<ExpertIndex> experts(30);
  std::iota(experts.begin(), experts.end(), 100u);
  recorder.fetch(at(5), {.fetch = 9, .version = 2, .layer = 1, .urgency = 2}, kWantsViews, 3, 0, experts);
  const std::vector<Record> recent = recorder.recent();
  ASSERT_EQ(recent.size(), 4u);
  EXPECT_EQ(recent[0].what, What::kFetch);
  EXPECT_EQ(recent[0].body.count, 30u);
  EXPECT_EQ(recent[1].what, What::kNumbers);
  EXPECT_EQ(recent[1].numbers()[11], 111u);
  EXPECT_EQ(recent[3].status, 6);
  EXPECT_EQ(recent[3].numbers()[5], 129u);
  EXPECT_EQ(recorder.counters().experts_wanted[2], 30u);
}

TEST(Recorder, AThreadMayReadWhileAnotherWrites) {
  Recorder recorder(options(1024));
  recorder.attach();
  constexpr std::uint64_t kRecords = 200'000;
  std::atomic<bool> written{false};
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < kRecords; ++i) recorder.of_version(at(0), What::kPublish, 1, i);
    written.store(true);
  });
  std::uint64_t read = 0, before = 0;
  std::vector<Record> out(100);
  for (bool last = false; !last;) {
    last = written.load();
    while (const std::size_t some = recorder.drain(out)) {
      for (std::size_t i = 0; i < some; ++i, ++read) {
        ASSERT_TRUE(read == 0 || out[i].body.version > before) << "in order, none twice";
        before = out[i].body.version;
      }
    }
  }
  writer.join();
  EXPECT_EQ(read + recorder.counters().records_lost, kRecords);
  EXPECT_GT(read, 0u);
}

}  // namespace
}  // namespace cardea::telemetry
