// SPDX-License-Identifier: Apache-2.0
// Files that say how many tokens go to each expert.
#include "perf/simulator/routing.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>

#include "lib/base/unique_fd.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace simulator;  // NOLINT(google-build-using-namespace)

bool run(ByteView input) {
  const UniqueFd file(memfd_create("routing", MFD_CLOEXEC));
  require(static_cast<bool>(file), "the test has a file");
  require(write(file.get(), input.data(), input.size()) == static_cast<ssize_t>(input.size()), "the test writes");
  Plan plan;
  plan.experts = 8;
  plan.routing = fmt::format("/proc/self/fd/{}", file.get());
  const Result<Routing> routing = Routing::make(plan);
  if (!routing.ok()) {
    require(routing.status().code() == CARDEA_ERR_INVALID_ARGUMENT, "a bad file of counts is INVALID_ARGUMENT");
    return false;
  }
  for (std::uint64_t step = 0; step < 2; ++step) {
    for (Rank rank = 0; rank < 3; ++rank) {
      for (const double tokens : routing->tokens(step, step, rank)) {
        require(std::isfinite(tokens) && tokens >= 0 && tokens <= static_cast<double>(plan.tokens),
                "an expert gets some of the tokens");
      }
      for (const ExpertIndex expert : routing->wanted(step, step, rank)) require(expert < plan.experts, "experts exist");
    }
  }
  return true;
}

std::vector<Seed> seeds() {
  return {{"plain", as_bytes("e0,e1,e2,e7\n1,2,3,4\n")},
          {"keyed", as_bytes("iter,layer,rank,e0,e3,note\n0,0,0,5,6,x\n0,1,1,7,8,y\n1,0,0,1,0,z\n")}};
}

}  // namespace

Target routing() {
  return {"routing", "files of tokens for each expert", run, seeds, 4096};
}

}  // namespace cardea::fuzz
