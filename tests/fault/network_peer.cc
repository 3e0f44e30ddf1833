// SPDX-License-Identifier: Apache-2.0
// One rank of tests/fault/network_test.sh: fetches everything from everybody, again and again, for --seconds, checks every
// byte, and says in lines of fixed form what it saw:
//
//   rank R: fetching                                          the first round is over: faults may begin
//   rank R: error STATUS peer P path PATH: MESSAGE             the first failure of a peer's experts
//   rank R: expelled peer P: MESSAGE                           and every later call said the same
//   rank R: done, N rounds, W wrong, last round with K peers   at the end of the time
//
// Exits with 1 if bytes were wrong, or an error names nobody.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "tests/api/api_job.h"
#include "tests/fault/fault_board.h"

using namespace cardea::test;

namespace {

constexpr std::uint32_t kPerRank = 2;

struct Outcome {
  std::uint64_t rounds = 0, wrong = 0;
  bool expelled = false, nameless = false, ended = false;
  std::set<std::uint32_t> failed;
};

void note_error(unsigned rank, cardea_status_t status, Outcome& outcome) {
  const cardea_error_info_t error = last_error();
  if (status == CARDEA_ERR_EXPELLED) {
    if (!outcome.expelled) std::printf("rank %u: expelled peer %u: %s\n", rank, error.peer, error.message);
    outcome.expelled = true;
    outcome.nameless |= error.peer == CARDEA_NO_RANK;
  } else if (std::strstr(error.message, "has left the job") != nullptr) {
    outcome.ended = true;  // its time is over, and so is this rank's
  } else {
    if (outcome.failed.insert(error.peer).second) {
      std::printf("rank %u: error %s peer %u path %s: %s\n", rank, cardea_status_string(status), error.peer,
                  cardea_path_string(error.path), error.message);
    }
    outcome.nameless |= error.peer == CARDEA_NO_RANK;
  }
  std::fflush(stdout);
}

void round(const Job& job, const Layer& layer, Outcome& outcome) {
  std::vector<std::uint32_t> wanted;
  for (const std::uint32_t expert : layer.everything()) {
    if (!outcome.failed.contains(expert / kPerRank)) wanted.push_back(expert);
  }
  const cardea_fetch_desc_t want = layer.want(1, wanted, CARDEA_FETCH_SLOTS);
  cardea_fetch_t fetch{};
  cardea_status_t status = cardea_fetch(layer.handle, &want, &fetch);
  if (status != CARDEA_OK) return note_error(job.rank, status, outcome);
  for (;;) {
    const std::vector<cardea_view_t> views = next(fetch, 1, 4 * kPatience, &status);
    if (status != CARDEA_OK) return note_error(job.rank, status, outcome);
    if (views.empty()) break;
    if (views[0].status != CARDEA_OK) {
      note_error(job.rank, views[0].status, outcome);
      continue;
    }
    const testing::AssertionResult right = layer.right(views[0], 1);
    if (!right) {
      ++outcome.wrong;
      std::printf("rank %u: WRONG %s\n", job.rank, right.message());
    }
    cardea_release(views.data(), 1);
  }
  ++outcome.rounds;
  status = cardea_fetch_destroy(fetch);
  if (status != CARDEA_OK) note_error(job.rank, status, outcome);
}

}  // namespace

int main(int argc, char** argv) try {
  testing::InitGoogleTest(&argc, argv);
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  const std::uint64_t bytes = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1 << 20;
  cardea_config_t config = CARDEA_CONFIG_INIT;
  config.cache_bytes = CARDEA_NO_CACHE;  // what moved is to move again in every round
  Job job(config);
  cardea_context_info_t info = CARDEA_CONTEXT_INFO_INIT;
  CARDEA_MUST(cardea_context_query(job.context, &info));
  job.rank = info.rank;
  Shape shape;
  shape.per_rank = kPerRank;
  shape.slots = 2;  // fewer than experts of others, so that they move again in every round
  shape.segments = {bytes - bytes / 4, bytes / 4};
  const std::uint64_t end = monotonic_ns() + static_cast<std::uint64_t>(seconds * 1e9);
  Outcome outcome;
  {
    Layer layer(job, shape);
    layer.publish(1);
    round(job, layer, outcome);
    std::printf("rank %u: fetching\n", job.rank);
    std::fflush(stdout);
    while (monotonic_ns() < end && !outcome.ended) {
      if (outcome.expelled) {
        // Healing must not bring it back.
        cardea_context_info_t again = CARDEA_CONTEXT_INFO_INIT;
        if (cardea_context_query(job.context, &again) != CARDEA_ERR_EXPELLED) outcome.nameless = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      } else {
        round(job, layer, outcome);
      }
    }
  }
  std::printf("rank %u: done, %lu rounds, %lu wrong, last round with %zu peers\n", job.rank, outcome.rounds, outcome.wrong,
              outcome.expelled ? 0 : info.world_size - 1 - outcome.failed.size());
  std::fflush(stdout);
  // Others may be in their last round, and what this rank says when it leaves may wait behind it on a slow link.
  std::this_thread::sleep_for(std::chrono::seconds(3));
  const std::uint64_t before = monotonic_ns();
  job.leave();
  std::printf("rank %u: closed in %lu ms\n", job.rank, (monotonic_ns() - before) / 1'000'000);
  return outcome.wrong == 0 && !outcome.nameless ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("threw: %s\n", error.what());
  return 1;
}
