// SPDX-License-Identifier: Apache-2.0
// Real processes at one node cache, of which one is killed or stopped by itself right after a transition of the cache, while
// it holds the lock, while it fetches, pulls, or has something in a slot, at any other. The others must go on within a
// second of noticing, with right bytes, and nothing may be left behind. CARDEA_CACHE_CYCLES sets how often (default 300 of
// each).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <thread>

#include "lib/cache/arena.h"
#include "lib/cache/node_cache.h"
#include "tests/core/seeds.h"
#include "tests/support/ranks.h"

namespace cardea::cache {
namespace {

constexpr std::uint64_t kExpert = 64 << 10;
constexpr std::uint64_t kChunk = 8 << 10;
constexpr std::uint32_t kChunks = kExpert / kChunk;
constexpr unsigned kRanks = 3;
constexpr unsigned kVictim = 0;
constexpr LocalMask kAll = (1u << kRanks) - 1;
constexpr std::uint32_t kSlots = 2;  // of each rank, from which others pull
constexpr Nanoseconds kOverdue = std::chrono::milliseconds(20);
constexpr Nanoseconds kPatience = std::chrono::milliseconds(20);

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr Nanoseconds kAllowed = std::chrono::seconds(10);  // ten times as slow
#else
constexpr Nanoseconds kAllowed = std::chrono::seconds(1);
#endif

constexpr std::size_t kSteps = static_cast<std::size_t>(Step::kCount);

std::uint64_t weight(const Key& key, std::uint64_t word) {
  return key.expert * 1'000'003 + key.version * 7919 + word;
}

/// Slots that all ranks can read, as GPUs map one another's.
class SharedSlots {
 public:
  SharedSlots()
      : memory_(
            static_cast<std::uint64_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedSlots() { munmap(memory_, kBytes); }
  SharedSlots(const SharedSlots&) = delete;
  SharedSlots& operator=(const SharedSlots&) = delete;
  std::uint64_t* words(unsigned local, std::uint32_t slot) const {
    return memory_ + (local * kSlots + slot) * (kExpert / 8);
  }

 private:
  static constexpr std::size_t kBytes = kRanks * kSlots * kExpert;
  std::uint64_t* memory_;
};

/// One rank in its own process.
class Participant {
 public:
  Participant(Arena& arena, const SharedSlots& shared, unsigned local, std::function<void(Step)> at_step,
              const std::array<int, kRanks>& pidfds)
      : arena_(arena),
        shared_(shared),
        local_(local),
        random_(local + 1),
        lock_(arena.directory().header().lock, kPatience),
        cache_(arena.directory(), lock_, [&] {
          NodeCacheOptions options;
          options.local = local;
          options.locals = kRanks;
          options.overdue = kOverdue;
          options.at_step = std::move(at_step);
          options.process_ended = [pidfds](std::uint32_t other) { return ended(pidfds[other]); };
          return options;
        }()) {}

  static bool ended(int pidfd) {
    pollfd waiting{pidfd, POLLIN, 0};
    return pidfd >= 0 && poll(&waiting, 1, 0) == 1;
  }

  /// Gets an expert, through the cache or alone, and checks it; false if its bytes are wrong.
  bool use(const Key& key, const std::function<void()>& look_around) {
    if (random_.chance(25)) return share(key);
    Refusal why{};
    const LocalMask pullable = random_.chance(75) ? kAll : 0;
    const auto entry = cache_.acquire(key, kExpert, kChunks, 0, false, cache_.tick(), why, pullable);
    if (why == Refusal::kInSlots) return pull(key);
    if (!entry) return true;  // alone: nothing that could be wrong here
    while (!whole(*entry)) {
      look_around();
      bool moved = false;
      for (std::uint32_t chunk = 0; chunk < kChunks && !moved; ++chunk) moved = move(*entry, chunk, key);
      if (!moved) usleep(200);
    }
    const bool right = is_right(reinterpret_cast<const std::uint64_t*>(cache_.payload(*entry)), key);
    put_in_slot(*entry, key);
    cache_.release(*entry, false);
    return right;
  }
  NodeCache& cache() { return cache_; }

