/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The whole life of an expert in plain C: every rank is home of one expert, publishes it, reads its neighbour's, and gets
 * its own back for writing. Start it by
 *   cardea-run -n 2 hello_experts                 (one node: the expert is mapped where it lies)
 *   cardea-run -n 2 --nodes 2 hello_experts       (two nodes: it crosses the network)
 */
#include <cardea/cardea.h>
#include <stdio.h>
#include <stdlib.h>

enum { kFloats = 1 << 20, kVersion = 1 };

/* Prints what is known of a failure and leaves; the other ranks then see PEER_LOST. */
static void check(const char* call, cardea_status_t status) {
  cardea_error_info_t info = CARDEA_ERROR_INFO_INIT;
  if (status == CARDEA_OK) return;
  cardea_last_error(&info);
  fprintf(stderr, "hello_experts: %s: %s: %s\n", call, cardea_status_string(status), info.message);
  exit(1);
}
#define CHECK(call) check(#call, call)

int main(void) {
  /* Join the job: rank and world size come from cardea-run, torchrun, Open MPI or Slurm. */
  cardea_context_t context;
  cardea_context_info_t me = CARDEA_CONTEXT_INFO_INIT;
  CHECK(cardea_context_create(NULL, &context));
  CHECK(cardea_context_query(context, &me));
  cardea_group_t group;
  CHECK(cardea_group_create(context, NULL, 0, &group));

  /* This rank's expert: one segment of weights, in memory that other ranks of the node can map. */
  cardea_memory_t memory;
  cardea_memory_info_t where = CARDEA_MEMORY_INFO_INIT;
  CHECK(cardea_memory_alloc(context, kFloats * sizeof(float), CARDEA_MEMORY_HOST, &memory));
  CHECK(cardea_memory_query(memory, &where));
  float* weights = where.address;
  for (int i = 0; i < kFloats; ++i) weights[i] = (float)me.rank;

  cardea_segment_t segment = CARDEA_SEGMENT_INIT;
  segment.name = "weights";
  segment.bytes = kFloats * sizeof(float);
  segment.weight_type = CARDEA_DTYPE_FLOAT32;

  /* One slot for an expert that comes over the network. */
  cardea_slab_desc_t slab_desc = CARDEA_SLAB_DESC_INIT;
  slab_desc.segments = &segment;
  slab_desc.num_segments = 1;
  slab_desc.num_slots = 1;
  cardea_slab_t slab;
  CHECK(cardea_slab_create(context, &slab_desc, &slab));

  /* One layer with as many experts as ranks; rank r is home of expert r. */
  cardea_placement_t placement = CARDEA_PLACEMENT_INIT;
  placement.base = weights;
  placement.stride = segment.bytes;
  cardea_layer_desc_t layer_desc = CARDEA_LAYER_DESC_INIT;
  layer_desc.num_experts = me.world_size;
  layer_desc.segments = &segment;
  layer_desc.num_segments = 1;
  layer_desc.num_local = 1;
  layer_desc.local_experts = &me.rank;
  layer_desc.placements = &placement;
  layer_desc.slab = slab;
  cardea_layer_t layer;
  CHECK(cardea_layer_create(group, &layer_desc, &layer));
  CHECK(cardea_publish(layer, kVersion, NULL));

  /* Fetch the neighbour's expert; if it has not published yet, the fetch waits for it. */
  uint32_t neighbour = (me.rank + 1) % me.world_size;
  cardea_fetch_desc_t wanted = CARDEA_FETCH_DESC_INIT;
  wanted.version = kVersion;
  wanted.experts = &neighbour;
  wanted.num_experts = 1;
  cardea_fetch_t fetch;
  CHECK(cardea_fetch(layer, &wanted, &fetch));

  cardea_view_t view = CARDEA_VIEW_INIT;
  uint32_t count = 0;
  CHECK(cardea_next(fetch, &view, 1, &count, CARDEA_FOREVER));
  check("the view", view.status);
  const float* theirs = view.segments[0];
  int right = theirs[0] == (float)neighbour && theirs[kFloats - 1] == (float)neighbour;
  printf("rank %u read expert %u by path %s after %.3f ms: %s\n", me.rank, view.expert, cardea_path_string(view.path),
         (double)view.ready_ns / 1e6, right ? "right" : "WRONG");

  CHECK(cardea_release(&view, 1));
  CHECK(cardea_fetch_destroy(fetch));

  /* Once every rank has finished the version, the weights may be written to again. */
  CHECK(cardea_finish(layer, kVersion, NULL));
  CHECK(cardea_collect(layer, kVersion, NULL, CARDEA_FOREVER));
  weights[0] += 1.0f;

  CHECK(cardea_context_destroy(context)); /* frees everything that was made in it */
  return right ? 0 : 1;
}
