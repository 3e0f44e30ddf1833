// SPDX-License-Identifier: Apache-2.0
// A directory that somebody has written nonsense into: nobody leaves its memory, loops or waits for ever, and what can be
// made anew is.
#include <gtest/gtest.h>
#include <pthread.h>

#include <cstddef>
#include <cstring>
#include <set>

#include "lib/cache/arena.h"
#include "lib/cache/node_cache.h"
#include "tests/cache/plain_memory.h"
#include "tests/core/seeds.h"

namespace cardea::cache {
namespace {

constexpr std::uint64_t kBlock = 4096, kChunk = 1024, kBlocks = 8;
constexpr std::uint32_t kChunks = 4;

constexpr std::uint64_t kNumbers[] = {0,          1,          kBlocks - 1, kBlocks,   kBlocks + 1,
                                      1ULL << 31, UINT32_MAX, 1ULL << 63,  UINT64_MAX};

class Corruption : public testing::Test {
 protected:
  Corruption() : memory_(kBlocks * kBlock, kChunk), directory_(memory_.directory()) {
    for (std::uint32_t local = 0; local < 2; ++local)
      ranks_.push_back(std::make_unique<NodeCache>(directory_, lock_, NodeCacheOptions{.local = local, .locals = 2}));
  }
  std::optional<EntryIndex> get(std::uint32_t local, ExpertIndex expert, std::uint32_t blocks = 1) {
    NodeCache& cache = *ranks_[local];
    const auto entry = cache.acquire({{7, 3}, expert, 1}, blocks * kBlock, blocks * kChunks, 0, false, cache.tick(), why_);
    EXPECT_LE(entry ? cache.offset(*entry) : 0, (kBlocks - blocks) * kBlock) << "an entry outside of the payload";
    return entry;
  }
  /// Acquired, and released again.
  EntryIndex put(ExpertIndex expert, std::uint32_t blocks = 1) {
    const auto entry = get(0, expert, blocks);
    EXPECT_TRUE(entry);
    ranks_[0]->release(*entry, false);
    return *entry;
  }
  /// All of the cache can be had, entry by entry.
  void expect_usable() {
    std::vector<EntryIndex> held;
    for (ExpertIndex expert = 100; expert < 100 + kBlocks; ++expert) {
      const auto entry = get(1, expert);
      ASSERT_TRUE(entry) << "expert " << expert << ", refusal " << static_cast<int>(why_);
      held.push_back(*entry);
    }
    std::set<std::uint64_t> places;
    for (const EntryIndex entry : held) EXPECT_TRUE(places.insert(ranks_[1]->offset(entry)).second) << "two at one place";
    for (const EntryIndex entry : held) ranks_[1]->release(entry, true);
  }

  NoLock lock_;
  PlainMemory memory_;
  Directory directory_;
  std::vector<std::unique_ptr<NodeCache>> ranks_;
  Refusal why_{};
  Clock::time_point now_{std::chrono::seconds(100)};
};

TEST_F(Corruption, EveryFieldOfTheHeaderIsCheckedByWhoAttaches) {
  const std::uint64_t total = memory_.shape().total_bytes();
  for (const std::size_t field : {offsetof(Header, magic), offsetof(Header, layout), offsetof(Header, total_bytes),
                                  offsetof(Header, capacity), offsetof(Header, chunk_bytes)}) {
    std::uint64_t right = 0;
    std::memcpy(&right, memory_.bytes() + field, sizeof right);
    for (const std::uint64_t number : kNumbers) {
      std::memcpy(memory_.bytes() + field, &number, sizeof number);
      const Result<Directory> attached = Directory::attach(memory_.bytes(), total);
      // Chunks may have many sizes; ranks that differ in theirs find no entry of each other's.
      if (attached.ok() && field == offsetof(Header, chunk_bytes)) {
        EXPECT_EQ(attached->shape().total_bytes(), total);
        continue;
      }
      EXPECT_EQ(attached.status().code(), CARDEA_ERR_PROTOCOL) << "field at " << field << ": " << number;
    }
    std::memcpy(memory_.bytes() + field, &right, sizeof right);
    EXPECT_TRUE(Directory::attach(memory_.bytes(), total).ok());
  }
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1}, sizeof(Header) - 1, sizeof(Header), total - 1})
    EXPECT_EQ(Directory::attach(memory_.bytes(), bytes).status().code(), CARDEA_ERR_PROTOCOL) << bytes;
}

