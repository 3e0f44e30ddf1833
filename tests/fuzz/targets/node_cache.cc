// SPDX-License-Identifier: Apache-2.0
// Two ranks at work on a node cache whose directory the fuzzer changes under them: header, entries, index, block map, words
// of chunks. Whatever stands there, nothing leaves the payload, nothing loops, and what is pinned stays where it is.
#include "lib/cache/node_cache.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <map>

#include "tests/cache/plain_memory.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace cache;  // NOLINT(google-build-using-namespace)

constexpr std::uint64_t kCapacity = 64 << 10, kChunk = 4096;
constexpr std::uint32_t kMostChunks = 4;

enum Op : std::uint8_t {
  kAcquire,
  kRelease,
  kFill,
  kRetire,
  kLose,
  kDie,  // the holder of the lock died: whoever takes it next repairs
  kOnNic,
  kAsk,
  kWriteWord,
  kWriteEntry,
  kWriteAnywhere,
  kPull,  // what lies in slots alone
  kOffer,
  kWithdraw,
  kShare,  // what lies in host memory anyway
  kAttach,
  kOps
};

class DyingLock final : public Lock {
 public:
  Taken lock() override { return std::exchange(died, false) ? Taken::kOwnerDied : Taken::kClean; }
  void unlock() override {}
  bool died = false;
};

struct Held {
  unsigned pins = 0;
  std::uint64_t offset = 0;
  std::uint32_t chunks = 0;
};

class Node {
 public:
  Node() : memory_(kCapacity, kChunk) {
    for (std::uint32_t local = 0; local < 2; ++local) {
      NodeCacheOptions options{.local = local, .locals = 2, .prefetch_bytes = kCapacity / 2};
      options.process_ended = [](std::uint32_t) { return true; };
      ranks_[local].emplace(memory_.directory(), lock_, options);
    }
  }

  bool run(Draw draw) {
    while (!draw.empty()) step(draw);
    const bool right = served_ > 0;
    for (auto& rank : ranks_) rank->leave();
    return right;
  }

