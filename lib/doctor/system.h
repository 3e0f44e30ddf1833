// SPDX-License-Identifier: Apache-2.0
// A system as the checks see it: files below a root, the environment, limits, what system calls answered. All of it is
// values, so that a test can make up a broken system, and a check is a function of them; of_this_process() fills them in for
// the machine at hand. Nothing here waits for anybody but the file system; what asks the network is reach.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/bootstrap/environment.h"
#include "lib/doctor/reach.h"
#include "topology/machine.h"

namespace cardea::doctor {

inline constexpr std::uint64_t kUnlimited = UINT64_MAX;

struct Limits {
  std::uint64_t descriptors = kUnlimited, most_descriptors = kUnlimited;  // soft and hard
  std::uint64_t locked_bytes = kUnlimited;
  std::uint64_t file_bytes = kUnlimited;
  std::uint64_t address_space = kUnlimited;
};

/// What a system call answered when it was tried.
struct Trial {
  bool tried = false;
  int error = 0;  // errno; 0: it worked
  bool failed() const { return tried && error != 0; }
};

struct Trials {
  Trial memfd;            // memfd_create
  Trial seal;             // sealing it against shrinking and writing
  Trial pidfd;            // pidfd_open of a child
  Trial read_memory;      // process_vm_readv of a sibling, as ranks are to each other
  Trial abstract_socket;  // binding a Unix socket without a file
};

struct System {
  std::filesystem::path root = "/";  // of proc, sys, dev
  std::map<std::string, std::string> variables;
  Limits limits;
  Trials trials;
  unsigned user = 0;
  unsigned processors = 1;          // online
  unsigned allowed_processors = 1;  // for this process
  std::uint64_t memory_bytes = 0;
  std::optional<std::uint64_t> shm_bytes;  // of /dev/shm; none: there is none
  std::optional<topology::Machine> machine;
  std::string machine_error;        // why it is unknown
  std::optional<Reach> root_reach;  // CARDEA_ROOT, where somebody asked

  /// Everything but the machine and root_reach.
  static System of_this_process();

  bootstrap::Environment environment() const;
  std::optional<std::string> variable(const std::string& name) const;  // empty counts as not set
  /// A file's text without white space at its end; nothing if it cannot be read. At most 64 KiB.
  std::optional<std::string> read(const std::string& path) const;
  std::optional<std::uint64_t> number(const std::string& path) const;
  /// Names in a folder, sorted; none if there is no such folder.
  std::vector<std::string> list(const std::string& path) const;
  /// This process's control group of the version 2 hierarchy, as a folder below /sys/fs/cgroup; "" for the root.
  std::string control_group() const;
};

/// Tries them, in children of this process, which may have no other threads then.
Trials try_system_calls();

}  // namespace cardea::doctor
