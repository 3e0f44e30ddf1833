// SPDX-License-Identifier: Apache-2.0
// What launchers leave in the environment, lists of Slurm's hosts included. An input is lines of NAME=VALUE.
#include "lib/bootstrap/environment.h"

#include <map>

#include "lib/bootstrap/handshake.h"
#include "lib/bootstrap/slurm_hosts.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace bootstrap;  // NOLINT(google-build-using-namespace)

bool run(ByteView input) {
  std::map<std::string, std::string> variables;
  std::string_view text = as_text(input);
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const std::size_t equals = std::min(line.find('='), line.size());
    variables[std::string(line.substr(0, equals))] = line.substr(std::min(equals + 1, line.size()));
  }
  // Files have a target of their own; here none may be touched.
  variables.erase("CARDEA_SECRET_FILE");
  variables.erase("HOME");
  const Environment environment = [&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
  const Result<Options> options = from_environment(environment);
  const Result<std::string> host = first_slurm_host(as_text(input));
  if (host.ok()) require(!host->empty() && host->size() <= 255, "a host has a name of at most 255 bytes");
  if (options.ok()) {
    require(options->rank < options->world_size && options->world_size <= kMaxRanks, "a rank is one of the job's");
    return true;
  }
  require(options.status().code() == CARDEA_ERR_CONFIGURATION, "a wrong environment is CONFIGURATION");
  // Without a secret a job of several ranks ends at the very last check.
  return options.status().message().find("neither CARDEA_SECRET_FILE nor HOME") != std::string::npos || host.ok();
}

std::vector<Seed> seeds() {
  return {{"one", as_bytes("CARDEA_RANK=0\nCARDEA_WORLD_SIZE=1\n")},
          {"cardea_run", as_bytes("CARDEA_RANK=1\nCARDEA_WORLD_SIZE=2\nCARDEA_ROOT=unix:x\nCARDEA_JOB=j\n")},
          {"torchrun", as_bytes("RANK=3\nWORLD_SIZE=4\nMASTER_ADDR=host\nMASTER_PORT=29500\nTORCHELASTIC_RUN_ID=a\n")},
          {"openmpi", as_bytes("OMPI_COMM_WORLD_RANK=1\nOMPI_COMM_WORLD_SIZE=2\nOMPI_COMM_WORLD_LOCAL_SIZE=2\n"
                               "PMIX_NAMESPACE=prterun-1\n")},
          {"slurm", as_bytes("SLURM_PROCID=1\nSLURM_NTASKS=4\nSLURM_JOB_ID=7\nSLURM_STEP_ID=0\n"
                             "SLURM_STEP_NODELIST=gpu[007-012,020]n[1-4],login\n")},
          {"hosts", as_bytes("gpu[007-012,020]n[1-4],login")}};
}

}  // namespace

Target environment() {
  return {"environment", "launchers' environment variables and Slurm's host lists", run, seeds, 2048};
}

}  // namespace cardea::fuzz
