// SPDX-License-Identifier: Apache-2.0
// The messages by which a member and the job's meeting point prove to each other that they hold the job's secret.
// docs/wire-format.md specifies them byte by byte. Their layout is frozen by kMagic: ranks of different wire versions can
// still authenticate each other, and then say which of them is the odd one. Pure functions.
//
//     member                                       meeting point
//        │ ── Hello: who, nonce ───────────────────────► │
//        │ ◄──────────────── Challenge: nonce, salt ──── │   or Refusal
//        │ ── Proof of "member" ───────────────────────► │
//        │ ◄──────────────────────── Proof of "root" ─── │   or Refusal
//
// A proof is an HMAC over its role and the exact bytes of both Hello and Challenge, so that it serves in one direction of
// one connection only: reflected or replayed it is wrong. The member proves first; a stranger learns nothing keyed.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "lib/base/crypto.h"
#include "lib/base/status.h"
#include "lib/base/types.h"
#include "lib/bootstrap/exchange.h"

namespace cardea::bootstrap {

/// No side reads more than this from a connection before the other has proved itself.
inline constexpr std::size_t kMaxUnauthenticatedBytes = 256;
inline constexpr std::chrono::seconds kHandshakeDeadline{5};
inline constexpr std::uint32_t kMaxRanks = 65536;
/// "host (process 4711)", possibly cut.
inline constexpr std::size_t kMaxPlace = 64;

using Nonce = std::array<std::byte, 32>;
/// Names a job to those who do not hold its secret.
using JobTag = std::array<std::byte, 16>;

struct Hello {
  std::uint32_t wire_version = kWireVersion;
  Rank rank = 0;
  std::uint32_t world_size = 0;
  std::uint32_t patience_ms = 0;  // how long this rank is still willing to wait for the others
  Nonce nonce{};
  JobTag job{};
  std::string place;  // printable ASCII
};

struct Challenge {
  std::uint32_t wire_version = kWireVersion;
  Nonce nonce{};
  Nonce salt{};  // random, once for each meeting point: makes the job's id and key fresh
};

enum class Refused : std::uint8_t { kOtherJob = 1, kWrongSecret = 2 };

enum class Role { kMember, kRoot };

/// Bodies of frames, without the length before them.
Bytes encode(const Hello& hello);
Bytes encode(const Challenge& challenge);
Bytes encode_proof(const crypto::Digest& proof);
Bytes encode_refusal(Refused reason);

/// PROTOCOL for anything that encode() would not have produced.
Result<Hello> decode_hello(ByteView body);
Result<Challenge> decode_challenge(ByteView body);
Result<crypto::Digest> decode_proof(ByteView body);
Result<Refused> decode_refusal(ByteView body);
bool is_refusal(ByteView body);

crypto::Digest prove(const Secret& secret, Role role, ByteView hello, ByteView challenge);

JobTag job_tag(std::string_view job, std::uint64_t instance);

/// What a formed job's ranks share: an id for names of sockets, and the key of their HMACs.
struct JobIdentity {
  std::string id;  // [0-9a-f]{32}
  Secret secret{};
};
JobIdentity derive_identity(const Secret& secret, const JobTag& job, const Nonce& salt);

}  // namespace cardea::bootstrap
