// SPDX-License-Identifier: Apache-2.0
// Several ranks at one node cache, their steps interleaved at random, with deaths, stops and changes of mind: at every
// transition that the cache knows (Step), at every wait for the lock and in the middle of every copy, another rank may go
// on. A schedule is a function of its seed. Ranks are threads of which one runs at a time, so what is tested is the
// protocol, and not what a compiler or a processor makes of it; ThreadSanitizer cannot see across processes either.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

#include <set>
#include <thread>

#include "lib/cache/node_cache.h"
#include "tests/cache/plain_memory.h"
#include "tests/core/seeds.h"

namespace cardea::cache {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kChunk = 1024;
constexpr std::uint32_t kChunks = 4;
constexpr unsigned kRanks = 3;
constexpr LocalMask kAll = (1u << kRanks) - 1;
constexpr std::uint32_t kSlots = 2;  // of each rank, in which others may pull experts

std::byte weight(const Key& key, std::uint64_t at) {
  return static_cast<std::byte>(test::Random(key.expert * 131 + key.version)() >> (8 * (at % 7)) ^ at / 7);
}

struct Killed {};

/// POSIX's: the standard library's has been seen to miss wake-ups.
class Semaphore {
 public:
  Semaphore() { sem_init(&semaphore_, 0, 0); }
  ~Semaphore() { sem_destroy(&semaphore_); }
  Semaphore(const Semaphore&) = delete;
  Semaphore& operator=(const Semaphore&) = delete;
  void release() { sem_post(&semaphore_); }
  void acquire() {
    while (sem_wait(&semaphore_) != 0) {
    }
  }

 private:
  sem_t semaphore_;
};

class Schedule;

/// A lock whose holder may die or be stopped.
class ScheduledLock final : public Lock {
 public:
  ScheduledLock(Schedule& schedule, unsigned rank) : schedule_(schedule), rank_(rank) {}
  Taken lock() override;
  void unlock() override;

 private:
  Schedule& schedule_;
  const unsigned rank_;
};

struct Plan {
  std::uint64_t seed = 1;
  bool kill = false;
  bool stop = false;
  std::uint64_t blocks = 3;
};

struct Seen {
  std::uint64_t copies = 0, views = 0, killed = 0, killed_in_lock = 0, stopped = 0, overdue = 0, alone = 0, evicted = 0,
                repairs = 0, pulls = 0, too_late = 0, pulled_by_somebody = 0, left_in_slots = 0, housed_again = 0, gone = 0,
                shared = 0, claimed = 0;
};

class Schedule {
 public:
  explicit Schedule(const Plan& plan) : plan_(plan), random_(plan.seed), memory_(plan.blocks * kBlock, kChunk) {
    for (unsigned r = 0; r < kRanks; ++r) ranks_.push_back(std::make_unique<RankState>(*this, r));
    if (plan.kill || plan.stop) victim_ = static_cast<unsigned>(random_.below(kRanks));
    strikes_at_ = 1 + random_.below(60);
  }

  Seen run() {
    // One runs at a time: on one processor, handing over costs least.
    cpu_set_t before, one;
    pthread_getaffinity_np(pthread_self(), sizeof before, &before);
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    const Seen seen = run_here();
    pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    return seen;
  }

 private:
  friend class ScheduledLock;
  static constexpr std::uint64_t kTooMany = 200'000;

  Seen run_here() {
    for (auto& rank : ranks_) rank->thread = std::thread([this, &rank] { body(*rank); });
    std::uint64_t steps = 0;
    for (;;) {
      std::vector<RankState*> can;
      for (auto& rank : ranks_) {
        if (!rank->over && now_ >= rank->sleeps_until) can.push_back(rank.get());
      }
      if (can.empty()) {
        const bool all_over = std::all_of(ranks_.begin(), ranks_.end(), [](auto& rank) { return rank->over; });
        if (all_over) break;
        now_ += std::chrono::milliseconds(1);  // all that are left are stopped
        continue;
      }
      now_ += std::chrono::microseconds(1);
      if (++steps == kTooMany) {
        ADD_FAILURE() << "somebody waits forever";
        give_up_ = true;
      }
      RankState& next = *can[random_.below(can.size())];
      next.go.release();
      back_.acquire();
    }
    for (auto& rank : ranks_) {
      rank->thread.join();
      seen_.overdue += rank->cache->counters().overdue;
      seen_.evicted += rank->cache->counters().evicted;
      seen_.repairs += rank->cache->counters().repairs;
      seen_.left_in_slots += rank->cache->counters().left_in_slots;
      seen_.housed_again += rank->cache->counters().housed_again;
      seen_.gone += rank->cache->counters().gone;
    }
    all_over_ = true;
    look_at_the_end();
    return seen_;
  }

