/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Cardea: Mixture-of-Experts communication that keeps tokens in place and moves expert weights.
 *
 * This is the whole public C interface. Conventions, valid for every function below:
 *
 *  1. Every function returns a cardea_status_t: 0 is success, 1 means "in progress", negative values are
 *     errors. Outputs are written only on success (cardea_next is the one exception, see there).
 *     cardea_last_error() gives the details of the calling thread's last failed call.
 *  2. Every struct begins with `size`, which the caller sets to sizeof(the struct), most easily through the
 *     struct's _INIT macro. A caller compiled against an older header passes a smaller struct; fields that it
 *     does not know take their defaults, and the library writes no further than `size`. A size smaller than the
 *     struct's first release, or larger than the library knows with non-zero bytes in the unknown part, is
 *     CARDEA_ERR_INVALID_ARGUMENT.
 *  3. Handles are opaque numbers, checked on every call: a handle that was destroyed, never existed or is of
 *     another kind yields CARDEA_ERR_INVALID_HANDLE and touches nothing. The value 0 is never a handle.
 *  4. Every function may be called from any thread at any time, save that callbacks must not block: inside one,
 *     calls that wait return CARDEA_ERR_UNSUPPORTED.
 *  5. After fork() every call in the child with a handle of the parent's returns CARDEA_ERR_FORKED; contexts that the
 *     child makes are its own. The parent goes on undisturbed.
 *  6. Sizes are bytes, durations nanoseconds. A timeout of 0 polls, CARDEA_FOREVER waits for as long as it takes.
 *  7. No C++ exception ever crosses this interface, and the library never calls abort() or exit() on bad input.
 *
 * The vocabulary (rank, node, group, layer, expert, source, home, version, fetch, view, slab, credit) is defined in
 * docs/architecture.md.
 */
#ifndef CARDEA_CARDEA_H
#define CARDEA_CARDEA_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define CARDEA_API __attribute__((visibility("default")))
#else
#define CARDEA_API
#endif

