// SPDX-License-Identifier: Apache-2.0
// Event logs of simulated runs, and plans.
#include "perf/simulator/event_log.h"

#include <sstream>

#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace simulator;  // NOLINT(google-build-using-namespace)

bool run(ByteView input) {
  std::istringstream in{std::string(as_text(input))};
  const Result<RecordedRun> run = read_log(in);
  if (!run.ok()) {
    const cardea_status_t code = run.status().code();
    require(code == CARDEA_ERR_PROTOCOL || code == CARDEA_ERR_INVALID_ARGUMENT, "a bad log is one of two errors");
    return false;
  }
  require(check(run->plan).ok(), "a plan that was read is within its ranges");
  for (const LoggedRequest& request : run->requests) {
    require(request.rank < run->plan.ranks(), "requests are of ranks that there are");
    for (const ExpertIndex expert : request.experts) require(expert < run->plan.experts, "experts are those of the layer");
  }
  const Result<Plan> again = from_line(to_line(run->plan));
  require(again.ok() && to_line(*again) == to_line(run->plan), "a plan reads as it was written");
  return true;
}

std::vector<Seed> seeds() {
  Plan plan;
  plan.nodes = 1;
  plan.ranks_per_node = 2;
  plan.nics = 1;
  plan.layers = 1;
  plan.experts = 4;
  plan.top_k = 2;
  const std::string head = "# cardea events 1\n# plan " + to_line(plan) + "\n";
  return {{"empty", as_bytes(head)},
          {"requests", as_bytes(head + "100 0 publish layer=0 version=1\n"
                                       "200 1 fetch id=7 layer=0 version=1 class=0 gang=0 slots=1 segments=3 experts=0,1\n"
                                       "250 1 chunk_done x=1\n"
                                       "300 1 take id=7 expert=0\n"
                                       "400 1 release id=7 expert=0\n"
                                       "500 1 destroy id=7\n"
                                       "600 1 finish layer=0 version=1\n"
                                       "700 0 collect layer=0 version=1\n")}};
}

}  // namespace

Target event_log() {
  return {"event_log", "event logs and plans of the simulator", run, seeds, 8192};
}

}  // namespace cardea::fuzz
