// SPDX-License-Identifier: Apache-2.0
// The promises of Executor, over virtual time, over a simulated rank and over Asio.
#include <gtest/gtest.h>

#include <thread>

#include "lib/engine/asio_executor.h"
#include "lib/transport/sim/sim_network.h"
#include "lib/transport/sim/virtual_time.h"

namespace cardea {
namespace {

using std::chrono::milliseconds;

class Loop {
 public:
  virtual ~Loop() = default;
  virtual Executor& executor() = 0;
  virtual void run() = 0;  // until nothing is left to do
};

class VirtualLoop : public Loop {
 public:
  Executor& executor() override { return time_; }
  void run() override { time_.run_until_idle(); }

 private:
  sim::VirtualTime time_;
};

class RankLoop : public Loop {
 public:
  RankLoop() : network_(time_, {.node_of_rank = {0}}) {}
  Executor& executor() override { return network_.executor(0); }
  void run() override { time_.run_until_idle(); }

 private:
  sim::VirtualTime time_;
  sim::SimNetwork network_;
};

class AsioLoop : public Loop {
 public:
  Executor& executor() override { return executor_; }
  void run() override {
    io_.restart();
    io_.run();
  }

 private:
  boost::asio::io_context io_{1};
  engine::AsioExecutor executor_{io_};
};

template <typename T>
class ExecutorTest : public ::testing::Test {};
using Loops = ::testing::Types<VirtualLoop, RankLoop, AsioLoop>;
TYPED_TEST_SUITE(ExecutorTest, Loops);

TYPED_TEST(ExecutorTest, RunsPostedWorkInOrderAndNotInsideTheCall) {
  TypeParam loop;
  std::vector<int> ran;
  loop.executor().post([&] {
    ran.push_back(1);
    loop.executor().post([&] { ran.push_back(3); });
    EXPECT_EQ(ran.size(), 1u);
  });
  loop.executor().post([&] { ran.push_back(2); });
  EXPECT_TRUE(ran.empty());
  loop.run();
  EXPECT_EQ(ran, (std::vector<int>{1, 2, 3}));
}

TYPED_TEST(ExecutorTest, TimersRunByTheirTimesNotBefore) {
  TypeParam loop;
  const auto start = loop.executor().now();
  std::vector<int> ran;
  loop.executor().at(start + milliseconds(20), [&] {
    EXPECT_GE(loop.executor().now(), start + milliseconds(20));
    ran.push_back(2);
  });
  loop.executor().at(start + milliseconds(5), [&] {
    EXPECT_GE(loop.executor().now(), start + milliseconds(5));
    ran.push_back(1);
  });
  loop.executor().at(start - milliseconds(5), [&] { ran.push_back(0); });
  EXPECT_TRUE(ran.empty());
  loop.run();
  EXPECT_EQ(ran, (std::vector<int>{0, 1, 2}));
}

TYPED_TEST(ExecutorTest, ACancelledTimerNeverRuns) {
  TypeParam loop;
  Executor& executor = loop.executor();
  const auto now = executor.now();
  int ran = 0;
  const TimerId never = executor.at(now + milliseconds(5), [&] { ran += 100; });
  TimerId due = kNoTimer;
  const TimerId first = executor.at(now, [&] {
    ++ran;
    // Due by now itself, and still cancelled.
    EXPECT_TRUE(executor.cancel(due));
  });
  due = executor.at(now, [&] { ran += 100; });
  EXPECT_TRUE(executor.cancel(never));
  EXPECT_FALSE(executor.cancel(never));
  EXPECT_FALSE(executor.cancel(kNoTimer));
  loop.run();
  EXPECT_EQ(ran, 1);
  EXPECT_FALSE(executor.cancel(first)) << "it has run";
}

TEST(AsioExecutor, PostIsThreadSafe) {
  boost::asio::io_context io(1);
  auto work = boost::asio::make_work_guard(io);
  engine::AsioExecutor executor(io);
  int sum = 0;  // touched by the executor's thread only
  std::thread runner([&] { io.run(); });
  std::vector<std::thread> posters;
  for (int t = 0; t < 4; ++t) {
    posters.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) executor.post([&] { ++sum; });
    });
  }
  for (auto& poster : posters) poster.join();
  work.reset();
  runner.join();
  EXPECT_EQ(sum, 4000);
}