 private:
  static bool is_right(const std::uint64_t* words, const Key& key) {
    bool right = true;
    for (std::uint64_t word = 0; word < kExpert / 8; ++word) right &= words[word] == weight(key, word);
    return right;
  }
  bool pull(const Key& key) {
    const auto entry = cache_.acquire_in_slots(key, kAll);
    if (!entry) return true;
    bool right = true;
    if (const auto from = cache_.start_pull(*entry, kAll, local_)) {
      right = is_right(shared_.words(from->local, from->slot), key);
      cache_.end_pull(*entry);
      put_in_slot(*entry, key);
    }
    cache_.release(*entry, false);
    return right;
  }
  /// What lies in host memory anyway: one copies it into a slot for all.
  bool share(const Key& key) {
    const auto entry = cache_.acquire_index(key);
    if (!entry) return true;
    bool right = true;
    if (const auto from = cache_.start_pull(*entry, kAll, local_)) {
      right = is_right(shared_.words(from->local, from->slot), key);
      cache_.end_pull(*entry);
    } else if (cache_.try_claim_whole(*entry, Clock::now())) {
      put_in_slot(*entry, key);
      cache_.end_claim_whole(*entry);
    }
    cache_.release(*entry, false);
    return right;
  }
  void put_in_slot(EntryIndex entry, const Key& key) {
    const auto number = static_cast<std::uint32_t>(random_.below(kSlots));
    if (slots_[number].offer) {
      const Offer offer = *std::exchange(slots_[number].offer, std::nullopt);
      if (cache_.withdraw(offer).pulled) slots_[number].left = offer.entry;
    }
    // Whoever pulls may be stopped for ever: its slot stays as it is, and this rank goes on.
    if (slots_[number].left && cache_.pullers(*slots_[number].left) != 0) return;
    slots_[number].left.reset();
    std::uint64_t* const words = shared_.words(local_, number);
    for (std::uint64_t word = 0; word < kExpert / 8; ++word) words[word] = weight(key, word);
    slots_[number].offer = cache_.offer(entry, 1, number);
  }
  bool whole(EntryIndex entry) const {
    for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk) {
      if (!cache_.done(entry, chunk)) return false;
    }
    return true;
  }
  bool move(EntryIndex entry, std::uint32_t chunk, const Key& key) {
    if (!cache_.try_claim(entry, chunk, Clock::now())) return false;
    const bool backed = arena_.back(cache_.offset(entry) + chunk * kChunk, kChunk).ok();
    if (backed) {
      auto* const words = reinterpret_cast<std::uint64_t*>(cache_.payload(entry) + chunk * kChunk);
      for (std::uint64_t word = 0; word < kChunk / 8; ++word) words[word] = weight(key, chunk * kChunk / 8 + word);
    }
    cache_.finish_chunk(entry, chunk, backed);
    return true;
  }

  struct Slot {
    std::optional<Offer> offer;
    std::optional<EntryIndex> left;  // withdrawn, and perhaps still pulled from
  };
  Arena& arena_;
  const SharedSlots& shared_;
  const unsigned local_;
  test::Random random_;
  std::array<Slot, kSlots> slots_;
  RobustLock lock_;
  NodeCache cache_;
};

enum Cell : unsigned { kPids = 100, kStepsSeen = 200, kWrong = 300, kLate = 301, kStruck = 302, kDoneCount = 303 };

std::size_t open_descriptors() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}
/// Of Cardea: other programs come and go.
std::set<std::string> names_in(const char* directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.find("cardea") != std::string::npos) names.insert(name);
  }
  return names;
}