#ifdef __cplusplus
#define CARDEA_NOEXCEPT noexcept
extern "C" {
#else
#define CARDEA_NOEXCEPT
#endif

/* ---------------------------------------------------------------- versions */

#define CARDEA_VERSION_MAJOR 0
#define CARDEA_VERSION_MINOR 1
#define CARDEA_VERSION_PATCH 0

/* ---------------------------------------------------------------- status */

typedef enum cardea_status {
  CARDEA_OK = 0,
  CARDEA_IN_PROGRESS = 1,               /* nothing failed, and it is not finished */
  CARDEA_ERR_INVALID_ARGUMENT = -1,     /* null, out of range, contradictory; the message names the argument */
  CARDEA_ERR_INVALID_HANDLE = -2,       /* destroyed, never made, or of another kind */
  CARDEA_ERR_UNSUPPORTED = -3,          /* not in this build, on this machine, or from this thread */
  CARDEA_ERR_NO_MEMORY = -4,            /* memory, descriptors or shared-memory space exhausted */
  CARDEA_ERR_LIMIT = -5,                /* asks for more than the object has, such as a gang larger than its slab */
  CARDEA_ERR_BUSY = -6,                 /* open views, fetches or layers stand in the way */
  CARDEA_ERR_STALE = -7,                /* the version was retired */
  CARDEA_ERR_WOULD_DEADLOCK = -8,       /* the caller's own views hold every credit */
  CARDEA_ERR_TIMEOUT = -9,              /* the time given ran out; the operation itself goes on */
  CARDEA_ERR_CANCELED = -10,            /* by cardea_cancel, or by destroying the context */
  CARDEA_ERR_PEER_LOST = -11,           /* a rank died, left or cannot be reached; cardea_error_info_t.peer names it */
  CARDEA_ERR_EXPELLED = -12,            /* this rank was declared lost by the others and is fenced off */
  CARDEA_ERR_AUTHENTICATION = -13,      /* wrong job secret */
  CARDEA_ERR_MISMATCH = -14,            /* ranks disagree: world size, wire version, layer shape, home */
  CARDEA_ERR_PROTOCOL = -15,            /* a peer sent bytes that make no sense */
  CARDEA_ERR_SYSTEM = -16,              /* an operating-system call failed; the message has call and reason */
  CARDEA_ERR_TRANSPORT = -17,           /* UCX failed; the message has call and reason */
  CARDEA_ERR_DEVICE = -18,              /* a GPU call failed */
  CARDEA_ERR_FORKED = -19,              /* called in a forked child */
  CARDEA_ERR_CONFIGURATION = -20,       /* an environment variable or file is present and wrong */
  CARDEA_ERR_INTERNAL = -21             /* a defect of Cardea */
} cardea_status_t;

/* The name of a status, such as "CARDEA_ERR_STALE"; never null, valid forever. */
CARDEA_API const char *cardea_status_string(cardea_status_t status) CARDEA_NOEXCEPT;

#define CARDEA_FOREVER UINT64_MAX
#define CARDEA_NO_RANK UINT32_MAX
#define CARDEA_NO_EXPERT UINT32_MAX
#define CARDEA_NO_SLOT (-1)
#define CARDEA_MAX_SEGMENTS 16

/* By which path an expert reached this rank. */
typedef enum cardea_path {
  CARDEA_PATH_NONE = 0,
  CARDEA_PATH_HOME = 1,        /* this rank is a source: a pointer, nothing moved */
  CARDEA_PATH_NODE_MAPPED = 2, /* same node: mapped where it lies, nothing moved */
  CARDEA_PATH_NODE_COPY = 3,   /* same node: copied through host memory */
  CARDEA_PATH_NODE_GPU = 4,    /* same node: pulled from another GPU */
  CARDEA_PATH_CACHE = 5,       /* came over the network once for the node, served from the node cache */
  CARDEA_PATH_NETWORK = 6      /* another node: moved over the network for this fetch */
} cardea_path_t;

CARDEA_API const char *cardea_path_string(cardea_path_t path) CARDEA_NOEXCEPT;

/* What is known of a failure. Fields that do not apply hold CARDEA_NO_RANK, CARDEA_NO_EXPERT, CARDEA_PATH_NONE, 0. */
typedef struct cardea_error_info {
  size_t size;
  cardea_status_t status;
  uint32_t peer;         /* rank at fault */
  uint32_t layer;        /* layer_id */
  uint32_t expert;
  cardea_path_t path;
  uint64_t bytes;        /* bytes moved before the failure, or the size at fault */
  char message[512];     /* one line of English, always terminated */
} cardea_error_info_t;
#define CARDEA_ERROR_INFO_INIT {sizeof(cardea_error_info_t), CARDEA_OK, CARDEA_NO_RANK, 0, CARDEA_NO_EXPERT, CARDEA_PATH_NONE, 0, {0}}

/* Details of the last call that failed on this thread; status CARDEA_OK if none did. Does not clear them. */
CARDEA_API cardea_status_t cardea_last_error(cardea_error_info_t *info) CARDEA_NOEXCEPT;

/* What this library is, and what it found. Found-at-run-time fields are empty strings where absent. */
typedef struct cardea_version_info {
  size_t size;
  uint32_t major, minor, patch;   /* of the library, which may be newer than this header */
  uint32_t abi;                   /* equals the SONAME's number */
  uint32_t wire;                  /* ranks of one job must agree on it */
  char ucx[32];                   /* UCX at run time, such as "1.13.1" */
  char hwloc[32];                 /* hwloc at run time */
  char cuda[32];                  /* CUDA runtime built with; empty if built without */
  char cuda_driver[32];           /* driver found now; empty if none */
  char nccl[32];                  /* NCCL built with; empty if built without */
} cardea_version_info_t;
#define CARDEA_VERSION_INFO_INIT {sizeof(cardea_version_info_t), 0, 0, 0, 0, 0, {0}, {0}, {0}, {0}, {0}}

CARDEA_API cardea_status_t cardea_version(cardea_version_info_t *info) CARDEA_NOEXCEPT;

/* ---------------------------------------------------------------- handles */

typedef struct cardea_context_handle { uint64_t id; } cardea_context_t;
typedef struct cardea_group_handle { uint64_t id; } cardea_group_t;
typedef struct cardea_layer_handle { uint64_t id; } cardea_layer_t;
typedef struct cardea_memory_handle { uint64_t id; } cardea_memory_t;
typedef struct cardea_slab_handle { uint64_t id; } cardea_slab_t;
typedef struct cardea_fetch_handle { uint64_t id; } cardea_fetch_t;

/* ---------------------------------------------------------------- joining a job */

/*
 * Names a job and lets its ranks find each other, in the manner of ncclUniqueId: one process creates it, hands the
 * bytes to the others by any means it trusts (they hold the job's secret), and every rank passes it to
 * cardea_context_create.
 */
typedef struct cardea_unique_id { unsigned char bytes[128]; } cardea_unique_id_t;

/*
 * Creates a unique id and starts the job's meeting point in this process: a listening socket that lives until the
 * job has formed, its deadline has passed, or the process ends. `address` is "host:port", "host" or NULL; NULL takes
 * the address of CARDEA_BOOTSTRAP_ADDRESS if set, else the first non-loopback address, else loopback. Port 0 or none
 * lets the system choose.
 * Errors: INVALID_ARGUMENT (unresolvable address), SYSTEM (cannot listen).
 */
CARDEA_API cardea_status_t cardea_unique_id_create(const char *address, cardea_unique_id_t *id) CARDEA_NOEXCEPT;

/*
 * A collective exchange provided by a framework that has a store of its own: must deliver to every rank, in rank
 * order, the `bytes` bytes that every rank gave in `mine`; `all` has room for world_size * bytes. Called a few times
 * during cardea_context_create, on the calling thread, with the same `bytes` on all ranks. Returns 0 on success;
 * anything else fails the creation with CARDEA_ERR_TRANSPORT. The exchange is trusted: it carries the job's secret.
 */
typedef int (*cardea_exchange_fn)(void *user, const void *mine, size_t bytes, void *all);

typedef enum cardea_bootstrap {
  CARDEA_BOOTSTRAP_ENVIRONMENT = 0, /* cardea-run, torchrun, Open MPI or Slurm, in this order */
  CARDEA_BOOTSTRAP_UNIQUE_ID = 1,
  CARDEA_BOOTSTRAP_EXCHANGE = 2
} cardea_bootstrap_t;

typedef struct cardea_config {
  size_t size;
  cardea_bootstrap_t bootstrap;
  uint32_t rank;                        /* ignored with CARDEA_BOOTSTRAP_ENVIRONMENT */
  uint32_t world_size;                  /* ignored with CARDEA_BOOTSTRAP_ENVIRONMENT */
  const cardea_unique_id_t *unique_id;  /* with CARDEA_BOOTSTRAP_UNIQUE_ID */
  cardea_exchange_fn exchange;          /* with CARDEA_BOOTSTRAP_EXCHANGE */
  void *exchange_user;
  const char *node_id;       /* NULL: CARDEA_NODE_ID, else this host; lets one machine play several nodes */
  uint64_t setup_timeout;    /* ns for a job to form and for a layer's members to meet; 0: CARDEA_SETUP_TIMEOUT, else 60 s */
  uint64_t chunk_bytes;      /* network transfers move in chunks of this size; 0: CARDEA_CHUNK_BYTES, else 1 MiB */
  uint32_t chunks_in_flight; /* per network lane; 0: CARDEA_CHUNKS_IN_FLIGHT, else 8 */
  uint64_t cache_bytes;      /* of the node cache, which the node's ranks share: the lowest rank's counts. 0: CARDEA_CACHE_BYTES, else
                                an eighth of the machine's memory, at most 8 GiB; CARDEA_NO_CACHE: none. Takes memory as it fills; all of it
                                where a rank uses a GPU and the job has several nodes */
  uint64_t prefetch_bytes;   /* of the node cache, that prefetches which nobody has read may fill; 0: CARDEA_PREFETCH_BYTES, else half of it */
  int32_t cuda_device;       /* this rank's GPU, as the process numbers them; CARDEA_DEVICE_CURRENT: see cardea_memory_kind_t */
  uint64_t heartbeat;        /* ns between signs of life; 0: CARDEA_HEARTBEAT, else a fifth of liveness_limit, at most 1 s. 10 ms to a week,
                                at most half of liveness_limit; the same on all ranks, like liveness_limit */
  uint64_t liveness_limit;   /* ns of silence after which a rank is lost and expelled; 0: CARDEA_LIVENESS_LIMIT, else 5 s. 50 ms to a week */
  uint64_t progress_limit;   /* ns for which an expert of a living rank may wait without anything moving, or for its version; then it fails
                                with TIMEOUT. 0: CARDEA_PROGRESS_LIMIT, else 10 min. 1 s to a week */
  uint64_t progress_warning; /* ns after which a warning is logged; 0: a twentieth of progress_limit */
} cardea_config_t;
#define CARDEA_NO_CACHE UINT64_MAX
#define CARDEA_DEVICE_CURRENT (-1)
#define CARDEA_CONFIG_INIT {sizeof(cardea_config_t), CARDEA_BOOTSTRAP_ENVIRONMENT, 0, 0, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, CARDEA_DEVICE_CURRENT, 0, 0, 0, 0}

/*
 * Joins the job and starts this rank's engine thread. Blocks until all ranks have arrived or setup_timeout has passed;
 * then the message names who is missing. A process may hold several contexts, of the same or of different jobs.
 * `config` may be NULL for the defaults. The caller frees the context with cardea_context_destroy.
 * Errors: TIMEOUT (a rank is missing), AUTHENTICATION, MISMATCH (two ranks of one number, another world size, another
 * wire version), CONFIGURATION, SYSTEM, TRANSPORT.
 */
CARDEA_API cardea_status_t cardea_context_create(const cardea_config_t *config, cardea_context_t *context) CARDEA_NOEXCEPT;

/*
 * Leaves the job: cancels what is in flight, waits (at most 2 s) until no hardware writes into this rank's memory, stops
 * the engine and frees every object of the context, whose handles become invalid. Ranks that fetch from this one later
 * get PEER_LOST. Calls that other threads have in flight return CARDEA_ERR_CANCELED. Works on a context that was aborted or expelled, too.
 */
CARDEA_API cardea_status_t cardea_context_destroy(cardea_context_t context) CARDEA_NOEXCEPT;

/*
 * Makes every waiting call and every open fetch of the context end with CARDEA_ERR_CANCELED, and every later call but
 * destroy return it. (If the others have expelled this rank, all of that happens by itself, with CARDEA_ERR_EXPELLED.) Never waits. Safe from a signal-handling thread (not from a signal handler).
 */
CARDEA_API cardea_status_t cardea_context_abort(cardea_context_t context) CARDEA_NOEXCEPT;

typedef struct cardea_context_info {
  size_t size;
  uint32_t rank, world_size;
  uint32_t node, node_count;          /* nodes are numbered by their lowest rank */
  uint32_t node_rank, node_size;      /* this rank's place among its node's ranks */
} cardea_context_info_t;
#define CARDEA_CONTEXT_INFO_INIT {sizeof(cardea_context_info_t), 0, 0, 0, 0, 0, 0}

CARDEA_API cardea_status_t cardea_context_query(cardea_context_t context, cardea_context_info_t *info) CARDEA_NOEXCEPT;

typedef struct cardea_rank_info {
  size_t size;
  uint32_t rank;
  uint32_t node;
  uint32_t alive;            /* 0 once the rank was lost or has left, whoever noticed it */
  char host[64];             /* host name it gave, possibly cut */
  char transport[32];        /* "self", "shm" or "ucx" */
} cardea_rank_info_t;
#define CARDEA_RANK_INFO_INIT {sizeof(cardea_rank_info_t), 0, 0, 0, {0}, {0}}

CARDEA_API cardea_status_t cardea_rank_query(cardea_context_t context, uint32_t rank, cardea_rank_info_t *info) CARDEA_NOEXCEPT;

/*
 * A descriptor that polls readable (POLLIN) when something happened since the last cardea_event_clear: an expert became
 * ready or failed, a collect completed, a peer was lost. It belongs to the context: do not close or read it.
 */
CARDEA_API cardea_status_t cardea_event_descriptor(cardea_context_t context, int *descriptor) CARDEA_NOEXCEPT;
/* Call this first, then look at what is ready: nothing is missed in this order. */
CARDEA_API cardea_status_t cardea_event_clear(cardea_context_t context) CARDEA_NOEXCEPT;

/* Counters of this rank since the context was created. Bytes are payload bytes. */
typedef struct cardea_counters {
  size_t size;
  uint64_t experts_home, experts_node_mapped, experts_node_copied, experts_cache, experts_network; /* views made ready, by path */
  uint64_t experts_failed;
  uint64_t bytes_node_copied;        /* copied within the node by this rank */
  uint64_t bytes_network_received;   /* expert bytes this rank received from other nodes */
  uint64_t bytes_network_sent;       /* expert bytes this rank served to other nodes */
  uint64_t prefetch_bytes_wasted;    /* prefetched and dropped without having been read */
  uint64_t cache_bytes_capacity, cache_bytes_used; /* of the node cache; 0: this rank has none */
  uint64_t cache_hits, cache_misses; /* experts that were in the node cache already, whole or in part, when this rank wanted them; and not */
  uint64_t cache_evicted;            /* experts that this rank pushed out of it to make room */
  uint64_t cache_bypassed;           /* experts that came over the network for this rank alone: no room, or a holder of the lock that does not go on */
  uint64_t cache_overdue;            /* chunks taken over from a rank that fell silent */
  uint64_t experts_node_gpu;         /* views made ready that came from another GPU of the node */
  uint64_t bytes_node_gpu;           /* that this rank's GPU pulled from memory of the node's other ranks */
  uint64_t bytes_network_direct;     /* of bytes_network_received, those that went straight into the GPU's memory (CARDEA_GPU_DIRECT) */
} cardea_counters_t;
#define CARDEA_COUNTERS_INIT {sizeof(cardea_counters_t), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

CARDEA_API cardea_status_t cardea_counters_query(cardea_context_t context, cardea_counters_t *counters) CARDEA_NOEXCEPT;

/* Urgency of a transfer, most urgent first. */
typedef enum cardea_class {
  CARDEA_CLASS_DEMAND = 0,    /* cardea_fetch */
  CARDEA_CLASS_GRADIENT = 1,
  CARDEA_CLASS_PREFETCH = 2,  /* cardea_prefetch */
  CARDEA_CLASS_PLACEMENT = 3
} cardea_class_t;

/* "demand", "gradient", "prefetch", "placement"; never null, valid forever. */
CARDEA_API const char *cardea_class_string(cardea_class_t urgency) CARDEA_NOEXCEPT;

/* Chunks that this rank has moved on one lane, in one class, by one path, since the context was created. */
typedef struct cardea_traffic {
  size_t size;
  char lane[32];             /* name, such as "network-in" or "node-copy" */
  cardea_class_t urgency;
  cardea_path_t path;
  uint64_t chunks_started, chunks_done, chunks_failed;
  uint64_t bytes;            /* of those done, padding between segments included */
  uint64_t nanoseconds;      /* on the way, summed over those done: they overlap */
} cardea_traffic_t;
#define CARDEA_TRAFFIC_INIT {sizeof(cardea_traffic_t), {0}, CARDEA_CLASS_DEMAND, CARDEA_PATH_NONE, 0, 0, 0, 0, 0}

/*
 * Writes a row for each lane, class and path that has carried anything, ordered by lane, class and path, up to `max` of
 * them. *count gets how many there are, which may be more than max; `rows` may be NULL when max is 0. rows[i].size must be
 * set.
 */
CARDEA_API cardea_status_t cardea_traffic_query(cardea_context_t context, cardea_traffic_t *rows, uint32_t max, uint32_t *count) CARDEA_NOEXCEPT;

/*
 * All counters as text in Prometheus's exposition format 0.0.4, to be served or written to a file as it is; the families
 * are listed in docs/telemetry.md. Writes at most `capacity` bytes, the terminating zero included, and cuts what does not
 * fit; *needed gets the bytes that all of it takes, which may grow until the next call. `text` may be NULL when capacity
 * is 0.
 */
CARDEA_API cardea_status_t cardea_metrics_text(cardea_context_t context, char *text, size_t capacity, size_t *needed) CARDEA_NOEXCEPT;

/*
 * What this rank waits for now, which rank is at fault, and what happened last, as text (docs/telemetry.md): what the
 * library itself writes to its log when a fetch stalls. `reason`, one line, stands at its head. `text`, `capacity` and
 * `needed` as for cardea_metrics_text.
 */
CARDEA_API cardea_status_t cardea_dump_text(cardea_context_t context, const char *reason, char *text, size_t capacity, size_t *needed) CARDEA_NOEXCEPT;

/* ---------------------------------------------------------------- groups */

/*
 * A group of ranks, in the order given (an expert-parallel group). Every member calls this with the same list; members
 * that create several groups with the very same list do so in the same order. Sends nothing and does not wait.
 * `ranks` NULL with count 0 means all ranks of the job. Freed by cardea_group_destroy or with the context.
 * Errors: INVALID_ARGUMENT (a rank twice, out of range, or this rank not among them).
 */
CARDEA_API cardea_status_t cardea_group_create(cardea_context_t context, const uint32_t *ranks, uint32_t count, cardea_group_t *group) CARDEA_NOEXCEPT;
/* Errors: BUSY (the group has layers). */
CARDEA_API cardea_status_t cardea_group_destroy(cardea_group_t group) CARDEA_NOEXCEPT;

typedef struct cardea_group_info {
  size_t size;
  uint32_t count;        /* members */
  uint32_t index;        /* this rank's place among them */
} cardea_group_info_t;
#define CARDEA_GROUP_INFO_INIT {sizeof(cardea_group_info_t), 0, 0}
CARDEA_API cardea_status_t cardea_group_query(cardea_group_t group, cardea_group_info_t *info) CARDEA_NOEXCEPT;

/* ---------------------------------------------------------------- memory */

typedef enum cardea_memory_kind {
  CARDEA_MEMORY_HOST = 0,
  CARDEA_MEMORY_CUDA = 1  /* memory of this rank's GPU */
} cardea_memory_kind_t;

/*
 * This rank's GPU is found when device memory is used first: config.cuda_device, else the device that is current in the
 * calling thread (cudaSetDevice), else the only one. Without a driver or a GPU every use of CARDEA_MEMORY_CUDA, and every
 * stream, is UNSUPPORTED, with the reason. Failed GPU calls are CARDEA_ERR_DEVICE (NO_MEMORY where the device has none), and
 * say which call, on which device. Calls that use the GPU must not be made by a callback: UNSUPPORTED. See docs/gpu.md.
 */

/*
 * Streams are CUDA streams (cudaStream_t, CUstream) of this rank's GPU, given as void*. NULL means "no stream": then the host
 * waits. CUDA's default stream, whose own handle is null, is CARDEA_STREAM_DEFAULT. A stream that is being captured into a
 * graph is refused (UNSUPPORTED): graphs may read slots, but not fetch, release, publish or finish.
 */
#define CARDEA_STREAM_DEFAULT ((void *)1)

/*
 * Memory that other ranks of the node can map: experts that lie in host memory reach them without a copy, those in device
 * memory are pulled by their GPUs. Zeroed, aligned to at least 2 MiB, resident. The caller frees it with cardea_memory_free,
 * else it goes with the context.
 * Errors: INVALID_ARGUMENT (0 bytes), NO_MEMORY, UNSUPPORTED (no GPU), DEVICE.
 */
CARDEA_API cardea_status_t cardea_memory_alloc(cardea_context_t context, uint64_t bytes, cardea_memory_kind_t kind, cardea_memory_t *memory) CARDEA_NOEXCEPT;

/*
 * Makes the framework's own memory known. Other ranks cannot map it; they copy from it. Registering is optional (a layer
 * registers what it needs) but spares large allocations one registration per layer. The memory must stay valid until
 * cardea_memory_free, which does not free the framework's bytes.
 * Device memory of cudaMalloc, or part of it, and memory of the virtual-memory functions that has a handle to pass on, can be
 * mapped by the GPUs of the node. What cannot is UNSUPPORTED, with advice: PyTorch's expandable segments, CUDA's memory
 * pools (cudaMallocAsync), managed memory. INVALID_ARGUMENT: host memory given as CARDEA_MEMORY_CUDA, or memory of another
 * GPU than this rank's.
 */
CARDEA_API cardea_status_t cardea_memory_register(cardea_context_t context, void *address, uint64_t bytes, cardea_memory_kind_t kind, cardea_memory_t *memory) CARDEA_NOEXCEPT;

typedef struct cardea_memory_info {
  size_t size;
  void *address;
  uint64_t bytes;
  cardea_memory_kind_t kind;
  uint32_t mappable;     /* 1 if ranks of the node (their GPUs) map it, 0 if they must copy */
} cardea_memory_info_t;
#define CARDEA_MEMORY_INFO_INIT {sizeof(cardea_memory_info_t), NULL, 0, CARDEA_MEMORY_HOST, 0}
CARDEA_API cardea_status_t cardea_memory_query(cardea_memory_t memory, cardea_memory_info_t *info) CARDEA_NOEXCEPT;

/*
 * Errors: BUSY (a layer or slab lies in it). Ranks that still map it keep their mapping, and its pages, until they have
 * destroyed their layers.
 */
CARDEA_API cardea_status_t cardea_memory_free(cardea_memory_t memory) CARDEA_NOEXCEPT;

/*
 * Waits until no other rank maps any of these `bytes` bytes of this rank's device memory. Frameworks call it between
 * cardea_layer_destroy (and cardea_slab_destroy, and cardea_memory_free, for memory that was registered) and cudaFree: what
 * an allocator does with memory that another rank still maps, that rank reads. The others let go when they, too, have
 * destroyed their layers in it. A rank that died or left counts as having let go. OK at once for memory that nobody was
 * offered, such as host memory.
 * Errors: BUSY (layers or slabs of this rank lie in it, or a cardea_memory_t does, and others may map it), IN_PROGRESS
 * (timeout 0) and TIMEOUT (both name a rank that has not let go), INVALID_ARGUMENT.
 */
CARDEA_API cardea_status_t cardea_memory_wait_unmapped(cardea_context_t context, const void *address, uint64_t bytes, uint64_t timeout) CARDEA_NOEXCEPT;

/* ---------------------------------------------------------------- layers */

typedef enum cardea_dtype {
  CARDEA_DTYPE_NONE = 0,   /* as gradient type: this segment has no gradient */
  CARDEA_DTYPE_BYTES = 1,  /* opaque */
  CARDEA_DTYPE_FLOAT32 = 2,
  CARDEA_DTYPE_FLOAT16 = 3,
  CARDEA_DTYPE_BFLOAT16 = 4,
  CARDEA_DTYPE_FLOAT8_E4M3 = 5,
  CARDEA_DTYPE_FLOAT8_E5M2 = 6,
  CARDEA_DTYPE_INT8 = 7
} cardea_dtype_t;

/* One part of every expert of a layer, such as w13, w2, scales or bias. */
typedef struct cardea_segment {
  size_t size;
  const char *name;            /* at most 31 characters; for messages, and equal on all ranks */
  uint64_t bytes;              /* of one expert's part; at least 1 */
  uint64_t alignment;          /* power of two up to 4096, 0 means 256; of packed copies and slabs made by Cardea */
  cardea_dtype_t weight_type;
  cardea_dtype_t gradient_type;
} cardea_segment_t;
#define CARDEA_SEGMENT_INIT {sizeof(cardea_segment_t), NULL, 0, 0, CARDEA_DTYPE_BYTES, CARDEA_DTYPE_NONE}

/*
 * Where one segment of the local experts lies: stacked as [count, ...] (base and stride: local expert i is at
 * base + i * stride), or a pointer per expert. Exactly one of `base` and `pointers` is non-null; `pointers` is read
 * during the call only.
 */
typedef struct cardea_placement {
  size_t size;
  void *base;
  uint64_t stride;         /* bytes; at least the segment's */
  void *const *pointers;   /* one per local expert */
} cardea_placement_t;
#define CARDEA_PLACEMENT_INIT {sizeof(cardea_placement_t), NULL, 0, NULL}

typedef struct cardea_layer_desc {
  size_t size;
  uint32_t layer_id;                     /* the framework's number for it, unique in the group, equal on all members */
  uint32_t num_experts;                  /* E, 1 to 65536, over the whole group */
  const cardea_segment_t *segments;      /* the shape, equal on all members */
  uint32_t num_segments;                 /* 1 to CARDEA_MAX_SEGMENTS */
  uint32_t num_local;                    /* experts of which this rank is a source; may be 0 */
  const uint32_t *local_experts;         /* their indices, each once */
  const uint8_t *local_is_home;          /* num_local flags; NULL: this rank is home of all of them */
  const cardea_placement_t *placements;  /* num_segments of them, over the local experts */
  cardea_slab_t slab;                    /* optional: where fetches that name no slab of their own land */
} cardea_layer_desc_t;
#define CARDEA_LAYER_DESC_INIT {sizeof(cardea_layer_desc_t), 0, 0, NULL, 0, 0, NULL, NULL, NULL, {0}}

/*
 * Declares one MoE layer. Collective over the group: every member calls it, several layers in the same order; it waits
 * for the others up to setup_timeout. Every expert needs exactly one home. Memory of local experts stays the caller's and
 * must stay valid until cardea_layer_destroy. No version is published yet.
 * Errors: INVALID_ARGUMENT, MISMATCH (members disagree on shape or homes; the message names rank and field), TIMEOUT
 * (names the ranks that did not come), PEER_LOST, BUSY (layer_id in use), MISMATCH also when the slab has another shape.
 */
CARDEA_API cardea_status_t cardea_layer_create(cardea_group_t group, const cardea_layer_desc_t *desc, cardea_layer_t *layer) CARDEA_NOEXCEPT;

/*
 * Ends this rank's part in the layer; members that fetch experts homed here get PEER_LOST from then on. Waits (at most
 * 1.5 s) for transfers that others have in flight from it.
 * Errors: BUSY (open fetches or views).
 */
CARDEA_API cardea_status_t cardea_layer_destroy(cardea_layer_t layer) CARDEA_NOEXCEPT;

typedef struct cardea_layer_info {
  size_t size;
  uint32_t layer_id, num_experts, num_segments;
  uint64_t expert_bytes;      /* sum of the segments' bytes, without padding */
} cardea_layer_info_t;
#define CARDEA_LAYER_INFO_INIT {sizeof(cardea_layer_info_t), 0, 0, 0, 0}
CARDEA_API cardea_status_t cardea_layer_query(cardea_layer_t layer, cardea_layer_info_t *info) CARDEA_NOEXCEPT;

typedef struct cardea_expert_info {
  size_t size;
  uint32_t home;              /* rank */
  uint32_t source;            /* rank that a fetch would take it from now */
  cardea_path_t path;         /* by which path it would come */
  uint64_t published;         /* newest version the source has published, UINT64_MAX if none */
} cardea_expert_info_t;
#define CARDEA_EXPERT_INFO_INIT {sizeof(cardea_expert_info_t), 0, 0, CARDEA_PATH_NONE, 0}
CARDEA_API cardea_status_t cardea_expert_query(cardea_layer_t layer, uint32_t expert, cardea_expert_info_t *info) CARDEA_NOEXCEPT;

/*
 * What this rank can read now, at a host address that stays the same for the layer's life; home experts included.
 * entries[e].segments points to num_segments pointers. An entry is valid between the cardea_next that delivered a view
 * of the expert and that view's release (home experts: always); reading others races with the engine.
 */
typedef struct cardea_expert_entry {
  uint64_t version;              /* UINT64_MAX while the entry is empty */
  int32_t slot;                  /* row of the slab, or CARDEA_NO_SLOT */
  uint32_t reserved;
  const void *const *segments;   /* null pointers while the entry is empty */
} cardea_expert_entry_t;

typedef struct cardea_expert_table {
  size_t size;
  const cardea_expert_entry_t *entries;  /* num_experts of them */
  uint32_t num_experts, num_segments;
} cardea_expert_table_t;
#define CARDEA_EXPERT_TABLE_INIT {sizeof(cardea_expert_table_t), NULL, 0, 0}
CARDEA_API cardea_status_t cardea_layer_table(cardea_layer_t layer, cardea_expert_table_t *table) CARDEA_NOEXCEPT;

/*
 * The same for kernels: what this rank's GPU can read now, in device memory, at addresses that stay the same for the layer's
 * life, so that captured graphs may read it. Made by the first call, and only then kept; later calls give the same addresses.
 * The entry of a view that lies in a slab in device memory is valid
 *   - of a fetch on a stream: for work that is queued on the stream after the cardea_next that delivered the view and before
 *     its cardea_release;
 *   - of another fetch: for work on any stream that is queued after cardea_next has returned and done before cardea_release is
 *     called. These calls wait until the GPU has written the table, also behind what streams have queued for the same expert.
 * Other entries of experts that are not at home are empty, or on the way from one state to another. Where views of one expert
 * are open in two slots at once, its entry tells of the one that was delivered last.
 * Experts at home are always there. Their versions change in the order of the stream that is given to cardea_publish (without
 * one, before it returns); their segments are null where they lie in memory that the GPU cannot read.
 * Callbacks that call cardea_next, cardea_release or cardea_publish do not wait: the table changes soon after.
 * A stream that is being captured is refused by cardea_next with UNSUPPORTED here, as in cardea_fetch: the views were given,
 * and must be released, but the table does not tell of them.
 * DEVICE from one of them also tells that the table could not be written: its entries are undefined then, and all else is done.
 * Errors: UNSUPPORTED (no GPU, or inside a callback), NO_MEMORY, DEVICE.
 */
typedef struct cardea_device_table {
  size_t size;
  const int32_t *slots;                  /* num_experts rows of the slab; CARDEA_NO_SLOT: none, or the entry is empty */
  const uint64_t *versions;              /* num_experts; UINT64_MAX while the entry is empty */
  const void *const *segments;           /* num_experts * num_segments, expert by expert; null while the entry is empty */
  uint32_t num_experts, num_segments;
} cardea_device_table_t;
#define CARDEA_DEVICE_TABLE_INIT {sizeof(cardea_device_table_t), NULL, NULL, NULL, 0, 0}
CARDEA_API cardea_status_t cardea_layer_device_table(cardea_layer_t layer, cardea_device_table_t *table) CARDEA_NOEXCEPT;

/* ---------------------------------------------------------------- slabs */

/*
 * Landing memory: one stacked array per segment, [slots, ...]. A free slot is a credit. Made by Cardea when placements is
 * NULL; else the framework's own arrays, whose rows first_slot ... first_slot + num_slots - 1 belong to Cardea until
 * cardea_slab_destroy (rows before first_slot may hold home experts: placements then point at row 0, so that
 * [E_home + R, ...] arrays feed one grouped GEMM). A slab serves every layer with the same segments. A slab of kind
 * CARDEA_MEMORY_CUDA lies in device memory: every expert that is not at home here goes into it, as with CARDEA_FETCH_SLOTS.
 */
typedef struct cardea_slab_desc {
  size_t size;
  const cardea_segment_t *segments;
  uint32_t num_segments;
  uint32_t num_slots;                    /* at least 1 */
  uint32_t first_slot;                   /* only with placements */
  const cardea_placement_t *placements;  /* NULL, or num_segments of base and stride */
  cardea_memory_kind_t kind;
} cardea_slab_desc_t;
#define CARDEA_SLAB_DESC_INIT {sizeof(cardea_slab_desc_t), NULL, 0, 0, 0, NULL, CARDEA_MEMORY_HOST}

CARDEA_API cardea_status_t cardea_slab_create(cardea_context_t context, const cardea_slab_desc_t *desc, cardea_slab_t *slab) CARDEA_NOEXCEPT;
/* Errors: BUSY (a layer names it, or views or transfers use its slots; copies of a GPU are waited for, at most 2 s). */
CARDEA_API cardea_status_t cardea_slab_destroy(cardea_slab_t slab) CARDEA_NOEXCEPT;

typedef struct cardea_slab_info {
  size_t size;
  uint32_t num_slots, first_slot;
  uint32_t free_slots;                     /* credits now; slots that hold a reusable expert count as free */
  void *base[CARDEA_MAX_SEGMENTS];         /* row 0 of each segment's array */
  uint64_t stride[CARDEA_MAX_SEGMENTS];
  cardea_memory_kind_t kind;
} cardea_slab_info_t;
#define CARDEA_SLAB_INFO_INIT {sizeof(cardea_slab_info_t), 0, 0, 0, {NULL}, {0}, CARDEA_MEMORY_HOST}
CARDEA_API cardea_status_t cardea_slab_query(cardea_slab_t slab, cardea_slab_info_t *info) CARDEA_NOEXCEPT;

/* ---------------------------------------------------------------- versions of weights */

/*
 * Says that this rank's local experts of the layer are valid at `version` and may be read by every member until
 * cardea_collect completes. Versions grow. With a stream the version is published when the stream has done what is queued
 * on it now, and this returns at once.
 * Errors: BUSY (the version before was not collected, or a stream is still to publish one), INVALID_ARGUMENT (version not
 * greater than all before, or UINT64_MAX), UNSUPPORTED (stream without GPU, or being captured).
 */
CARDEA_API cardea_status_t cardea_publish(cardea_layer_t layer, uint64_t version, void *stream) CARDEA_NOEXCEPT;

typedef struct cardea_finish_desc {
  size_t size;
  const uint8_t *contributes;   /* reserved for gradients: must be NULL so far */
  uint32_t micro_batches;       /* reserved for gradients: must be 0 so far */
  void *stream;                 /* the others are told when it has done what is queued on it now; NULL: at once */
} cardea_finish_desc_t;
#define CARDEA_FINISH_DESC_INIT {sizeof(cardea_finish_desc_t), NULL, 0, NULL}

/*
 * Says that this rank needs the layer's experts at `version` and before no longer. Every member finishes every version,
 * also one of which it fetched nothing. Fetches of it return STALE on this rank from then on. `desc` may be NULL. The others
 * are told when this rank's copies of it are done, too, so with views of streams it may be called as soon as they are released.
 * Errors: BUSY (open views, fetches or prefetches of the layer at that version or before), STALE (finished already).
 */
CARDEA_API cardea_status_t cardea_finish(cardea_layer_t layer, uint64_t version, const cardea_finish_desc_t *desc) CARDEA_NOEXCEPT;

/*
 * Completes when every member has finished `version` and nobody reads or transfers this rank's experts: then the caller
 * owns its weights again, may update them in place and publish a greater version. With timeout 0 returns
 * CARDEA_IN_PROGRESS until it is so; the event descriptor tells when to look again.
 * A member that has left the job of its own will counts as finished. A stream may be named; nothing needs to be queued on it,
 * since finishes are told when the GPU's work behind them is done.
 * Errors: TIMEOUT, BUSY (this rank itself has not finished the version), PEER_LOST (a member that had not finished died),
 * STALE (collected already), INVALID_ARGUMENT (not published by this rank), UNSUPPORTED (stream).
 */
CARDEA_API cardea_status_t cardea_collect(cardea_layer_t layer, uint64_t version, void *stream, uint64_t timeout) CARDEA_NOEXCEPT;

/* ---------------------------------------------------------------- fetching */

typedef struct cardea_view {
  size_t size;
  uint64_t id;                   /* for cardea_release; 0 on a failed view */
  cardea_status_t status;        /* why there is no expert here, else CARDEA_OK */
  uint32_t expert;
  uint64_t version;
  int32_t slot;                  /* row of the slab, CARDEA_NO_SLOT if it lies elsewhere */
  cardea_path_t path;
  uint32_t source;               /* rank it came from */
  uint32_t num_segments;
  const void *segments[CARDEA_MAX_SEGMENTS];  /* read only; null for segments that were not asked for */
  uint64_t ready_ns;             /* from the submission of the fetch to the view being ready */
  uint32_t source_alive;         /* 0 if that rank was lost or has left by now: what it published is still readable here, and nothing newer
                                    will come from it */
  uint32_t reserved;
} cardea_view_t;
#define CARDEA_VIEW_INIT {sizeof(cardea_view_t), 0, CARDEA_OK, CARDEA_NO_EXPERT, 0, CARDEA_NO_SLOT, CARDEA_PATH_NONE, CARDEA_NO_RANK, 0, {NULL}, 0, 0, 0}

/*
 * Called by the engine thread, without locks held, when views of a fetch became ready (or failed) since the last call, and
 * once more, with done = 1, when nothing is outstanding any more. May call any function that does not wait.
 */
typedef void (*cardea_ready_fn)(void *user, cardea_fetch_t fetch, int done);

typedef enum cardea_fetch_flags {
  CARDEA_FETCH_DEFAULT = 0,
  CARDEA_FETCH_GANG = 1,   /* reserve all slots at once, or refuse with LIMIT when the slab can never hold them */
  CARDEA_FETCH_SLOTS = 2   /* every expert that is not at home here goes into a slab slot; mapped and cached ones are copied */
} cardea_fetch_flags_t;

typedef struct cardea_fetch_desc {
  size_t size;
  uint64_t version;
  const uint32_t *experts;   /* each at most once; read during the call only */
  uint32_t num_experts;      /* at least 1 */
  uint32_t flags;            /* cardea_fetch_flags_t */
  uint64_t segment_mask;     /* bit i: segment i; 0: all */
  cardea_slab_t slab;        /* 0: the layer's */
  cardea_ready_fn on_ready;  /* optional */
  void *user;
  void *stream;              /* of this rank's GPU: see below; needs a slab in device memory */
  uint64_t deadline;         /* ns from now after which experts not yet ready fail with TIMEOUT, as by cardea_cancel; 0: none */
} cardea_fetch_desc_t;
#define CARDEA_FETCH_DESC_INIT {sizeof(cardea_fetch_desc_t), 0, NULL, 0, 0, 0, {0}, NULL, NULL, NULL, 0}

/*
 * Asks for experts at a version. Experts at home or mapped from the node are ready before this returns; the others become
 * ready one by one. A version not yet published is waited for, and holds no slot meanwhile. The handle is the caller's: it
 * becomes invalid by cardea_fetch_destroy.
 *
 * With a stream, experts are ready as soon as their copies are *queued* on the GPU, and arrive in the order of the stream:
 * cardea_next makes the stream wait for the copies of the views that it gives, and returns at once, in the order in which they
 * were queued; kernels that are launched on the stream after it find the bytes. cardea_release says that the stream has no
 * more use for the view once it has done what is queued on it now: the next expert may go into the slot at once, and its copy
 * waits on the GPU. So neither waits for the GPU. (Work on another stream must be ordered with this one by the caller.) What
 * comes over the network is ready before it has come, where its copy can be queued behind a gate that opens when it has
 * (docs/gpu.md says where it cannot); it is queued behind what is local, and its slot goes to others when it has come. What
 * comes from memory that the GPU cannot map, or straight from the network (CARDEA_GPU_DIRECT), is ready when it has arrived.
 * A copy that fails after it was queued (STALE, DEVICE; over the network also PEER_LOST, CANCELED, TIMEOUT) cannot be taken
 * back from a stream: before the output of a stream is trusted, cardea_wait tells whether all of the fetch has arrived. A slot
 * whose bytes never came over the network begins, in each segment, with ones, which are NaN in floating-point types.
 * Errors: INVALID_ARGUMENT (expert out of range or twice, no slab where one is needed), STALE (version retired or finished
 * by this rank), LIMIT (gang larger than the slab), UNSUPPORTED (stream: no GPU, being captured, or from a callback).
 */
CARDEA_API cardea_status_t cardea_fetch(cardea_layer_t layer, const cardea_fetch_desc_t *desc, cardea_fetch_t *fetch) CARDEA_NOEXCEPT;

/*
 * As cardea_fetch, but without urgency and without views: brings experts into the node cache, where this node shares one
 * and they come over the network, else into the slab, so that a later fetch finds them there. Uses a lane only while no
 * demand of the node wants it, one chunk at a time, within config.prefetch_bytes of the cache, and slots that demand may
 * take back; a later prefetch may replace what an earlier one brought. Cancel and destroy as a fetch.
 * Errors: those of cardea_fetch; LIMIT also for more experts than the slab has slots, and, expert by expert (see
 * cardea_fetch_query), for those that the budget or the room in the cache does not take.
 */
CARDEA_API cardea_status_t cardea_prefetch(cardea_layer_t layer, const cardea_fetch_desc_t *desc, cardea_fetch_t *fetch) CARDEA_NOEXCEPT;

/*
 * Gives up to `max` views that are ready, in the order in which they became so, and waits up to `timeout` for the first.
 * Each expert of the fetch is delivered exactly once, as a view or with the status that says why not. views[i].size must
 * be set. *count views were written, on errors 0. OK with *count == 0 means that every expert has been delivered.
 * Errors: IN_PROGRESS (timeout 0 and none ready), TIMEOUT, WOULD_DEADLOCK (views that were delivered and not released
 * hold every slot that this fetch needs: release some), UNSUPPORTED (on a prefetch, or waiting inside a callback), DEVICE
 * (the stream could not be made to wait: *count views were written, and must be released, but not read).
 */
CARDEA_API cardea_status_t cardea_next(cardea_fetch_t fetch, cardea_view_t *views, uint32_t max, uint32_t *count, uint64_t timeout) CARDEA_NOEXCEPT;

/*
 * Waits until every expert of the fetch or prefetch is ready or has failed (delivered or not), without delivering any; for a
 * fetch on a stream, until all of it has arrived, also what was delivered before.
 * Returns OK, TIMEOUT, IN_PROGRESS (timeout 0), WOULD_DEADLOCK, or the first failure among its experts.
 */
CARDEA_API cardea_status_t cardea_wait(cardea_fetch_t fetch, uint64_t timeout) CARDEA_NOEXCEPT;

typedef struct cardea_fetch_info {
  size_t size;
  uint32_t num_experts;
  uint32_t ready;        /* ready and not delivered yet */
  uint32_t delivered;    /* views and failures delivered */
  uint32_t failed;       /* of all experts, delivered or not */
  uint32_t parked;       /* waiting for their version to be published */
  uint32_t starved;      /* waiting for a credit */
  uint32_t moving;       /* waiting for a lane, or on the way */
} cardea_fetch_info_t;
#define CARDEA_FETCH_INFO_INIT {sizeof(cardea_fetch_info_t), 0, 0, 0, 0, 0, 0, 0}
CARDEA_API cardea_status_t cardea_fetch_query(cardea_fetch_t fetch, cardea_fetch_info_t *info) CARDEA_NOEXCEPT;

/*
 * Experts that are not ready fail with CANCELED; those in mid-transfer are drained first, so their slots return when the
 * hardware is done with them. Ready views stay deliverable; but on a stream, what is still to come over the network fails even
 * if it is ready or delivered, unless another fetch waits for it too. Canceling twice, or a fetch that is complete, is OK.
 */
CARDEA_API cardea_status_t cardea_cancel(cardea_fetch_t fetch) CARDEA_NOEXCEPT;

/*
 * Cancels what is outstanding, drops what is undelivered and frees the handle at once. Delivered views stay valid until
 * released.
 */
CARDEA_API cardea_status_t cardea_fetch_destroy(cardea_fetch_t fetch) CARDEA_NOEXCEPT;

/*
 * Ends the reading of views; their slots become credits. Views with id 0 (failed ones) are passed over.
 * Errors: INVALID_HANDLE (a view released already, or never delivered; the others are released nevertheless).
 */
CARDEA_API cardea_status_t cardea_release(const cardea_view_t *views, uint32_t count) CARDEA_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* CARDEA_CARDEA_H */
