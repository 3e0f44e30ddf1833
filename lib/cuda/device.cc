// SPDX-License-Identifier: Apache-2.0
#include "lib/cuda/device.h"

namespace cardea::cuda {

Result<std::shared_ptr<const Device>> Device::open(std::shared_ptr<const Driver> driver, int ordinal) {
  if (ordinal < 0 || ordinal >= driver->devices) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "device {}: this process sees {} devices", ordinal, driver->devices);
  }
  DriverContext context = nullptr;
  if (const Status status = driver->check(driver->primary_retain(&context, ordinal), "cuDevicePrimaryCtxRetain", ordinal);
      !status.ok()) {
    return status;
  }
  return std::shared_ptr<const Device>(new Device(std::move(driver), ordinal, context));
}

Device::~Device() {
  driver_->primary_release(ordinal_);  // fails at the end of the process, when the driver has gone before us
}

Result<int> current_device(const Driver& driver) {
  DriverContext context = nullptr;
  int ordinal = 0;
  if (driver.context_current(&context) == kSuccess && context != nullptr && driver.context_device(&ordinal) == kSuccess)
    return ordinal;
  if (driver.devices == 1) return 0;
  return Status::error(CARDEA_ERR_CONFIGURATION,
                       "which of {} GPUs is this rank's? Choose one by cudaSetDevice (torch.cuda.set_device) in the thread "
                       "that first uses device memory, or by config.cuda_device",
                       driver.devices);
}

}  // namespace cardea::cuda
