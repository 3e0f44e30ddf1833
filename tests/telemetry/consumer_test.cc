// SPDX-License-Identifier: Apache-2.0
// Whatever is recorded reaches every sink once and in order, up to the moment of stopping, and the sinks are closed last.
#include "lib/telemetry/consumer.h"

#include <gtest/gtest.h>

#include <mutex>

namespace cardea::telemetry {
namespace {

struct Seen {
  std::vector<std::uint64_t> versions;
  std::uint64_t lost = 0, closed = 0, after_close = 0;
};

class Watching final : public Sink {
 public:
  explicit Watching(Seen& seen) : seen_(seen) {}
  void write(std::span<const Record> records) override {
    for (const Record& record : records) seen_.versions.push_back(record.body.version);
    seen_.after_close += seen_.closed;
  }
  void lost(std::uint64_t records) override { seen_.lost += records; }
  void flush() override {}
  void close() override { ++seen_.closed; }

 private:
  Seen& seen_;
};

std::vector<std::unique_ptr<Sink>> sinks(std::initializer_list<Seen*> all) {
  std::vector<std::unique_ptr<Sink>> made;
  for (Seen* const seen : all) made.push_back(std::make_unique<Watching>(*seen));
  return made;
}

TEST(Consumer, EverySinkGetsEveryRecordOnceAndIsClosedLast) {
  Recorder recorder({.self = 0, .lanes = {}, .ring = 1 << 12});
  Seen first, second;
  Consumer consumer(recorder, sinks({&first, &second}));
  for (std::uint64_t i = 0; i < 3000; ++i) recorder.of_version({}, What::kPublish, 1, i);
  consumer.stop();
  consumer.stop();
  for (const Seen* const seen : {&first, &second}) {
    ASSERT_EQ(seen->versions.size(), 3000u);
    for (std::uint64_t i = 0; i < 3000; ++i) ASSERT_EQ(seen->versions[i], i);
    EXPECT_EQ(seen->closed, 1u);
    EXPECT_EQ(seen->after_close, 0u);
    EXPECT_EQ(seen->lost, 0u);
  }
}

TEST(Consumer, WhatWasLeftOutIsTold) {
  Recorder recorder({.self = 0, .lanes = {}, .ring = 4});
  recorder.attach();
  for (std::uint64_t i = 0; i < 10; ++i) recorder.of_version({}, What::kPublish, 1, i);
  Seen seen;
  { Consumer consumer(recorder, sinks({&seen})); }
  EXPECT_EQ(seen.versions.size() + seen.lost, 10u);
  EXPECT_EQ(seen.lost, 6u);
}

}  // namespace
}  // namespace cardea::telemetry
