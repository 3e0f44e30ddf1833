// SPDX-License-Identifier: Apache-2.0
// UCX has two sets of protocols, those from before 1.16 and the newer ones (UCX_PROTO_ENABLE), and two ranks that use
// different ones wait for each other for ever in a rendezvous. So the ranks of a job agree on one set before they make
// their transports: each says what it wishes, and all conclude the same from what all have said.
//
// The older ones are the better ones over TCP: with peer errors on, the newer ones send in pieces that are copied twice, at
// a quarter of the rate (1.22). Those of 1.16 end the process by an assertion when a peer dies that a rendezvous was just
// beginning with. Only the newer ones know memory of GPUs, and are meant for RDMA.
#pragma once

#include <cstdint>
#include <span>

#include "lib/transport/ucx/factory.h"

namespace cardea::transport::ucx {

/// Of the UCX that runs; the major version of all is 1.
unsigned ucx_minor_version();

struct ProtocolWish {
  enum class Forced : std::uint8_t { kNo, kOld, kNew };
  std::uint8_t minor = 0;       // UCX's version
  bool rdma = false;            // it has a device for that
  bool needed = false;          // the newer ones, for memory of GPUs or GET without RDMA
  Forced forced = Forced::kNo;  // by UCX_PROTO_ENABLE
};

Bytes encode_wish(const ProtocolWish& wish);
/// PROTOCOL.
Result<ProtocolWish> decode_wish(ByteView bytes, Rank rank);

/// From the environment, and from UCX, which is started to look for devices where that matters.
ProtocolWish protocol_wish(const UcxOptions& options);

/// Whether the older ones are to be used; by rank. CONFIGURATION, naming two ranks, if their environments differ.
Result<bool> agree_on_old_protocols(std::span<const ProtocolWish> wishes);

}  // namespace cardea::transport::ucx