 private:
  void step(Draw& draw) {
    const std::uint8_t op = draw.byte();
    const std::uint32_t local = op >> 7;
    NodeCache& cache = *ranks_[local];
    auto& held = held_[local];
    switch ((op & 0x7f) % kOps) {
      case kAcquire: {
        const auto chunks = static_cast<std::uint32_t>(draw.below(kMostChunks) + 1);
        const Key key{
            {1, static_cast<std::uint32_t>(draw.below(2))}, static_cast<ExpertIndex>(draw.below(8)), draw.below(3)};
        Refusal why{};
        const auto entry = cache.acquire(key, chunks * kChunk, chunks, draw.byte() % 4, draw.byte() % 2 == 1, draw.byte(),
                                         why, draw.byte() % 4);
        if (!entry) return require(why != Refusal::kNone, "a refusal has a reason");
        require(*entry < memory_.shape().entries, "an entry is one of the directory's");
        require(cache.offset(*entry) <= kCapacity - chunks * kChunk, "an entry lies in the payload");
        Held& mine = held[*entry];
        require(mine.pins == 0 || mine.offset == cache.offset(*entry), "what is pinned stays where it is");
        mine = {mine.pins + 1, cache.offset(*entry), chunks};
        ++served_;
        return;
      }
      case kRelease: {
        if (held.empty()) return;
        const auto at = std::next(held.begin(), static_cast<std::ptrdiff_t>(draw.below(held.size())));
        cache.release(at->first, draw.byte() % 2 == 1);
        if (--at->second.pins == 0) held.erase(at);
        return;
      }
      case kFill: {
        if (held.empty()) return;
        const auto& [entry, mine] = *std::next(held.begin(), static_cast<std::ptrdiff_t>(draw.below(held.size())));
        const auto chunk = static_cast<std::uint32_t>(draw.below(mine.chunks));
        const auto now = Clock::time_point(std::chrono::seconds(draw.byte()));
        cache.want(entry, draw.byte() % 4, true);
        cache.wait_for(entry, draw.byte() % 2 == 0);
        static_cast<void>(cache.waiters(entry));
        if (const auto when = cache.overdue_at(entry, now))
          require(*when <= now + std::chrono::hours(1), "nobody waits for long for a silent rank");
        if (cache.done(entry, chunk) || !cache.try_claim(entry, chunk, now)) return;
        std::memset(cache.payload(entry) + chunk * kChunk, 1, kChunk);
        cache.finish_chunk(entry, chunk, draw.byte() % 4 != 0);
        return;
      }
      case kRetire:
        return cache.retire({1, static_cast<std::uint32_t>(draw.below(2))}, draw.below(3));
      case kLose:
        return cache.rank_lost(1 - local);
      case kDie:
        lock_.died = true;
        return;
      case kOnNic: {
        const auto nic = static_cast<std::uint32_t>(draw.below(kMaxNics));
        const auto urgency = static_cast<std::uint32_t>(draw.below(kUrgencies));
        cache.start_on(nic, urgency, 100);
        static_cast<void>(cache.others_more_urgent(nic, urgency));
        cache.hold_back(nic);
        static_cast<void>(cache.finish_on(nic, urgency, 100));
        return;
      }
      case kAsk:
        static_cast<void>(cache.used_bytes() + cache.tick());
        return;
      case kPull: {
        const Key key{
            {1, static_cast<std::uint32_t>(draw.below(2))}, static_cast<ExpertIndex>(draw.below(8)), draw.below(3)};
        const auto entry = cache.acquire_in_slots(key, 3);
        if (!entry) return;
        require(*entry < memory_.shape().entries, "an entry is one of the directory's");
        if (const auto from = cache.start_pull(*entry, 3, local)) {
          require(from->local == 1 - local, "nobody pulls from itself, or from a rank that there is not");
          require(from->slab <= kMaxCopySlot && from->slot <= kMaxCopySlot, "numbers of a word");
          ++served_;
          cache.end_pull(*entry);
        }
        return cache.release(*entry, draw.byte() % 2 == 1);
      }
      case kOffer: {
        if (held.empty() || offers_[local].size() > 64) return;
        const auto at = std::next(held.begin(), static_cast<std::ptrdiff_t>(draw.below(held.size())));
        if (const auto offer = cache.offer(at->first, draw.byte(), slots_++)) offers_[local].push_back(*offer);
        return;
      }
      case kWithdraw: {
        auto& offers = offers_[local];
        if (offers.empty()) return;
        const auto at = std::next(offers.begin(), static_cast<std::ptrdiff_t>(draw.below(offers.size())));
        static_cast<void>(cache.withdraw(*at));
        offers.erase(at);
        return;
      }
      case kShare: {
        const Key key{
            {1, static_cast<std::uint32_t>(draw.below(2))}, static_cast<ExpertIndex>(draw.below(8)), draw.below(3)};
        const auto now = Clock::time_point(std::chrono::seconds(draw.byte()));
        const auto entry = cache.acquire_index(key);
        if (!entry) return;
        require(*entry < memory_.shape().entries, "an entry is one of the directory's");
        if (cache.try_claim_whole(*entry, now)) {
          if (draw.byte() % 2 == 1 && offers_[local].size() <= 64) {
            if (const auto offer = cache.offer(*entry, 1, slots_++)) offers_[local].push_back(*offer);
          }
          cache.end_claim_whole(*entry);
          ++served_;
        } else {
          const auto later = now + std::chrono::hours(1);
          require(!cache.whole_claim(*entry, later), "nobody waits for long for a silent rank");
        }
        return cache.release(*entry, draw.byte() % 2 == 1);
      }
      case kWriteWord: {
        const auto word = static_cast<std::uint32_t>(draw.number(2) % memory_.shape().blocks);
        return memory_.directory().chunk_word(word, 0).store(draw.number(8));
      }
      case kWriteEntry: {
        // A field of an entry, as a whole number.
        const auto entry = static_cast<EntryIndex>(draw.below(memory_.shape().entries));
        auto* const at = reinterpret_cast<std::byte*>(&memory_.directory().entry(entry));
        const std::size_t field = draw.below(sizeof(Entry) / 4) * 4;
        const auto value = static_cast<std::uint32_t>(draw.number(4));
        std::memcpy(at + field, &value, sizeof value);
        return;
      }
      case kWriteAnywhere: {
        const std::size_t at = draw.number(4) % (memory_.shape().metadata_bytes() / 4) * 4;
        if (at < offsetof(Header, tick)) return;  // what is looked at once, in attach
        const auto value = static_cast<std::uint32_t>(draw.number(4));
        std::memcpy(memory_.bytes() + at, &value, sizeof value);
        return;
      }
      default: {
        // A header that an input has made, and what attach says of it.
        Header header = {};
        std::memcpy(static_cast<void*>(&header), memory_.bytes(), offsetof(Header, lock));
        auto* const bytes = reinterpret_cast<std::byte*>(&header);
        const std::size_t at = draw.below(offsetof(Header, lock) / 8) * 8;
        const std::uint64_t value = draw.number(8);
        std::memcpy(bytes + at, &value, sizeof value);
        const auto directory = Directory::attach(bytes, memory_.shape().total_bytes());
        if (directory.ok()) require(directory->shape().total_bytes() <= memory_.shape().total_bytes(), "a directory fits");
        return;
      }
    }
  }

