// SPDX-License-Identifier: Apache-2.0
#include "topology/cuda_driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace cardea::topology::cuda {
namespace {

template <typename Function>
bool load(void* library, Function& function, const char* symbol) {
  function = reinterpret_cast<Function>(::dlsym(library, symbol));
  return function != nullptr;
}

}  // namespace

std::unique_ptr<Driver> Driver::open(std::string& why) {
  std::unique_ptr<Driver> driver(new Driver);
  driver->library_ = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver->library_) return why = "no libcuda.so.1", nullptr;
  void* library = driver->library_;
  Driver& d = *driver;
  const bool all =
      load(library, d.init, "cuInit") && load(library, d.device_by_bus_id, "cuDeviceGetByPCIBusId") &&
      load(library, d.retain_context, "cuDevicePrimaryCtxRetain") &&
      load(library, d.release_context, "cuDevicePrimaryCtxRelease_v2") && load(library, d.set_context, "cuCtxSetCurrent") &&
      load(library, d.allocate, "cuMemAlloc_v2") && load(library, d.release, "cuMemFree_v2") &&
      load(library, d.allocate_host, "cuMemHostAlloc") && load(library, d.release_host, "cuMemFreeHost") &&
      load(library, d.copy, "cuMemcpyAsync") && load(library, d.create_stream, "cuStreamCreate") &&
      load(library, d.destroy_stream, "cuStreamDestroy_v2") && load(library, d.create_event, "cuEventCreate") &&
      load(library, d.destroy_event, "cuEventDestroy_v2") && load(library, d.record, "cuEventRecord") &&
      load(library, d.wait, "cuEventSynchronize") && load(library, d.elapsed, "cuEventElapsedTime") &&
      load(library, d.can_access_peer, "cuDeviceCanAccessPeer") && load(library, d.enable_peer, "cuCtxEnablePeerAccess") &&
      load(library, d.error_string_, "cuGetErrorString");
  if (!all) return why = "libcuda.so.1 is too old", nullptr;
  if (const int code = d.init(0); code != 0) return why = "cuInit: " + d.error(code), nullptr;
  return driver;
}

Driver::~Driver() {
  if (library_) ::dlclose(library_);
}

std::string Driver::error(int code) const {
  const char* text = nullptr;
  if (error_string_ && error_string_(code, &text) == 0 && text) return text;
  return fmt::format("code {}", code);
}

}  // namespace cardea::topology::cuda
