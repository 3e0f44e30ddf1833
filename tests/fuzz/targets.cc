// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/targets.h"

#include <array>
#include <cstdio>
#include <cstdlib>

namespace cardea::fuzz {

std::span<const Target> targets() {
  static const std::array kAll = {
      messages(),          segment_layout(),   runtime(),
      ucx_wire(),          ucx_receive(),      shm_frames(),
      shm_link(),          shm_handshake(),    node_arena(),
      node_cache(),        bootstrap_frames(), bootstrap_handshake(),
      meeting_session(),   member(),           callback_exchange(),
      unique_id(),         environment(),      secret_file(),
      settings(),          launcher(),         topology_file(),
      topology_measured(), topology_words(),   event_log(),
      routing(),           doctor_report(),
  };
  return kAll;
}

void require(bool kept, const char* promise) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

}  // namespace cardea::fuzz
