// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/environment.h"

#include <unistd.h>

#include <cstdlib>

#include "lib/base/crypto.h"
#include "lib/bootstrap/handshake.h"
#include "lib/bootstrap/secret_file.h"
#include "lib/bootstrap/slurm_hosts.h"

namespace cardea::bootstrap {
namespace {

ByteView view(std::string_view text) {
  return std::as_bytes(std::span(text));
}

/// Reads variables and remembers the first that is wrong.
class Reader {
 public:
  explicit Reader(const Environment& environment) : environment_(environment) {}

  std::optional<std::string> find(const char* name) const {
    std::optional<std::string> value = environment_(name);
    return value && !value->empty() ? value : std::nullopt;
  }
  bool has(const char* name) const { return find(name).has_value(); }

  std::string need(const char* name) {
    const std::optional<std::string> value = find(name);
    if (!value) wrong(Status::error(CARDEA_ERR_CONFIGURATION, "{} is not set, but {} is", name, trigger_));
    return value.value_or("");
  }
  std::uint32_t need_number(const char* name, std::uint64_t least, std::uint64_t most) {
    const std::string text = need(name);
    if (!status_.ok()) return 0;
    const Result<std::uint64_t> number = parse_number(text, least, most);
    if (!number.ok()) wrong(Status::error(CARDEA_ERR_CONFIGURATION, "{}: {}", name, number.status().message()));
    return number.ok() ? static_cast<std::uint32_t>(*number) : 0;
  }
  void need_rank_and_size(const char* rank, const char* size, Options& options) {
    options.rank = need_number(rank, 0, kMaxRanks - 1);
    options.world_size = need_number(size, 1, kMaxRanks);
    if (status_.ok() && options.rank >= options.world_size) {
      wrong(Status::error(CARDEA_ERR_CONFIGURATION, "{} is {}, but {} is {}", rank, options.rank, size, options.world_size));
    }
  }
  /// CARDEA_ROOT, if it is set.
  bool read_root(Options& options) {
    const std::optional<std::string> text = find("CARDEA_ROOT");
    if (!text) return false;
    const Result<Endpoint> endpoint = parse_endpoint(*text);
    if (!endpoint.ok()) wrong(Status::error(CARDEA_ERR_CONFIGURATION, "CARDEA_ROOT: {}", endpoint.status().message()));
    if (endpoint.ok()) options.roots = {*endpoint};
    return true;
  }

