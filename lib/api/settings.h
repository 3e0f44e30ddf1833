// SPDX-License-Identifier: Apache-2.0
// What the environment can set, in one table, from which the README's is made (`cardea-run --variables` prints it). A
// variable that is present and wrong is an error.
#pragma once

#include <array>
#include <string>

#include "lib/bootstrap/environment.h"
#include "lib/engine/gpu_direct.h"
#include "lib/engine/peer_watch.h"
#include "lib/telemetry/trace_list.h"

namespace cardea::api {

struct Variable {
  const char* name;
  const char* unit;
  const char* fallback;
  const char* meaning;
};

inline constexpr std::array kVariables = {
    Variable{"CARDEA_RANK", "number", "torchrun's, Open MPI's or Slurm's", "this process's rank"},
    Variable{"CARDEA_WORLD_SIZE", "number", "torchrun's, Open MPI's or Slurm's", "ranks of the job"},
    Variable{"CARDEA_ROOT", "host:port or unix:NAME", "derived from the launcher",
             "where the ranks meet; rank 0 listens there"},
    Variable{"CARDEA_JOB", "text", "derived from the launcher", "tells jobs apart that could meet at one place"},
    Variable{"CARDEA_SECRET_FILE", "path", "$HOME/.cardea/secret",
             "key of the job, mode 0600; made if the default is missing"},
    Variable{"CARDEA_BOOTSTRAP_ADDRESS", "host or address", "first address that is not loopback",
             "where cardea_unique_id_create listens"},
    Variable{"CARDEA_SETUP_TIMEOUT", "seconds", "60", "for a job to form and a layer's members to meet"},
    Variable{"CARDEA_NODE_ID", "text", "none", "ranks of one host with different values are different nodes"},
    Variable{"CARDEA_CHUNK_BYTES", "bytes", "1048576", "network transfers move in chunks of this size, 4096 to 1073741824"},
    Variable{"CARDEA_CHUNKS_IN_FLIGHT", "number", "8",
             "chunks on the way to a rank at one time, by each of its rails (NICs), 1 to 1024"},
    Variable{"CARDEA_CACHE_BYTES", "bytes", "an eighth of the memory, at most 8 GiB",
             "node cache, shared by the ranks of a node; its lowest rank's value counts; 0: none"},
    Variable{"CARDEA_PREFETCH_BYTES", "bytes", "half of the node cache",
             "of the node cache, that prefetches which nobody has read may fill"},
    Variable{"CARDEA_AFFINITY", "text", "auto",
             "what a rank uses of its machine: auto, off, or words such as nic=mlx5_2,mlx5_3 rails=2 numa=NUMA1 cpus=8-15"},
    Variable{"CARDEA_GPU_DIRECT", "auto, on or off", "auto",
             "straight from the network into a GPU's slots: auto where a NIC near the GPU does that, on wherever UCX can"},
    Variable{"CARDEA_TOPO_FILE", "path", "NCCL_TOPO_FILE", "topology file laid over what is found of the machine"},
    Variable{"CARDEA_HEARTBEAT", "milliseconds", "a fifth of the liveness limit, at most 1000",
             "ranks that watch each other say so often that they live; the same on all ranks"},
    Variable{"CARDEA_LIVENESS_LIMIT", "milliseconds", "5000", "a rank that is silent for so long is lost, and expelled"},
    Variable{"CARDEA_PROGRESS_LIMIT", "seconds", "600",
             "experts of a living rank that do not move for so long fail; a warning comes after a twentieth"},
    Variable{"CARDEA_DEBUG", "ERROR, VERSION, WARN, INFO or TRACE", "WARN",
             "least severe messages shown; INFO:ucx,shm those of subsystems, INFO:^ucx of all others"},
    Variable{"CARDEA_DEBUG_FILE", "path", "standard error", "where messages go; %h: host, %p: process, %r: rank"},
    Variable{"CARDEA_TRACE", "paths", "none",
             "NAME.json: a trace for Perfetto; NAME.events: an event log to replay; with %h, %p, %r; both, by a comma"},
};

struct Settings {
  std::string node_id;
  std::string affinity;  // auto, off, or words of api/affinity.h
  engine::GpuDirect gpu_direct = engine::GpuDirect::kAuto;
  Nanoseconds setup_timeout{};
  std::uint64_t chunk_bytes = 0;
  std::uint32_t chunks_in_flight = 0;
  std::uint64_t cache_bytes = 0;     // 0: none
  std::uint64_t prefetch_bytes = 0;  // 0: half of the cache
  int cuda_device = -1;              // -1: the current one
  std::vector<telemetry::TraceTarget> traces;
  engine::WatchOptions watch;
};

/// `config` where it says something, else the environment, else the default. INVALID_ARGUMENT names the field,
/// CONFIGURATION the variable.
Result<Settings> settings_of(const cardea_config_t& config, const bootstrap::Environment& environment);

/// The README's table, in Markdown.
std::string variables_table();

}  // namespace cardea::api