  struct RankState {
    RankState(Schedule& schedule, unsigned rank) : number(rank), lock(schedule, rank), random(schedule.random_()) {
      NodeCacheOptions options;
      options.local = rank;
      options.locals = kRanks;
      options.overdue = std::chrono::microseconds(150);
      options.process_ended = [&schedule](std::uint32_t local) { return schedule.ranks_[local]->dead; };
      options.at_step = [&schedule, this](Step) { schedule.step(*this); };
      cache = std::make_unique<NodeCache>(schedule.memory_.directory(), lock, options);
    }
    struct Slot {
      std::array<std::byte, kBlock> bytes{};
      std::optional<Offer> offer;
      std::optional<EntryIndex> left;  // withdrawn, and perhaps still pulled from
    };
    const unsigned number;
    std::array<Slot, kSlots> slots;
    ScheduledLock lock;
    test::Random random;
    std::unique_ptr<NodeCache> cache;
    Semaphore go;
    std::thread thread;
    bool over = false, dead = false;
    std::set<unsigned> mourned;  // deaths that it has heard of
    Clock::time_point sleeps_until{};
  };

  /// Another rank may go on here, and this one may die or fall asleep.
  void step(RankState& rank) {
    if (rank.dead || all_over_) return;  // it unwinds, or there is nobody to give way to
    if (rank.number == victim_ && !struck_ && ++victims_steps_ == strikes_at_) {
      struck_ = true;
      if (plan_.kill) {
        rank.dead = true;
        ++seen_.killed;
        if (holder_ == static_cast<int>(rank.number)) {
          ++seen_.killed_in_lock;
          holder_ = -1;
          holder_died_ = true;
        }
        throw Killed{};
      }
      ++seen_.stopped;
      rank.sleeps_until = now_ + std::chrono::milliseconds(1 + random_.below(3));
    }
    back_.release();
    rank.go.acquire();
  }

  void body(RankState& rank) {
    rank.go.acquire();
    try {
      for (unsigned i = 0; i < 6 && !give_up_; ++i) use(rank);
    } catch (const Killed&) {
    }
    rank.over = true;
    back_.release();
  }

  void use(RankState& rank) {
    NodeCache& cache = *rank.cache;
    const Key key{{1, 1}, static_cast<ExpertIndex>(rank.random.below(3)), 1 + rank.random.below(2)};
    if (rank.random.chance(20)) return share(rank, key);
    const bool unread = rank.random.chance(20);
    Refusal why{};
    const LocalMask pullable = rank.random.chance(70) ? kAll : 0;
    const auto entry = cache.acquire(key, kBlock, kChunks, unread ? 2 : 0, unread, cache.tick(), why, pullable);
    if (why == Refusal::kInSlots) return pull(rank, key);
    if (!entry) {
      ++seen_.alone;  // fetches for itself
      return;
    }
    if (!unread) cache.want(*entry, 0, true);
    const bool changes_its_mind = rank.random.chance(15);
    cache.wait_for(*entry, true);
    while (!whole(cache, *entry) && !give_up_) {
      hear_of_deaths(rank);
      if (!move_a_chunk(rank, *entry, key)) step(rank);
      if (changes_its_mind && rank.random.chance(30)) break;
    }
    if (whole(cache, *entry)) {
      cache.wait_for(*entry, false);
      for (unsigned look = 0; look < 2; ++look) {
        check(cache, *entry, key);
        step(rank);
      }
      ++seen_.views;
      if (rank.random.chance(60)) put_in_slot(rank, *entry, key);
    }
    cache.release(*entry, rank.random.chance(10));
    if (rank.random.chance(10)) cache.retire(key.layer, 1);
  }

  /// What lies in host memory anyway: one copies it into a slot for all, while others wait, but not for ever.
  void share(RankState& rank, const Key& key) {
    NodeCache& cache = *rank.cache;
    const auto entry = cache.acquire_index(key);
    if (!entry) return;
    for (unsigned tries = 0; tries < 300 && !give_up_; ++tries) {
      hear_of_deaths(rank);
      if (cache.can_pull(*entry, kAll)) {
        ++seen_.shared;
        break;
      }
      if (!cache.try_claim_whole(*entry, now_)) {
        step(rank);
        continue;
      }
      EXPECT_EQ(cache.whole_claim(*entry, now_), std::nullopt) << "its own";
      ++seen_.claimed;
      put_in_slot(rank, *entry, key);
      cache.end_claim_whole(*entry);
      break;
    }
    cache.release(*entry, false);
  }

