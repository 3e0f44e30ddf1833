// SPDX-License-Identifier: Apache-2.0
// One call for many copies, where the driver has it. Stateless; the device's context must be current.
#pragma once

#include "lib/cuda/batch.h"
#include "lib/cuda/device.h"

namespace cardea::cuda {

/// Queues the batch's copies on the stream, in any order among themselves. After a failure some of them may be under way.
/// DEVICE.
inline Status queue_copies(const Device& device, Batch& batch, Stream stream) {
  const Driver& driver = device.driver();
  const std::size_t count = batch.count();
  // The default stream takes no batches.
  const bool takes_batches = stream != nullptr && stream != kLegacyStream;
  if (count > 1 && takes_batches && (driver.copy_batch != nullptr || driver.copy_batch_12_8 != nullptr)) {
    CopyAttributes attributes;
    attributes.source_access = kSourceAccessStream;
    std::size_t first = 0;
    if (driver.copy_batch != nullptr) {
      return device.check(driver.copy_batch(batch.to(), batch.from(), batch.sizes(), count, &attributes, &first, 1, stream),
                          "cuMemcpyBatchAsync");
    }
    std::size_t failed = 0;
    return device.check(
        driver.copy_batch_12_8(batch.to(), batch.from(), batch.sizes(), count, &attributes, &first, 1, &failed, stream),
        "cuMemcpyBatchAsync");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Status status =
        device.check(driver.copy(batch.to()[i], batch.from()[i], batch.sizes()[i], stream), "cuMemcpyAsync");
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace cardea::cuda
