// SPDX-License-Identifier: Apache-2.0
// The one thing that a process has only once: which context numbers stand for which contexts, since handles cross a C
// interface as numbers. It is never destroyed, so that threads which outlive main() find it whole. Thread-safe.
//
// In a forked child a fresh, empty registry takes its place, which knows of the parent's contexts no more than their highest
// number: locks that other threads of the parent held at the fork are never touched.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "lib/api/affinity.h"
#include "lib/api/handles.h"
#include "lib/base/status.h"
#include "lib/bootstrap/instances.h"
#include "lib/bootstrap/meeting_point.h"

namespace cardea::api {

class Context;

class Registry {
 public:
  static Registry& get();

  /// LIMIT after 2^20 contexts.
  Result<ContextNumber> reserve();
  void add(ContextNumber number, std::shared_ptr<Context> context);
  /// Takes it out, so that no later call finds it.
  std::shared_ptr<Context> remove(ContextNumber number);
  /// INVALID_HANDLE; FORKED if the context is the parent's.
  Result<std::shared_ptr<Context>> find(ContextNumber number);

  /// Keeps a meeting point until its job has formed, or the process ends.
  void keep(std::unique_ptr<bootstrap::MeetingPoint> meeting_point);
  /// Ends the threads of those whose jobs have formed.
  void drop_finished();
  /// Counts the contexts made from the environment, which all ranks make in the same order.
  bootstrap::Instances& environment_instances() { return environment_instances_; }
  /// The machine of this process, found once for all contexts. Errors as topology::discover.
  Result<std::shared_ptr<const topology::Machine>> machine(const topology::Sources& sources);

 private:
  explicit Registry(ContextNumber inherited) : inherited_(inherited), next_(inherited + 1) {}
  static void after_fork_in_child();
  void drop_all();

  const ContextNumber inherited_;  // the parent's contexts are numbered up to here
  std::shared_mutex mutex_;
  std::unordered_map<ContextNumber, std::shared_ptr<Context>> contexts_;
  std::atomic<ContextNumber> next_;  // read by the child of a fork without the mutex
  std::vector<std::unique_ptr<bootstrap::MeetingPoint>> meeting_points_;
  bootstrap::Instances environment_instances_;
  std::mutex machine_mutex_;
  KnownMachine machine_;
  const Registry* parents_ = nullptr;  // after a fork; left as it is, and never freed
};

}  // namespace cardea::api
