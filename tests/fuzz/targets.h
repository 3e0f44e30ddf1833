// SPDX-License-Identifier: Apache-2.0
// The targets by name, each in the file of its name under targets/.
#pragma once

#include "tests/fuzz/target.h"

namespace cardea::fuzz {

Target messages();
Target segment_layout();
Target runtime();
Target ucx_wire();
Target ucx_receive();
Target shm_frames();
Target shm_link();
Target shm_handshake();
Target node_arena();
Target node_cache();
Target bootstrap_frames();
Target bootstrap_handshake();
Target meeting_session();
Target member();
Target callback_exchange();
Target unique_id();
Target environment();
Target secret_file();
Target settings();
Target launcher();
Target topology_file();
Target topology_measured();
Target topology_words();
Target event_log();
Target routing();
Target doctor_report();

}  // namespace cardea::fuzz
