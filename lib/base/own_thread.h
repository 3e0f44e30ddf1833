// SPDX-License-Identifier: Apache-2.0
// Threads of Cardea's own. The framework's signals are not for them: they begin with all signals blocked but those of
// faults, which the kernel would not give to any handler then. So whoever handles those (UCX, a framework, a debugger's
// helper) still gets to say where a thread of Cardea's has crashed.
#pragma once

#include <pthread.h>

#include <csignal>
#include <initializer_list>
#include <thread>
#include <utility>

namespace cardea {

/// `name`: at most 15 characters.
template <typename Body>
std::thread own_thread(const char* name, Body&& body) {
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) sigdelset(&blocked, fault);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  std::thread thread(std::forward<Body>(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

}  // namespace cardea
