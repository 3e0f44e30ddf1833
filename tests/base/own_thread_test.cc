// SPDX-License-Identifier: Apache-2.0
#include "lib/base/own_thread.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace cardea {
namespace {

TEST(OwnThread, BlocksTheFrameworksSignalsAndLeavesTheCallersAsTheyWere) {
  sigset_t inside, before, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  own_thread("own", [&] { pthread_sigmask(SIG_SETMASK, nullptr, &inside); }).join();
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGINT, SIGTERM, SIGALRM, SIGUSR1, SIGCHLD}) {
    EXPECT_EQ(sigismember(&inside, signal), 1) << signal;
    EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal)) << signal;
  }
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT})
    EXPECT_EQ(sigismember(&inside, fault), 0) << fault;
}

void tell_and_end(int) {
  constexpr char kWord[] = "where it crashed\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kWord, sizeof kWord - 1);
  _exit(3);
}

TEST(OwnThread, ItsFaultsReachWhoeverHandlesThem) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, tell_and_end);
        own_thread("own", [] { raise(SIGBUS); }).join();
      },
      testing::ExitedWithCode(3), "where it crashed");
}

}  // namespace
}  // namespace cardea
