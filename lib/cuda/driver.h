// SPDX-License-Identifier: Apache-2.0
// The CUDA driver, found at run time: a table of its functions. Nothing is linked, so the library loads where there is no
// driver. Immutable once opened, and thread-safe; shared by whoever uses a device of this process. The library stays loaded
// for the life of the process, since a driver does not bear being unloaded.
#pragma once

#include <memory>
#include <string>

#include "lib/base/status.h"
#include "lib/cuda/abi.h"
#include "lib/cuda/functions.h"

namespace cardea::cuda {

struct Driver {
  /// UNSUPPORTED says what is missing: the library, a function of it, or a GPU that this process may use.
  static Result<std::shared_ptr<const Driver>> open();

  /// Whether something in this process has loaded the driver: if not, nothing here is device memory.
  static bool loaded();

#define CARDEA_CUDA_MEMBER(member, symbol, parameters) Code(*member) parameters = nullptr;
  CARDEA_CUDA_FUNCTIONS(CARDEA_CUDA_MEMBER)
  CARDEA_CUDA_NEWER_FUNCTIONS(CARDEA_CUDA_MEMBER)
#undef CARDEA_CUDA_MEMBER

  int version = 0;  // 13000: CUDA 13.0
  int devices = 0;

  /// CARDEA_OK for kSuccess; else DEVICE (NO_MEMORY where the device has none) with the call's name and the driver's words.
  Status check(Code result, const char* call, int device) const;
};

}  // namespace cardea::cuda
