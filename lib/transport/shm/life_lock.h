// SPDX-License-Identifier: Apache-2.0
// A lock that shows whether a process lives, to those to whom its pidfd is not (another pid namespace). It is a classic
// POSIX record lock on the first byte of the rank segment: that belongs to the process, not to the open file. So whoever was
// passed the descriptor can look at the lock and does not hold it, a forked child that inherited it does not either, and the
// system frees it when the process ends, however that comes.
//
// It also frees it when the process closes any descriptor of that file: the owner keeps its own open, and opens no other.
// Locks of the calling process itself cannot be seen by it. Functions without state; any thread.
#pragma once

#include "lib/base/status.h"

namespace cardea::shm {

/// SYSTEM if the file cannot be locked.
Status hold_life_lock(int descriptor);

/// Whether another process holds it. False also where that cannot be known: look once while it certainly lives.
bool life_lock_held(int descriptor);

}  // namespace cardea::shm
