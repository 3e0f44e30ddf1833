// SPDX-License-Identifier: Apache-2.0
// The transport between ranks of one node. Everything else in this directory but membership.h is its own business.
//
// Memory offered with a memfd is mapped by peers and can be read where it lies; other memory is copied by
// process_vm_readv, or, where the kernel forbids that, by the owner's engine over the link. The memfd must have its region
// at its start and be sealed against shrinking (SharedMemory does both).
#pragma once

#include <memory>
#include <vector>

#include "lib/base/asio.h"
#include "lib/transport/shm/membership.h"
#include "lib/transport/transport.h"

namespace cardea::shm {

struct ShmOptions {
  /// False: never tries it, as if the kernel refused.
  bool allow_process_vm_readv = true;
};

/// `links` are those of prove_membership. The io_context and the listener must outlive the transport. Its address() is
/// empty: the links stand already; connect() starts them, and INVALID_ARGUMENT names a peer that has none.
std::unique_ptr<transport::Transport> make_shm_transport(boost::asio::io_context& io, transport::Listener& listener,
                                                         Rank self, std::vector<NodeLink> links,
                                                         const ShmOptions& options = {});

}  // namespace cardea::shm
