// SPDX-License-Identifier: Apache-2.0
// Ranks of small jobs that use the C API, for the tests of it: an exchange in shared memory, a rank's context, a layer whose
// every byte is known, and checks that say what a call answered. What cannot be set up throws, which fails the rank.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "cardea/cardea.h"
#include "tests/support/ranks.h"

namespace cardea::test {

inline constexpr std::uint64_t kSecond = 1'000'000'000;
inline constexpr std::uint64_t kMilli = 1'000'000;
/// For what must happen, on any machine.
inline constexpr std::uint64_t kPatience = 30 * kSecond;

/// The details of this thread's last failure, and its message.
cardea_error_info_t last_error();
/// Throws unless the call succeeded; `call` is its text.
void must(cardea_status_t status, const char* call);
/// That a call failed so, and that its message has all the `words`.
::testing::AssertionResult refused(cardea_status_t expected, std::initializer_list<const char*> words,
                                   cardea_status_t status);

#define CARDEA_MUST(call) ::cardea::test::must(call, #call)
/// EXPECT_REFUSED(CARDEA_ERR_..., {"words", "of the message"}, call)
#define EXPECT_REFUSED(expected, words, call) \
  EXPECT_TRUE(::cardea::test::refused(expected, std::initializer_list<const char*> words, call)) << #call

/// The exchange callback's counterpart: an allgather over memory that forked ranks share. Made before they start, one for
/// each job. A rank that waits longer than 30 s for the others gives up.
class SharedExchange {
 public:
  explicit SharedExchange(unsigned world_size);
  ~SharedExchange();
  SharedExchange(const SharedExchange&) = delete;
  SharedExchange& operator=(const SharedExchange&) = delete;

  unsigned world_size() const { return world_size_; }
  /// A configuration of this rank's; node NULL means that of the host.
  cardea_config_t config(unsigned rank, const char* node = nullptr);

 private:
  struct Cell;
  struct Seat {
    SharedExchange* exchange = nullptr;
    unsigned rank = 0;
    unsigned round = 0;
  };
  static int allgather(void* user, const void* mine, std::size_t bytes, void* all);

  const unsigned world_size_;
  Cell* cells_;
  std::vector<Seat> seats_;  // each process's own copy
};

/// A rank's context and the group of all ranks. Destroys the context at its end.
class Job {
 public:
  Job(SharedExchange& exchange, unsigned rank, const char* node = nullptr, std::uint64_t setup_timeout = kPatience);
  explicit Job(const cardea_config_t& config);
  /// Takes over a context.
  Job(cardea_context_t joined, unsigned rank);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// Returns what cardea_context_destroy returned.
  cardea_status_t leave();
  cardea_group_t group(const std::vector<std::uint32_t>& ranks) const;
  cardea_counters_t counters() const;

  cardea_context_t context{};
  cardea_group_t all{};
  unsigned rank = 0;
};

struct Shape {
  std::uint32_t layer_id = 0;
  std::uint32_t per_rank = 2;  // expert e is at home at member e / per_rank
  std::uint32_t slots = 4;     // of a slab of the layer's own; 0: none
  bool mapped = true;          // weights in memory that the node can map, else plain memory
  std::vector<std::uint64_t> segments = {40000, 512, 96};
};

/// Segments of these sizes, named "w0", "w1", ...; the names live as long as the program.
std::vector<cardea_segment_t> segments_of(const std::vector<std::uint64_t>& bytes);

/// Landing memory; it goes with its context.
class Slab {
 public:
  Slab() = default;
  Slab(const Job& job, const std::vector<std::uint64_t>& segments, std::uint32_t slots);
  /// Over the framework's arrays [first + slots, stride], made and poisoned here.
  Slab(const Job& job, const std::vector<std::uint64_t>& segments, std::uint32_t slots, std::uint32_t first);

  cardea_slab_info_t info() const;
  /// Overwrites all rows, so that bytes of an earlier fetch are not taken for those of the next.
  void poison() const;

  cardea_slab_t handle{};
  std::vector<std::vector<std::byte>> arrays;  // of the framework
};

/// One rank's part in a layer: its weights hold the bytes (random, but known everywhere) of the version that was last
/// written.
class Layer {
 public:
  Layer(const Job& job, cardea_group_t group, Shape shape);
  Layer(const Job& job, Shape shape) : Layer(job, job.all, std::move(shape)) {}

  const Shape& shape() const { return shape_; }
  std::uint32_t index() const { return group_.index; }
  std::uint32_t members() const { return group_.count; }
  std::uint32_t experts() const { return members() * shape_.per_rank; }
  /// The experts at home at a member.
  std::vector<std::uint32_t> homed_at(std::uint32_t member) const;
  std::vector<std::uint32_t> everything() const;

  /// Writes the local experts' bytes in place.
  void write(std::uint64_t version);
  /// write, then cardea_publish.
  void publish(std::uint64_t version);
  void finish(std::uint64_t version) const;
  void collect(std::uint64_t version) const;

  cardea_fetch_desc_t want(std::uint64_t version, const std::vector<std::uint32_t>& experts, std::uint32_t flags = 0) const;
  cardea_fetch_t fetch(std::uint64_t version, const std::vector<std::uint32_t>& experts, std::uint32_t flags = 0) const;
  /// That a view is one, and has this layer's bytes of its expert and version in every segment that was asked for.
  ::testing::AssertionResult right(const cardea_view_t& view, std::uint64_t version) const;

  cardea_layer_t handle{};
  Slab slab;
  cardea_memory_t memory{};

 private:
  Shape shape_;
  cardea_group_info_t group_ = CARDEA_GROUP_INFO_INIT;
  std::vector<std::vector<std::byte>> private_;
  std::vector<std::byte*> base_;  // by segment
};

/// cardea_next of at most `max`; `status` gets its answer.
std::vector<cardea_view_t> next(cardea_fetch_t fetch, std::uint32_t max, std::uint64_t timeout, cardea_status_t* status);
/// Everything that the fetch still has to deliver; throws if it takes longer than kPatience.
std::vector<cardea_view_t> drain(cardea_fetch_t fetch);
/// Takes everything, checks it, releases it, destroys the fetch. Returns how many views it was.
std::uint32_t read_all(const Layer& layer, cardea_fetch_t fetch, std::uint64_t version);
cardea_fetch_info_t info_of(cardea_fetch_t fetch);
void release(const std::vector<cardea_view_t>& views);

/// A rank alone in its job: exchange and context in one.
struct Alone {
  SharedExchange exchange{1};
  Job job{exchange, 0};
};

}  // namespace cardea::test