TEST_F(Corruption, AnEntryThatReachesBeyondTheMemoryIsNotUsed) {
  for (std::uint32_t Entry::*const field : {&Entry::first_block, &Entry::blocks, &Entry::chunks}) {
    for (const std::uint64_t number : kNumbers) {
      const EntryIndex entry = put(5, 2);
      directory_.entry(entry).*field = static_cast<std::uint32_t>(number);
      const auto again = get(1, 5, 2);
      if (again) {
        std::memset(ranks_[1]->payload(*again), 1, 2 * kBlock);
        ranks_[1]->release(*again, true);
      }
      ranks_[0]->retire({7, 3}, 1);
      ranks_[1]->rank_lost(0);
      expect_usable();
    }
  }
}

TEST_F(Corruption, CountsThatCannotBeAreNotBelieved) {
  put(1);
  for (const std::uint64_t number : kNumbers) {
    directory_.header().used_entries = static_cast<std::uint32_t>(number);
    expect_usable();
    directory_.header().used_blocks.store(number);
    EXPECT_LE(ranks_[0]->used_bytes(), kBlocks * kBlock);
    expect_usable();
  }
}

TEST_F(Corruption, AnIndexThatBitesItsTailEnds) {
  const EntryIndex entry = put(1);
  directory_.entry(entry).next = entry;
  // Whatever else falls into that bucket goes round; other keys never match.
  for (ExpertIndex expert = 10; expert < 60; ++expert) {
    const auto other = get(1, expert);
    ASSERT_TRUE(other);
    ranks_[1]->release(*other, true);
  }
  for (const std::uint64_t next : kNumbers) {
    directory_.entry(put(1)).next = static_cast<std::uint32_t>(next);
    expect_usable();
  }
}

TEST_F(Corruption, ABlockMapThatIsWrongIsMadeAnewWhenThereIsNoRoom) {
  // Every block is said to be taken, by nobody.
  auto* const bytes = memory_.bytes();
  const std::uint64_t all = (1ULL << kBlocks) - 1;
  const EntryIndex first = *get(0, 1, kBlocks);
  std::size_t map = 0;
  for (std::size_t at = sizeof(Header); at < memory_.shape().metadata_bytes() && map == 0; at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + at, sizeof word);
    if (word == all) map = at;
  }
  ASSERT_NE(map, 0u) << "the map was not found";
  ranks_[0]->release(first, true);
  std::memcpy(bytes + map, &all, sizeof all);
  expect_usable();
  EXPECT_GT(ranks_[1]->counters().repairs, 0u);
}

TEST_F(Corruption, OfTwoEntriesAtOnePlaceThePinnedOneSurvivesARepair) {
  const EntryIndex spare = put(1), pinned = *get(0, 2);
  directory_.entry(spare).first_block = directory_.entry(pinned).first_block;
  directory_.repair();
  EXPECT_EQ(directory_.find({{7, 3}, 2, 1}), pinned);
  EXPECT_EQ(directory_.find({{7, 3}, 1, 1}), kNoEntry);
}

TEST_F(Corruption, WhatIsPinnedHereDoesNotMove) {
  const EntryIndex entry = *get(0, 1);
  const std::uint64_t place = ranks_[0]->offset(entry);
  directory_.entry(entry).first_block = 5;
  EXPECT_FALSE(get(0, 1)) << "its views would lie elsewhere";
  EXPECT_EQ(ranks_[0]->offset(entry), place);
  directory_.entry(entry).state.store(Entry::kEmpty);  // while it is pinned
  for (ExpertIndex expert = 10; expert < 20; ++expert) {
    EXPECT_NE(get(0, expert), entry) << "it is in use here";
  }
  EXPECT_EQ(ranks_[0]->offset(entry), place);
}

