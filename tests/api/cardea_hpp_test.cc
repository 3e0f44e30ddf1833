// SPDX-License-Identifier: Apache-2.0
// What cardea.hpp adds to cardea.h: ownership, exceptions, ranges, polling without exceptions. That the calls themselves do
// what they say is proved by the tests of the C interface.
#include <gtest/gtest.h>
#include <cardea/cardea.hpp>

#include <chrono>
#include <cstring>
#include <ranges>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/support/ranks.h"

namespace cx = cardea::api;
using namespace std::chrono_literals;

namespace {

static_assert(!std::is_copy_constructible_v<cx::Context> && std::is_nothrow_move_constructible_v<cx::Context>);
static_assert(!std::is_copy_constructible_v<cx::View> && std::is_nothrow_move_assignable_v<cx::View>);
static_assert(std::ranges::input_range<cx::Fetch::Views>);

constexpr std::uint64_t kFloats = 1024;
constexpr std::uint64_t kBytes = kFloats * sizeof(float);

std::vector<cx::Segment> one_segment() {
  return {{.name = "w", .bytes = kBytes, .weight_type = CARDEA_DTYPE_FLOAT32}};
}

cx::Context alone() {
  const cardea_unique_id_t id = cx::Context::create_unique_id("127.0.0.1");
  cardea_config_t config = CARDEA_CONFIG_INIT;
  config.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID;
  config.world_size = 1;
  config.unique_id = &id;
  return cx::Context(config);
}

/// Rank `rank` of two on two nodes; rank 0 makes the unique id and shows it on the board.
cx::Context one_of_two(cardea::test::SharedBoard& board, unsigned rank) {
  cardea_unique_id_t id{};
  std::vector<unsigned long> words(sizeof(id) / sizeof(unsigned long));
  if (rank == 0) {
    id = cx::Context::create_unique_id("127.0.0.1");
    std::memcpy(words.data(), &id, sizeof(id));
    for (unsigned i = 0; i < words.size(); ++i) board.set(i, words[i]);
  }
  if (!board.barrier(0, 2)) throw std::runtime_error("the other rank did not come");
  for (unsigned i = 0; i < words.size(); ++i) words[i] = board.get(i);
  std::memcpy(&id, words.data(), sizeof(id));
  cardea_config_t config = CARDEA_CONFIG_INIT;
  config.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID;
  config.rank = rank;
  config.world_size = 2;
  config.unique_id = &id;
  config.node_id = rank == 0 ? "first" : "second";
  return cx::Context(config);
}

/// One layer whose experts are all at home; expert e holds e everywhere.
struct HomeLayer {
  explicit HomeLayer(std::uint32_t experts) : job(alone()), group(job.group()), memory(job.allocate(experts * kBytes)) {
    cx::LayerOptions options{.num_experts = experts, .segments = one_segment()};
    for (std::uint32_t e = 0; e < experts; ++e) {
      options.local_experts.push_back(e);
      for (float& w : memory.as<float>().subspan(e * kFloats, kFloats)) w = static_cast<float>(e);
    }
    options.placements = {{.base = memory.as().data(), .stride = kBytes}};
    layer = group.create_layer(options);
  }

  cx::Context job;
  cx::Group group;
  cx::Memory memory;
  cx::Layer layer;
};

TEST(CardeaHpp, AFailureIsAnErrorThatNamesCallStatusAndReason) {
  try {
    alone().group(std::vector<std::uint32_t>{0, 7});
    FAIL() << "a group with a rank out of range was made";
  } catch (const cx::Error& error) {
    EXPECT_EQ(error.status(), CARDEA_ERR_INVALID_ARGUMENT);
    const std::string what = error.what();
    EXPECT_NE(what.find("cardea_group_create: CARDEA_ERR_INVALID_ARGUMENT: "), std::string::npos) << what;
    EXPECT_EQ(what.substr(what.size() - std::strlen(error.info().message)), error.info().message);
    EXPECT_NE(std::strlen(error.info().message), 0u);
  }
}

TEST(CardeaHpp, AMovedHandleIsOwnedOnceAndClosedOnce) {
  cx::Context job = alone();
  cx::Memory first = job.allocate(kBytes);
  const cardea_memory_t raw = first.get();
  cx::Memory second = std::move(first);
  EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): this is what is tested
  EXPECT_EQ(second.get().id, raw.id);
  EXPECT_EQ(second.info().bytes, kBytes);
  second.close();
  second.close();
  cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
  EXPECT_EQ(cardea_memory_query(raw, &info), CARDEA_ERR_INVALID_HANDLE);
}

