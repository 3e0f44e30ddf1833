// SPDX-License-Identifier: Apache-2.0
#include "lib/api/last_error.h"

namespace cardea::api {
namespace {

Status& slot() noexcept {
  static thread_local Status last;
  return last;
}

}  // namespace

cardea_status_t report(const Status& status) noexcept {
  if (status.code() < 0) slot() = status;
  return status.code();
}

const Status& last_error() noexcept {
  return slot();
}

}  // namespace cardea::api
