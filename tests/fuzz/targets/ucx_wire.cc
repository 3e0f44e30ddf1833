// SPDX-License-Identifier: Apache-2.0
// Addresses, rails, regions and headers of the ucx transport.
#include "lib/transport/ucx/wire.h"

#include "lib/transport/ucx/protocols.h"
#include "lib/transport/ucx/rail_pairs.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

namespace ucx = transport::ucx;

constexpr Rank kRank = 3;
enum Kind : std::uint8_t { kAddress, kRegion, kHeader, kRails, kDescriptors, kWish, kKinds };

bool run(ByteView input) {
  if (input.empty()) return false;
  const ByteView bytes = input.subspan(1);
  switch (std::to_integer<std::uint8_t>(input[0]) % kKinds) {
    case kAddress: {
      const auto address = ucx::decode_address(bytes, kRank);
      if (!address.ok()) return false;
      require(ucx::encode_address(*address) == Bytes(bytes.begin(), bytes.end()), "an address has one form");
      return true;
    }
    case kRegion: {
      const auto region = ucx::decode_region(bytes);
      if (!region.ok()) return false;
      require(ucx::encode_region(*region) == Bytes(bytes.begin(), bytes.end()), "a region has one form");
      return true;
    }
    case kRails: {
      const auto rails = ucx::decode_rails(bytes, kRank);
      if (!rails.ok()) return false;
      require(!rails->empty() && rails->size() <= transport::kMaxUcxRails, "a rank has one rail, and not too many");
      const auto again = ucx::decode_rails(ucx::encode_rails(kRank, *rails), kRank);
      require(again.ok() && again->size() == rails->size(), "what was read can be written and read again");
      const std::vector<ucx::RailAddress> own{{"eth0", "10.77.0.0/24", {}}, {"mlx5_0:1", "", {}}};
      const auto here = ucx::pair_rails(0, own, kRank, *rails), there = ucx::pair_rails(kRank, *rails, 0, own);
      require(!here.empty() && here.size() == there.size(), "both sides pair the same rails");
      for (std::size_t i = 0; i < here.size(); ++i) {
        require(here[i].mine == there[i].theirs && here[i].theirs == there[i].mine, "both sides pair the same rails");
        require(here[i].mine < own.size() && here[i].theirs < rails->size(), "rails that there are");
      }
      return true;
    }
    case kDescriptors: {
      const auto regions = ucx::decode_descriptors(bytes, 2);
      if (!regions.ok()) return false;
      require(ucx::encode_descriptors(*regions) == Bytes(bytes.begin(), bytes.end()), "descriptors have one form");
      return true;
    }
    case kWish: {
      const auto wish = ucx::decode_wish(bytes, kRank);
      if (!wish.ok()) return false;
      require(ucx::encode_wish(*wish) == Bytes(bytes.begin(), bytes.end()), "a wish has one form");
      const ucx::ProtocolWish both[] = {*wish, *wish};
      require(ucx::agree_on_old_protocols(both).ok(), "whoever wishes the same agrees");
      return true;
    }
    default: {
      const auto envelope = ucx::decode_envelope(bytes);
      const auto header = ucx::decode_header(bytes);
      require(envelope.ok() || !header.ok(), "a header begins with an envelope");
      if (!header.ok()) return false;
      const Bytes again = ucx::encode_header(envelope->from, envelope->pass, *header);
      const auto second = ucx::decode_header(again);
      require(second.ok() && second->index() == header->index(), "what was read can be written and read again");
      return true;
    }
  }
}

std::vector<Seed> seeds() {
  const ucx::Pass pass = ucx::make_pass({}, "job", {1, {}}, {2, {}});
  const auto header = [&](const ucx::Header& of) { return of_kind(kHeader, ucx::encode_header(1, pass, of)); };
  return {{"address", of_kind(kAddress, ucx::encode_address({kRank, {}, Bytes(40, std::byte{9})}))},
          {"region", of_kind(kRegion, ucx::encode_region({0x7f0000001000, Bytes(20, std::byte{1})}))},
          {"region_no_key", of_kind(kRegion, ucx::encode_region({}))},
          {"message", header(ucx::MessageHeader{5})},
          {"request", header(ucx::ChunkRequest{1, {{2, 3}, 4, 5}, 4096, 8192, 8000})},
          {"data", header(ucx::ChunkData{7})},
          {"error", header(ucx::ChunkError{7, CARDEA_ERR_STALE, "retired"})},
          {"offer", header(ucx::StreamOffer{4, {std::byte{127}, std::byte{0}, std::byte{0}, std::byte{1}}, 4711})},
          {"rail_out", header(ucx::RailOut{1})},
          {"rails", of_kind(kRails, ucx::encode_rails(kRank, {{"eth0", "10.77.0.0/24", Bytes(40, std::byte{9})},
                                                              {"eth1", "10.77.1.0/24", Bytes(40, std::byte{8})}}))},
          {"rail_of_ucx", of_kind(kRails, ucx::encode_rails(kRank, {{"", "", Bytes(40, std::byte{9})}}))},
          {"wish", of_kind(kWish, ucx::encode_wish({.minor = 22, .rdma = true, .forced = ucx::ProtocolWish::Forced::kOld}))},
          {"descriptors", of_kind(kDescriptors, ucx::encode_descriptors({Bytes(20, std::byte{1}), Bytes(12)}))}};
}

}  // namespace

Target ucx_wire() {
  return {"ucx_wire", "addresses, regions and headers of the ucx transport", run, seeds};
}

}  // namespace cardea::fuzz