TEST(CardeaHpp, AssigningToAHandleFreesWhatItHeld) {
  cx::Context job = alone();
  cx::Memory memory = job.allocate(kBytes);
  const cardea_memory_t replaced = memory.get();
  memory = job.allocate(2 * kBytes);
  cardea_memory_info_t info = CARDEA_MEMORY_INFO_INIT;
  EXPECT_EQ(cardea_memory_query(replaced, &info), CARDEA_ERR_INVALID_HANDLE);
  EXPECT_EQ(memory.as<float>().size(), 2 * kFloats);
}

TEST(CardeaHpp, ACloseThatIsRefusedKeepsTheHandle) {
  HomeLayer home(1);
  EXPECT_THROW(home.group.close(), cx::Error);
  EXPECT_EQ(home.group.info().count, 1u);
  home.layer.close();
  home.group.close();
}

TEST(CardeaHpp, ObjectsMayOutliveTheirContext) {
  cx::Fetch fetch;
  cx::View view;
  {
    HomeLayer home(1);
    home.layer.publish(1);
    fetch = home.layer.fetch(1, std::vector<std::uint32_t>{0});
    view = fetch.next().value();
    home.job.close();
  }
  EXPECT_THROW(fetch.info(), cx::Error);
}

TEST(CardeaHpp, TheRangeGivesEveryExpertOnceWithSpansOfItsSize) {
  HomeLayer home(3);
  home.layer.publish(1);
  cx::Fetch fetch = home.layer.fetch(1, std::vector<std::uint32_t>{2, 0, 1});
  std::vector<bool> seen(3);
  for (cx::View& view : fetch.views()) {
    EXPECT_FALSE(seen[view.expert()]);
    seen[view.expert()] = true;
    ASSERT_EQ(view.segment<float>(0).size(), kFloats);
    EXPECT_EQ(view.segment<float>(0).back(), static_cast<float>(view.expert()));
    EXPECT_TRUE(view.segment<float>(1).empty()) << "there is one segment only";
    EXPECT_EQ(view.path(), CARDEA_PATH_HOME);
  }
  EXPECT_EQ(seen, std::vector<bool>({true, true, true}));
  EXPECT_FALSE(fetch.next());
  fetch.close();
  home.layer.finish(1);  // BUSY if a view were open
  home.layer.collect(1);
}

TEST(CardeaHpp, AViewThatIsMovedOutOfTheRangeStaysOpen) {
  HomeLayer home(2);
  home.layer.publish(1);
  std::vector<cx::View> kept;
  cx::Fetch fetch = home.layer.fetch(1, std::vector<std::uint32_t>{0, 1});
  for (cx::View& view : fetch.views()) kept.push_back(std::move(view));
  fetch.close();
  ASSERT_EQ(kept.size(), 2u);
  try {
    home.layer.finish(1);
    FAIL() << "finish went through with open views";
  } catch (const cx::Error& error) {
    EXPECT_EQ(error.status(), CARDEA_ERR_BUSY);
  }
  kept.pop_back();
  kept.back().release();
  EXPECT_FALSE(kept.back().ok());
  kept.back().release();  // nothing any more
  home.layer.finish(1);
}

TEST(CardeaHpp, MetricsAndDumpsComeWhole) {
  HomeLayer home(2);
  EXPECT_TRUE(home.job.traffic().empty()) << "nothing has moved";
  const std::string metrics = home.job.metrics();
  EXPECT_EQ(metrics.rfind("# HELP cardea_info ", 0), 0u) << metrics;
  EXPECT_TRUE(metrics.ends_with("\n"));
  const std::string dump = home.job.dump("for a test");
  EXPECT_EQ(dump.rfind("cardea dump: for a test\n", 0), 0u) << dump;
  EXPECT_TRUE(dump.ends_with("\nend of dump\n")) << dump;
}

