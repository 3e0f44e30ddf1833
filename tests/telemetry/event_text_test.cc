// SPDX-License-Identifier: Apache-2.0
// Records become the lines that docs/simulator.md describes, lists of experts included, also where a list breaks off.
#include "lib/telemetry/event_text.h"

#include <gtest/gtest.h>

#include "lib/telemetry/recorder.h"

namespace cardea::telemetry {
namespace {

constexpr std::int64_t kBase = 1'000'000;

Clock::time_point at(std::int64_t nanoseconds) {
  return Clock::time_point{Nanoseconds(kBase + nanoseconds)};
}

std::string text_of(const std::vector<Record>& records) {
  EventText text(2, kBase);
  std::string out;
  for (const Record& record : records) text.add(record, out);
  text.flush(out);
  return out;
}

TEST(EventText, ALineForEachThing) {
  Recorder recorder({.self = 2, .lanes = {"in"}, .ring = 64});
  recorder.layer(at(0), {.layer = 1, .layer_id = 7, .members = 2, .segments = 3, .expert_bytes = 640, .node_path = 2},
                 std::vector<Rank>{0, 0, 1});
  recorder.fetch(at(1), {.fetch = 9, .version = 5, .layer = 1, .urgency = 0}, kGang | kWantsViews, 7,
                 static_cast<std::uint64_t>(kBase + 99), std::vector<ExpertIndex>{2, 0});
  const Chunk chunk{
      .number = 11, .version = 5, .offset = 64, .bytes = 32, .layer = 1, .expert = 2, .source = 1, .lane = 0, .path = 6};
  recorder.start(at(2), chunk);
  recorder.done(at(3), chunk, Nanoseconds(1), CARDEA_ERR_PEER_LOST);
  recorder.ready(at(4), {.fetch = 9, .version = 5, .layer = 1, .expert = 0, .peer = 0, .path = 2}, Nanoseconds(3));
  recorder.failed(at(5), {.fetch = 9, .version = 5, .layer = 1, .expert = 2, .peer = 1}, CARDEA_ERR_PEER_LOST);
  recorder.of_fetch(at(6), What::kTake, 9, 2);
  recorder.release(at(7), 9, 0);
  recorder.of_fetch(at(8), What::kDestroy, 9);
  recorder.of_version(at(9), What::kFinish, 1, 5);
  recorder.told(at(10), 1, 3, 1, 5);
  recorder.lost(at(11), 1, true);
  recorder.copied(at(12), GpuQueue::kDownload, 3, 64, 2, at(4), Nanoseconds(6));
  recorder.leave(at(12));
  EXPECT_EQ(text_of(recorder.recent()),
            "# layer number=0 id=7 experts=3 segments=3 expert-bytes=640 members=2 node-path=2 homes=0,0,1\n"
            "1 2 fetch id=9 layer=0 version=5 class=0 gang=1 slots=0 views=1 segments=7 deadline=99 experts=2,0\n"
            "2 2 start chunk=11 lane=0 layer=0 expert=2 version=5 source=1 offset=64 bytes=32 class=0 path=6\n"
            "3 2 done chunk=11 lane=0 layer=0 expert=2 source=1 bytes=32 took=1 status=11\n"
            "4 2 ready id=9 layer=0 expert=0 version=5 path=2 source=0 after=3\n"
            "5 2 failed id=9 layer=0 expert=2 version=5 status=11 peer=1\n"
            "6 2 take id=9 count=2\n"
            "7 2 release id=9 expert=0\n"
            "8 2 destroy id=9\n"
            "9 2 finish layer=0 version=5\n"
            "10 2 told by=1 kind=3 layer=0 version=5\n"
            "11 2 lost peer=1 left=1\n"
            "12 2 copied queue=2 number=3 bytes=64 count=2 began-ago=8 took=6\n"
            "12 2 leave\n");
}

TEST(EventText, ListsOfAnyLengthComeWhole) {
  for (const std::size_t count : {1, 11, 12, 13, 24, 25, 300}) {
    Recorder recorder({.self = 2, .lanes = {}, .ring = 1024});
    std::vector<ExpertIndex> experts;
    std::string expected;
    for (ExpertIndex e = 0; e < count; ++e) {
      experts.push_back(e * 3);
      expected += (e == 0 ? " experts=" : ",") + std::to_string(e * 3);
    }
    recorder.fetch(at(1), {.fetch = 1, .version = 1, .layer = 1}, 0, 1, 0, experts);
    const std::string text = text_of(recorder.recent());
    EXPECT_TRUE(text.ends_with(expected + "\n")) << text;
    EXPECT_EQ(text.find("incomplete"), std::string::npos);
  }
}

TEST(EventText, ABrokenListIsCalledIncompleteAndAnOrphanIsPassedOver) {
  Recorder recorder({.self = 2, .lanes = {}, .ring = 64});
  recorder.fetch(at(1), {.fetch = 1, .version = 1, .layer = 1}, 0, 1, 0, std::vector<ExpertIndex>(20, 5));
  std::vector<Record> records = recorder.recent();
  ASSERT_EQ(records.size(), 3u);
  records.pop_back();
  EXPECT_NE(text_of(records).find(" incomplete=1 experts=5,5"), std::string::npos);
  records.erase(records.begin());
  EXPECT_EQ(text_of(records), "");
}

}  // namespace
}  // namespace cardea::telemetry
