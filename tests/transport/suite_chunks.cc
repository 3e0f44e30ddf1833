// SPDX-License-Identifier: Apache-2.0
// The suite's scenarios of regions and chunks.
#include <array>

#include "tests/transport/suite.h"

namespace cardea::test {
namespace {

using transport::ChunkToken;
using transport::RegionKey;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr Version kVersion = 3;

bool all_returned(RankHarness& rank) {
  return rank.run_until([&] { return rank.seen().open_leases() == 0; });
}

std::uint64_t bytes_given_back(Recorder& seen) {
  std::uint64_t sum = 0;
  for (const auto& event : seen.events()) sum += event.kind == Recorder::Event::kGiveBack ? event.bytes : 0;
  return sum;
}

TEST_P(TransportSuite, AChunksBytesAreRightAndNothingBesideThemIsWritten) {
  const std::vector<std::uint64_t> sizes = {1, 7, 4096, 65537, kMiB, 4 * kMiB + 3};
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    const auto layout = [&](std::size_t i) {
      return ExpertLayout::whole(0, 5, static_cast<ExpertIndex>(i), kVersion, 64 + 13 * i, sizes[i]);
    };
    if (rank.rank() == 0) {
      Region& region = rank.make_region(5, 5 * kMiB, kind);
      region.set_stamp(kVersion);
      for (std::size_t i = 0; i < sizes.size(); ++i) rank.seen().add_lendable(layout(i), region);
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      EXPECT_TRUE(all_returned(rank));
      std::uint64_t payload = 0;
      for (const std::uint64_t size : sizes) payload += size;
      EXPECT_EQ(bytes_given_back(rank.seen()), rank.traits().asks(kind) ? payload : 0u);
      rank.barrier();
      return;
    }
    ASSERT_TRUE(rank.accept_from(0));
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      Landing landing(sizes[i]);
      rank.transport().start(make_order(i, layout(i), landing));
      ASSERT_TRUE(rank.await_chunks(i + 1)) << sizes[i] << " bytes";
      const Status status = rank.seen().completions().at(i);
      EXPECT_TRUE(status.ok()) << sizes[i] << " bytes: " << status.message();
      EXPECT_TRUE(landing.payload() == layout(i).expected(0, sizes[i])) << sizes[i] << " bytes";
      EXPECT_TRUE(landing.gaps_untouched()) << sizes[i] << " bytes";
    }
    rank.barrier();
    rank.barrier();
  });
}

TEST_P(TransportSuite, AChunkOntoADeviceIsRefusedWhereThereIsNone) {
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    const ExpertLayout layout = ExpertLayout::whole(0, 5, 0, kVersion, 64, 4096);
    if (rank.rank() == 0) {
      Region& region = rank.make_region(5, kMiB, kind);
      region.set_stamp(kVersion);
      rank.seen().add_lendable(layout, region);
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      return;
    }
    ASSERT_TRUE(rank.accept_from(0));
    Landing landing(4096);
    transport::ChunkOrder order = make_order(1, layout, landing);
    order.device = order.destination.front();
    ASSERT_EQ(rank.transport().device_memory(), transport::DeviceMemory::kNone);
    rank.transport().start(std::move(order));
    ASSERT_TRUE(rank.await_chunks(1));
    EXPECT_EQ(rank.seen().completions().at(1).code(), CARDEA_ERR_UNSUPPORTED);
    EXPECT_TRUE(landing.gaps_untouched());
    rank.barrier();
  });
}

