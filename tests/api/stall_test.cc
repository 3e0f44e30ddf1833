// SPDX-License-Identifier: Apache-2.0
// When fetches of real ranks stand still, the rank that waits writes a dump by itself, which names the rank at fault. Each
// test proves that the stall happened (a process is stopped, a version unpublished), reads the dump out of the log, and ends
// by letting the fetch complete.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/api/api_job.h"
#include "tests/telemetry/dump_text.h"

namespace cardea::test {
namespace {

char state_of(pid_t pid) {
  char path[64], state = '?';
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  if (std::FILE* const file = std::fopen(path, "r")) {
    if (std::fscanf(file, "%*d (%*[^)]) %c", &state) != 1) state = '?';
    std::fclose(file);
  }
  return state;
}

template <typename Condition>
bool eventually(Condition condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

void stop(pid_t pid) {
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  ASSERT_TRUE(eventually([&] { return state_of(pid) == 'T'; })) << "it was not stopped";
}

/// Ranks whose messages go to files, who are patient with each other and not with fetches.
class Stall : public ::testing::Test {
 protected:
  Stall() { std::filesystem::create_directory(directory_); }
  ~Stall() override { std::filesystem::remove_all(directory_); }

  /// In the rank's own process, before its job.
  cardea_config_t impatient(SharedExchange& exchange, unsigned rank, const char* node) {
    setenv("CARDEA_DEBUG_FILE", (directory_ / "%r.log").c_str(), 1);
    cardea_config_t config = exchange.config(rank, node);
    config.heartbeat = 50 * kMilli;
    config.progress_warning = 100 * kMilli;
    config.liveness_limit = 10 * kPatience;  // who is stopped lives
    config.setup_timeout = kPatience;
    return config;
  }
  /// Whole dumps that the rank has written.
  std::vector<DumpText> dumps(unsigned rank) const {
    std::ifstream in(directory_ / (std::to_string(rank) + ".log"));
    std::stringstream text;
    text << in.rdbuf();
    std::vector<DumpText> all = parse_dumps(text.str());
    std::erase_if(all, [](const DumpText& dump) { return !dump.ended; });
    return all;
  }
  /// Waits for a dump in which the rank is the first that is at fault.
  bool blames(unsigned writer, unsigned rank, DumpText& found) const {
    return eventually([&] {
      for (const DumpText& dump : dumps(writer)) {
        if (dump.faults.empty() || dump.faults[0].rank != rank) continue;
        found = dump;
        return true;
      }
      return false;
    });
  }

  const std::filesystem::path directory_ =
      std::filesystem::temp_directory_path() / ("cardea-stall-" + std::to_string(getpid()));
};

TEST_F(Stall, OfAStoppedPeerIsDumpedNamingItItsLaneAndTheFetch) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(impatient(exchange, rank, rank == 0 ? "a" : "b"));
    Layer layer(job, Shape{.layer_id = 12});
    layer.publish(1);
    if (rank == 1) board.set(0, static_cast<unsigned long>(getpid()));
    if (rank == 0) {
      EXPECT_EQ(read_all(layer, layer.fetch(1, {0, 1, 2}), 1), 3u);
      ASSERT_TRUE(board.wait_for(0, 1));
      const auto peer = static_cast<pid_t>(board.get(0));
      stop(peer);
      const cardea_fetch_t fetch = layer.fetch(1, {3});
      DumpText dump;
      ASSERT_TRUE(blames(0, 1, dump)) << "no dump that blames rank 1";
      EXPECT_EQ(state_of(peer), 'T');
      EXPECT_EQ(info_of(fetch).ready, 0u) << "it was no stall";
      EXPECT_EQ(dump.wrong, "");
      EXPECT_EQ(dump.rank, 0u);
      EXPECT_NE(
          dump.reason.find("at fault: rank 1 (chunks are on the way from it by network on lane network-in); expert 3 of "
                           "layer 12, version 1, path network, lane network-in"),
          std::string::npos)
          << dump.reason;
      ASSERT_EQ(dump.outstanding.size(), 1u);
      EXPECT_EQ(dump.outstanding[0].at("fetch"), "2");
      EXPECT_EQ(dump.outstanding[0].at("expert"), "3");
      EXPECT_EQ(dump.outstanding[0].at("state"), "moving");
      EXPECT_EQ(dump.outstanding[0].at("peer"), "1");
      EXPECT_EQ(dump.outstanding[0].at("lane"), "network-in");
      EXPECT_FALSE(dump.recent.empty());
      EXPECT_EQ(kill(peer, SIGCONT), 0);
      EXPECT_EQ(read_all(layer, fetch, 1), 1u) << "what was stopped goes on";
    }
    EXPECT_TRUE(board.barrier(1, 2));
  });
}

