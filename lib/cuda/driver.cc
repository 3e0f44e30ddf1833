// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/driver.h"

#include <dlfcn.h>

namespace cardea::cuda {

Result<std::shared_ptr<const Driver>> Driver::open() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return Status(CARDEA_ERR_UNSUPPORTED, "this machine has no CUDA driver (libcuda.so.1)");
  auto driver = std::make_shared<Driver>();
  const char* missing = nullptr;
  const auto load = [&](auto& member, const char* symbol, bool needed) {
    member = reinterpret_cast<std::remove_reference_t<decltype(member)>>(dlsym(library, symbol));
    if (member == nullptr && needed && missing == nullptr) missing = symbol;
  };
#define CARDEA_CUDA_LOAD(member, symbol, parameters) load(driver->member, #symbol, true);
  CARDEA_CUDA_FUNCTIONS(CARDEA_CUDA_LOAD)
#undef CARDEA_CUDA_LOAD
#define CARDEA_CUDA_LOAD(member, symbol, parameters) load(driver->member, #symbol, false);
  CARDEA_CUDA_NEWER_FUNCTIONS(CARDEA_CUDA_LOAD)
#undef CARDEA_CUDA_LOAD
  if (missing != nullptr) return Status::error(CARDEA_ERR_UNSUPPORTED, "the CUDA driver is too old: it has no {}", missing);
  const Code initialized = driver->init(0);
  if (initialized == kSuccess) driver->driver_version(&driver->version);
  if (initialized != kSuccess || driver->device_count(&driver->devices) != kSuccess || driver->devices == 0) {
    return Status::error(CARDEA_ERR_UNSUPPORTED, "no GPU for this process: {}",
                         initialized != kSuccess ? driver->check(initialized, "cuInit", 0).message()
                                                 : "the driver shows none (CUDA_VISIBLE_DEVICES?)");
  }
  return std::shared_ptr<const Driver>(std::move(driver));
}

bool Driver::loaded() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (library != nullptr) dlclose(library);
  return library != nullptr;
}

Status Driver::check(Code result, const char* call, int device) const {
  if (result == kSuccess) return {};
  const char* name = nullptr;
  const char* text = nullptr;
  if (error_name == nullptr || error_name(result, &name) != kSuccess || name == nullptr) name = "unknown error";
  if (error_string == nullptr || error_string(result, &text) != kSuccess || text == nullptr) text = "";
  return Status::error(result == kOutOfMemory ? CARDEA_ERR_NO_MEMORY : CARDEA_ERR_DEVICE, "device {}: {}: {} ({}): {}",
                       device, call, name, result, text);
}

}  // namespace cardea::cuda
