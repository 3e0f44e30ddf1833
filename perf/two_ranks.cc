// SPDX-License-Identifier: Apache-2.0
#include "perf/two_ranks.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <stdexcept>

#include "perf/ucx_raw_am.h"

namespace cardea::perf {
namespace {

pid_t start(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    _exit(1);
  }
  _exit(0);
}

}  // namespace

std::vector<double> run_two(const std::function<void(int)>& source, const std::function<std::vector<double>(int)>& sink) {
  int link[2];
  int result[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) != 0 || pipe(result) != 0)
    throw std::runtime_error("socketpair failed");
  const pid_t first = start([&] {
    ::close(link[1]);
    ::close(result[0]);
    ::close(result[1]);
    source(link[0]);
  });
  const pid_t second = start([&] {
    ::close(link[0]);
    const std::vector<double> values = sink(link[1]);
    const std::size_t count = values.size();
    give(result[1], &count, sizeof count);
    give(result[1], values.data(), count * sizeof(double));
  });
  ::close(link[0]);
  ::close(link[1]);
  ::close(result[1]);
  std::vector<double> values;
  bool got = true;
  try {
    std::size_t count = 0;
    take(result[0], &count, sizeof count);
    values.resize(count);
    take(result[0], values.data(), count * sizeof(double));
  } catch (const std::exception&) {
    got = false;
  }
  ::close(result[0]);
  int one = 0, other = 0;
  waitpid(first, &one, 0);
  waitpid(second, &other, 0);
  if (!got || one != 0 || other != 0) throw std::runtime_error("a rank failed");
  return values;
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto index = static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5);
  return values[std::min(index, values.size() - 1)];
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace cardea::perf
