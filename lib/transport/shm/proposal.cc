// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/shm/proposal.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include "lib/base/wire.h"

namespace cardea::shm {

Proposal propose(std::string node_id, std::string host) {
  Proposal mine;
  mine.node_id = std::move(node_id);
  mine.host = std::move(host);
  if (mine.host.empty()) {
    std::array<char, 256> name{};
    if (gethostname(name.data(), name.size() - 1) == 0) mine.host = name.data();
  }
  std::ifstream("/proc/sys/kernel/random/boot_id") >> mine.boot_id;
  struct stat space {};
  if (stat("/proc/self/ns/net", &space) == 0) mine.network_namespace = space.st_ino;
  return mine;
}

Bytes encode(const Proposal& proposal) {
  WireWriter out;
  out.text(proposal.node_id)
      .text(proposal.host)
      .text(proposal.boot_id)
      .number(proposal.network_namespace)
      .text(proposal.socket);
  return out.take();
}

Result<Proposal> decode_proposal(ByteView bytes) {
  WireReader in(bytes);
  Proposal proposal;
  proposal.node_id = in.text(255);
  proposal.host = in.text(255);
  proposal.boot_id = in.text(64);
  proposal.network_namespace = in.number<std::uint64_t>();
  proposal.socket = in.text(107);
  if (Status status = in.finish("node proposal"); !status.ok()) return status;
  return proposal;
}

}  // namespace cardea::shm
