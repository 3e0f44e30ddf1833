// SPDX-License-Identifier: Apache-2.0
// The few functions of libcuda.so.1 that measuring takes, found at run time; declared as CUDA's header has them, so that
// building needs no toolkit. Thread-safe once opened.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace cardea::topology::cuda {

using Device = int;
using Context = void*;
using Stream = void*;
using Event = void*;
using Pointer = unsigned long long;  // CUdeviceptr; host memory has one too

class Driver {
 public:
  /// Null with the reason in `why` if there is no driver, or no GPU that it shows to this process.
  static std::unique_ptr<Driver> open(std::string& why);
  ~Driver();
  /// The text for a result code.
  std::string error(int code) const;

  int (*init)(unsigned) = nullptr;
  int (*device_by_bus_id)(Device*, const char*) = nullptr;
  int (*retain_context)(Context*, Device) = nullptr;
  int (*release_context)(Device) = nullptr;
  int (*set_context)(Context) = nullptr;
  int (*allocate)(Pointer*, std::size_t) = nullptr;
  int (*release)(Pointer) = nullptr;
  int (*allocate_host)(void**, std::size_t, unsigned) = nullptr;
  int (*release_host)(void*) = nullptr;
  int (*copy)(Pointer, Pointer, std::size_t, Stream) = nullptr;
  int (*create_stream)(Stream*, unsigned) = nullptr;
  int (*destroy_stream)(Stream) = nullptr;
  int (*create_event)(Event*, unsigned) = nullptr;
  int (*destroy_event)(Event) = nullptr;
  int (*record)(Event, Stream) = nullptr;
  int (*wait)(Event) = nullptr;
  int (*elapsed)(float*, Event, Event) = nullptr;
  int (*can_access_peer)(int*, Device, Device) = nullptr;
  int (*enable_peer)(Context, unsigned) = nullptr;

 private:
  Driver() = default;
  int (*error_string_)(int, const char**) = nullptr;
  void* library_ = nullptr;
};

}  // namespace cardea::topology::cuda