TEST_P(TransportSuite, SourceAndDestinationMayBeCutDifferently) {
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    ExpertLayout expert = ExpertLayout::whole(0, 2, 9, kVersion, 64, 1);
    // Out of order in the region, with padding in the packed form.
    expert.parts = {{0, 300000, 1000}, {1024, 128, 70000}, {71168, 200001, 5}, {71424, 100000, 40000}};
    expert.packed_bytes = 111424;
    struct Cut {
      std::uint64_t offset, bytes;
      std::vector<std::uint64_t> landing;
    };
    const std::vector<Cut> cuts = {{0, expert.packed_bytes, {1, 999, 1, 110004}},
                                   {0, expert.packed_bytes, {111005}},
                                   {500, 1000, {976}},              // across padding
                                   {1010, 200, {100, 86}},          // begins in padding
                                   {71000, 30000, {24, 5, 29576}},  // three parts
                                   {71300, 10124, {10000}}};
    if (rank.rank() == 0) {
      Region& region = rank.make_region(2, 350000, kind);
      region.set_stamp(kVersion);
      rank.seen().add_lendable(expert, region);
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      EXPECT_TRUE(all_returned(rank));
      return;
    }
    ASSERT_TRUE(rank.accept_from(0));
    std::vector<Landing> landings;
    for (const Cut& cut : cuts) landings.emplace_back(cut.landing);
    for (std::size_t i = 0; i < cuts.size(); ++i)
      rank.transport().start(make_order(i, expert, cuts[i].offset, cuts[i].bytes, landings[i]));
    ASSERT_TRUE(rank.await_chunks(cuts.size()));
    for (std::size_t i = 0; i < cuts.size(); ++i) {
      EXPECT_TRUE(rank.seen().completions().at(i).ok()) << "cut " << i << ": " << rank.seen().completions().at(i).message();
      EXPECT_TRUE(landings[i].payload() == expert.expected(cuts[i].offset, cuts[i].bytes)) << "cut " << i;
      EXPECT_TRUE(landings[i].gaps_untouched()) << "cut " << i;
    }
    rank.barrier();
  });
}

TEST_P(TransportSuite, ManyChunksFromSeveralSourcesInBothDirectionsAtOnce) {
  constexpr std::uint64_t kChunk = 96 << 10;
  constexpr std::size_t kCount = 24;
  run_for_each_memory(4, [&](RankHarness& rank, Memory kind) {
    const auto layout = [](Rank source) { return ExpertLayout::whole(source, 1, source, kVersion, 64, kCount * kChunk); };
    Region& region = rank.make_region(1, 64 + kCount * kChunk, kind);
    region.set_stamp(kVersion);
    rank.seen().add_lendable(layout(rank.rank()), region);
    rank.offer(region, rank.others());
    for (const Rank peer : rank.others()) ASSERT_TRUE(rank.accept_from(peer));
    std::vector<Landing> landings(rank.ranks() * kCount, Landing(kChunk));
    for (std::size_t i = 0; i < kCount; ++i) {
      for (const Rank peer : rank.others()) {
        const ChunkToken token = peer * kCount + i;
        rank.transport().start(make_order(token, layout(peer), i * kChunk, kChunk, landings[token]));
      }
    }
    EXPECT_TRUE(rank.await_chunks(rank.others().size() * kCount));
    for (const auto& [token, status] : rank.seen().completions()) {
      EXPECT_TRUE(status.ok()) << token << ": " << status.message();
      const Rank source = static_cast<Rank>(token / kCount);
      EXPECT_TRUE(landings[token].payload() == layout(source).expected(token % kCount * kChunk, kChunk)) << token;
      EXPECT_TRUE(landings[token].gaps_untouched()) << token;
    }
    rank.barrier();
    EXPECT_TRUE(all_returned(rank));
    EXPECT_EQ(rank.seen().count(Recorder::Event::kLend), rank.traits().asks(kind) ? rank.others().size() * kCount : 0);
  });
}

TEST_P(TransportSuite, AChunkMayBeStartedFromWithinTheListener) {
  constexpr std::size_t kCount = 100;
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    const ExpertLayout expert = ExpertLayout::whole(0, 1, 4, kVersion, 64, 4096 * kCount);
    if (rank.rank() == 0) {
      Region& region = rank.make_region(1, 64 + 4096 * kCount, kind);
      region.set_stamp(kVersion);
      rank.seen().add_lendable(expert, region);
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      return;
    }
    ASSERT_TRUE(rank.accept_from(0));
    std::vector<Landing> landings(kCount, Landing(4096));
    const auto start = [&](std::size_t i) { rank.transport().start(make_order(i, expert, i * 4096, 4096, landings[i])); };
    rank.seen().on_event([&](const Recorder::Event& event) {
      if (event.kind == Recorder::Event::kChunkDone && event.token + 1 < kCount) start(event.token + 1);
    });
    start(0);
    EXPECT_TRUE(rank.await_chunks(kCount));
    EXPECT_EQ(rank.seen().completed(CARDEA_OK), kCount);
    for (std::size_t i = 0; i < kCount; ++i) EXPECT_TRUE(landings[i].payload() == expert.expected(i * 4096, 4096)) << i;
    rank.barrier();
  });
}