TEST(CardeaHpp, PollingIsNoException) {
  HomeLayer home(1);
  home.layer.publish(1);
  cx::Fetch parked = home.layer.fetch(2, std::vector<std::uint32_t>{0});  // not published yet
  cx::View view;
  EXPECT_EQ(parked.try_next(view), cx::Progress::kPending);
  EXPECT_EQ(parked.try_next(view, 5ms), cx::Progress::kPending);
  EXPECT_FALSE(parked.try_wait());
  EXPECT_THROW(home.layer.try_collect(1), cx::Error) << "this rank itself has not finished the version";
  try {
    parked.next(5ms);
    FAIL() << "an unpublished expert was delivered";
  } catch (const cx::Error& error) {
    EXPECT_EQ(error.status(), CARDEA_ERR_TIMEOUT);
  }
  home.layer.finish(1);
  EXPECT_TRUE(home.layer.try_collect(1, 10s));
  home.layer.publish(2);
  EXPECT_EQ(parked.try_next(view, 10s), cx::Progress::kReady);
  EXPECT_EQ(view.version(), 2u);
  EXPECT_EQ(parked.try_next(view), cx::Progress::kDone);
  EXPECT_TRUE(view.ok()) << "the view at hand is only replaced by another";
}

TEST(CardeaHpp, TheRangeThrowsAFailedExpertAndGoesOnAfterIt) {
  HomeLayer home(2);
  home.layer.publish(1);
  cx::Fetch fetch = home.layer.fetch(2, std::vector<std::uint32_t>{0, 1}, {.deadline = 20ms});
  for (int failed = 0; failed < 2; ++failed) {
    try {
      for (cx::View& view : fetch.views()) ADD_FAILURE() << "expert " << view.expert() << " was delivered";
      FAIL() << "the range ended without an exception";
    } catch (const cx::Error& error) {
      EXPECT_EQ(error.status(), CARDEA_ERR_TIMEOUT);
      EXPECT_LT(error.info().expert, 2u);
      EXPECT_NE(std::string(error.what()).find("expert "), std::string::npos);
    }
  }
  for (cx::View& view : fetch.views()) ADD_FAILURE() << "expert " << view.expert() << " was delivered a third time";
}

TEST(CardeaHpp, ViewsOfARangeReturnTheirSlotInTimeAndHeldOnesAreADeadlockThatIsNamed) {
  cardea::test::SharedBoard board;
  cardea::test::run_ranks(2, [&board](unsigned rank) {
    cx::Context job = one_of_two(board, rank);
    cx::Group group = job.group();
    cx::Memory memory = job.allocate(3 * kBytes);
    for (float& w : memory.as<float>()) w = static_cast<float>(rank + 1);
    cx::Slab slab = job.create_slab({.segments = one_segment(), .slots = 1});
    cx::LayerOptions options{.num_experts = 6, .segments = one_segment(), .slab = &slab};
    for (std::uint32_t i = 0; i < 3; ++i) options.local_experts.push_back(3 * rank + i);
    options.placements = {{.base = memory.as().data(), .stride = kBytes}};
    cx::Layer layer = group.create_layer(options);
    layer.publish(1);

    const std::uint32_t other = 3 * (1 - rank);
    const std::vector<std::uint32_t> theirs = {other, other + 1, other + 2};
    cx::Fetch fetch = layer.fetch(1, theirs);
    unsigned count = 0;
    for (cx::View& view : fetch.views(30s)) {
      EXPECT_EQ(view.path(), CARDEA_PATH_NETWORK);
      EXPECT_EQ(view.segment<float>(0)[kFloats - 1], static_cast<float>(2 - rank));
      ++count;
    }
    EXPECT_EQ(count, 3u) << "with one slot for three experts";

    cx::Fetch again = layer.fetch(1, std::vector<std::uint32_t>{other, other + 1});
    cx::View held = again.next(30s).value();
    try {
      again.next(30s);
      ADD_FAILURE() << "two views in one slot";
    } catch (const cx::Error& error) {
      EXPECT_EQ(error.status(), CARDEA_ERR_WOULD_DEADLOCK);
    }
    held.release();
    EXPECT_EQ(again.next_batch(5, 30s).size(), 1u);
    EXPECT_TRUE(again.next_batch(5, 30s).empty());

    fetch.close();
    again.close();
    layer.finish(1);
    layer.collect(1, 30s);
  });
}

}  // namespace