/// Other tests run beside this one, whose files go again.
testing::AssertionResult nothing_new_in(const char* directory, const std::set<std::string>& before) {
  std::string left;
  for (const auto until = Clock::now() + std::chrono::seconds(90); Clock::now() < until;) {
    left.clear();
    for (const std::string& name : names_in(directory)) {
      if (!before.contains(name)) left += " " + name;
    }
    if (left.empty()) return testing::AssertionSuccess();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return testing::AssertionFailure() << "left in " << directory << ":" << left;
}

/// One life of a cache. The victim strikes itself by `signal` at the `nth` time that it makes the step. Ranks begin within
/// `spread`.
void cycle(std::uint64_t seed, int signal, Step step, unsigned nth, test::SharedBoard& totals,
           std::chrono::microseconds spread = {}) {
  Result<Arena> arena = Arena::create(Shape::of(6 * kExpert, kChunk).value());
  ASSERT_TRUE(arena.ok()) << arena.status().message();
  test::SharedBoard board;
  const SharedSlots slots;
  std::array<pid_t, kRanks> pids{};
  for (unsigned local = 0; local < kRanks; ++local) {
    pids[local] = fork();
    if (pids[local] != 0) continue;
    board.set(kPids + local, static_cast<unsigned long>(getpid()));
    if (!board.barrier(0, kRanks)) _exit(9);
    std::array<int, kRanks> pidfds{};
    for (unsigned other = 0; other < kRanks; ++other)
      pidfds[other] = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(board.get(kPids + other)), 0));
    if (!board.barrier(1, kRanks)) _exit(9);
    unsigned times = 0;
    Participant rank(
        *arena, slots, local,
        [&](Step now) {
          if (local != kVictim || now != step || ++times != nth) return;
          board.set(kStruck, 1);
          raise(signal);
        },
        pidfds);
    std::optional<Clock::time_point> noticed;
    const auto look_around = [&] {
      if (noticed || !Participant::ended(pidfds[kVictim])) return;
      noticed = Clock::now();
      rank.cache().rank_lost(kVictim);
    };
    test::Random random(seed * 16 + local);
    if (spread.count() > 0) std::this_thread::sleep_for(std::chrono::microseconds(random.below(spread.count())));
    Nanoseconds slowest{0};
    for (unsigned i = 0; i < 12; ++i) {
      const Key key{{1, 1}, static_cast<ExpertIndex>(random.below(8)), 1 + i / 6};
      if (local != kVictim && !noticed) look_around();
      const auto begin = Clock::now();
      if (!rank.use(key, [&] {
            if (local != kVictim) look_around();
          }))
        board.add(kWrong, 1);
      slowest = std::max<Nanoseconds>(slowest, Clock::now() - begin);
      if (i % 6 == 5) rank.cache().retire({1, 1}, 1);
    }
    // A stop is noticed by claims that are overdue and by the lock that is not to be had.
    const Nanoseconds allowed = kAllowed + (signal == SIGSTOP ? kOverdue + kPatience : Nanoseconds(0));
    if (local != kVictim && slowest > allowed) board.add(kLate, 1);
    board.add(kDoneCount, 1);
    _exit(0);
  }
  for (unsigned local = 1; local < kRanks; ++local) {
    int status = 0;
    ASSERT_EQ(waitpid(pids[local], &status, 0), pids[local]);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "rank " << local << " ended with " << status;
  }
  int status = 0;
  ASSERT_EQ(waitpid(pids[kVictim], &status, WUNTRACED), pids[kVictim]);
  if (WIFSTOPPED(status)) {
    EXPECT_EQ(signal, SIGSTOP);
    kill(pids[kVictim], SIGKILL);
    waitpid(pids[kVictim], nullptr, 0);
  } else if (WIFSIGNALED(status)) {
    EXPECT_EQ(WTERMSIG(status), SIGKILL);
    EXPECT_EQ(signal, SIGKILL);
  }
  const bool struck = board.get(kStruck) != 0;
  EXPECT_EQ(struck, WIFSTOPPED(status) || WIFSIGNALED(status));
  if (struck) totals.add(kStepsSeen + static_cast<unsigned>(step), 1);
  EXPECT_EQ(board.get(kWrong), 0u) << "an expert's bytes were wrong";
  EXPECT_EQ(board.get(kLate), 0u) << "somebody waited for more than a second";
}

void cycles(int signal) {
  const std::uint64_t count = test::number_from_environment("CARDEA_CACHE_CYCLES", 300);
  const std::size_t descriptors = open_descriptors();
  const auto shm = names_in("/dev/shm"), tmp = names_in("/tmp");
  test::SharedBoard totals;
  for (std::uint64_t i = 0; i < count && !testing::Test::HasFailure(); ++i) {
    test::Random random(i);
    const auto step = static_cast<Step>(i % kSteps);
    cycle(i, signal, step, 1 + static_cast<unsigned>(random.below(4)), totals);
    if (testing::Test::HasFailure()) ADD_FAILURE() << "in cycle " << i << ", step " << i % kSteps;
  }
  std::uint64_t struck = 0;
  for (std::size_t step = 0; step < kSteps; ++step) {
    const auto times = [&] { return totals.get(static_cast<unsigned>(kStepsSeen + step)); };
    struck += times();
    // Repairs happen after another's death only, and nobody else dies here.
    if (count < 100 || step == static_cast<std::size_t>(Step::kRepaired) ||
        step == static_cast<std::size_t>(Step::kChunkGivenBack)) {
      continue;
    }
    // Who comes to do what depends on who is faster: a step that the victim hardly ever makes on this machine, for instance
    // because it is through before others have filled the cache, gets more lives, in which another is first each time.
    constexpr std::chrono::milliseconds kSpread{3};
    for (std::uint64_t i = count; times() == 0 && i < 2 * count && !testing::Test::HasFailure(); ++i)
      cycle(i, signal, static_cast<Step>(step), 1, totals, kSpread);
    EXPECT_GT(times(), 0u) << "nobody was struck at step " << step;
  }
  EXPECT_GT(struck, count / 2) << "of " << count;
  testing::Test::RecordProperty("struck", static_cast<int>(struck));
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_TRUE(nothing_new_in("/dev/shm", shm));
  EXPECT_TRUE(nothing_new_in("/tmp", tmp));
}

TEST(Failpoint, WhereverOneIsKilledTheOthersGoOn) {
  cycles(SIGKILL);
}
TEST(Failpoint, WhereverOneIsStoppedTheOthersGoOn) {
  cycles(SIGSTOP);
}

}  // namespace
}  // namespace cardea::cache
