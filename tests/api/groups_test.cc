// SPDX-License-Identifier: Apache-2.0
// Jobs beside jobs, groups beside groups, and members that disagree.
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

constexpr std::uint64_t kShortSetup = 3 * kSecond;

void read_everything(Layer& layer, std::uint64_t version) {
  layer.publish(version);
  EXPECT_EQ(read_all(layer, layer.fetch(version, layer.everything()), version), layer.experts());
  layer.finish(version);
  layer.collect(version);
}

TEST(Groups, DisjointGroupsAndOneOverAllWorkAtOnceWithTheSameLayerIds) {
  SharedExchange exchange(4);
  SharedBoard board;
  run_ranks(4, [&](unsigned rank) {
    Job job(exchange, rank, rank % 2 == 1 ? "second" : "first");
    // Groups that span nodes, in an order of their own: {2, 1} and {3, 0}, and {3, 2, 1, 0}.
    const bool inner = rank == 1 || rank == 2;
    const cardea_group_t pair = job.group(inner ? std::vector<std::uint32_t>{2, 1} : std::vector<std::uint32_t>{3, 0});
    const cardea_group_t every = job.group({3, 2, 1, 0});
    cardea_group_info_t info = CARDEA_GROUP_INFO_INIT;
    CARDEA_MUST(cardea_group_query(pair, &info));
    EXPECT_EQ(info.count, 2u);
    EXPECT_EQ(info.index, rank == 2 || rank == 3 ? 0u : 1u);
    CARDEA_MUST(cardea_group_query(every, &info));
    EXPECT_EQ(info.count, 4u);
    EXPECT_EQ(info.index, 3 - rank);

    Layer of_pair(job, pair, {.layer_id = 7, .slots = 4});
    Layer of_every(job, every, {.layer_id = 7, .slots = 8, .segments = {700, 96, 8}});
    Layer of_all(job, {.layer_id = 7, .per_rank = 1, .slots = 4});  // the group of all in the job's order is another one
    for (std::uint64_t version = 1; version <= 2; ++version) {
      of_pair.publish(version);
      of_every.publish(version);
      of_all.publish(version);
      const cardea_fetch_t a = of_pair.fetch(version, of_pair.everything());
      const cardea_fetch_t b = of_every.fetch(version, of_every.everything());
      const cardea_fetch_t c = of_all.fetch(version, of_all.everything());
      EXPECT_EQ(read_all(of_all, c, version), 4u);
      EXPECT_EQ(read_all(of_every, b, version), 8u);
      EXPECT_EQ(read_all(of_pair, a, version), 4u);
      for (Layer* const layer : {&of_pair, &of_every, &of_all}) layer->finish(version);
      for (Layer* const layer : {&of_pair, &of_every, &of_all}) layer->collect(version);
    }
    EXPECT_TRUE(board.barrier(0, 4));
  });
}

TEST(Groups, GroupsOfTheSameRanksAreDifferentGroups) {
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first");
    const cardea_group_t again = job.group({0, 1});
    Layer first(job, {.layer_id = 1, .segments = {640}});
    Layer second(job, again, {.layer_id = 1, .segments = {1280}});
    read_everything(second, 4);
    read_everything(first, 9);
    EXPECT_TRUE(board.barrier(0, 2));
  });
}

TEST(Groups, AProcessIsInSeveralJobsAtOnceAndLeavesThemOneByOne) {
  SharedExchange first_job(2), second_job(2), own_jobs[2] = {SharedExchange(1), SharedExchange(1)};
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    Job second(second_job, 1 - rank, rank == 1 ? "x" : "y");  // another numbering, other nodes
    {
      Job first(first_job, rank);
      Job own(own_jobs[rank], 0);
      EXPECT_NE(first.context.id, second.context.id);
      cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
      CARDEA_MUST(cardea_context_query(first.context, &info));
      EXPECT_EQ(info.rank, rank);
      EXPECT_EQ(info.node_count, 1u);
      CARDEA_MUST(cardea_context_query(second.context, &info));
      EXPECT_EQ(info.rank, 1 - rank);
      EXPECT_EQ(info.node_count, 2u);
      Layer a(first, {.layer_id = 0}), b(second, {.layer_id = 0, .segments = {9000}}), c(own, {.layer_id = 0});
      read_everything(a, 1);
      read_everything(b, 1);
      read_everything(c, 1);
      cardea_rank_info_t peer = CARDEA_RANK_INFO_INIT;
      CARDEA_MUST(cardea_rank_query(first.context, 1 - rank, &peer));
      EXPECT_STREQ(peer.transport, "shm");
      CARDEA_MUST(cardea_rank_query(second.context, rank, &peer));
      EXPECT_STREQ(peer.transport, "ucx");
      EXPECT_EQ(peer.alive, 1u);
      CARDEA_MUST(cardea_rank_query(second.context, 1 - rank, &peer));
      EXPECT_STREQ(peer.transport, "self");
      EXPECT_TRUE(board.barrier(0, 2));
    }
    Layer later(second, {.layer_id = 1});
    read_everything(later, 1);
    EXPECT_TRUE(board.barrier(1, 2));
  });
}

