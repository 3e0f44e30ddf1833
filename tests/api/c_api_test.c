/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The whole C interface from plain C, linked against the shared library: two ranks, on one node and on two, that meet by a
 * unique id and use every function of cardea.h. api_names.cmake proves that none is missing here.
 */
#include <cardea/cardea.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                          \
  do {                                                                                            \
    if (!(condition)) {                                                                           \
      cardea_error_info_t info_ = CARDEA_ERROR_INFO_INIT;                                         \
      cardea_last_error(&info_);                                                                  \
      fprintf(stderr, "%s:%d: failed: %s (last error: %s: %s)\n", __FILE__, __LINE__, #condition, \
              cardea_status_string(info_.status), info_.message);                                 \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)
#define MUST(call) CHECK((call) == CARDEA_OK)

enum { kExperts = 4, kLocal = 2, kBytes = 60000, kScales = 96, kSlots = 3 };

/* What the ranks share: rank 0 puts the unique id here and says so. */
struct board {
  int written; /* atomically */
  cardea_unique_id_t id;
};

static unsigned char byte_of(uint32_t expert, uint32_t segment, uint64_t version, size_t i) {
  uint64_t x = (expert * 31u + segment) * 0x9E3779B97F4A7C15u + version * 0xBF58476D1CE4E5B9u + i * 0x94D049BB133111EBu;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9u;
  return (unsigned char)(x >> 56);
}

static void write_expert(unsigned char* to, size_t bytes, uint32_t expert, uint32_t segment, uint64_t version) {
  for (size_t i = 0; i < bytes; ++i) to[i] = byte_of(expert, segment, version, i);
}

static void check_view(const cardea_view_t* view, uint64_t version) {
  static const size_t kSizes[2] = {kBytes, kScales};
  CHECK(view->status == CARDEA_OK);
  CHECK(view->id != 0);
  CHECK(view->version == version);
  CHECK(view->num_segments == 2);
  for (uint32_t segment = 0; segment < 2; ++segment) {
    const unsigned char* found = view->segments[segment];
    CHECK(found != NULL);
    for (size_t i = 0; i < kSizes[segment]; ++i) CHECK(found[i] == byte_of(view->expert, segment, version, i));
  }
}

static void check_versions(void) {
  cardea_version_info_t version = CARDEA_VERSION_INFO_INIT;
  MUST(cardea_version(&version));
  CHECK(version.major == CARDEA_VERSION_MAJOR && version.minor == CARDEA_VERSION_MINOR);
  CHECK(version.patch == CARDEA_VERSION_PATCH);
  CHECK(version.wire != 0 && version.ucx[0] != '\0' && version.hwloc[0] != '\0');
  CHECK(strcmp(cardea_status_string(CARDEA_ERR_WOULD_DEADLOCK), "CARDEA_ERR_WOULD_DEADLOCK") == 0);
  CHECK(cardea_status_string((cardea_status_t)-999) != NULL);
  CHECK(cardea_path_string(CARDEA_PATH_NETWORK)[0] != '\0');
  CHECK(cardea_path_string((cardea_path_t)99) != NULL);
}

static int g_done; /* set by the engine thread */

static void on_ready(void* user, cardea_fetch_t fetch, int done) {
  CHECK(user == (void*)&g_done);
  CHECK(fetch.id != 0);
  if (done) __atomic_store_n(&g_done, 1, __ATOMIC_RELEASE);
}

/* Takes, checks and releases what a fetch brings, and destroys it. Returns the number of views. */
static uint32_t read_all(cardea_fetch_t fetch, uint64_t version) {
  uint32_t total = 0;
  for (;;) {
    cardea_view_t views[2] = {CARDEA_VIEW_INIT, CARDEA_VIEW_INIT};
    uint32_t count = 0;
    MUST(cardea_next(fetch, views, 2, &count, CARDEA_FOREVER));
    if (count == 0) break;
    for (uint32_t i = 0; i < count; ++i) check_view(&views[i], version);
    MUST(cardea_release(views, count));
    total += count;
  }
  MUST(cardea_fetch_destroy(fetch));
  return total;
}

struct job {
  cardea_context_t context;
  cardea_group_t group;
  cardea_memory_t memory, scales_memory;
  unsigned char *weights, *scales;
  cardea_slab_t slab;
  cardea_layer_t layer;
  uint32_t rank;
};

static void join(struct job* job, struct board* board, uint32_t rank, int nodes) {
  if (rank == 0) {
    MUST(cardea_unique_id_create("127.0.0.1", &board->id));
    __atomic_store_n(&board->written, 1, __ATOMIC_RELEASE);
  }
  while (__atomic_load_n(&board->written, __ATOMIC_ACQUIRE) == 0) usleep(1000);
  cardea_config_t config = CARDEA_CONFIG_INIT;
  config.bootstrap = CARDEA_BOOTSTRAP_UNIQUE_ID;
  config.rank = rank;
  config.world_size = 2;
  config.unique_id = &board->id;
  config.node_id = nodes == 2 && rank == 1 ? "second" : "first";
  MUST(cardea_context_create(&config, &job->context));
  job->rank = rank;

  cardea_context_info_t me = CARDEA_CONTEXT_INFO_INIT;
  MUST(cardea_context_query(job->context, &me));
  CHECK(me.rank == rank && me.world_size == 2 && me.node_count == (uint32_t)nodes);
  CHECK(me.node == (nodes == 2 ? rank : 0) && me.node_size == (nodes == 2 ? 1 : 2));
  CHECK(me.node_rank == (nodes == 2 ? 0 : rank));
  cardea_rank_info_t other = CARDEA_RANK_INFO_INIT;
  MUST(cardea_rank_query(job->context, 1 - rank, &other));
  CHECK(other.rank == 1 - rank && other.alive == 1 && other.host[0] != '\0');
  CHECK(strcmp(other.transport, nodes == 2 ? "ucx" : "shm") == 0);
}

static void make_layer(struct job* job) {
  MUST(cardea_group_create(job->context, NULL, 0, &job->group));
  cardea_group_info_t group = CARDEA_GROUP_INFO_INIT;
  MUST(cardea_group_query(job->group, &group));
  CHECK(group.count == 2 && group.index == job->rank);

  cardea_memory_info_t where = CARDEA_MEMORY_INFO_INIT;
  MUST(cardea_memory_alloc(job->context, (uint64_t)kLocal * kBytes, CARDEA_MEMORY_HOST, &job->memory));
  MUST(cardea_memory_query(job->memory, &where));
  CHECK(where.bytes == (uint64_t)kLocal * kBytes && where.mappable == 1 && where.kind == CARDEA_MEMORY_HOST);
  job->weights = where.address;
  CHECK(job->weights[0] == 0 && job->weights[where.bytes - 1] == 0);
  job->scales = malloc((size_t)kLocal * kScales);
  CHECK(job->scales != NULL);
  MUST(cardea_memory_register(job->context, job->scales, (uint64_t)kLocal * kScales, CARDEA_MEMORY_HOST,
                              &job->scales_memory));
  MUST(cardea_memory_query(job->scales_memory, &where));
  CHECK(where.address == job->scales && where.mappable == 0);

  cardea_segment_t segments[2] = {CARDEA_SEGMENT_INIT, CARDEA_SEGMENT_INIT};
  segments[0].name = "weights";
  segments[0].bytes = kBytes;
  segments[0].weight_type = CARDEA_DTYPE_BFLOAT16;
  segments[0].gradient_type = CARDEA_DTYPE_FLOAT32;
  segments[1].name = "scales";
  segments[1].bytes = kScales;
  segments[1].alignment = 64;
  cardea_slab_desc_t slab = CARDEA_SLAB_DESC_INIT;
  slab.segments = segments;
  slab.num_segments = 2;
  slab.num_slots = kSlots;
  MUST(cardea_slab_create(job->context, &slab, &job->slab));
  cardea_slab_info_t rows = CARDEA_SLAB_INFO_INIT;
  MUST(cardea_slab_query(job->slab, &rows));
  CHECK(rows.num_slots == kSlots && rows.free_slots == kSlots && rows.first_slot == 0);
  for (int i = 0; i < 2; ++i) memset(rows.base[i], 0xEE, rows.stride[i] * kSlots);

  /* Weights are stacked, scales have a pointer per expert. */
  uint32_t local[kLocal];
  void* pointers[kLocal];
  for (uint32_t i = 0; i < kLocal; ++i) {
    local[i] = job->rank * kLocal + i;
    pointers[i] = job->scales + (kLocal - 1 - i) * kScales;
  }
  cardea_placement_t places[2] = {CARDEA_PLACEMENT_INIT, CARDEA_PLACEMENT_INIT};
  places[0].base = job->weights;
  places[0].stride = kBytes;
  places[1].pointers = pointers;
  cardea_layer_desc_t desc = CARDEA_LAYER_DESC_INIT;
  desc.layer_id = 11;
  desc.num_experts = kExperts;
  desc.segments = segments;
  desc.num_segments = 2;
  desc.num_local = kLocal;
  desc.local_experts = local;
  desc.placements = places;
  desc.slab = job->slab;
  MUST(cardea_layer_create(job->group, &desc, &job->layer));
  cardea_layer_info_t layer = CARDEA_LAYER_INFO_INIT;
  MUST(cardea_layer_query(job->layer, &layer));
  CHECK(layer.layer_id == 11 && layer.num_experts == kExperts && layer.num_segments == 2);
  CHECK(layer.expert_bytes == kBytes + kScales);
}

static void write_local(struct job* job, uint64_t version) {
  for (uint32_t i = 0; i < kLocal; ++i) {
    const uint32_t expert = job->rank * kLocal + i;
    write_expert(job->weights + (size_t)i * kBytes, kBytes, expert, 0, version);
    write_expert(job->scales + (size_t)(kLocal - 1 - i) * kScales, kScales, expert, 1, version);
  }
}

/* One version's life; odd ones are asked for expert by expert, even ones as a gang. */
static void one_version(struct job* job, uint64_t version, int nodes) {
  static const uint32_t kAll[kExperts] = {3, 2, 1, 0};
  cardea_fetch_desc_t wanted = CARDEA_FETCH_DESC_INIT;
  cardea_fetch_t ahead, fetch;
  wanted.version = version;
  wanted.experts = kAll;
  wanted.num_experts = kExperts;
  wanted.flags = version % 2 == 0 ? CARDEA_FETCH_GANG | CARDEA_FETCH_SLOTS : CARDEA_FETCH_DEFAULT;
  MUST(cardea_prefetch(job->layer, &wanted, &ahead));
  wanted.on_ready = &on_ready;
  wanted.user = (void*)&g_done;
  __atomic_store_n(&g_done, 0, __ATOMIC_RELEASE);
  MUST(cardea_fetch(job->layer, &wanted, &fetch));
  cardea_fetch_info_t progress = CARDEA_FETCH_INFO_INIT;
  MUST(cardea_fetch_query(fetch, &progress));
  CHECK(progress.num_experts == kExperts && progress.parked >= kLocal && progress.delivered == 0);

  write_local(job, version);
  MUST(cardea_publish(job->layer, version, NULL));
  MUST(cardea_wait(fetch, CARDEA_FOREVER));

  int descriptor = -1;
  MUST(cardea_event_descriptor(job->context, &descriptor));
  struct pollfd entry = {descriptor, POLLIN, 0};
  CHECK(poll(&entry, 1, 0) == 1);
  MUST(cardea_event_clear(job->context));

  const uint32_t theirs = (1 - job->rank) * kLocal;
  cardea_expert_info_t expert = CARDEA_EXPERT_INFO_INIT;
  MUST(cardea_expert_query(job->layer, theirs, &expert));
  CHECK(expert.home == 1 - job->rank && expert.source == expert.home && expert.published == version);
  CHECK(expert.path == (nodes == 2 ? CARDEA_PATH_NETWORK : CARDEA_PATH_NODE_COPY));

  cardea_expert_table_t table = CARDEA_EXPERT_TABLE_INIT;
  MUST(cardea_layer_table(job->layer, &table));
  CHECK(table.num_experts == kExperts && table.num_segments == 2);
  CHECK(table.entries[job->rank * kLocal].version == version && table.entries[theirs].version == UINT64_MAX);
  CHECK(table.entries[job->rank * kLocal].segments[0] == job->weights);

  cardea_device_table_t on_device = CARDEA_DEVICE_TABLE_INIT;
  const cardea_status_t made = cardea_layer_device_table(job->layer, &on_device);
  if (made != CARDEA_ERR_UNSUPPORTED) { /* there is a GPU */
    MUST(made);
    CHECK(on_device.num_experts == kExperts && on_device.num_segments == 2);
    CHECK(on_device.slots != NULL && on_device.versions != NULL && on_device.segments != NULL);
  }

  CHECK(cardea_finish(job->layer, version, NULL) == CARDEA_ERR_BUSY);
  for (int i = 0; i < 30000 && !__atomic_load_n(&g_done, __ATOMIC_ACQUIRE); ++i) usleep(1000);
  CHECK(__atomic_load_n(&g_done, __ATOMIC_ACQUIRE) == 1);
  CHECK(read_all(fetch, version) == kExperts);
  MUST(cardea_cancel(ahead));
  MUST(cardea_fetch_destroy(ahead));

  cardea_finish_desc_t finish = CARDEA_FINISH_DESC_INIT;
  MUST(cardea_finish(job->layer, version, &finish));
  MUST(cardea_collect(job->layer, version, NULL, CARDEA_FOREVER));
}

static void check_telemetry(cardea_context_t context) {
  uint32_t count = 0;
  MUST(cardea_traffic_query(context, NULL, 0, &count));
  CHECK(count >= 1);
  cardea_traffic_t row = CARDEA_TRAFFIC_INIT;
  MUST(cardea_traffic_query(context, &row, 1, &count));
  CHECK(row.chunks_done == row.chunks_started && row.chunks_failed == 0 && row.bytes != 0);
  CHECK(strcmp(cardea_class_string(CARDEA_CLASS_DEMAND), "demand") == 0);
  size_t needed = 0;
  MUST(cardea_metrics_text(context, NULL, 0, &needed));
  char* text = malloc(needed + 4096);
  CHECK(text != NULL);
  MUST(cardea_metrics_text(context, text, needed + 4096, &needed));
  CHECK(strlen(text) + 1 == needed && strstr(text, "# TYPE cardea_ready_seconds histogram\n") != NULL);
  free(text);
  char head[32];
  MUST(cardea_dump_text(context, "before leaving", head, sizeof(head), &needed));
  CHECK(strncmp(head, "cardea dump: before leaving\n", 28) == 0);
}

static void leave(struct job* job, int nodes) {
  check_telemetry(job->context);
  cardea_counters_t counters = CARDEA_COUNTERS_INIT;
  MUST(cardea_counters_query(job->context, &counters));
  CHECK(counters.experts_home == 3 * kLocal && counters.experts_failed == 0);
  CHECK(nodes == 2 ? counters.experts_network == 3 * kLocal : counters.experts_node_copied == 3 * kLocal);
  MUST(cardea_layer_destroy(job->layer));
  MUST(cardea_slab_destroy(job->slab));
  MUST(cardea_memory_free(job->memory));
  MUST(cardea_memory_free(job->scales_memory));
  MUST(cardea_memory_wait_unmapped(job->context, job->scales, 1, CARDEA_FOREVER));
  MUST(cardea_group_destroy(job->group));
  if (job->rank == 1) {
    cardea_context_info_t me = CARDEA_CONTEXT_INFO_INIT;
    MUST(cardea_context_abort(job->context));
    CHECK(cardea_context_query(job->context, &me) == CARDEA_ERR_CANCELED);
  }
  MUST(cardea_context_destroy(job->context));
  CHECK(cardea_context_destroy(job->context) == CARDEA_ERR_INVALID_HANDLE);
  cardea_error_info_t error = CARDEA_ERROR_INFO_INIT;
  MUST(cardea_last_error(&error));
  CHECK(error.status == CARDEA_ERR_INVALID_HANDLE && strstr(error.message, "context") != NULL);
  free(job->scales);
}

static void run_rank(struct board* board, uint32_t rank, int nodes) {
  struct job job;
  memset(&job, 0, sizeof job);
  check_versions();
  join(&job, board, rank, nodes);
  make_layer(&job);
  for (uint64_t version = 1; version <= 3; ++version) one_version(&job, version, nodes);
  leave(&job, nodes);
}

/* Runs two ranks; returns how many failed. */
static int run_job(int nodes) {
  struct board* board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t ranks[2];
  int failed = 0;
  CHECK(board != MAP_FAILED);
  for (uint32_t rank = 0; rank < 2; ++rank) {
    ranks[rank] = fork();
    CHECK(ranks[rank] >= 0);
    if (ranks[rank] == 0) {
      run_rank(board, rank, nodes);
      exit(0);
    }
  }
  for (uint32_t rank = 0; rank < 2; ++rank) {
    int status = 0;
    CHECK(waitpid(ranks[rank], &status, 0) == ranks[rank]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      fprintf(stderr, "%d nodes: rank %u failed, status %#x\n", nodes, rank, (unsigned)status);
      ++failed;
    }
  }
  munmap(board, sizeof *board);
  return failed;
}

int main(void) {
  const int failed = run_job(1) + run_job(2);
  if (failed == 0) puts("every function of cardea.h, on one node and on two: right");
  return failed == 0 ? 0 : 1;
}
