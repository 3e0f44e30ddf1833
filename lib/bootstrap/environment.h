// SPDX-License-Identifier: Apache-2.0
// Options from what a launcher left in the environment. The first of these that is there decides:
//
//   cardea-run  CARDEA_RANK, CARDEA_WORLD_SIZE, CARDEA_ROOT; by hand as well
//   torchrun    RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; the meeting point takes the port after torch's own store
//   Open MPI    OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_SIZE; on one host by a Unix socket, else CARDEA_ROOT is needed
//   Slurm       SLURM_PROCID, SLURM_NTASKS, SLURM_JOB_ID, SLURM_STEP_ID; the first host of SLURM_STEP_NODELIST
//
// CARDEA_ROOT and CARDEA_JOB override what is derived. The job's key is HMAC(secret file, job), see secret_file.h.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "lib/bootstrap/bootstrap.h"

namespace cardea::bootstrap {

/// A variable's value; nothing if it is not set. An empty value counts as not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
Environment process_environment();

/// CONFIGURATION, naming variable and value: something is set and wrong, half of what belongs together is missing, nothing
/// is set at all, or the secret file cannot be used. A job of one rank reads no secret.
Result<Options> from_environment(const Environment& environment = process_environment());

}  // namespace cardea::bootstrap
