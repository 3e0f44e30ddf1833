// SPDX-License-Identifier: Apache-2.0
// The calling thread's last failure, for cardea_last_error, and the one way in which a Status leaves through the C API.
#pragma once

#include <exception>

#include "lib/base/status.h"

namespace cardea::api {

/// Remembers a failure for the calling thread and returns its code. Success and IN_PROGRESS are no failures.
cardea_status_t report(const Status& status) noexcept;
const Status& last_error() noexcept;

/// The exception that is being handled, as a status: what the system refused by its errno, a failed allocation as NO_MEMORY,
/// anything else as INTERNAL.
Status caught() noexcept;

/// Runs the body of a C function: no exception passes.
template <typename Body>
cardea_status_t guarded(Body body) noexcept {
  try {
    return report(body());
  } catch (...) {
    return report(caught());
  }
}

}  // namespace cardea::api
