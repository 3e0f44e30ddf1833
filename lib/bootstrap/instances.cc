// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/instances.h"

namespace cardea::bootstrap {

std::uint64_t Instances::take() {
  const std::lock_guard held(mutex_);
  if (given_back_.empty()) return next_++;
  return given_back_.extract(given_back_.begin()).value();
}

void Instances::give_back(std::uint64_t number) {
  const std::lock_guard held(mutex_);
  given_back_.insert(number);
}

}  // namespace cardea::bootstrap
