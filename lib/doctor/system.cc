// SPDX-License-Identifier: Apache-2.0
#include "lib/doctor/system.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <fstream>

#include "lib/base/unique_fd.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

extern char** environ;

namespace cardea::doctor {
namespace {

std::uint64_t limit_of(int resource, bool hard = false) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) return kUnlimited;
  const rlim_t value = hard ? limit.rlim_max : limit.rlim_cur;
  return value == RLIM_INFINITY ? kUnlimited : value;
}

Trial trial(bool worked) {
  return {true, worked ? 0 : errno};
}

/// One of two children reads a word of the other's memory.
Trial try_reading_a_sibling() {
  static volatile std::uint64_t word = 0x6361726465610001;
  const pid_t sleeper = fork();
  if (sleeper == 0) {
    for (;;) pause();
  }
  if (sleeper < 0) return {};
  const pid_t reader = fork();
  if (reader == 0) {
    std::uint64_t got = 0;
    const iovec here{&got, sizeof got};
    const iovec there{const_cast<std::uint64_t*>(&word), sizeof word};
    const ssize_t bytes = process_vm_readv(sleeper, &here, 1, &there, 1, 0);
    _exit(bytes == static_cast<ssize_t>(sizeof got) && got == word ? 0 : bytes < 0 ? errno : EIO);
  }
  int status = 0;
  if (reader > 0) waitpid(reader, &status, 0);
  kill(sleeper, SIGKILL);
  waitpid(sleeper, nullptr, 0);
  if (reader < 0 || !WIFEXITED(status)) return {};
  return {true, WEXITSTATUS(status)};
}

Trial try_pidfd() {
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  if (child < 0) return {};
  const UniqueFd descriptor(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  const Trial result = trial(static_cast<bool>(descriptor));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return result;
}

Trial try_abstract_socket() {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return trial(false);
  // No name: the kernel chooses one without a file.
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  return trial(bind(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(sa_family_t)) == 0);
}

}  // namespace

Trials try_system_calls() {
  Trials trials;
  const UniqueFd memory(memfd_create("cardea-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  trials.memfd = trial(static_cast<bool>(memory));
  if (memory) trials.seal = trial(fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
  trials.pidfd = try_pidfd();
  trials.read_memory = try_reading_a_sibling();
  trials.abstract_socket = try_abstract_socket();
  return trials;
}

System System::of_this_process() {
  System system;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::size_t equals = text.find('=');
    if (equals != std::string::npos) system.variables[text.substr(0, equals)] = text.substr(equals + 1);
  }
  system.limits = {limit_of(RLIMIT_NOFILE), limit_of(RLIMIT_NOFILE, true), limit_of(RLIMIT_MEMLOCK), limit_of(RLIMIT_FSIZE),
                   limit_of(RLIMIT_AS)};
  system.trials = try_system_calls();
  system.user = geteuid();
  system.processors = static_cast<unsigned>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  system.allowed_processors = system.processors;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
    system.allowed_processors = static_cast<unsigned>(CPU_COUNT(&allowed));
  system.memory_bytes =
      static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) == 0) system.shm_bytes = std::uint64_t{shm.f_blocks} * shm.f_frsize;
  return system;
}

bootstrap::Environment System::environment() const {
  return [copy = variables](const char* name) -> std::optional<std::string> {
    const auto found = copy.find(name);
    if (found == copy.end() || found->second.empty()) return std::nullopt;
    return found->second;
  };
}

std::optional<std::string> System::variable(const std::string& name) const {
  return environment()(name.c_str());
}

std::optional<std::string> System::read(const std::string& path) const {
  std::ifstream in(root / path.substr(path.starts_with('/') ? 1 : 0));
  if (!in) return std::nullopt;
  std::string text(64 << 10, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return std::nullopt;
  text.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, in.gcount())));
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text;
}

std::optional<std::uint64_t> System::number(const std::string& path) const {
  const auto text = read(path);
  if (!text) return std::nullopt;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  return error == std::errc() && end == text->data() + text->size() ? std::optional(value) : std::nullopt;
}

std::vector<std::string> System::list(const std::string& path) const {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator at(root / path.substr(path.starts_with('/') ? 1 : 0), error);
  for (const std::filesystem::directory_iterator end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string System::control_group() const {
  const std::string groups = read("/proc/self/cgroup").value_or("");
  for (std::size_t at = 0; at < groups.size();) {
    const std::size_t end = std::min(groups.find('\n', at), groups.size());
    if (groups.compare(at, 3, "0::") == 0) {
      const std::string group = groups.substr(at + 3, end - at - 3);
      return group == "/" ? "" : group;
    }
    at = end + 1;
  }
  return "";
}

}  // namespace cardea::doctor
