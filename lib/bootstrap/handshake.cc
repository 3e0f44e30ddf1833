// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/handshake.h"

#include <algorithm>

#include "lib/base/wire.h"

namespace cardea::bootstrap {
namespace {

constexpr std::uint32_t kMagic = 0x31424443;  // "CDB1"

enum Kind : std::uint8_t { kHello = 1, kChallenge = 2, kProof = 3, kRefusal = 4 };

template <std::size_t N>
void put(WireWriter& out, const std::array<std::byte, N>& bytes) {
  for (const std::byte byte : bytes) out.number(std::to_integer<std::uint8_t>(byte));
}

template <std::size_t N>
void get(WireReader& in, std::array<std::byte, N>& bytes) {
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(in.number<std::uint8_t>());
}

void put_head(WireWriter& out, Kind kind) {
  out.number(kMagic).number(static_cast<std::uint8_t>(kind));
}

void get_head(WireReader& in, Kind kind) {
  in.number_in(kMagic, kMagic);
  in.number_in<std::uint8_t>(kind, kind);
}

ByteView view(std::string_view text) {
  return std::as_bytes(std::span(text));
}

bool printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

Bytes encode(const Hello& hello) {
  WireWriter out;
  put_head(out, kHello);
  out.number(hello.wire_version).number(hello.rank).number(hello.world_size).number(hello.patience_ms);
  put(out, hello.nonce);
  put(out, hello.job);
  out.text(std::string_view(hello.place).substr(0, kMaxPlace));
  return out.take();
}

Result<Hello> decode_hello(ByteView body) {
  WireReader in(body);
  Hello hello;
  get_head(in, kHello);
  hello.wire_version = in.number<std::uint32_t>();
  hello.rank = in.number<std::uint32_t>();
  hello.world_size = in.number_in<std::uint32_t>(1, kMaxRanks);
  hello.patience_ms = in.number<std::uint32_t>();
  get(in, hello.nonce);
  get(in, hello.job);
  hello.place = in.text(kMaxPlace);
  if (hello.rank >= hello.world_size || !printable(hello.place)) in.fail();
  if (Status status = in.finish("hello"); !status.ok()) return status;
  return hello;
}

Bytes encode(const Challenge& challenge) {
  WireWriter out;
  put_head(out, kChallenge);
  out.number(challenge.wire_version);
  put(out, challenge.nonce);
  put(out, challenge.salt);
  return out.take();
}

Result<Challenge> decode_challenge(ByteView body) {
  WireReader in(body);
  Challenge challenge;
  get_head(in, kChallenge);
  challenge.wire_version = in.number<std::uint32_t>();
  get(in, challenge.nonce);
  get(in, challenge.salt);
  if (Status status = in.finish("challenge"); !status.ok()) return status;
  return challenge;
}

Bytes encode_proof(const crypto::Digest& proof) {
  WireWriter out;
  put_head(out, kProof);
  put(out, proof);
  return out.take();
}

Result<crypto::Digest> decode_proof(ByteView body) {
  WireReader in(body);
  crypto::Digest proof{};
  get_head(in, kProof);
  get(in, proof);
  if (Status status = in.finish("proof"); !status.ok()) return status;
  return proof;
}

Bytes encode_refusal(Refused reason) {
  WireWriter out;
  put_head(out, kRefusal);
  return out.number(static_cast<std::uint8_t>(reason)).take();
}

Result<Refused> decode_refusal(ByteView body) {
  WireReader in(body);
  get_head(in, kRefusal);
  const auto reason = in.number_in<std::uint8_t>(1, 2);
  if (Status status = in.finish("refusal"); !status.ok()) return status;
  return static_cast<Refused>(reason);
}

bool is_refusal(ByteView body) {
  WireReader in(body);
  get_head(in, kRefusal);
  return !in.failed();
}

crypto::Digest prove(const Secret& secret, Role role, ByteView hello, ByteView challenge) {
  WireWriter transcript;
  transcript.text("cardea bootstrap 1").text(role == Role::kMember ? "member" : "root").blob(hello).blob(challenge);
  return crypto::hmac(secret, transcript.bytes());
}

JobTag job_tag(std::string_view job, std::uint64_t instance) {
  const crypto::Digest digest = crypto::hmac(view("cardea job tag"), WireWriter().text(job).number(instance).bytes());
  JobTag tag;
  std::copy_n(digest.begin(), tag.size(), tag.begin());
  return tag;
}

JobIdentity derive_identity(const Secret& secret, const JobTag& job, const Nonce& salt) {
  const auto derive = [&](std::string_view purpose) {
    return crypto::hmac(secret, WireWriter().text(purpose).blob(job).blob(salt).bytes());
  };
  return {.id = crypto::hex(ByteView(derive("cardea job id")).first(16)), .secret = derive("cardea job key")};
}

}  // namespace cardea::bootstrap