TEST(Groups, TwoJobsOfOneMachineDoNotMix) {
  SharedExchange jobs[2] = {SharedExchange(2), SharedExchange(2)};
  SharedBoard board;
  run_ranks(4, [&](unsigned process) {
    Job job(jobs[process / 2], process % 2);
    Layer layer(job, {.layer_id = 0, .segments = {2048, process / 2 == 0 ? 64u : 128u}});
    read_everything(layer, 1);
    EXPECT_TRUE(board.barrier(0, 4));
  });
}

TEST(Groups, RanksThatComeLateByAUniqueIdFormTheJob) {
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    cardea_unique_id_t id{};
    unsigned long words[sizeof(id) / sizeof(unsigned long)];
    if (rank == 0) {
      CARDEA_MUST(cardea_unique_id_create("127.0.0.1", &id));
      std::memcpy(words, &id, sizeof id);
      for (unsigned i = 0; i < std::size(words); ++i) board.set(i, words[i]);
    }
    ASSERT_TRUE(board.barrier(0, 3));
    for (unsigned i = 0; i < std::size(words); ++i) words[i] = board.get(i);
    std::memcpy(&id, words, sizeof id);
    usleep(rank * 300000);
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID;
    config.rank = rank;
    config.world_size = 3;
    config.unique_id = &id;
    config.node_id = rank == 2 ? "second" : "first";
    Job job(config);
    Layer layer(job, {.slots = 6});
    read_everything(layer, 1);
    EXPECT_TRUE(board.barrier(1, 3));
  });
}

// ---------------------------------------------------------------- disagreement

struct Part {
  std::uint32_t layer_id = 3;
  std::uint32_t num_experts = 2;
  std::uint64_t bytes = 64;
  std::vector<std::uint32_t> experts = {};
  std::vector<std::uint8_t> home = {};
};

cardea_status_t create(const Job& job, const Part& part) {
  static std::vector<std::byte> weights(4096);
  const std::vector<cardea_segment_t> segments = segments_of({part.bytes});
  cardea_placement_t place = CARDEA_PLACEMENT_INIT;
  place.base = weights.data();
  place.stride = part.bytes;
  cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
  desc.layer_id = part.layer_id;
  desc.num_experts = part.num_experts;
  desc.segments = segments.data();
  desc.num_segments = 1;
  desc.num_local = static_cast<std::uint32_t>(part.experts.size());
  desc.local_experts = part.experts.data();
  desc.local_is_home = part.home.empty() ? nullptr : part.home.data();
  desc.placements = &place;
  cardea_layer_t layer{};
  const cardea_status_t status = cardea_layer_create(job.all, &desc, &layer);
  EXPECT_EQ(layer.id, 0u) << "a layer whose members disagree was created";
  return status;
}

/// Both ranks create what part(rank) says; each must get the status with the words; then the job must still work.
void disagree(const std::function<Part(unsigned)>& part, cardea_status_t expected, std::vector<const char*> words) {
  for (const bool two_nodes : {false, true}) {
    SCOPED_TRACE(two_nodes ? "two nodes" : "one node");
    SharedExchange exchange(2);
    SharedBoard board;
    run_ranks(2, [&](unsigned rank) {
      Job job(exchange, rank, two_nodes && rank == 1 ? "second" : "first", kShortSetup);
      const cardea_status_t status = create(job, part(rank));
      EXPECT_TRUE(refused(expected, {"layer 3", words[rank]}, status));
      EXPECT_EQ(last_error().layer, 3u);
      EXPECT_TRUE(board.barrier(0, 2));
      Layer layer(job, {.layer_id = 3});
      read_everything(layer, 1);
      EXPECT_TRUE(board.barrier(1, 2));
    });
  }
}

