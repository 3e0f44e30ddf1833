// SPDX-License-Identifier: Apache-2.0
// Running out of descriptors, memory and room in files: a status that says of what, nothing lost on the way, a context that
// can still be destroyed, and that works again when there is enough. Each test proves that it ran out.
#include <dirent.h>
#include <unistd.h>

#include <fstream>
#include <optional>

#include "lib/bootstrap/secret_file.h"
#include "tests/api/api_job.h"
#include "tests/support/exhaustion.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CARDEA_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CARDEA_SANITIZED 1
#endif
#endif

namespace cardea::test {
namespace {

unsigned open_descriptors() {
  unsigned count = 0;
  DIR* const folder = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count - 1;  // the folder's own
}

bool is_exhaustion(cardea_status_t status) {
  return status == CARDEA_ERR_NO_MEMORY || status == CARDEA_ERR_SYSTEM || status == CARDEA_ERR_TRANSPORT;
}

TEST(Exhaustion, AContextThatFindsTooFewDescriptorsIsAStatusAndLeavesNone) {
  CARDEA_SKIP_WITHOUT_DESCRIPTORS_FOR_UBSAN();
  run_ranks(1, [](unsigned) {
    {
      Alone warm;  // what libraries keep for good is there then
    }
    const unsigned before = open_descriptors();
    unsigned refused = 0, made = 0;
    for (unsigned extra = 0; made == 0 && extra < 64; ++extra) {
      SharedExchange exchange(1);
      cardea_config_t config = exchange.config(0);
      limit(RLIMIT_NOFILE, before + extra);
      cardea_context_t context{};
      const cardea_status_t status = cardea_context_create(&config, &context);
      unlimit(RLIMIT_NOFILE);
      if (status == CARDEA_OK) {
        ++made;
        EXPECT_EQ(cardea_context_destroy(context), CARDEA_OK);
      } else {
        ++refused;
        EXPECT_TRUE(is_exhaustion(status)) << cardea_status_string(status) << ": " << last_error().message;
        EXPECT_NE(std::string(last_error().message), "");
      }
      EXPECT_EQ(open_descriptors(), before) << "with " << extra << " to spare";
    }
    EXPECT_GE(refused, 1u) << "it never ran out";
    EXPECT_EQ(made, 1u) << "it never had enough";
  });
}

TEST(Exhaustion, ARankBetweenNodesThatFindsTooFewDescriptorsIsAStatusAndTheOtherIsTold) {
  CARDEA_SKIP_WITHOUT_DESCRIPTORS_FOR_UBSAN();
  SharedBoard board;
  const std::string root = "unix:cardea-exhaustion-" + std::to_string(getpid());
  constexpr unsigned kSteps = 6, kStride = 12;
  run_ranks(2, [&](unsigned rank) {
    setenv("UCX_TLS", "tcp,self", 0);
    setenv("CARDEA_RANK", std::to_string(rank).c_str(), 1);
    setenv("CARDEA_WORLD_SIZE", "2", 1);
    ASSERT_TRUE(bootstrap::read_or_make_user_secret(getenv("HOME")).ok());  // before there are too few descriptors for it
    unsigned refused = 0, made = 0;
    for (unsigned step = 0; step < kSteps; ++step) {
      ASSERT_TRUE(board.barrier(step, 2));
      setenv("CARDEA_ROOT", root.c_str(), 1);
      cardea_config_t config = CARDEA_CONFIG_INIT;
      config.node_id = rank == 0 ? "first" : "second";
      config.setup_timeout = 10 * kSecond;
      // The last attempt has all it wants.
      std::optional<AllDescriptors> all;
      if (rank == 1 && step + 1 < kSteps) all.emplace(step * kStride);
      cardea_context_t context{};
      const cardea_status_t status = cardea_context_create(&config, &context);
      all.reset();
      if (status == CARDEA_OK) {
        ++made;
        EXPECT_EQ(cardea_context_destroy(context), CARDEA_OK);
      } else {
        ++refused;
        const bool told = status == CARDEA_ERR_PEER_LOST || status == CARDEA_ERR_TIMEOUT;
        EXPECT_TRUE(is_exhaustion(status) || told) << cardea_status_string(status) << ": " << last_error().message;
      }
      EXPECT_TRUE(status == CARDEA_OK || step + 1 < kSteps) << last_error().message;
    }
    EXPECT_GE(refused, 2u) << "it never ran out";
  });
}

TEST(Exhaustion, WithoutDescriptorsMemoryAndLayersAreRefusedAndLaterTheyAreThere) {
  CARDEA_SKIP_WITHOUT_DESCRIPTORS_FOR_UBSAN();
  SharedExchange exchange(2);
  SharedBoard board;
  run_ranks(2, [&](unsigned rank) {
    cardea_config_t config = exchange.config(rank, "one");
    config.setup_timeout = 20 * kSecond;
    Job job(config);
    cardea_memory_t mine{};
    if (rank == 1) {
      const AllDescriptors all;
      cardea_memory_t memory{};
      EXPECT_REFUSED(CARDEA_ERR_NO_MEMORY, ({"memfd_create"}),
                     cardea_memory_alloc(job.context, 4096, CARDEA_MEMORY_HOST, &memory));
    }
    CARDEA_MUST(cardea_memory_alloc(job.context, 4096, CARDEA_MEMORY_HOST, &mine));
    // A layer begins with a stamp in memory of its own, and passes that on: first there is no descriptor for the one, then
    // none for the other. The other rank hears of it, instead of waiting.
    for (const std::size_t left : {0u, 1u}) {
      std::vector<std::byte> weights(2 * 4096);
      const auto segments = segments_of({4096});
      cardea_placement_t place = CARDEA_PLACEMENT_INIT;
      place.base = weights.data();
      place.stride = 4096;
      const std::uint32_t local[] = {rank};
      cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
      desc.layer_id = 7;
      desc.num_experts = 2;
      desc.segments = segments.data();
      desc.num_segments = 1;
      desc.num_local = 1;
      desc.local_experts = local;
      desc.placements = &place;
      cardea_layer_t layer{};
      if (rank == 1) {
        {
          const AllDescriptors all(left);
          EXPECT_REFUSED(CARDEA_ERR_NO_MEMORY, ({}), cardea_layer_create(job.all, &desc, &layer));
        }
        board.set(10 + static_cast<unsigned>(left), 1);
      } else {
        // Not before: what it passes on would find no descriptor there, and break the link.
        EXPECT_TRUE(board.wait_for(10 + static_cast<unsigned>(left), 1));
        EXPECT_REFUSED(CARDEA_ERR_PEER_LOST, ({"rank 1 gave up layer 7"}), cardea_layer_create(job.all, &desc, &layer));
        EXPECT_EQ(last_error().peer, 1u);
      }
      EXPECT_TRUE(board.barrier(static_cast<unsigned>(left), 2));
    }
    Layer layer(job, {.layer_id = 7});
    layer.publish(1);
    EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 4u);
    layer.finish(1);
    layer.collect(1);
    EXPECT_EQ(job.leave(), CARDEA_OK);
  });
}

TEST(Exhaustion, ALimitOfFileSizesCostsMemoryAndTheNodeCacheAndNothingElse) {
  SharedExchange exchange(3);
  run_ranks(3, [&](unsigned rank) {
    setenv("UCX_TLS", "tcp,self", 1);  // files of UCX's own are not what is tested
    if (rank < 2) limit(RLIMIT_FSIZE, 1 << 20);
    cardea_config_t config = exchange.config(rank, rank < 2 ? "first" : "second");
    config.cache_bytes = 64 << 20;
    Job job(config);
    cardea_memory_t memory{};
    if (rank < 2) {
      EXPECT_EQ(job.counters().cache_bytes_capacity, 0u) << "a cache of 64 MiB in a file of one";
      EXPECT_REFUSED(CARDEA_ERR_NO_MEMORY, ({"RLIMIT_FSIZE"}),
                     cardea_memory_alloc(job.context, 2 << 20, CARDEA_MEMORY_HOST, &memory));
    }
    Layer layer(job, {.slots = 6});
    layer.publish(1);
    EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 6u);
    layer.finish(1);
    layer.collect(1);
    EXPECT_EQ(job.leave(), CARDEA_OK);
  });
}

