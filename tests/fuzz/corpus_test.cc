// SPDX-License-Identifier: Apache-2.0
// Every fuzz target on its seeds, on their beginnings and on seeded mutations of them: what a fuzzer would try first, in
// about a second, with any compiler. That nothing fails is what it proves, and that each seed is taken for good, so that the
// targets reach what lies behind the first checks.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/core/seeds.h"
#include "tests/fuzz/target.h"
#include "tests/support/ranks.h"

namespace cardea::fuzz {
namespace {

constexpr std::size_t kMostBeginnings = 300;  // of each seed
constexpr auto kTime = std::chrono::milliseconds(100);
constexpr unsigned kMostMutations = 3000;

constexpr std::uint64_t kNumbers[] = {
    0,          1,          0x7f,        0x80,       0xff,       0x7fff,          0xffff,     0x10000,       0x7fffffff,
    0x80000000, 0xffffffff, 0x100000000, 1ULL << 48, 1ULL << 63, UINT64_MAX >> 1, UINT64_MAX, UINT64_MAX - 1};

Bytes mutated(const std::vector<Seed>& seeds, test::Random& random, std::size_t most) {
  Bytes bytes = seeds[random.below(seeds.size())].bytes;
  for (std::uint64_t changes = 1 + random.below(4); changes > 0; --changes) {
    const std::size_t at = bytes.empty() ? 0 : random.below(bytes.size());
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (random.below(6)) {
      case 0:
        if (!bytes.empty()) bytes[at] ^= static_cast<std::byte>(1 << random.below(8));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<std::byte>(random());
        break;
      case 2: {
        const std::uint64_t number = kNumbers[random.below(std::size(kNumbers))];
        const std::size_t width = std::size_t{1} << random.below(4);
        for (std::size_t i = 0; i < width && at + i < bytes.size(); ++i)
          bytes[at + i] = static_cast<std::byte>(number >> 8 * i);
        break;
      }
      case 3: {
        const Bytes& other = seeds[random.below(seeds.size())].bytes;
        const std::size_t from = other.empty() ? 0 : random.below(other.size());
        bytes.insert(place, other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
        break;
      }
      case 4:
        bytes.erase(place, place + static_cast<std::ptrdiff_t>(bytes.empty() ? 0 : random.below(bytes.size() - at)));
        break;
      default:
        bytes.insert(place, 1 + random.below(16), static_cast<std::byte>(random()));
    }
  }
  bytes.resize(std::min(bytes.size(), most));
  return bytes;
}

class Corpus : public testing::TestWithParam<Target> {
 protected:
  template <typename Body>
  static void run(Body body) {
    if (!GetParam().own_process) return body();
    test::run_ranks(1, [&](unsigned) { body(); });
  }
};

TEST_P(Corpus, EverySeedIsTakenForGood) {
  const auto seeds = GetParam().seeds();
  ASSERT_FALSE(seeds.empty());
  run([&] {
    for (const Seed& seed : seeds) {
      EXPECT_LE(seed.bytes.size(), GetParam().most) << seed.name;
      EXPECT_TRUE(GetParam().run(seed.bytes)) << seed.name;
    }
  });
}

TEST_P(Corpus, BeginningsOfSeedsDoNoHarm) {
  run([] {
    for (const Seed& seed : GetParam().seeds()) {
      const std::size_t step = seed.bytes.size() / kMostBeginnings + 1;
      for (std::size_t length = 0; length < seed.bytes.size(); length += step) {
        SCOPED_TRACE(testing::Message() << seed.name << ", " << length << " bytes");
        GetParam().run(ByteView(seed.bytes).first(length));
      }
    }
  });
}

TEST_P(Corpus, MutationsOfSeedsDoNoHarm) {
  const auto seeds = GetParam().seeds();
  run([&] {
    test::for_each_seed(1, [&](std::uint64_t seed) {
      test::Random random(seed);
      const auto end = Clock::now() + kTime;
      for (unsigned i = 0; i < kMostMutations && Clock::now() < end; ++i)
        GetParam().run(mutated(seeds, random, GetParam().most));
    });
  });
}

INSTANTIATE_TEST_SUITE_P(All, Corpus, testing::ValuesIn(targets().begin(), targets().end()),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(Targets, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const Target& target : targets()) EXPECT_TRUE(names.insert(target.name).second) << target.name;
}

}  // namespace
}  // namespace cardea::fuzz