  void wrong(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const Status& status() const { return status_; }
  void triggered_by(const char* name) { trigger_ = name; }

 private:
  const Environment& environment_;
  const char* trigger_ = "";
  Status status_;
};

void read_cardea_run(Reader& in, Options& options) {
  in.triggered_by(in.has("CARDEA_RANK") ? "CARDEA_RANK" : "CARDEA_WORLD_SIZE");
  in.need_rank_and_size("CARDEA_RANK", "CARDEA_WORLD_SIZE", options);
  if (!in.read_root(options) && options.world_size > 1) in.need("CARDEA_ROOT");
  options.job = "cardea-run " + in.find("CARDEA_ROOT").value_or("");
}

void read_torchrun(Reader& in, Options& options) {
  in.triggered_by(in.has("RANK") ? "RANK" : "WORLD_SIZE");
  in.need_rank_and_size("RANK", "WORLD_SIZE", options);
  const std::string run = in.find("TORCHELASTIC_RUN_ID").value_or("none");
  const std::string restart = in.find("TORCHELASTIC_RESTART_COUNT").value_or("0");
  const std::string address = in.find("MASTER_ADDR").value_or("");
  const std::string port = in.find("MASTER_PORT").value_or("");
  options.job = fmt::format("torchrun {} {} {} {}", run, restart, address, port);
  if (in.read_root(options) || options.world_size == 1) return;
  const std::string host = in.need("MASTER_ADDR");
  // torch's store listens on the port itself.
  const std::uint32_t store = in.need_number("MASTER_PORT", 1, 65534);
  options.roots = {Endpoint{.host = host, .port = static_cast<std::uint16_t>(store + 1)}};
}

void read_open_mpi(Reader& in, Options& options) {
  in.triggered_by("OMPI_COMM_WORLD_RANK");
  in.need_rank_and_size("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", options);
  std::optional<std::string> job;
  for (const char* name : {"CARDEA_JOB", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"}) {
    if (!job) job = in.find(name);
  }
  options.job = "openmpi " + job.value_or("");
  if (in.read_root(options) || options.world_size == 1) return;
  const std::uint32_t local = in.need_number("OMPI_COMM_WORLD_LOCAL_SIZE", 1, kMaxRanks);
  if (!in.status().ok()) return;
  if (local != options.world_size) {
    return in.wrong(
        Status::error(CARDEA_ERR_CONFIGURATION,
                      "Open MPI tells no address: with ranks on several hosts (OMPI_COMM_WORLD_LOCAL_SIZE {}, "
                      "OMPI_COMM_WORLD_SIZE {}) set CARDEA_ROOT=host:port, the host of rank 0 and a free port there",
                      local, options.world_size));
  }
  if (!job) {
    return in.wrong(Status::error(CARDEA_ERR_CONFIGURATION,
                                  "PMIX_NAMESPACE is not set, but OMPI_COMM_WORLD_RANK is; set CARDEA_JOB "
                                  "to a name that no other job has"));
  }
  const std::string tag = crypto::hex(job_tag(options.job, 0));
  options.roots = {Endpoint{.unix_name = fmt::format("cardea-{}-{}", geteuid(), tag)}};
}

void read_slurm(Reader& in, Options& options) {
  in.triggered_by("SLURM_PROCID");
  in.need_rank_and_size("SLURM_PROCID", "SLURM_NTASKS", options);
  if (options.world_size == 1 && in.status().ok()) return;
  const std::uint32_t job = in.need_number("SLURM_JOB_ID", 0, UINT32_MAX);
  const std::uint32_t step = in.need_number("SLURM_STEP_ID", 0, UINT32_MAX);
  options.job = fmt::format("slurm {} {} {}", in.find("SLURM_CLUSTER_NAME").value_or(""), job, step);
  if (in.read_root(options)) return;
  std::string host;
  if (const char* name = in.has("SLURM_STEP_NODELIST")  ? "SLURM_STEP_NODELIST"
                         : in.has("SLURM_JOB_NODELIST") ? "SLURM_JOB_NODELIST"
                                                        : nullptr) {
    const Result<std::string> first = first_slurm_host(*in.find(name));
    if (!first.ok()) return in.wrong(Status::error(CARDEA_ERR_CONFIGURATION, "{}: {}", name, first.status().message()));
    host = *first;
  } else if (in.has("SLURM_LAUNCH_NODE_IPADDR")) {
    host = *in.find("SLURM_LAUNCH_NODE_IPADDR");
  } else {
    host = in.need("SLURM_STEP_NODELIST");
  }
  // Below Linux's range of ephemeral ports (32768 and up), above those of usual services.
  const JobTag tag = job_tag(options.job, 0);
  const auto hash = std::to_integer<unsigned>(tag[0]) | std::to_integer<unsigned>(tag[1]) << 8;
  options.roots = {Endpoint{.host = host, .port = static_cast<std::uint16_t>(20000 + hash % 12000)}};
}

Status read_secret(Reader& in, Options& options) {
  const std::optional<std::string> file = in.find("CARDEA_SECRET_FILE");
  Result<Bytes> secret = Bytes();
  if (file) {
    secret = read_secret_file(*file);
    options.secret_origin = fmt::format("CARDEA_SECRET_FILE is {}; copy rank 0's file there", *file);
  } else if (const std::optional<std::string> home = in.find("HOME")) {
    secret = read_or_make_user_secret(*home);
    options.secret_origin =
        fmt::format("it was read from {0}/.cardea/secret; copy that file from rank 0's machine (mode 0600)", *home);
  } else {
    return Status::error(CARDEA_ERR_CONFIGURATION, "neither CARDEA_SECRET_FILE nor HOME is set: there is no job secret");
  }
  if (!secret.ok()) return file ? secret.status().within("CARDEA_SECRET_FILE") : secret.status();
  options.secret = crypto::hmac(*secret, view(options.job));
  return {};
}

}  // namespace

Environment process_environment() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

Result<Options> from_environment(const Environment& environment) {
  Reader in(environment);
  Options options;
  const bool open_mpi = in.has("OMPI_COMM_WORLD_RANK");
  const bool slurm = in.has("SLURM_PROCID");
  if (in.has("CARDEA_RANK") || in.has("CARDEA_WORLD_SIZE")) {
    read_cardea_run(in, options);
  } else if (in.has("RANK") || (in.has("WORLD_SIZE") && !open_mpi && !slurm)) {
    read_torchrun(in, options);  // batch scripts often export WORLD_SIZE alone, for use below mpirun or srun
  } else if (open_mpi) {
    read_open_mpi(in, options);
  } else if (slurm) {
    read_slurm(in, options);
  } else {
    return Status::error(
        CARDEA_ERR_CONFIGURATION,
        "no launcher's environment: start the ranks by cardea-run, torchrun, mpirun or srun, or set CARDEA_RANK, "
        "CARDEA_WORLD_SIZE and CARDEA_ROOT=host:port for each");
  }
  if (!in.status().ok()) return in.status();
  if (const std::optional<std::string> job = in.find("CARDEA_JOB")) options.job = "job " + *job;
  if (options.world_size > 1) {
    if (Status status = read_secret(in, options); !status.ok()) return status;
  }
  return options;
}

}  // namespace cardea::bootstrap