TEST(Exhaustion, ANodeCacheThatGetsNoMemoryIsDoneWithout) {
  SharedExchange exchange(3);
  SharedBoard board;
  run_ranks(3, [&](unsigned rank) {
    setenv("UCX_TLS", "tcp,self", 1);
    cardea_config_t config = exchange.config(rank, rank < 2 ? "first" : "second");
    config.cache_bytes = 64 << 20;
    Job job(config);
    Layer layer(job, {.slots = 6});
    layer.publish(1);
    if (rank == 0) {
      EXPECT_GT(job.counters().cache_bytes_capacity, 0u);
      limit(RLIMIT_FSIZE, 4096);  // from now on the cache's memory cannot be had
    }
    // Rank 1 comes later, lest rank 0 finds in the cache what it has brought there.
    EXPECT_TRUE(rank != 1 || board.wait_for(0, 1));
    if (rank < 2) {
      const cardea_fetch_t fetch = layer.fetch(1, layer.homed_at(2));
      EXPECT_EQ(cardea_wait(fetch, kPatience), CARDEA_OK) << last_error().message;
      EXPECT_EQ(read_all(layer, fetch, 1), 2u);
    }
    if (rank == 0) {
      EXPECT_GT(job.counters().experts_network, 0u) << "it came by the cache";
      unlimit(RLIMIT_FSIZE);
      board.set(0, 1);
    }
    layer.finish(1);
    layer.collect(1);
    EXPECT_EQ(job.leave(), CARDEA_OK);
  });
}