TEST_F(Corruption, AWordOfAChunkThatMakesNoSenseIsTakenOver) {
  const EntryIndex entry = *get(0, 1);
  const std::uint32_t block = directory_.entry(entry).first_block;
  const std::uint64_t later = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now_.time_since_epoch()).count() + 3'600'000'000);
  const std::pair<std::uint64_t, const char*> words[] = {
      {3, "a state that there is not"},
      {UINT64_MAX, "all bits"},
      {claim_word(0, 1), "a claim in this rank's name that it has not made"},
      {claim_word(1, later), "a claim of tomorrow"},
      {claim_word(63, later), "of a rank that there is not"},
      {claim_word(1, UINT64_MAX >> 8), "of the end of time"}};
  for (const auto& [word, what] : words) {
    directory_.chunk_word(block, 0).store(word);
    EXPECT_LE(ranks_[0]->overdue_at(entry, now_).value_or(now_), now_ + std::chrono::seconds(10)) << what;
    EXPECT_TRUE(ranks_[0]->try_claim(entry, 0, now_)) << what;
    EXPECT_FALSE(ranks_[0]->claimable(entry, 0, now_ + std::chrono::hours(1))) << what << ": it is on its way here";
    ranks_[0]->finish_chunk(entry, 0, true);
    EXPECT_TRUE(ranks_[0]->done(entry, 0)) << what;
  }
}

TEST_F(Corruption, ADeadRanksPinsAreTakenBackAlsoFromNonsense) {
  NodeCacheOptions options{.local = 0, .locals = 2};
  options.process_ended = [](std::uint32_t) { return true; };
  NodeCache survivor(directory_, lock_, options);
  for (EntryIndex i = 0; i < directory_.shape().entries; ++i) {
    Entry& entry = directory_.entry(i);
    entry.state.store(Entry::kLive);
    entry.pins.store(2);
    entry.first_block = UINT32_MAX;
  }
  directory_.header().used_entries = UINT32_MAX;
  const auto entry = survivor.acquire({{7, 3}, 1, 1}, kBlock, kChunks, 0, false, 0, why_);
  EXPECT_TRUE(entry);
}

TEST_F(Corruption, RandomNonsenseDoesNoHarm) {
  test::for_each_seed(200, [this](std::uint64_t seed) {
    test::Random random(seed);
    for (unsigned step = 0; step < 100; ++step) {
      const std::size_t from = offsetof(Header, tick);
      const std::size_t at = from + random.below((memory_.shape().metadata_bytes() - from) / 4) * 4;
      const auto value =
          static_cast<std::uint32_t>(random.chance(50) ? kNumbers[random.below(std::size(kNumbers))] : random());
      std::memcpy(memory_.bytes() + at, &value, sizeof value);
      const auto local = static_cast<std::uint32_t>(random.below(2));
      const auto entry =
          get(local, static_cast<ExpertIndex>(random.below(6)), static_cast<std::uint32_t>(1 + random.below(3)));
      if (entry && random.chance(80)) ranks_[local]->release(*entry, random.chance(30));
      if (random.chance(5)) directory_.repair();
    }
    // Pins that nobody has are let go of as a dead rank's are; then all is as new.
    for (const auto& rank : ranks_) rank->leave();
    for (EntryIndex i = 0; i < directory_.shape().entries; ++i) directory_.entry(i).pins.store(0);
    directory_.repair();
    expect_usable();
  });
}

TEST(RobustLockCorruption, AMutexOfAnotherKindIsNotTouched) {
  alignas(64) unsigned char memory[64] = {};
  ASSERT_TRUE(RobustLock::create(memory).ok());
  RobustLock lock(memory);
  ASSERT_EQ(lock.lock(), Lock::Taken::kClean);
  lock.unlock();
  auto* const mutex = reinterpret_cast<pthread_mutex_t*>(memory);
  const int kind = mutex->__data.__kind;
  // Bits of a mutex with a priority ceiling, for which the C library would end the process, among others.
  for (const int other : {0, kind | 0x40, kind | 0x20, 0x7fffffff, -1}) {
    mutex->__data.__kind = other;
    EXPECT_EQ(lock.lock(), Lock::Taken::kNot) << other;
  }
  mutex->__data.__kind = kind;
  EXPECT_EQ(lock.lock(), Lock::Taken::kClean);
  lock.unlock();
}

}  // namespace
}  // namespace cardea::cache