TEST(Groups, OtherSegmentBytesAreAMismatchOnAllMembers) {
  disagree([](unsigned rank) { return Part{.bytes = 64 + 64 * rank, .experts = {rank}}; }, CARDEA_ERR_MISMATCH,
           {"rank 1", "rank 0"});
}
TEST(Groups, OtherNumbersOfExpertsAreAMismatchOnAllMembers) {
  disagree([](unsigned rank) { return Part{.num_experts = 2 + rank, .experts = {rank}}; }, CARDEA_ERR_MISMATCH,
           {"rank 1", "rank 0"});
}
TEST(Groups, AnExpertWithTwoHomesIsNamedOnAllMembers) {
  disagree(
      [](unsigned rank) {
        return Part{.experts = rank == 0 ? std::vector<std::uint32_t>{0, 1} : std::vector<std::uint32_t>{1}};
      },
      CARDEA_ERR_MISMATCH, {"expert 1", "expert 1"});
}
TEST(Groups, AnExpertWithoutAHomeIsNamedOnAllMembers) {
  disagree([](unsigned rank) { return Part{.num_experts = 3, .experts = {rank}}; }, CARDEA_ERR_MISMATCH,
           {"expert 2", "expert 2"});
}
TEST(Groups, ASourceThatIsNoHomeIsNotEnough) {
  disagree([](unsigned rank) { return Part{.experts = {rank}, .home = {static_cast<std::uint8_t>(rank == 0)}}; },
           CARDEA_ERR_MISMATCH, {"expert 1", "expert 1"});
}

TEST(Groups, AMemberThatDoesNotComeIsNamed) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first", kSecond);
    if (rank == 0) {
      EXPECT_TRUE(
          refused(CARDEA_ERR_TIMEOUT, {"layer 3", "ranks 1, 2"}, create(job, {.num_experts = 2, .experts = {rank}})));
      EXPECT_EQ(last_error().peer, 1u);
    }
    EXPECT_TRUE(board.barrier(0, 3));
    const cardea_group_t pair = rank == 2 ? job.group({2}) : job.group({0, 1});
    Layer layer(job, pair, {.layer_id = 3});
    read_everything(layer, 1);
    EXPECT_TRUE(board.barrier(1, 3));
  });
}

TEST(Groups, AllThatWaitForAMemberNameIt) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first", kSecond);
    if (rank != 2) {
      // One gives up first, and tells the other why.
      if (rank == 1) usleep(300000);
      EXPECT_TRUE(refused(CARDEA_ERR_TIMEOUT, {"layer 3", "2"}, create(job, {.num_experts = 2, .experts = {rank}})));
      EXPECT_EQ(last_error().peer, 2u);
    }
    EXPECT_TRUE(board.barrier(0, 3));
  });
}

TEST(Groups, OneThatDisagreesWithTwoIsAMismatchOnAllMembers) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first", kShortSetup);
    for (unsigned round = 0; round < 10; ++round) {
      const unsigned odd = round % 3;
      const Part part{.layer_id = round, .num_experts = 3, .bytes = rank == odd ? 128u : 64u, .experts = {rank}};
      EXPECT_TRUE(refused(CARDEA_ERR_MISMATCH, {fmt::format("rank {}", odd).c_str(), "128"}, create(job, part)));
      EXPECT_TRUE(board.barrier(round, 3));
    }
  });
}

TEST(Groups, LayersThatEndAsSoonAsTheyAreFormedWereFormedOnAllMembers) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    Job job(exchange, rank, rank == 1 ? "second" : "first", kShortSetup);
    for (std::uint32_t round = 0; round < 100; ++round) {
      const Layer layer(job, {.layer_id = round % 3});
      CARDEA_MUST(cardea_layer_destroy(layer.handle));
    }
    EXPECT_TRUE(board.barrier(0, 3));
  });
}

TEST(Groups, ARankThatIsMissingFromTheJobIsNamed) {
  run_ranks(1, [](unsigned) {
    cardea_unique_id_t id{};
    CARDEA_MUST(cardea_unique_id_create("127.0.0.1", &id));
    cardea_config_t config = CARDEA_CONFIG_INIT;
    config.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID;
    config.world_size = 2;
    config.unique_id = &id;
    config.setup_timeout = kSecond;
    cardea_context_t context{};
    EXPECT_REFUSED(CARDEA_ERR_TIMEOUT, ({"1"}), cardea_context_create(&config, &context));
    EXPECT_EQ(last_error().peer, 1u);
  });
}

}  // namespace
}  // namespace cardea::test
