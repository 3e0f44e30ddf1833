// SPDX-License-Identifier: Apache-2.0
// How fetches end otherwise than by being read: canceled, destroyed, overdue, with their context. A source that is stopped
// (SIGSTOP) keeps chunks in flight for as long as the test wants.
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

using std::chrono::steady_clock;

/// Waits up to 30 s.
bool comes_true(const std::function<bool()>& what) {
  const auto deadline = steady_clock::now() + std::chrono::seconds(30);
  while (!what()) {
    if (steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

char state_of(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::size_t after = text.rfind(") ");
  return after == std::string::npos ? '?' : text[after + 2];
}

/// Stops a process until it goes.
class Stopped {
 public:
  explicit Stopped(pid_t process) : process_(process) {
    kill(process, SIGSTOP);
    EXPECT_TRUE(comes_true([&] { return state_of(process) == 'T'; })) << "it was not stopped";
  }
  ~Stopped() { go_on(); }
  void go_on() { kill(process_, SIGCONT); }

 private:
  pid_t process_;
};

/// Rank 0 reads, rank 1 on another node serves; the layer's version 1 is published by both.
void reader_and_source(Shape shape, const std::function<void(Job&, Layer&, pid_t source)>& read) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first");
    Layer layer(job, shape);
    layer.publish(1);
    if (rank == 1) board.set(0, static_cast<unsigned long>(getpid()));
    ASSERT_TRUE(board.barrier(0, 2));
    if (rank == 0) {
      // A small read first: both ends are connected, and it is known that version 1 is published.
      EXPECT_EQ(read_all(layer, layer.fetch(1, {layer.homed_at(1)[0]}), 1), 1u);
      read(job, layer, static_cast<pid_t>(board.get(0)));
    }
    EXPECT_TRUE(board.barrier(1, 2));
    job.leave();
  });
}

const Shape kLarge{.per_rank = 5, .slots = 3, .segments = {1500000, 4096}};

TEST(FetchEnd, CanceledChunksAreDrainedBeforeTheirSlotsReturn) {
  reader_and_source(kLarge, [](Job&, Layer& layer, pid_t source) {
    const std::vector<std::uint32_t> theirs = {6, 7, 8, 9};
    Stopped stopped(source);
    const cardea_fetch_t fetch = layer.fetch(1, theirs);
    EXPECT_EQ(info_of(fetch).moving, 3u);
    EXPECT_EQ(info_of(fetch).starved, 1u);
    CARDEA_MUST(cardea_cancel(fetch));
    CARDEA_MUST(cardea_cancel(fetch));
    const std::vector<cardea_view_t> views = drain(fetch);
    ASSERT_EQ(views.size(), 4u);
    for (const cardea_view_t& view : views) EXPECT_EQ(view.status, CARDEA_ERR_CANCELED);
    EXPECT_EQ(last_error().status, CARDEA_ERR_CANCELED);
    EXPECT_LT(layer.slab.info().free_slots, 3u) << "slots came back while bytes may still arrive in them";
    EXPECT_EQ(cardea_slab_destroy(layer.slab.handle), CARDEA_ERR_BUSY);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    stopped.go_on();
    EXPECT_TRUE(comes_true([&] { return layer.slab.info().free_slots == 3; })) << "a credit was lost";
    EXPECT_EQ(read_all(layer, layer.fetch(1, theirs), 1), 4u);
  });
}

TEST(FetchEnd, DestroyingAFetchInFlightKeepsItsSlotsUntilTheyAreDrained) {
  reader_and_source(kLarge, [](Job& job, Layer& layer, pid_t source) {
    Stopped stopped(source);
    const cardea_fetch_t fetch = layer.fetch(1, {6, 7});
    EXPECT_EQ(info_of(fetch).moving, 2u);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    EXPECT_LT(layer.slab.info().free_slots, 3u);
    stopped.go_on();
    EXPECT_TRUE(comes_true([&] { return layer.slab.info().free_slots == 3; })) << "a credit was lost";
    layer.slab.poison();
    EXPECT_EQ(read_all(layer, layer.fetch(1, {6, 7, 8, 9}), 1), 4u);
    EXPECT_GE(job.counters().experts_network, 5u);
  });
}

TEST(FetchEnd, DeliveredViewsOutliveTheirFetch) {
  reader_and_source({}, [](Job&, Layer& layer, pid_t) {
    const cardea_fetch_t fetch = layer.fetch(1, {2, 3});
    const std::vector<cardea_view_t> views = drain(fetch);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    ASSERT_EQ(views.size(), 2u);
    const cardea_fetch_t other = layer.fetch(1, {2});
    CARDEA_MUST(cardea_fetch_destroy(other));  // with a ready view that was never delivered
    for (const cardea_view_t& view : views) EXPECT_TRUE(layer.right(view, 1));
    release(views);
    EXPECT_EQ(layer.slab.info().free_slots, 4u);
  });
}

