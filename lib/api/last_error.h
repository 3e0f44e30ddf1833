// SPDX-License-Identifier: Apache-2.0
// The calling thread's last failure, for cardea_last_error, and the one way in which a Status leaves through the C API.
#pragma once

#include <exception>
#include <new>

#include "lib/base/status.h"

namespace cardea::api {

/// Remembers a failure for the calling thread and returns its code. Success and IN_PROGRESS are no failures.
cardea_status_t report(const Status& status) noexcept;
const Status& last_error() noexcept;

/// Runs the body of a C function: no exception passes.
template <typename Body>
cardea_status_t guarded(Body body) noexcept {
  try {
    return report(body());
  } catch (const std::bad_alloc&) {
    return report(Status(CARDEA_ERR_NO_MEMORY, "out of memory"));
  } catch (const std::exception& error) {
    return report(Status(CARDEA_ERR_INTERNAL, error.what()));
  } catch (...) {
    return report(Status(CARDEA_ERR_INTERNAL, "an unknown exception"));
  }
}

}  // namespace cardea::api
