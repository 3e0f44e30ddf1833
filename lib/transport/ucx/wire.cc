// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/wire.h"

#include <algorithm>

#include "lib/base/crypto.h"
#include "lib/base/wire.h"

namespace cardea::transport::ucx {
namespace {

constexpr std::uint32_t kAddressMagic = 0x58435543;  // "CUCX"
constexpr std::uint32_t kRailsMagic = 0x4c525543;    // "CURL"
constexpr std::uint8_t kDescriptors = 4;  // device memory's begin with 2 or 3 (lib/cuda/memory.h), the node's with 0 or 1
constexpr std::string_view kPassPurpose = "cardea ucx pass";
constexpr std::string_view kCallerPurpose = "cardea ucx caller";
constexpr std::size_t kIpv4Bytes = 4;

enum Opcode : std::uint8_t {
  kMessage = 1,
  kChunkRequest = 2,
  kChunkData = 3,
  kChunkError = 4,
  kStreamOffer = 5,
  kRailOut = 6
};

template <std::size_t N>
void put(WireWriter& out, const std::array<std::byte, N>& bytes) {
  for (const std::byte byte : bytes) out.number(std::to_integer<std::uint8_t>(byte));
}

template <std::size_t N>
std::array<std::byte, N> get(WireReader& in) {
  std::array<std::byte, N> bytes{};
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(in.number<std::uint8_t>());
  return bytes;
}

Bytes copy(ByteView view) {
  return {view.begin(), view.end()};
}

std::string printable(std::string text) {
  for (char& c : text) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return text;
}

struct HeaderWriter {
  WireWriter& out;
  void operator()(const MessageHeader& header) const { out.number(header.sequence); }
  void operator()(const ChunkRequest& header) const {
    out.number(header.token)
        .number(header.expert.layer.group)
        .number(header.expert.layer.layer)
        .number(header.expert.expert)
        .number(header.expert.version)
        .number(header.offset)
        .number(header.bytes)
        .number(header.payload);
  }
  void operator()(const ChunkData& header) const { out.number(header.token); }
  void operator()(const ChunkError& header) const {
    out.number(header.token)
        .number(static_cast<std::uint32_t>(-static_cast<int>(header.code)))
        .text(std::string_view(header.text).substr(0, kMaxErrorText));
  }
  void operator()(const StreamOffer& header) const {
    out.number(header.family);
    put(out, header.address);
    out.number(header.port);
  }
  void operator()(const RailOut& header) const { out.number(header.rail); }
};

ChunkRequest read_request(WireReader& in) {
  ChunkRequest request;
  request.token = in.number<std::uint64_t>();
  request.expert.layer.group = in.number<std::uint64_t>();
  request.expert.layer.layer = in.number<std::uint32_t>();
  request.expert.expert = in.number<std::uint32_t>();
  request.expert.version = in.number<std::uint64_t>();
  request.offset = in.number_in<std::uint64_t>(0, kMaxChunk);
  request.bytes = in.number_in<std::uint64_t>(0, kMaxChunk);
  request.payload = in.number_in<std::uint64_t>(0, kMaxChunk);
  if (request.payload > request.bytes) in.fail();
  return request;
}

ChunkError read_error(WireReader& in) {
  ChunkError error;
  error.token = in.number<std::uint64_t>();
  const auto code = in.number_in<std::uint32_t>(1, static_cast<std::uint32_t>(-CARDEA_ERR_INTERNAL));
  error.code = static_cast<cardea_status_t>(-static_cast<int>(code));
  error.text = printable(in.text(kMaxErrorText));
  return error;
}

StreamOffer read_offer(WireReader& in) {
  StreamOffer offer;
  offer.family = in.number<std::uint8_t>();
  offer.address = get<16>(in);
  offer.port = in.number_in<std::uint16_t>(1, 0xffff);
  if (offer.family != 4 && offer.family != 6) in.fail();
  const auto zero = [](std::byte byte) { return byte == std::byte{0}; };
  if (offer.family == 4 && !std::all_of(offer.address.begin() + kIpv4Bytes, offer.address.end(), zero)) in.fail();
  return offer;
}

}  // namespace

Bytes encode_address(const Address& address) {
  WireWriter out;
  out.number(kAddressMagic).number(kWireVersion).number(address.rank);
  put(out, address.nonce);
  out.blob(address.worker);
  return out.take();
}

Result<Address> decode_address(ByteView bytes, Rank expected) {
  WireReader in(bytes);
  Address address;
  const auto magic = in.number<std::uint32_t>();
  const auto version = in.number<std::uint32_t>();
  if (!in.failed() && magic != kAddressMagic)
    return Status::error(CARDEA_ERR_PROTOCOL, "not an address of the ucx transport");
  if (!in.failed() && version != kWireVersion) {
    return Status::error(CARDEA_ERR_MISMATCH, "wire version {} there, {} here", version, kWireVersion);
  }
  address.rank = in.number<std::uint32_t>();
  address.nonce = get<16>(in);
  address.worker = copy(in.blob(kMaxWorkerAddress));
  if (auto status = in.finish("ucx address"); !status.ok()) return status;
  if (address.worker.empty()) return Status::error(CARDEA_ERR_PROTOCOL, "ucx address without a worker address");
  if (address.rank != expected) {
    return Status::error(CARDEA_ERR_PROTOCOL, "ucx address is of rank {}, not of rank {}", address.rank, expected);
  }
  return address;
}

Bytes encode_rails(Rank rank, const std::vector<RailAddress>& rails) {
  WireWriter out;
  out.number(kRailsMagic).number(kWireVersion).number(rank).number(static_cast<std::uint8_t>(rails.size()));
  for (const RailAddress& rail : rails) out.text(rail.device).text(rail.network).blob(rail.address);
  return out.take();
}

Result<std::vector<RailAddress>> decode_rails(ByteView bytes, Rank expected) {
  WireReader in(bytes);
  const auto magic = in.number<std::uint32_t>();
  const auto version = in.number<std::uint32_t>();
  if (!in.failed() && magic != kRailsMagic) return Status::error(CARDEA_ERR_PROTOCOL, "not an address of ucx rails");
  if (!in.failed() && version != kWireVersion) {
    return Status::error(CARDEA_ERR_MISMATCH, "wire version {} there, {} here", version, kWireVersion);
  }
  const auto rank = in.number<std::uint32_t>();
  const auto count = in.number_in<std::uint8_t>(1, kMaxUcxRails);
  std::vector<RailAddress> rails;
  for (std::uint8_t i = 0; i < count; ++i) {
    RailAddress& rail = rails.emplace_back();
    rail.device = printable(in.text(kMaxRailText));
    rail.network = printable(in.text(kMaxRailText));
    rail.address = copy(in.blob(kMaxAddress));
  }
  if (auto status = in.finish("address of ucx rails"); !status.ok()) return status;
  if (rank != expected)
    return Status::error(CARDEA_ERR_PROTOCOL, "address of ucx rails is of rank {}, not of rank {}", rank, expected);
  return rails;
}

Bytes encode_descriptors(const std::vector<Bytes>& regions) {
  WireWriter out;
  out.number(kDescriptors).number(static_cast<std::uint8_t>(regions.size()));
  for (const Bytes& region : regions) out.blob(region);
  return out.take();
}

Result<std::vector<Bytes>> decode_descriptors(ByteView bytes, std::size_t rails) {
  WireReader in(bytes);
  in.number_in<std::uint8_t>(kDescriptors, kDescriptors);
  const auto count = in.number_in<std::uint8_t>(1, kMaxUcxRails);
  if (count != rails) in.fail();
  std::vector<Bytes> regions;
  for (std::uint8_t i = 0; i < count && !in.failed(); ++i) regions.push_back(copy(in.blob(kMaxRegion)));
  if (auto status = in.finish("descriptor of a region for each rail"); !status.ok()) return status;
  return regions;
}

Bytes encode_region(const Region& region) {
  return WireWriter().number(region.base).blob(region.rkey).take();
}

Result<Region> decode_region(ByteView bytes) {
  WireReader in(bytes);
  Region region;
  region.base = in.number<std::uint64_t>();
  region.rkey = copy(in.blob(kMaxRkey));
  if (auto status = in.finish("ucx region descriptor"); !status.ok()) return status;
  return region;
}

Pass make_pass(ByteView secret, std::string_view job_id, const Member& from, const Member& to) {
  WireWriter out;
  out.text(kPassPurpose).number(kWireVersion).text(job_id).number(from.rank).number(to.rank);
  put(out, from.nonce);
  put(out, to.nonce);
  const crypto::Digest digest = crypto::hmac(secret, out.bytes());
  Pass pass;
  std::copy_n(digest.begin(), pass.size(), pass.begin());
  return pass;
}

std::uint64_t caller_id(ByteView secret, std::string_view job_id, const Member& caller) {
  WireWriter out;
  out.text(kCallerPurpose).number(kWireVersion).text(job_id).number(caller.rank);
  put(out, caller.nonce);
  const crypto::Digest digest = crypto::hmac(secret, out.bytes());
  const auto id = WireReader(digest).number<std::uint64_t>();
  return id == 0 ? 1 : id;
}

Bytes encode_header(Rank from, const Pass& pass, const Header& header) {
  WireWriter out;
  out.number(static_cast<std::uint8_t>(header.index() + 1)).number(from);
  put(out, pass);
  std::visit(HeaderWriter{out}, header);
  return out.take();
}

Result<Envelope> decode_envelope(ByteView bytes) {
  if (bytes.size() < kEnvelopeBytes) return Status::error(CARDEA_ERR_PROTOCOL, "header of {} bytes", bytes.size());
  WireReader in(bytes.first(kEnvelopeBytes));
  Envelope envelope;
  envelope.opcode = in.number<std::uint8_t>();
  envelope.from = in.number<std::uint32_t>();
  envelope.pass = get<16>(in);
  return envelope;
}

Result<Header> decode_header(ByteView bytes) {
  if (bytes.size() < kEnvelopeBytes) return Status::error(CARDEA_ERR_PROTOCOL, "header of {} bytes", bytes.size());
  const auto opcode = std::to_integer<std::uint8_t>(bytes[0]);
  WireReader in(bytes.subspan(kEnvelopeBytes));
  Header header;
  switch (opcode) {
    case kMessage:
      header = MessageHeader{in.number<std::uint64_t>()};
      break;
    case kChunkRequest:
      header = read_request(in);
      break;
    case kChunkData:
      header = ChunkData{in.number<std::uint64_t>()};
      break;
    case kChunkError:
      header = read_error(in);
      break;
    case kStreamOffer:
      header = read_offer(in);
      break;
    case kRailOut:
      header = RailOut{in.number_in<std::uint8_t>(0, kMaxUcxRails - 1)};
      break;
    default:
      return Status::error(CARDEA_ERR_PROTOCOL, "unknown opcode {}", opcode);
  }
  if (auto status = in.finish("ucx header"); !status.ok()) return status;
  return header;
}

}  // namespace cardea::transport::ucx