  PlainMemory memory_;
  DyingLock lock_;
  std::array<std::optional<NodeCache>, 2> ranks_;
  std::array<std::map<EntryIndex, Held>, 2> held_;
  std::array<std::vector<Offer>, 2> offers_;
  std::uint32_t slots_ = 0;
  std::size_t served_ = 0;
};

bool run(ByteView input) {
  return Node().run(Draw(input));
}

std::vector<Seed> seeds() {
  const auto acquire = [](Script& to, std::uint8_t local, std::uint8_t chunks, std::uint8_t expert) {
    to.byte(static_cast<std::uint8_t>(local << 7 | kAcquire)).byte(static_cast<std::uint8_t>(chunks - 1));
    to.byte(0).byte(expert).byte(1).byte(0).byte(0).byte(0).byte(3);
  };
  Script shared;
  for (std::uint8_t expert = 0; expert < 6; ++expert) acquire(shared, expert % 2, 4, expert);
  shared.byte(kFill).byte(0).byte(1).byte(5).byte(0).byte(0).byte(1).byte(kDie);
  acquire(shared, 1, 4, 0);
  shared.byte(kRelease).byte(0).byte(1).byte(kRetire).byte(0).byte(2).byte(kLose);
  Script corrupted;
  for (std::uint8_t expert = 0; expert < 3; ++expert) acquire(corrupted, 0, 2, expert);
  corrupted.byte(kRelease).byte(0).byte(0);
  corrupted.byte(kWriteAnywhere).number(offsetof(Header, used_entries), 4).number(UINT32_MAX, 4);
  corrupted.byte(kWriteEntry)
      .byte(0)
      .byte(static_cast<std::uint8_t>(offsetof(Entry, first_block) / 4))
      .number(UINT32_MAX, 4);
  corrupted.byte(kWriteWord).number(3, 2).number(UINT64_MAX, 8);
  for (std::uint8_t expert = 0; expert < 8; ++expert) acquire(corrupted, 1, 4, expert);
  Script attach;
  acquire(attach, 0, 1, 0);
  attach.byte(kAttach).byte(3).number(std::uint64_t{1} << 44, 8);
  attach.byte(kOnNic).byte(0).byte(2).byte(kAsk);
  // Four entries, offered and released, whose payload others need; then pulled.
  Script in_slots;
  for (std::uint8_t expert = 0; expert < 4; ++expert) {
    acquire(in_slots, 0, 4, expert);
    in_slots.byte(kOffer).byte(0).byte(1).byte(kRelease).byte(0).byte(0);
  }
  for (std::uint8_t expert = 4; expert < 8; ++expert) acquire(in_slots, 1, 4, expert);
  for (std::uint8_t expert = 0; expert < 4; ++expert) in_slots.byte(1 << 7 | kPull).byte(0).byte(expert).byte(1).byte(0);
  in_slots.byte(kWithdraw).byte(0).byte(kDie);
  in_slots.byte(kShare).byte(0).byte(2).byte(1).byte(9).byte(1).byte(0);
  acquire(in_slots, 1, 4, 0);
  return {{"shared", shared.bytes()},
          {"corrupted", corrupted.bytes()},
          {"attach", attach.bytes()},
          {"in_slots", in_slots.bytes()}};
}

}  // namespace

Target node_cache() {
  return {"node_cache", "the node cache's directory in shared memory, while others write to it", run, seeds, 2048};
}

}  // namespace cardea::fuzz
