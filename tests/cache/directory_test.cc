// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <set>

#include "tests/cache/plain_memory.h"
#include "tests/core/seeds.h"

namespace cardea::cache {
namespace {

constexpr std::uint64_t kBlock = 4096;

/// Fills in an entry as NodeCache does.
EntryIndex put(Directory& directory, const Key& key, std::uint32_t blocks) {
  const EntryIndex index = directory.empty_entry();
  const std::uint32_t block = directory.free_run(blocks);
  if (index == kNoEntry || block == UINT32_MAX) return kNoEntry;
  Entry& entry = directory.entry(index);
  entry.group = key.layer.group;
  entry.layer = key.layer.layer;
  entry.expert = key.expert;
  entry.version = key.version;
  entry.first_block = block;
  entry.blocks = blocks;
  entry.chunks = 1;
  directory.insert(index);
  return index;
}

TEST(Shape, BlocksFollowTheCapacityAndEveryEntryHasAWordForEachOfItsChunks) {
  for (const std::uint64_t capacity :
       {kBlock, 100 * kBlock, std::uint64_t{1} << 30, std::uint64_t{3} << 30, std::uint64_t{1} << 40}) {
    for (const std::uint64_t chunk : {64UL, 4096UL, 5000UL, 1UL << 20, 1UL << 30}) {
      const Result<Shape> shape = Shape::of(capacity, chunk);
      ASSERT_TRUE(shape.ok()) << shape.status().message();
      EXPECT_LE(shape->capacity, capacity);
      EXPECT_GT(shape->capacity, capacity - shape->block_bytes);
      EXPECT_LE(shape->blocks, 65536u);
      EXPECT_EQ(shape->block_bytes & (shape->block_bytes - 1), 0u);
      for (const std::uint64_t blocks : {1UL, 2UL, 3UL, 17UL}) {
        const std::uint64_t bytes = blocks * shape->block_bytes;
        EXPECT_GE(blocks * shape->words_per_block, (bytes + chunk - 1) / chunk) << capacity << ' ' << chunk;
      }
      if (chunk < 4096) continue;  // for tests
      EXPECT_LT(shape->metadata_bytes(), capacity / 256 + (2 << 20)) << "what it costs beside the payload";
    }
  }
  for (const std::uint64_t wrong : {0UL, 4095UL, (1UL << 44) + 1, UINT64_MAX})
    EXPECT_EQ(Shape::of(wrong, 4096).status().code(), CARDEA_ERR_INVALID_ARGUMENT) << wrong;
  for (const std::uint64_t wrong : {0UL, 63UL, (1UL << 32) + 1, UINT64_MAX})
    EXPECT_EQ(Shape::of(kBlock, wrong).status().code(), CARDEA_ERR_INVALID_ARGUMENT) << wrong;
}

TEST(Directory, LooksForRoomFromABlockOnAndThenFromTheFirst) {
  const PlainMemory memory(10 * kBlock, 4096);
  Directory directory = memory.directory();
  EXPECT_EQ(directory.free_run(3, 6), 6u);
  EXPECT_EQ(directory.free_run(3, 8), 0u) << "two are left behind it";
  ASSERT_NE(put(directory, {{1, 1}, 1, 1}, 4), kNoEntry);
  EXPECT_EQ(directory.free_run(6, 9), 4u);
  EXPECT_EQ(directory.free_run(7, 5), UINT32_MAX);
}

TEST(Directory, AttachRefusesWhatIsNoDirectory) {
  const PlainMemory memory(10 * kBlock, 4096);
  const std::uint64_t bytes = memory.shape().total_bytes();
  EXPECT_TRUE(Directory::attach(memory.bytes(), bytes).ok());
  for (const std::uint64_t few : {std::uint64_t{0}, std::uint64_t{8}, sizeof(Header) - 1, sizeof(Header), bytes - 1})
    EXPECT_EQ(Directory::attach(memory.bytes(), few).status().code(), CARDEA_ERR_PROTOCOL) << few;
  auto& header = *reinterpret_cast<Header*>(memory.bytes());
  const auto refused = [&](std::uint64_t& field, std::uint64_t value) {
    const std::uint64_t before = std::exchange(field, value);
    const Result<Directory> attached = Directory::attach(memory.bytes(), bytes);
    field = before;
    return !attached.ok();
  };
  EXPECT_TRUE(refused(header.magic, 0));
  EXPECT_TRUE(refused(header.layout, header.layout + 1));
  for (const std::uint64_t wrong : {std::uint64_t{0}, header.capacity + kBlock, UINT64_MAX})
    EXPECT_TRUE(refused(header.capacity, wrong)) << wrong;
  for (const std::uint64_t wrong : {std::uint64_t{0}, std::uint64_t{64}, UINT64_MAX / 2})
    EXPECT_TRUE(refused(header.chunk_bytes, wrong)) << wrong;
  EXPECT_TRUE(refused(header.total_bytes, bytes + 4096));
}

TEST(Directory, EntriesAreFoundByEveryPartOfTheirKey) {
  const PlainMemory memory(100 * kBlock, 4096);
  Directory directory = memory.directory();
  std::vector<Key> keys;
  for (const std::uint64_t group : {1, 2}) {
    for (const std::uint32_t layer : {1, 2}) {
      for (const ExpertIndex expert : {1, 2}) {
        for (const Version version : {1, 2}) keys.push_back({{group, layer}, expert, version});
      }
    }
  }
  std::vector<EntryIndex> places;
  for (const Key& key : keys) {
    EXPECT_EQ(directory.find(key), kNoEntry);
    places.push_back(put(directory, key, 1));
  }
  for (std::size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(directory.find(keys[i]), places[i]);
  directory.erase(places[3]);
  for (std::size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(directory.find(keys[i]), i == 3 ? kNoEntry : places[i]);
}

TEST(Directory, RandomInsertsAndErasesNeverOverlapAndRepairFindsTheSame) {
  test::for_each_seed(200, [](std::uint64_t seed) {
    test::Random random(seed);
    const PlainMemory memory((10 + random.below(200)) * kBlock, 4096);
    Directory directory = memory.directory();
    std::map<EntryIndex, Key> live;
    std::set<std::uint32_t> taken;
    for (unsigned step = 0; step < 300; ++step) {
      if (random.chance(60)) {
        const Key key{{random.below(3), 0}, static_cast<ExpertIndex>(step), 1};
        const auto blocks = static_cast<std::uint32_t>(1 + random.below(9));
        const EntryIndex index = put(directory, key, blocks);
        if (index == kNoEntry) continue;
        EXPECT_TRUE(live.emplace(index, key).second);
        const Entry& entry = directory.entry(index);
        for (std::uint32_t b = entry.first_block; b < entry.first_block + blocks; ++b)
          EXPECT_TRUE(taken.insert(b).second) << "block " << b << " has two entries";
      } else if (!live.empty()) {
        const auto victim = std::next(live.begin(), static_cast<std::ptrdiff_t>(random.below(live.size())));
        const Entry& entry = directory.entry(victim->first);
        for (std::uint32_t b = entry.first_block; b < entry.first_block + entry.blocks; ++b) taken.erase(b);
        directory.erase(victim->first);
        live.erase(victim);
      }
      if (random.chance(5)) directory.repair();
      EXPECT_EQ(directory.header().used_blocks.load(), taken.size());
      for (const auto& [index, key] : live) EXPECT_EQ(directory.find(key), index);
      if (testing::Test::HasFailure()) return;
    }
  });
}

TEST(Directory, RepairDropsEntriesThatMakeNoSense) {
  const PlainMemory memory(10 * kBlock, 4096);
  Directory directory = memory.directory();
  const Key good{{1, 1}, 1, 1}, beyond{{1, 1}, 2, 1}, odd{{1, 1}, 3, 1};
  put(directory, good, 2);
  directory.entry(put(directory, beyond, 2)).first_block = 9;
  directory.entry(put(directory, odd, 2)).chunks = 1000;
  directory.repair();
  EXPECT_NE(directory.find(good), kNoEntry);
  EXPECT_EQ(directory.find(beyond), kNoEntry);
  EXPECT_EQ(directory.find(odd), kNoEntry);
  EXPECT_EQ(directory.header().used_blocks.load(), 2u);
}

}  // namespace
}  // namespace cardea::cache