TEST_F(Stall, OfAVersionThatNobodyPublishesIsDumpedNamingItsSource) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(impatient(exchange, rank, nullptr));
    Layer layer(job, Shape{});
    if (rank != 1) layer.publish(1);
    if (rank == 2) {
      const cardea_fetch_t fetch = layer.fetch(1, layer.everything());
      DumpText dump;
      ASSERT_TRUE(blames(2, 1, dump));
      EXPECT_EQ(info_of(fetch).ready, 4u) << "all but those of rank 1";
      EXPECT_NE(dump.reason.find("at fault: rank 1 (it has not published version 1 of layer 0)"), std::string::npos)
          << dump.reason;
      ASSERT_EQ(dump.outstanding.size(), 2u);
      for (const DumpText::Fields& waits : dump.outstanding) {
        EXPECT_EQ(waits.at("state"), "parked");
        EXPECT_EQ(waits.at("peer"), "1");
      }
      board.set(0, 1);
      EXPECT_EQ(read_all(layer, fetch, 1), 6u);
    }
    if (rank == 1) {
      EXPECT_TRUE(board.wait_for(0, 1));
      layer.publish(1);
    }
    EXPECT_TRUE(board.barrier(0, 3));
  });
}

// Rank 2 of the other node is stopped, so that what rank 1 has claimed in the node cache stays claimed; then rank 1 is
// stopped, too. Rank 0 waits for the claims of its neighbour, then takes them over and waits for their source.
TEST_F(Stall, OfAClaimInTheNodeCacheIsDumpedNamingItsHolderAndThenTheSource) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "who went on late writes the same bytes once more while they are read (docs/architecture.md)";
#endif
  constexpr unsigned kTries = 8;  // the claim may be taken over before anybody looks, where the machine is slow
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(impatient(exchange, rank, rank < 2 ? "a" : "b"));
    Layer layer(job, Shape{.per_rank = kTries + 1, .slots = 2});
    layer.publish(1);
    board.set(rank, static_cast<unsigned long>(getpid()));
    const std::uint32_t first = 2 * (kTries + 1);                         // of rank 2's experts
    EXPECT_EQ(read_all(layer, layer.fetch(1, {first + kTries}), 1), 1u);  // all have had to do with each other
    EXPECT_TRUE(board.barrier(0, 3));
    if (rank == 1) {
      for (unsigned i = 0; i < kTries; ++i) {
        if (!board.wait_for(10 + i, 1)) break;
        if (board.get(10 + i) == 2) break;  // rank 0 has seen enough
        const cardea_fetch_t fetch = layer.fetch(1, {first + i});
        board.set(30 + i, 1);
        EXPECT_EQ(read_all(layer, fetch, 1), 1u);
      }
    }
    if (rank == 0) {
      const auto neighbour = static_cast<pid_t>(board.get(1)), source = static_cast<pid_t>(board.get(2));
      bool seen = false;
      for (unsigned i = 0; i < kTries && !seen; ++i) {
        stop(source);
        board.set(10 + i, 1);
        ASSERT_TRUE(board.wait_for(30 + i, 1));
        stop(neighbour);
        const std::size_t before = dumps(0).size();
        const cardea_fetch_t fetch = layer.fetch(1, {first + i});
        ASSERT_TRUE(eventually([&] { return dumps(0).size() > before; })) << "no dump at all";
        EXPECT_EQ(state_of(neighbour), 'T');
        EXPECT_EQ(info_of(fetch).ready, 0u);
        const DumpText dump = dumps(0).at(before);
        EXPECT_EQ(dump.wrong, "");
        ASSERT_EQ(dump.outstanding.size(), 1u);
        EXPECT_EQ(dump.outstanding[0].at("expert"), std::to_string(first + i));
        ASSERT_FALSE(dump.faults.empty());
        seen = dump.faults[0].rank == 1;
        if (seen) {
          EXPECT_EQ(dump.faults[0].why, "it has claimed chunks in the node cache");
          EXPECT_NE(dump.reason.find("at fault: rank 1 (it has claimed chunks in the node cache)"), std::string::npos)
              << dump.reason;
          EXPECT_EQ(dump.outstanding[0].at("state"), "shared");
          EXPECT_EQ(dump.outstanding[0].at("peer"), "1");
          EXPECT_EQ(dump.outstanding[0].at("source"), "2");
          // A second later the claim is overdue, and this rank asks the source itself, which is stopped, too.
          DumpText next;
          ASSERT_TRUE(blames(0, 2, next));
          EXPECT_EQ(next.outstanding.at(0).at("state"), "moving");
        } else {
          EXPECT_EQ(dump.faults[0].rank, 2u);
        }
        EXPECT_EQ(kill(source, SIGCONT), 0);
        EXPECT_EQ(kill(neighbour, SIGCONT), 0);
        EXPECT_EQ(read_all(layer, fetch, 1), 1u);
        if (seen && i + 1 < kTries) board.set(10 + i + 1, 2);
      }
      EXPECT_TRUE(seen) << "the claim was never there when the dump was taken";
    }
    EXPECT_TRUE(board.barrier(1, 3));
  });
}

}  // namespace
}  // namespace cardea::test
