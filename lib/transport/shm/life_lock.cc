// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/life_lock.h"

#include <fcntl.h>

#include <cerrno>

namespace cardea::shm {
namespace {

struct flock first_byte() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = 0;
  lock.l_len = 1;
  return lock;
}

}  // namespace

Status hold_life_lock(int descriptor) {
  struct flock lock = first_byte();
  if (fcntl(descriptor, F_SETLK, &lock) != 0) return Status::from_errno(errno, "fcntl(F_SETLK)", "rank segment");
  return {};
}

bool life_lock_held(int descriptor) {
  struct flock lock = first_byte();
  return fcntl(descriptor, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace cardea::shm