TEST(AsioExecutor, TimersOfADestroyedExecutorNeverRun) {
  boost::asio::io_context io(1);
  bool ran = false;
  {
    engine::AsioExecutor executor(io);
    executor.at(executor.now(), [&] { ran = true; });
  }
  io.run();
  EXPECT_FALSE(ran);
}

TEST(VirtualTime, EqualTimesKeepTheirOrderAndMovedEventsGoBehind) {
  sim::VirtualTime time;
  std::vector<int> ran;
  const auto when = time.now() + Nanoseconds(10);
  const TimerId moved = time.at(when, [&] { ran.push_back(-1); });
  for (int i = 0; i < 100; ++i) time.at(when, [&ran, i] { ran.push_back(i); });
  EXPECT_TRUE(time.move(moved, when));
  time.run_until_idle();
  ASSERT_EQ(ran.size(), 101u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ran[static_cast<std::size_t>(i)], i);
  EXPECT_EQ(ran.back(), -1);
  EXPECT_EQ(time.now(), when);
  EXPECT_FALSE(time.move(moved, when));
}

TEST(VirtualTime, RandomEventsRunSortedWhateverWasCancelledAndMoved) {
  sim::VirtualTime time;
  std::uint64_t random = 42;
  const auto draw = [&] { return (random = random * 6364136223846793005 + 1442695040888963407) >> 33; };
  std::vector<TimerId> timers;
  std::vector<Clock::time_point> due(5000);
  std::vector<int> ran(5000, 0);
  for (std::size_t i = 0; i < due.size(); ++i) {
    due[i] = Clock::time_point(Nanoseconds(draw() % 100000));
    timers.push_back(time.at(due[i], [&, i] {
      ++ran[i];
      EXPECT_EQ(time.now(), due[i]);
    }));
  }
  std::vector<int> expected(5000, 1);
  for (int n = 0; n < 3000; ++n) {
    const std::size_t i = draw() % due.size();
    if (n % 2 == 0) {
      EXPECT_EQ(time.cancel(timers[i]), expected[i] == 1);
      expected[i] = 0;
    } else {
      const Clock::time_point later(Nanoseconds(draw() % 100000));
      if (time.move(timers[i], later)) due[i] = later;
    }
  }
  Clock::time_point last{};
  while (time.run_one()) {
    EXPECT_GE(time.now(), last);
    last = time.now();
  }
  EXPECT_EQ(ran, expected);
}

TEST(SimExecutor, AStoppedRankRunsNothingUntilItGoesOnAndADeadOneNever) {
  sim::VirtualTime time;
  sim::SimNetwork network(time, {.node_of_rank = {0, 0}});
  std::vector<int> ran;
  Executor& executor = network.executor(0);
  network.stop(0);
  executor.post([&] { ran.push_back(1); });
  executor.at(time.now() + Nanoseconds(5), [&] { ran.push_back(2); });
  const TimerId cancelled = executor.at(time.now() + Nanoseconds(6), [&] { ran.push_back(3); });
  network.executor(1).after(Nanoseconds(7), [&] { ran.push_back(10); });
  time.run_to(time.now() + Nanoseconds(100));
  EXPECT_EQ(ran, (std::vector<int>{10}));
  EXPECT_TRUE(executor.cancel(cancelled)) << "it was due, and had not run";
  network.resume(0);
  executor.post([&] { ran.push_back(4); });
  time.run_until_idle();
  EXPECT_EQ(ran, (std::vector<int>{10, 1, 2, 4}));
  executor.post([&] { ran.push_back(5); });
  network.kill(0);
  executor.post([&] { ran.push_back(6); });
  time.run_until_idle();
  EXPECT_EQ(ran, (std::vector<int>{10, 1, 2, 4}));
}

}  // namespace
}  // namespace cardea
