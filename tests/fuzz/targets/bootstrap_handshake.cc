// SPDX-License-Identifier: Apache-2.0
// The messages by which members and meeting point prove themselves.
#include "lib/bootstrap/handshake.h"

#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace bootstrap;  // NOLINT(google-build-using-namespace)

template <typename T, typename Encode>
bool same_again(const Result<T>& read, ByteView body, Encode write) {
  if (!read.ok()) {
    require(read.status().code() == CARDEA_ERR_PROTOCOL, "a malformed message is PROTOCOL");
    return false;
  }
  require(write(*read) == Bytes(body.begin(), body.end()), "a message of the handshake has one form");
  return true;
}

bool run(ByteView body) {
  const auto encode_any = [](const auto& message) { return encode(message); };
  const bool hello = same_again(decode_hello(body), body, encode_any);
  const bool challenge = same_again(decode_challenge(body), body, encode_any);
  const bool proof = same_again(decode_proof(body), body, encode_proof);
  const bool refusal = same_again(decode_refusal(body), body, encode_refusal);
  require(hello + challenge + proof + refusal <= 1, "a message is of one kind");
  require(!refusal || is_refusal(body), "a refusal is known for one");
  return hello || challenge || proof || refusal;
}

std::vector<Seed> seeds() {
  Hello hello{.rank = 3, .world_size = 8, .patience_ms = 1000, .place = "host (process 7)"};
  hello.job = job_tag("job", 1);
  const Challenge challenge;
  const Secret secret{};
  return {{"hello", encode(hello)},
          {"challenge", encode(challenge)},
          {"proof", encode_proof(prove(secret, Role::kMember, encode(hello), encode(challenge)))},
          {"refusal", encode_refusal(Refused::kWrongSecret)}};
}

}  // namespace

Target bootstrap_handshake() {
  return {"bootstrap_handshake", "how members and meeting point prove themselves", run, seeds, 512};
}

}  // namespace cardea::fuzz
