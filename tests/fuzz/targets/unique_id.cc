// SPDX-License-Identifier: Apache-2.0
// Unique ids, and addresses as people write them. The checksum of an id is put right, or nothing behind it would be reached.
#include "lib/bootstrap/unique_id.h"

#include <algorithm>
#include <cstring>

#include "lib/base/crypto.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

using namespace bootstrap;  // NOLINT(google-build-using-namespace)

enum Kind : std::uint8_t { kId, kIdAsIs, kAddress, kKinds };
constexpr std::size_t kChecksumBytes = 8;

bool read_id(const cardea_unique_id_t& id) {
  const Result<UniqueId> read = decode_unique_id(id);
  if (!read.ok()) return false;
  require(!read->addresses.empty() && read->addresses.size() <= UniqueId::kMaxAddresses, "an id has 1 to 3 addresses");
  const cardea_unique_id_t again = encode(*read);
  require(decode_unique_id(again).ok(), "what was read can be written and read again");
  require(from_unique_id(id, 0, 2).ok(), "an id that can be read can be joined by");
  return true;
}

bool run(ByteView input) {
  if (input.empty()) return false;
  const std::uint8_t kind = std::to_integer<std::uint8_t>(input[0]) % kKinds;
  const ByteView bytes = input.subspan(1);
  if (kind == kAddress) {
    const Result<Endpoint> endpoint = parse_endpoint(as_text(bytes));
    if (!endpoint.ok()) return false;
    const Result<Endpoint> again = parse_endpoint(to_string(*endpoint));
    require(again.ok() && *again == *endpoint, "an address reads as it was written");
    return true;
  }
  cardea_unique_id_t id{};
  std::memcpy(id.bytes, bytes.data(), std::min(bytes.size(), sizeof id.bytes));
  if (kind == kId) {
    const std::size_t covered = sizeof id.bytes - kChecksumBytes;
    const crypto::Digest sum = crypto::hmac(std::as_bytes(std::span(std::string_view("cardea unique id"))),
                                            std::as_bytes(std::span(id.bytes)).first(covered));
    std::memcpy(id.bytes + covered, sum.data(), kChecksumBytes);
  }
  return read_id(id);
}

std::vector<Seed> seeds() {
  const UniqueId id{.addresses = {{.host = "10.0.0.1", .port = 4711}, {.host = "::1", .port = 80}}};
  const cardea_unique_id_t bytes = encode(id);
  const ByteView view = std::as_bytes(std::span(bytes.bytes));
  return {{"id", of_kind(kId, view)},
          {"id_as_is", of_kind(kIdAsIs, view)},
          {"host", of_kind(kAddress, as_bytes("host:4711"))},
          {"v6", of_kind(kAddress, as_bytes("[::1]:80"))},
          {"unix", of_kind(kAddress, as_bytes("unix:name"))}};
}

}  // namespace

Target unique_id() {
  return {"unique_id", "unique ids and addresses of meeting points", run, seeds, 512};
}

}  // namespace cardea::fuzz