TEST(FetchEnd, TheDeadlineFailsWhatIsNotReadyExpertByExpert) {
  reader_and_source(kLarge, [](Job& job, Layer& layer, pid_t source) {
    const std::vector<std::uint32_t> experts = {0, 6, 7, 8, 9};  // one at home, three that move, one that waits for a slot
    Stopped stopped(source);
    cardea_fetch_desc_t desc = layer.want(1, experts);
    desc.deadline = 50 * kMilli;
    cardea_fetch_t fetch{};
    CARDEA_MUST(cardea_fetch(layer.handle, &desc, &fetch));
    EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_ERR_TIMEOUT);
    unsigned failed = 0;
    for (const cardea_view_t& view : drain(fetch)) {
      if (view.expert == 0) {
        EXPECT_TRUE(layer.right(view, 1)) << "what was ready must stay so";
        release({view});
      } else {
        EXPECT_EQ(view.status, CARDEA_ERR_TIMEOUT);
        ++failed;
      }
    }
    EXPECT_EQ(failed, 4u);
    EXPECT_EQ(job.counters().experts_failed, 4u);
    CARDEA_MUST(cardea_fetch_destroy(fetch));
    stopped.go_on();
    EXPECT_EQ(read_all(layer, layer.fetch(1, experts), 1), 5u) << "a fetch that was overdue must not spoil the next";
  });
}

