// SPDX-License-Identifier: Apache-2.0
// For tests that run out of something, in processes of their own (run_ranks): limits that stay until they are lifted.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <vector>

namespace cardea::test {

inline void limit(__rlimit_resource what, rlim_t most) {
  rlimit now{};
  ASSERT_EQ(getrlimit(what, &now), 0);
  now.rlim_cur = std::min(most, now.rlim_max);
  ASSERT_EQ(setrlimit(what, &now), 0);
}
inline void unlimit(__rlimit_resource what) {
  limit(what, RLIM_INFINITY);
}

/// In tests that leave too few descriptors for the undefined behaviour sanitizer: to look at an object's type it makes a
/// pipe, and where it gets none it takes the object for a broken one. CARDEA_SANITIZE=address runs them.
#ifdef CARDEA_SANITIZE_UNDEFINED
#define CARDEA_SKIP_WITHOUT_DESCRIPTORS_FOR_UBSAN() \
  GTEST_SKIP() << "to look at an object's type, the undefined behaviour sanitizer needs descriptors itself"
#else
#define CARDEA_SKIP_WITHOUT_DESCRIPTORS_FOR_UBSAN() static_cast<void>(0)
#endif

/// Holds every descriptor that this process may have, but for `left`.
class AllDescriptors {
 public:
  explicit AllDescriptors(std::size_t left = 0) {
    limit(RLIMIT_NOFILE, 256);
    for (int fd = open("/dev/null", O_RDONLY | O_CLOEXEC); fd >= 0; fd = open("/dev/null", O_RDONLY | O_CLOEXEC))
      held_.push_back(fd);
    EXPECT_EQ(errno, EMFILE);
    EXPECT_GT(held_.size(), left);
    for (; left > 0; --left) give_one();
  }
  ~AllDescriptors() {
    while (!held_.empty()) give_one();
    unlimit(RLIMIT_NOFILE);
  }
  void give_one() {
    close(held_.back());
    held_.pop_back();
  }

 private:
  std::vector<int> held_;
};

}  // namespace cardea::test