#ifndef CARDEA_SANITIZED
std::uint64_t address_space() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

TEST(Exhaustion, WithoutAddressSpaceMemorySlabsAndContextsAreRefusedAndTheRestGoesOn) {
  run_ranks(1, [](unsigned) {
    Alone alone;
    Layer layer(alone.job, {.slots = 2});
    layer.publish(1);
    limit(RLIMIT_AS, address_space() + (64 << 20));
    constexpr std::uint64_t kMuch = 1 << 30;
    ASSERT_EQ(aligned_alloc(4096, kMuch), nullptr) << "there is still room";
    cardea_memory_t memory{};
    EXPECT_REFUSED(CARDEA_ERR_NO_MEMORY, ({"1073741824"}),
                   cardea_memory_alloc(alone.job.context, kMuch, CARDEA_MEMORY_HOST, &memory));
    const auto segments = segments_of({kMuch});
    cardea_slab_desc_t desc = CARDEA_SLAB_DESC_INIT;
    desc.segments = segments.data();
    desc.num_segments = 1;
    desc.num_slots = 1;
    cardea_slab_t slab{};
    EXPECT_REFUSED(CARDEA_ERR_NO_MEMORY, ({"1073741824"}), cardea_slab_create(alone.job.context, &desc, &slab));
    EXPECT_EQ(read_all(layer, layer.fetch(1, layer.everything()), 1), 2u);
    limit(RLIMIT_AS, address_space() + (1 << 20));
    {
      SharedExchange* const other = new SharedExchange(1);
      cardea_config_t config = other->config(0);
      cardea_context_t context{};
      const cardea_status_t status = cardea_context_create(&config, &context);
      EXPECT_TRUE(is_exhaustion(status)) << cardea_status_string(status);
    }
    unlimit(RLIMIT_AS);
    layer.finish(1);
    layer.collect(1);
    CARDEA_MUST(cardea_memory_alloc(alone.job.context, 1 << 20, CARDEA_MEMORY_HOST, &memory));
    EXPECT_EQ(alone.job.leave(), CARDEA_OK);
  });
}
#endif

}  // namespace
}  // namespace cardea::test
