// SPDX-License-Identifier: Apache-2.0
// A member of a doctor's job that has something in every field.
#pragma once

#include "lib/doctor/probe.h"

namespace cardea::doctor {

inline Member sample_member() {
  Member member;
  member.rank = 3;
  member.host = "host \"with\" marks";
  member.node_id = "n";
  member.node = 2;
  member.wall_ns = 1'700'000'000'000'000'000;
  Peer peer;
  peer.rank = 1;
  peer.host = "a-host-with-a-long-name";
  peer.node = 1;
  peer.path = "network";
  peer.way = "ucx tcp/eth0";
  peer.seconds = 25e-6;
  peer.bytes_per_second = 2.5e9;
  member.peers = {peer, {.rank = 2, .error = "nothing came"}};
  member.findings = {{Severity::kWarning, "limits.descriptors", "what\nelse", "more"}};
  return member;
}

}  // namespace cardea::doctor