TEST_P(TransportSuite, ErrorsOfLendReachTheAsker) {
  if (!traits().asks_for_mappable && !traits().asks_for_private) GTEST_SKIP() << "never asks the source";
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    if (!rank.traits().asks(kind)) return;
    const auto layout = [](ExpertIndex e) { return ExpertLayout::whole(0, 1, e, kVersion, 64, 4096); };
    if (rank.rank() == 0) {
      Region& region = rank.make_region(1, 8192, kind);
      region.set_stamp(kVersion);
      for (ExpertIndex e = 0; e < 3; ++e) rank.seen().add_lendable(layout(e), region);
      rank.seen().fail_lend(1, Status(CARDEA_ERR_INVALID_ARGUMENT, "expert 1 moved to the moon"));
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      EXPECT_EQ(rank.seen().count(Recorder::Event::kLend), 4u);
      EXPECT_TRUE(all_returned(rank));
      return;
    }
    ASSERT_TRUE(rank.accept_from(0));
    std::vector<Landing> landings(4, Landing(4096));
    rank.transport().start(make_order(0, layout(0), landings[0]));
    rank.transport().start(make_order(1, layout(1), landings[1]));
    ExpertLayout retired = layout(2);
    retired.address.version = kVersion - 1;
    rank.transport().start(make_order(2, retired, landings[2]));
    rank.transport().start(make_order(3, layout(77), landings[3]));
    ASSERT_TRUE(rank.await_chunks(4));
    const auto& done = rank.seen().completions();
    EXPECT_TRUE(done.at(0).ok()) << done.at(0).message();
    EXPECT_EQ(done.at(1).code(), CARDEA_ERR_INVALID_ARGUMENT);
    EXPECT_NE(done.at(1).message().find("moved to the moon"), std::string::npos) << done.at(1).message();
    EXPECT_EQ(done.at(2).code(), CARDEA_ERR_STALE);
    EXPECT_EQ(done.at(3).code(), CARDEA_ERR_INVALID_ARGUMENT);
    EXPECT_TRUE(landings[0].payload() == layout(0).expected(0, 4096));
    for (const std::size_t failed : {1, 2, 3}) EXPECT_TRUE(landings[failed].untouched()) << failed;
    rank.barrier();
  });
}

TEST_P(TransportSuite, ARetiredVersionIsStale) {
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    ExpertLayout expert = ExpertLayout::whole(0, 1, 0, kVersion, 64, 4096);
    if (rank.rank() == 0) {
      Region& region = rank.make_region(1, 8192, kind);
      region.set_stamp(kVersion);
      rank.seen().add_lendable(expert, region);
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      return;
    }
    ASSERT_TRUE(rank.accept_from(0));
    Landing current(4096), older(4096), newer(4096);
    rank.transport().start(make_order(0, expert, current));
    expert.address.version = kVersion - 1;
    rank.transport().start(make_order(1, expert, older));
    expert.address.version = kVersion + 1;
    rank.transport().start(make_order(2, expert, newer));
    ASSERT_TRUE(rank.await_chunks(3));
    EXPECT_TRUE(rank.seen().completions().at(0).ok()) << rank.seen().completions().at(0).message();
    EXPECT_EQ(rank.seen().completions().at(1).code(), CARDEA_ERR_STALE);
    EXPECT_EQ(rank.seen().completions().at(2).code(), CARDEA_ERR_STALE);
    rank.barrier();
  });
}

TEST_P(TransportSuite, AChunkBeyondItsExpertOrRegionFails) {
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    const ExpertLayout expert = ExpertLayout::whole(0, 1, 0, kVersion, 64, 8192 - 64);  // to the end of the region
    if (rank.rank() == 0) {
      Region& region = rank.make_region(1, 8192, kind);
      region.set_stamp(kVersion);
      rank.seen().add_lendable(expert, region);
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      EXPECT_TRUE(all_returned(rank));
      return;
    }
    ASSERT_TRUE(rank.accept_from(0));
    Landing longer(8192), wraps(16), fits(8192 - 64);
    ExpertLayout wrong = ExpertLayout::whole(0, 1, 0, kVersion, 64, 8192);
    rank.transport().start(make_order(0, wrong, longer));
    transport::ChunkOrder order = make_order(1, ExpertLayout::whole(0, 1, 0, kVersion, 64, 16), wraps);
    order.offset = UINT64_MAX - 7;
    order.source_pieces[0].offset = UINT64_MAX - 7;
    rank.transport().start(order);
    rank.transport().start(make_order(2, expert, fits));
    ASSERT_TRUE(rank.await_chunks(3));
    EXPECT_EQ(rank.seen().completions().at(0).code(), CARDEA_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(rank.seen().completions().at(1).code(), CARDEA_ERR_INVALID_ARGUMENT);
    EXPECT_TRUE(rank.seen().completions().at(2).ok()) << rank.seen().completions().at(2).message();
    EXPECT_TRUE(longer.untouched());
    EXPECT_TRUE(wraps.untouched());
    rank.barrier();
  });
}

