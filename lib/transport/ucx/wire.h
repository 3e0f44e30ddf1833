// SPDX-License-Identifier: Apache-2.0
// What UCX transports say to each other: addresses, and the header before every active message. Pure functions; input is
// hostile. docs/wire-format.md, "UCX transport", specifies the bytes.
//
// Anyone who reaches the worker's port may send to it. So every header carries a pass: an HMAC under the job's secret of
// job, wire version, both ranks and both contexts' random nonces. Only members can make it, it holds for one direction
// between two contexts, and a copy of it means nothing to any other context. Who connects for a stream says likewise who it
// is, before UCX looks at anything else of it.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/transport/transport.h"
#include "lib/transport/ucx/factory.h"

namespace cardea::transport::ucx {

using Nonce = std::array<std::byte, 16>;
using Pass = std::array<std::byte, 16>;

inline constexpr std::size_t kMaxWorkerAddress = 64 << 10;
inline constexpr std::size_t kMaxAddress = kMaxWorkerAddress + 32;
inline constexpr std::size_t kMaxRkey = 4 << 10;
inline constexpr std::size_t kMaxRegion = kMaxRkey + 12;
inline constexpr std::size_t kMaxErrorText = 200;
inline constexpr std::uint64_t kMaxChunk = std::uint64_t{1} << 40;

struct Address {
  Rank rank = kNoRank;
  Nonce nonce{};
  Bytes worker;
};
Bytes encode_address(const Address& address);
/// PROTOCOL if malformed or of another rank, MISMATCH if of another wire version.
Result<Address> decode_address(ByteView in, Rank expected);

/// One of a rank's rails (rails.h), as it tells the others.
struct RailAddress {
  std::string device;   // "eth1", "mlx5_0:1"; empty: UCX chooses
  std::string network;  // "10.77.1.0/24"; empty: reaches whatever it reaches
  Bytes address;        // encode_address
};
inline constexpr std::size_t kMaxRailText = 63;
static_assert(16 + kMaxUcxRails * (kMaxAddress + 2 * kMaxRailText + 12) <= kMaxUcxAddress);
Bytes encode_rails(Rank rank, const std::vector<RailAddress>& rails);
/// Of 1 to kMaxUcxRails rails. PROTOCOL if malformed or of another rank, MISMATCH if of another wire version.
Result<std::vector<RailAddress>> decode_rails(ByteView in, Rank expected);

/// What a region's descriptor is made of where a rank has rails: encode_region for each of its rails, in their order.
Bytes encode_descriptors(const std::vector<Bytes>& regions);
/// PROTOCOL if malformed or not of so many rails.
Result<std::vector<Bytes>> decode_descriptors(ByteView in, std::size_t rails);

/// A region as its owner offers it. Without an rkey it can only be asked for.
struct Region {
  std::uint64_t base = 0;
  Bytes rkey;
};
Bytes encode_region(const Region& region);
Result<Region> decode_region(ByteView in);

/// One end of a pass.
struct Member {
  Rank rank = kNoRank;
  Nonce nonce{};
};
Pass make_pass(ByteView secret, std::string_view job_id, const Member& from, const Member& to);
/// What a member gives as UCX's client id when it connects to a listener. Only members can make or know it. Never 0, which
/// is what UCX reports of a caller that gives none.
std::uint64_t caller_id(ByteView secret, std::string_view job_id, const Member& caller);

/// The fixed part, checked before anything else is looked at.
struct Envelope {
  std::uint8_t opcode = 0;
  Rank from = kNoRank;
  Pass pass{};
};
inline constexpr std::size_t kEnvelopeBytes = 1 + 4 + 16;

/// Payload: the message.
struct MessageHeader {
  std::uint64_t sequence = 0;  // from 0, per direction
};
/// No payload.
struct ChunkRequest {
  std::uint64_t token = 0;
  ExpertAddress expert;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t payload = 0;  // bytes the asker has room for: all that will be sent
};
/// Payload: the chunk's.
struct ChunkData {
  std::uint64_t token = 0;
};
/// No payload.
struct ChunkError {
  std::uint64_t token = 0;
  cardea_status_t code = CARDEA_ERR_INTERNAL;
  std::string text;  // printable ASCII
};
/// No payload. Where the sender awaits the connection by which the receiver may stream chunks to it.
struct StreamOffer {
  std::uint8_t family = 4;              // 4 or 6
  std::array<std::byte, 16> address{};  // in network order; IPv4: the first 4, the others 0
  std::uint16_t port = 0;               // not 0
};
/// No payload. The sender moves nothing any more by one of its rails: what waits there for the receiver won't come.
struct RailOut {
  std::uint8_t rail = 0;  // by the sender's numbers, less than kMaxUcxRails
};
using Header = std::variant<MessageHeader, ChunkRequest, ChunkData, ChunkError, StreamOffer, RailOut>;

Bytes encode_header(Rank from, const Pass& pass, const Header& header);
Result<Envelope> decode_envelope(ByteView in);
/// `in` is the whole header, envelope included.
Result<Header> decode_header(ByteView in);

}  // namespace cardea::transport::ucx
