// SPDX-License-Identifier: Apache-2.0
// Jobs whose ranks have been given different ones of UCX's protocols, which would wait for each other for ever.
#include "tests/api/api_job.h"

namespace cardea::test {
namespace {

TEST(UcxProtocolsOfAJob, WhereTheEnvironmentSetsThemForOneRankAllUseThose) {
  for (const unsigned told : {0u, 1u}) {
    SharedExchange exchange(2);
    SharedBoard board;
    run_ranks(2, [&](unsigned rank) {
      if (rank == told) setenv("UCX_PROTO_ENABLE", "n", 1);
      Job job(exchange, rank, rank == 0 ? "first" : "second");
      Layer layer(job, {.segments = {3 << 20, 512}});
      layer.publish(1);
      EXPECT_EQ(read_all(layer, layer.fetch(1, layer.homed_at(1 - rank)), 1), 2u);
      EXPECT_TRUE(board.barrier(0, 2));
    });
  }
}

TEST(UcxProtocolsOfAJob, WhereItSetsThemDifferentlyNoRankWaits) {
  SharedExchange exchange(3);
  run_ranks(3, [&](unsigned rank) {
    if (rank != 1) setenv("UCX_PROTO_ENABLE", rank == 0 ? "n" : "y", 1);
    const char* const nodes[] = {"first", "first", "second"};
    const cardea_config_t config = exchange.config(rank, nodes[rank]);
    cardea_context_t context{};
    EXPECT_REFUSED(CARDEA_ERR_CONFIGURATION, ({"UCX_PROTO_ENABLE", "off at rank 0", "on at rank 2"}),
                   cardea_context_create(&config, &context));
  });
}

}  // namespace
}  // namespace cardea::test