TEST_P(TransportSuite, ARegionIsUsableAsSoonAsAMessageSentAfterItsOffer) {
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    const auto layout = [](std::uint32_t region) { return ExpertLayout::whole(0, region, region, kVersion, 64, 4000); };
    if (rank.rank() == 0) {
      for (std::uint32_t id = 0; id < 10; ++id) {
        Region& region = rank.make_region(id, 8192, kind);
        region.set_stamp(kVersion);
        rank.seen().add_lendable(layout(id), region);
        auto descriptor = rank.transport().offer(id, region.base(), region.bytes(), region.memfd(), std::array<Rank, 1>{1});
        ASSERT_TRUE(descriptor.ok()) << descriptor.status().message();
        rank.transport().send(1, *descriptor);
      }
      rank.barrier();
      return;
    }
    std::vector<Landing> landings(10, Landing(4000));
    std::uint32_t next = 0;
    rank.seen().on_event([&](const Recorder::Event& event) {
      if (event.kind != Recorder::Event::kMessage) return;
      const std::uint32_t id = next++;
      const Status accepted = rank.transport().accept({.owner = 0, .region = id}, 8192, rank.seen().messages(0).back());
      ASSERT_TRUE(accepted.ok()) << accepted.message();
      rank.transport().start(make_order(id, layout(id), landings[id]));
    });
    ASSERT_TRUE(rank.await_chunks(10));
    for (std::uint32_t id = 0; id < 10; ++id) {
      EXPECT_TRUE(rank.seen().completions().at(id).ok()) << rank.seen().completions().at(id).message();
      EXPECT_TRUE(landings[id].payload() == layout(id).expected(0, 4000)) << id;
    }
    rank.barrier();
  });
}

TEST_P(TransportSuite, AMappedRegionShowsTheOwnersMemory) {
  run_for_each_memory(2, [&](RankHarness& rank, Memory kind) {
    const RegionKey key{.owner = 0, .region = 1};
    if (rank.rank() == 0) {
      Region& region = rank.make_region(1, 3 * 4096, kind);
      rank.offer(region, std::array<Rank, 1>{1});
      rank.barrier();
      std::fill_n(region.base() + 4096, 4096, std::byte{0x77});
      rank.barrier();
      rank.barrier();
      return;
    }
    EXPECT_EQ(rank.transport().mapped(key), nullptr) << "before accept";
    ASSERT_TRUE(rank.accept_from(0));
    rank.barrier();
    rank.barrier();
    const std::byte* mapped = rank.transport().mapped(key);
    if (kind == Memory::kMappable && rank.traits().maps) {
      ASSERT_NE(mapped, nullptr);
      const Bytes expected = pattern_bytes(Region::seed(0, 1), 0, 3 * 4096);
      EXPECT_TRUE(std::equal(mapped, mapped + 4096, expected.begin()));
      EXPECT_EQ(mapped[4096], std::byte{0x77});
      EXPECT_EQ(mapped[2 * 4096 - 1], std::byte{0x77});
      EXPECT_TRUE(std::equal(mapped + 2 * 4096, mapped + 3 * 4096, expected.begin() + 2 * 4096));
      rank.transport().forget(key);
      EXPECT_EQ(rank.transport().mapped(key), nullptr) << "after forget";
    } else {
      EXPECT_EQ(mapped, nullptr);
    }
    rank.barrier();
  });
}

TEST_P(TransportSuite, ADescriptorThatMakesNoSenseIsRefused) {
  run(2, [&](RankHarness& rank) {
    const Rank peer = 1 - rank.rank();
    for (const std::size_t size : {1, 3, 200}) {
      const Status status = rank.transport().accept({.owner = peer, .region = 9}, 4096, pattern_bytes(size, 0, size));
      EXPECT_EQ(status.code(), CARDEA_ERR_PROTOCOL) << size << " bytes: " << status.message();
    }
    EXPECT_EQ(rank.transport().mapped({.owner = peer, .region = 9}), nullptr);
    rank.barrier();
  });
}

}  // namespace
}  // namespace cardea::test