TEST(FetchEnd, AbortEndsWaitingCallsAndRefusesLaterOnes) {
  reader_and_source(kLarge, [](Job& job, Layer& layer, pid_t) {
    const cardea_fetch_t fetch = layer.fetch(2, {6, 7});  // never published
    std::atomic<int> waiting{0};
    std::thread reader([&] {
      cardea_status_t status = CARDEA_OK;
      ++waiting;
      EXPECT_TRUE(next(fetch, 2, CARDEA_FOREVER, &status).empty());
      EXPECT_TRUE(refused(CARDEA_ERR_CANCELED, {"aborted"}, status));
    });
    std::thread collector([&] {
      ++waiting;
      layer.finish(1);
      EXPECT_REFUSED(CARDEA_ERR_CANCELED, ({"aborted"}), cardea_collect(layer.handle, 1, nullptr, CARDEA_FOREVER));
    });
    EXPECT_TRUE(comes_true([&] { return waiting == 2; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CARDEA_MUST(cardea_context_abort(job.context));
    reader.join();
    collector.join();
    cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
    cardea_group_t group{};
    EXPECT_REFUSED(CARDEA_ERR_CANCELED, ({"aborted"}), cardea_context_query(job.context, &info));
    EXPECT_REFUSED(CARDEA_ERR_CANCELED, ({"aborted"}), cardea_group_create(job.context, nullptr, 0, &group));
    EXPECT_REFUSED(CARDEA_ERR_CANCELED, ({"aborted"}), cardea_publish(layer.handle, 2, nullptr));
    EXPECT_REFUSED(CARDEA_ERR_CANCELED, ({"aborted"}), cardea_wait(fetch, 0));
    EXPECT_EQ(job.leave(), CARDEA_OK);
  });
}

/// How many mappings of Cardea's shared memory this process has.
std::uint64_t shared_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::uint64_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("/memfd:cardea ") != std::string::npos ? 1 : 0;
  return count;
}

std::uint64_t resident_bytes() {
  std::uint64_t all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

constexpr std::uint64_t kLongToMake = std::uint64_t{256} << 20;  // bytes; enough to be interrupted

/// Aborts a context while make(context) runs, which has begun when `sign` has grown by more than `noise`.
template <typename Make>
void is_not_given_if_aborted_meanwhile(Make make, std::uint64_t (*sign)(), std::uint64_t noise) {
  run_ranks(1, [&](unsigned) {
    bool seen = false;
    for (int attempt = 0; attempt < 20 && !seen; ++attempt) {
      Alone alone;
      const std::uint64_t before = sign();
      std::atomic<bool> over{false};
      cardea_status_t status = CARDEA_OK;
      std::thread maker([&] {
        status = make(alone.job.context);
        over = true;
      });
      EXPECT_TRUE(comes_true([&] { return over || sign() > before + noise; }));
      const bool in_the_midst = !over;
      CARDEA_MUST(cardea_context_abort(alone.job.context));
      maker.join();
      if (in_the_midst && status == CARDEA_ERR_CANCELED) seen = true;
    }
    EXPECT_TRUE(seen) << "every call answered as if nothing had been aborted meanwhile";
  });
}

TEST(FetchEnd, MemoryThatIsBeingMadeWhenTheContextIsAbortedIsNotGiven) {
  const auto make = [](cardea_context_t context) {
    cardea_memory_t memory{};
    return cardea_memory_alloc(context, kLongToMake, CARDEA_MEMORY_HOST, &memory);
  };
  is_not_given_if_aborted_meanwhile(make, shared_mappings, 0);
}

TEST(FetchEnd, ASlabThatIsBeingMadeWhenTheContextIsAbortedIsNotGiven) {
  const auto make = [](cardea_context_t context) {
    cardea_segment_t segment = CARDEA_SEGMENT_INIT;
    segment.name = "weights";
    segment.bytes = kLongToMake / 4;
    cardea_slab_desc_t desc = CARDEA_SLAB_DESC_INIT;
    desc.segments = &segment;
    desc.num_segments = 1;
    desc.num_slots = 4;
    cardea_slab_t slab{};
    return cardea_slab_create(context, &desc, &slab);
  };
  is_not_given_if_aborted_meanwhile(make, resident_bytes, std::uint64_t{16} << 20);
}

TEST(FetchEnd, DestroyEndsBlockedThreadsAndOpenTransfersInTime) {
  reader_and_source(kLarge, [](Job& job, Layer& layer, pid_t source) {
    Stopped stopped(source);
    const cardea_fetch_t moving = layer.fetch(1, {6, 7, 8});
    const cardea_fetch_t parked = layer.fetch(2, {9});
    EXPECT_EQ(info_of(moving).moving, 3u);
    std::atomic<int> waiting{0};
    std::vector<std::thread> threads;
    for (const cardea_fetch_t fetch : {moving, parked}) {
      threads.emplace_back([&waiting, fetch] {
        cardea_status_t status = CARDEA_OK;
        ++waiting;
        EXPECT_TRUE(next(fetch, 1, CARDEA_FOREVER, &status).empty());
        EXPECT_TRUE(status == CARDEA_ERR_CANCELED || status == CARDEA_ERR_INVALID_HANDLE) << cardea_status_string(status);
      });
    }
    EXPECT_TRUE(comes_true([&] { return waiting == 2; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const auto begun = steady_clock::now();
    EXPECT_EQ(job.leave(), CARDEA_OK);
    EXPECT_LT(steady_clock::now() - begun, std::chrono::seconds(2 + 10)) << "2 s, and 10 for a machine under load";
    for (std::thread& thread : threads) thread.join();
    cardea_fetch_info_t info = CARDEA_FETCH_INFO_INIT;
    EXPECT_EQ(cardea_fetch_query(moving, &info), CARDEA_ERR_INVALID_HANDLE);
  });
}

std::vector<std::string> open_descriptors() {
  std::vector<std::string> open;
  DIR* const directory = opendir("/proc/self/fd");
  while (const dirent* const entry = readdir(directory)) {
    if (entry->d_name[0] == '.' || std::stoi(entry->d_name) == dirfd(directory)) continue;
    char target[256] = {};
    const std::string path = std::string("/proc/self/fd/") + entry->d_name;
    if (readlink(path.c_str(), target, sizeof target - 1) > 0) open.push_back(std::string(entry->d_name) + " -> " + target);
  }
  closedir(directory);
  return open;
}

TEST(FetchEnd, NoDescriptorsAreLeftBehind) {
  SharedExchange warm(3), measured(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    const auto one_job = [&](SharedExchange& exchange, unsigned barrier) {
      Job job(exchange, rank, rank == 2 ? "second" : "first");
      Layer layer(job, {.slots = 6});
      layer.publish(1);
      EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 6u);
      layer.finish(1);
      layer.collect(1);
      EXPECT_TRUE(board.barrier(barrier, 3));
      EXPECT_EQ(job.leave(), CARDEA_OK);
    };
    one_job(warm, 0);  // UCX and hwloc open some things once for the process
    const std::vector<std::string> before = open_descriptors();
    one_job(measured, 1);
    const std::vector<std::string> after = open_descriptors();
    EXPECT_EQ(after.size(), before.size()) << ::testing::PrintToString(after);
  });
}

TEST(FetchEnd, MappingsOfADestroyedContextAreGone) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    const auto mappings = [] {
      std::ifstream maps("/proc/self/maps");
      unsigned count = 0;
      for (std::string line; std::getline(maps, line);) count += line.find("memfd:") != std::string::npos;
      return count;
    };
    const unsigned before = mappings();
    {
      Job job(exchange, rank);
      Layer layer(job, {});
      layer.publish(1);
      EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 4u);
      EXPECT_GT(mappings(), before);
      layer.finish(1);
      layer.collect(1);
      EXPECT_TRUE(board.barrier(0, 2));
    }
    EXPECT_EQ(mappings(), before);
  });
}

}  // namespace
}  // namespace cardea::test