  /// What lies in slots alone. Whoever owns the slot may die, stop, or need it meanwhile.
  void pull(RankState& rank, const Key& key) {
    NodeCache& cache = *rank.cache;
    const auto entry = cache.acquire_in_slots(key, kAll);
    if (!entry) return;  // somebody has given it a payload, or needed its slot
    hear_of_deaths(rank);
    if (const auto from = cache.start_pull(*entry, kAll, rank.number)) {
      const auto& slot = ranks_[from->local]->slots[from->slot];
      for (std::uint64_t at = 0; at < kBlock; ++at) {
        if (at % 600 == 0) step(rank);
        if (slot.bytes[at] == weight(key, at)) continue;
        ADD_FAILURE() << "the slot was reused under a puller: expert " << key.expert << ", byte " << at;
        break;
      }
      ++seen_.pulls;
      cache.end_pull(*entry);
      if (rank.random.chance(60)) put_in_slot(rank, *entry, key);
    } else {
      ++seen_.too_late;
    }
    cache.release(*entry, false);
  }

  /// A slot is filled, and offered to the others; unless somebody still pulls from it.
  void put_in_slot(RankState& rank, EntryIndex entry, const Key& key) {
    const auto number = static_cast<std::uint32_t>(rank.random.below(kSlots));
    RankState::Slot& slot = rank.slots[number];
    if (slot.offer) {
      const Offer offer = *std::exchange(slot.offer, std::nullopt);
      if (rank.cache->withdraw(offer).pulled) slot.left = offer.entry;
    }
    if (slot.left && rank.cache->pullers(*slot.left) != 0) {
      ++seen_.pulled_by_somebody;
      return;
    }
    slot.left.reset();
    for (std::uint64_t at = 0; at < kBlock; ++at) {
      if (at % 1500 == 0) step(rank);
      slot.bytes[at] = weight(key, at);
    }
    slot.offer = rank.cache->offer(entry, 1, number);
  }

  static bool whole(const NodeCache& cache, EntryIndex entry) {
    for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk) {
      if (!cache.done(entry, chunk)) return false;
    }
    return true;
  }

  void hear_of_deaths(RankState& rank) {
    for (unsigned other = 0; other < kRanks; ++other) {
      if (ranks_[other]->dead && rank.random.chance(20) && rank.mourned.insert(other).second) rank.cache->rank_lost(other);
    }
  }

  bool move_a_chunk(RankState& rank, EntryIndex entry, const Key& key) {
    const auto first = static_cast<std::uint32_t>(rank.random.below(kChunks));
    for (std::uint32_t i = 0; i < kChunks; ++i) {
      const std::uint32_t chunk = (first + i) % kChunks;
      if (!rank.cache->try_claim(entry, chunk, now_)) continue;
      if (rank.random.chance(10)) {
        rank.cache->finish_chunk(entry, chunk, false);
        return true;
      }
      std::byte* const to = rank.cache->payload(entry) + chunk * kChunk;
      for (std::uint64_t at = 0; at < kChunk; ++at) {
        if (at % 300 == 0) {
          step(rank);
          const Directory directory = memory_.directory();
          const Entry& is = directory.entry(entry);
          EXPECT_TRUE(is.state.load() == Entry::kLive && is.expert == key.expert && is.version == key.version)
              << "the entry was reused under a writer";
        }
        to[at] = weight(key, chunk * kChunk + at);
      }
      ++seen_.copies;
      rank.cache->finish_chunk(entry, chunk, true);
      return true;
    }
    return false;
  }

  static void check(const NodeCache& cache, EntryIndex entry, const Key& key) {
    for (std::uint64_t at = 0; at < kBlock; at += 97) {
      if (cache.payload(entry)[at] == weight(key, at)) continue;
      ADD_FAILURE() << "expert " << key.expert << " version " << key.version << " is wrong at byte " << at;
      return;
    }
  }

  void look_at_the_end() {
    // One who lives tidies up after the dead; then nothing is pinned, and the directory is what its entries say.
    for (auto& rank : ranks_) {
      if (rank->dead) continue;
      for (unsigned other = 0; other < kRanks; ++other) {
        if (ranks_[other]->dead) rank->cache->rank_lost(other);
      }
      break;
    }
    Directory directory = memory_.directory();
    std::set<std::tuple<ExpertIndex, Version>> keys;
    std::uint64_t blocks = 0;
    for (EntryIndex i = 0; i < directory.shape().entries; ++i) {
      const Entry& entry = directory.entry(i);
      const std::uint32_t state = entry.state.load();
      if (state == Entry::kEmpty) continue;
      EXPECT_EQ(entry.pins.load(), 0u);
      EXPECT_EQ(entry.waiters.load(), 0u);
      EXPECT_EQ(entry.pullers.load(), 0u);
      EXPECT_EQ(entry.claim.load(), 0u);
      for (const std::atomic<std::uint64_t>& place : entry.places) {
        if (copy_state_of(place.load()) != CopyState::kInSlot) continue;
        const RankState& holder = *ranks_[copy_holder_of(place.load())];
        EXPECT_FALSE(holder.dead) << "it lies in the slot of one who died";
        const auto& offer = holder.slots[copy_slot_of(place.load())].offer;
        EXPECT_TRUE(offer && offer->entry == i) << "it lies in a slot that holds something else";
      }
      if (state == Entry::kInSlots && !Directory::placed(entry)) continue;
      EXPECT_TRUE(keys.emplace(entry.expert, entry.version).second) << "one key, two entries";
      EXPECT_EQ(directory.find({{1, 1}, entry.expert, entry.version}), i);
      if (state == Entry::kInSlots) continue;
      for (std::uint32_t c = 0; c < kChunks; ++c)
        EXPECT_NE(state_of(directory.chunk_word(entry.first_block, c).load()), ChunkState::kClaimed);
      blocks += entry.blocks;
    }
    EXPECT_EQ(directory.header().used_blocks.load(), blocks);
  }

