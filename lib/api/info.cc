// SPDX-License-Identifier: Apache-2.0
// cardea.h: names, versions, errors.
#include <hwloc.h>

#ifdef CARDEA_HAVE_CUDA
#include <cuda.h>
#include <dlfcn.h>
#endif
#ifdef CARDEA_HAVE_NCCL
#include <nccl.h>
#endif

#include "cardea/cardea.h"
#include "lib/api/info.h"
#include "lib/api/last_error.h"
#include "lib/api/structs.h"
#include "lib/transport/ucx/factory.h"

namespace {

using cardea::Status;
using namespace cardea::api;

std::string hwloc_version() {
  const unsigned version = hwloc_get_api_version();
  return fmt::format("{}.{}.{}", version >> 16, version >> 8 & 0xFF, version & 0xFF);
}

std::string cuda_version() {
#ifdef CARDEA_HAVE_CUDA
  return fmt::format("{}.{}", CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
#else
  return {};
#endif
}

/// Newest CUDA that the driver of this machine runs; empty where there is no driver.
std::string cuda_driver_version() {
#ifdef CARDEA_HAVE_CUDA
  // Never linked: the library must load on machines without a driver.
  static const int version = [] {
    int found = 0;
    if (void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL); driver != nullptr) {
      using Query = CUresult (*)(int*);
      const auto query = reinterpret_cast<Query>(dlsym(driver, "cuDriverGetVersion"));
      if (query == nullptr || query(&found) != CUDA_SUCCESS) found = 0;
    }
    return found;
  }();
  if (version != 0) return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
#endif
  return {};
}

std::string nccl_version() {
#ifdef CARDEA_HAVE_NCCL
  return fmt::format("{}.{}.{}", NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
#else
  return {};
#endif
}

}  // namespace

const char* cardea_status_string(cardea_status_t status) CARDEA_NOEXCEPT {
#define CARDEA_NAME(code) \
  case code:              \
    return #code
  switch (status) {
    CARDEA_NAME(CARDEA_OK);
    CARDEA_NAME(CARDEA_IN_PROGRESS);
    CARDEA_NAME(CARDEA_ERR_INVALID_ARGUMENT);
    CARDEA_NAME(CARDEA_ERR_INVALID_HANDLE);
    CARDEA_NAME(CARDEA_ERR_UNSUPPORTED);
    CARDEA_NAME(CARDEA_ERR_NO_MEMORY);
    CARDEA_NAME(CARDEA_ERR_LIMIT);
    CARDEA_NAME(CARDEA_ERR_BUSY);
    CARDEA_NAME(CARDEA_ERR_STALE);
    CARDEA_NAME(CARDEA_ERR_WOULD_DEADLOCK);
    CARDEA_NAME(CARDEA_ERR_TIMEOUT);
    CARDEA_NAME(CARDEA_ERR_CANCELED);
    CARDEA_NAME(CARDEA_ERR_PEER_LOST);
    CARDEA_NAME(CARDEA_ERR_EXPELLED);
    CARDEA_NAME(CARDEA_ERR_AUTHENTICATION);
    CARDEA_NAME(CARDEA_ERR_MISMATCH);
    CARDEA_NAME(CARDEA_ERR_PROTOCOL);
    CARDEA_NAME(CARDEA_ERR_SYSTEM);
    CARDEA_NAME(CARDEA_ERR_TRANSPORT);
    CARDEA_NAME(CARDEA_ERR_DEVICE);
    CARDEA_NAME(CARDEA_ERR_FORKED);
    CARDEA_NAME(CARDEA_ERR_CONFIGURATION);
    CARDEA_NAME(CARDEA_ERR_INTERNAL);
  }
#undef CARDEA_NAME
  return "unknown status";
}

const char* cardea_path_string(cardea_path_t path) CARDEA_NOEXCEPT {
  switch (path) {
    case CARDEA_PATH_NONE:
      return "none";
    case CARDEA_PATH_HOME:
      return "home";
    case CARDEA_PATH_NODE_MAPPED:
      return "node-mapped";
    case CARDEA_PATH_NODE_COPY:
      return "node-copy";
    case CARDEA_PATH_NODE_GPU:
      return "node-gpu";
    case CARDEA_PATH_CACHE:
      return "cache";
    case CARDEA_PATH_NETWORK:
      return "network";
  }
  return "unknown path";
}

cardea_status_t cardea_last_error(cardea_error_info_t* info) CARDEA_NOEXCEPT {
  // Does not go through guarded(): a failure here must not replace what is asked for.
  if (!check_output(info, "info").ok()) return CARDEA_ERR_INVALID_ARGUMENT;
  const Status& last = last_error();
  const cardea::ErrorDetail& detail = last.detail();
  cardea_error_info_t out = CARDEA_ERROR_INFO_INIT;
  out.status = last.code();
  out.peer = detail.peer;
  out.layer = detail.layer;
  out.expert = detail.expert;
  out.path = detail.path;
  out.bytes = detail.bytes;
  write_text(out.message, last.message());
  write_struct(info, out);
  return CARDEA_OK;
}

cardea_status_t cardea_version(cardea_version_info_t* info) CARDEA_NOEXCEPT {
  return guarded([&]() -> Status {
    if (const Status status = check_output(info, "info"); !status.ok()) return status;
    cardea_version_info_t out = CARDEA_VERSION_INFO_INIT;
    out.major = CARDEA_VERSION_MAJOR;
    out.minor = CARDEA_VERSION_MINOR;
    out.patch = CARDEA_VERSION_PATCH;
    out.abi = CARDEA_ABI;
    out.wire = cardea::kWireVersion;
    write_text(out.ucx, cardea::transport::ucx_version());
    write_text(out.hwloc, hwloc_version());
    write_text(out.cuda, cuda_version());
    write_text(out.cuda_driver, cuda_driver_version());
    write_text(out.nccl, nccl_version());
    write_struct(info, out);
    return {};
  });
}

std::string cardea::api::describe_versions() {
  cardea_version_info_t info = CARDEA_VERSION_INFO_INIT;
  if (cardea_version(&info) != CARDEA_OK) return "cardea, of unknown version";
  const auto found = [](const char* name, const char* version) {
    return version[0] == '\0' ? fmt::format("no {}", name) : fmt::format("{} {}", name, version);
  };
  return fmt::format("cardea {}.{}.{} (abi {}, wire {}), {}, {}, {}, {}, {}", info.major, info.minor, info.patch, info.abi,
                     info.wire, found("UCX", info.ucx), found("hwloc", info.hwloc), found("CUDA", info.cuda),
                     found("CUDA driver", info.cuda_driver), found("NCCL", info.nccl));
}
