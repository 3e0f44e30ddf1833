// SPDX-License-Identifier: Apache-2.0
// One test suite over all transports. A scenario is a function that every rank runs; the backend decides what a rank is: a
// forked process with an io_context (suite_forked.h), or one of many ranks in one process in virtual time (sim). The
// scenarios are in suite_*.cc; a backend instantiates them in its own program:
//
//   INSTANTIATE_TEST_SUITE_P(Shm, TransportSuite, ::testing::Values(BackendParam{"Shm", [] { return
//   std::make_unique<ShmBackend>(); }}),
//                            backend_name);
//
// and links them: target_link_libraries(shm_transport_test PRIVATE transport_suite).
//
// In every scenario the recorder also proves that the transport calls nothing from inside a call, completes nothing twice
// or unasked, reports no peer lost twice nor before its chunks, and is silent once closed.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "lib/base/types.h"
#include "lib/transport/transport.h"
#include "tests/transport/suite_memory.h"
#include "tests/transport/suite_recorder.h"

namespace cardea::test {

/// How a transport reaches memory, which decides who detects a retired version.
struct Traits {
  bool asks_for_mappable =
      false;  // it asks the source (lend) for chunks from regions offered with a memfd; else it reads them
  bool asks_for_private = false;  // the same for regions without
  bool maps = false;              // mapped() is not null for accepted regions that were offered with a memfd
  bool asks(Memory kind) const { return kind == Memory::kMappable ? asks_for_mappable : asks_for_private; }
};

/// Generous: only a defect lets it pass. Virtual where time is.
inline constexpr std::chrono::seconds kPatience{40};

/// One rank of a scenario, as its body sees it. Used by the thread that runs the body only.
class RankHarness {
 public:
  RankHarness(Rank rank, unsigned ranks, const Traits& traits);
  virtual ~RankHarness();

  Rank rank() const { return rank_; }
  unsigned ranks() const { return ranks_; }
  const Traits& traits() const { return traits_; }
  std::vector<Rank> others() const;
  /// Calls through it are watched: a listener call during one is a failure.
  transport::Transport& transport();
  Recorder& seen() { return recorder_; }

  /// Lets this rank's loop run until `done`, asked after each event; false if that took longer than `deadline`.
  virtual bool run_until(const std::function<bool()>& done, Nanoseconds deadline = kPatience) = 0;
  /// Lets the loop run while nothing is expected to happen.
  void run_for(Nanoseconds duration);
  /// Waits without letting the loop run, as a rank does that is stuck; false after kPatience.
  virtual bool stall_until(const std::function<bool()>& done) = 0;
  /// Ends this rank at once, as SIGKILL does. Name it among the victims of run().
  [[noreturn]] virtual void die() = 0;

  /// Numbers that all ranks share, outside of the transport. Index below 512.
  virtual void add(unsigned index, unsigned long value) = 0;
  virtual unsigned long get(unsigned index) const = 0;
  /// Lets the loop run until `count` ranks (0: all) have come to their barrier of the same number; the same ranks must take
  /// part in every barrier, but for the dead. A failure is recorded as such.
  bool barrier(unsigned count = 0);

  /// Memory of this rank, freed when it ends.
  Region& make_region(std::uint32_t id, std::uint64_t bytes, Memory kind);
  /// Offers the region and sends its descriptor to each of `peers` as a message.
  void offer(const Region& region, std::span<const Rank> peers);
  /// Awaits the next message of `owner`, which must be a descriptor, and accepts the region.
  bool accept_from(Rank owner);
  /// Awaits and takes the next message of `from`; records a failure and returns nothing when none comes.
  Bytes next_message(Rank from);
  bool await_chunks(std::size_t count) {
    return run_until([this, count] { return recorder_.completions().size() >= count; });
  }
  /// Closes the transport, if that was not done yet, and runs the loop until it has said so.
  bool close();

 protected:
  /// To be called once, by the backend, before the body runs and before anything reaches the listener.
  void set_transport(transport::Transport& transport);

 private:
  const Rank rank_;
  const unsigned ranks_;
  const Traits traits_;
  Recorder recorder_;
  std::vector<std::unique_ptr<Region>> regions_;
  std::unique_ptr<transport::Transport> watched_;
  unsigned barriers_ = 0;
};

using Scenario = std::function<void(RankHarness&)>;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Traits traits() const = 0;
  /// Runs body(harness) for every rank, all connected to each other; afterwards closes each transport (that was not closed
  /// in the body). Failures inside a body, or a rank that does not end, fail the calling test. Victims may die.
  virtual void run(unsigned ranks, const Scenario& body, const std::vector<unsigned>& victims = {}) = 0;
};

struct BackendParam {
  std::string name;
  std::function<std::unique_ptr<Backend>()> make;
};
/// For GoogleTest, which would print its bytes.
inline void PrintTo(const BackendParam& param, std::ostream* out) {
  *out << param.name;
}

class TransportSuite : public ::testing::TestWithParam<BackendParam> {
 protected:
  TransportSuite() : backend_(GetParam().make()) {}
  Traits traits() const { return backend_->traits(); }
  void run(unsigned ranks, const Scenario& body, const std::vector<unsigned>& victims = {}) {
    backend_->run(ranks, body, victims);
  }
  /// The body once per kind of memory.
  void run_for_each_memory(unsigned ranks, const std::function<void(RankHarness&, Memory)>& body,
                           const std::vector<unsigned>& victims = {});

 private:
  std::unique_ptr<Backend> backend_;
};

std::string backend_name(const ::testing::TestParamInfo<BackendParam>& info);

}  // namespace cardea::test