  const Plan plan_;
  test::Random random_;
  PlainMemory memory_;
  std::vector<std::unique_ptr<RankState>> ranks_;
  Semaphore back_;
  Clock::time_point now_{std::chrono::seconds(10)};
  unsigned victim_ = kRanks;
  std::uint64_t strikes_at_ = 0, victims_steps_ = 0;
  bool struck_ = false, give_up_ = false, all_over_ = false;
  int holder_ = -1;
  bool holder_died_ = false;
  Seen seen_;
};

Lock::Taken ScheduledLock::lock() {
  for (unsigned attempt = 0; schedule_.holder_ >= 0; ++attempt) {
    if (attempt == 40) return Taken::kNot;
    schedule_.step(*schedule_.ranks_[rank_]);
  }
  schedule_.holder_ = static_cast<int>(rank_);
  return std::exchange(schedule_.holder_died_, false) ? Taken::kOwnerDied : Taken::kClean;
}

void ScheduledLock::unlock() {
  if (!schedule_.ranks_[rank_]->dead) schedule_.holder_ = -1;  // the dead unwind; their lock is gone already
}

Seen run(std::uint64_t seeds, Plan plan) {
  Seen sum;
  test::for_each_seed(seeds, [&](std::uint64_t seed) {
    plan.seed = seed;
    plan.blocks = 1 + seed % 6;
    const Seen seen = Schedule(plan).run();
    sum.copies += seen.copies;
    sum.views += seen.views;
    sum.killed += seen.killed;
    sum.killed_in_lock += seen.killed_in_lock;
    sum.stopped += seen.stopped;
    sum.overdue += seen.overdue;
    sum.alone += seen.alone;
    sum.evicted += seen.evicted;
    sum.repairs += seen.repairs;
    sum.pulls += seen.pulls;
    sum.too_late += seen.too_late;
    sum.pulled_by_somebody += seen.pulled_by_somebody;
    sum.left_in_slots += seen.left_in_slots;
    sum.housed_again += seen.housed_again;
    sum.gone += seen.gone;
    sum.shared += seen.shared;
    sum.claimed += seen.claimed;
  });
  return sum;
}

TEST(Interleaving, EveryViewIsRightAndNobodyWaitsForever) {
  const Seen seen = run(2000, {});
  EXPECT_GT(seen.views, 2000u);
  EXPECT_GT(seen.alone, 0u);
  EXPECT_GT(seen.evicted, 0u);
  EXPECT_LT(seen.copies, seen.views * kChunks) << "nothing was shared";
  EXPECT_GT(seen.left_in_slots, 100u);
  EXPECT_GT(seen.pulls, 100u);
  EXPECT_GT(seen.too_late, 0u) << "slots were needed before somebody could pull";
  EXPECT_GT(seen.pulled_by_somebody, 0u) << "slots were needed while somebody pulled";
  EXPECT_GT(seen.housed_again, 0u);
  EXPECT_GT(seen.gone, 0u);
  EXPECT_GT(seen.shared, 100u);
  EXPECT_GT(seen.claimed, 100u);
}

TEST(Interleaving, ThroughADeathAtAnyStep) {
  const Seen seen = run(3000, {.kill = true});
  EXPECT_GT(seen.killed, 600u);
  EXPECT_GT(seen.killed_in_lock, 100u) << "among them holders of the lock";
  EXPECT_GT(seen.repairs, 100u);
  EXPECT_GT(seen.views, 3000u);
  EXPECT_GT(seen.pulls, 100u);
}

TEST(Interleaving, ThroughAStopAtAnyStep) {
  const Seen seen = run(2000, {.stop = true});
  EXPECT_GT(seen.stopped, 300u);
  EXPECT_GT(seen.overdue, 10u) << "claims of the one that was stopped were taken over";
  EXPECT_GT(seen.views, 2000u);
  EXPECT_GT(seen.pulls, 100u);
}

}  // namespace
}  // namespace cardea::cache
