// SPDX-License-Identifier: Apache-2.0
#include "lib/transport/ucx/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lib/base/wire.h"
#include "lib/transport/ucx/in_order.h"
#include "lib/transport/ucx/lanes.h"

namespace cardea::transport::ucx {
namespace {

Address sample_address() {
  return {7, {std::byte{1}, std::byte{2}}, Bytes(100, std::byte{9})};
}

std::vector<Header> sample_headers() {
  ChunkRequest request{11, {{0x1122334455667788, 3}, 5, 42}, 4096, 8192, 8000};
  return {MessageHeader{77},
          request,
          ChunkData{12},
          ChunkError{13, CARDEA_ERR_STALE, "version 3 was retired"},
          StreamOffer{4, {std::byte{192}, std::byte{0}, std::byte{2}, std::byte{1}}, 4711},
          StreamOffer{6, {std::byte{0x20}}, 1},
          RailOut{3}};
}

template <typename Decode>
void expect_truncations_fail(const Bytes& whole, Decode decode) {
  ASSERT_TRUE(decode(whole).ok());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_EQ(decode(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length))).status().code(),
              CARDEA_ERR_PROTOCOL)
        << "cut to " << length;
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_EQ(decode(longer).status().code(), CARDEA_ERR_PROTOCOL);
}

void set_length(Bytes& bytes, std::size_t at, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

TEST(UcxWire, AddressComesBackAndNoTruncationOfItDecodes) {
  const Bytes bytes = encode_address(sample_address());
  const auto back = decode_address(bytes, 7);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->rank, 7u);
  EXPECT_EQ(back->nonce, sample_address().nonce);
  EXPECT_EQ(back->worker, sample_address().worker);
  expect_truncations_fail(bytes, [](const Bytes& in) { return decode_address(in, 7); });
}

TEST(UcxWire, AddressOfAnotherRankOrVersionOrKindIsRefusedWithItsReason) {
  Bytes bytes = encode_address(sample_address());
  EXPECT_EQ(decode_address(bytes, 8).status().code(), CARDEA_ERR_PROTOCOL);
  bytes[4] ^= std::byte{0xff};
  EXPECT_EQ(decode_address(bytes, 7).status().code(), CARDEA_ERR_MISMATCH);
  bytes[0] ^= std::byte{0xff};
  EXPECT_EQ(decode_address(bytes, 7).status().code(), CARDEA_ERR_PROTOCOL);
}

TEST(UcxWire, LengthsOfWorkerAddressesAreCapped) {
  Address address = sample_address();
  const std::size_t length_at = 4 + 4 + 4 + 16;
  for (const std::size_t size : {std::size_t{0}, kMaxWorkerAddress, kMaxWorkerAddress + 1}) {
    address.worker.assign(size, std::byte{1});
    EXPECT_EQ(decode_address(encode_address(address), 7).ok(), size == kMaxWorkerAddress) << size;
  }
  Bytes bytes = encode_address(sample_address());
  for (const std::uint32_t lie : {0x80000000u, 0xffffffffu, 101u, 99u}) {
    set_length(bytes, length_at, lie);
    EXPECT_EQ(decode_address(bytes, 7).status().code(), CARDEA_ERR_PROTOCOL) << lie;
  }
}

std::vector<RailAddress> sample_rails(std::size_t count) {
  std::vector<RailAddress> rails;
  for (std::size_t i = 0; i < count; ++i) {
    rails.push_back({"eth" + std::to_string(i), "10.77." + std::to_string(i) + ".0/24", encode_address(sample_address())});
  }
  return rails;
}

TEST(UcxWire, RailsComeBackAndNoTruncationOfThemDecodes) {
  for (std::size_t count = 1; count <= kMaxUcxRails; ++count) {
    const Bytes bytes = encode_rails(7, sample_rails(count));
    const auto back = decode_rails(bytes, 7);
    ASSERT_TRUE(back.ok()) << back.status().message();
    ASSERT_EQ(back->size(), count);
    EXPECT_EQ(back->back().device, "eth" + std::to_string(count - 1));
    EXPECT_EQ(back->back().network, "10.77." + std::to_string(count - 1) + ".0/24");
    EXPECT_EQ(back->back().address, encode_address(sample_address()));
    expect_truncations_fail(bytes, [](const Bytes& in) { return decode_rails(in, 7); });
  }
}

TEST(UcxWire, RailsOfAnotherRankVersionKindOrNumberAreRefused) {
  Bytes bytes = encode_rails(7, sample_rails(2));
  EXPECT_EQ(decode_rails(bytes, 8).status().code(), CARDEA_ERR_PROTOCOL);
  const std::size_t count_at = 4 + 4 + 4;
  for (const unsigned lie : {0u, 1u, 3u, 4u, 5u, 255u}) {
    Bytes wrong = bytes;
    wrong[count_at] = static_cast<std::byte>(lie);
    EXPECT_EQ(decode_rails(wrong, 7).status().code(), CARDEA_ERR_PROTOCOL) << lie;
  }
  EXPECT_EQ(decode_rails(encode_rails(7, sample_rails(kMaxUcxRails + 1)), 7).status().code(), CARDEA_ERR_PROTOCOL);
  bytes[4] ^= std::byte{0xff};
  EXPECT_EQ(decode_rails(bytes, 7).status().code(), CARDEA_ERR_MISMATCH);
  bytes[0] ^= std::byte{0xff};
  EXPECT_EQ(decode_rails(bytes, 7).status().code(), CARDEA_ERR_PROTOCOL);
  // An address of one transport, without rails, is none of rails.
  EXPECT_EQ(decode_rails(encode_address(sample_address()), 7).status().code(), CARDEA_ERR_PROTOCOL);
}

TEST(UcxWire, TextsAndAddressesOfRailsAreCappedAndPrintable) {
  for (const std::size_t size : {kMaxRailText, kMaxRailText + 1}) {
    std::vector<RailAddress> rails = sample_rails(1);
    rails[0].device.assign(size, 'e');
    EXPECT_EQ(decode_rails(encode_rails(7, rails), 7).ok(), size == kMaxRailText) << size;
    rails = sample_rails(1);
    rails[0].network.assign(size, '1');
    EXPECT_EQ(decode_rails(encode_rails(7, rails), 7).ok(), size == kMaxRailText) << size;
  }
  for (const std::size_t size : {kMaxAddress, kMaxAddress + 1}) {
    std::vector<RailAddress> rails = sample_rails(kMaxUcxRails);
    for (RailAddress& rail : rails) rail.address.assign(size, std::byte{1});
    const Bytes bytes = encode_rails(7, rails);
    EXPECT_EQ(decode_rails(bytes, 7).ok(), size == kMaxAddress) << size;
    if (size == kMaxAddress) {
      EXPECT_LE(bytes.size(), kMaxUcxAddress);
    }
  }
  std::vector<RailAddress> rails = sample_rails(1);
  rails[0].device = "eth0\n\x1b[2J";
  EXPECT_EQ(decode_rails(encode_rails(7, rails), 7)->front().device, "eth0??[2J") << "it comes into the log";
}

TEST(UcxWire, DescriptorsOfRailsAreAsManyAsThereAreRails) {
  const std::vector<Bytes> regions{encode_region({4096, Bytes(33, std::byte{4})}), encode_region({4096, {}})};
  const Bytes bytes = encode_descriptors(regions);
  EXPECT_EQ(*decode_descriptors(bytes, 2), regions);
  for (const std::size_t other : {0u, 1u, 3u, 4u}) {
    EXPECT_EQ(decode_descriptors(bytes, other).status().code(), CARDEA_ERR_PROTOCOL) << other;
  }
  expect_truncations_fail(bytes, [](const Bytes& in) { return decode_descriptors(in, 2); });
  EXPECT_FALSE(decode_descriptors(encode_descriptors({Bytes(kMaxRegion + 1)}), 1).ok());
}

TEST(UcxWire, ARailThatCannotBeIsRefused) {
  const Pass pass{};
  for (const unsigned rail : {3u, 4u, 255u}) {
    const Bytes header = encode_header(3, pass, RailOut{static_cast<std::uint8_t>(rail)});
    EXPECT_EQ(decode_header(header).ok(), rail < kMaxUcxRails) << rail;
  }
}

TEST(UcxWire, RegionComesBackAndItsRkeyIsCapped) {
  const Region region{0x7f0012345678, Bytes(33, std::byte{4})};
  const auto back = decode_region(encode_region(region));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->base, region.base);
  EXPECT_EQ(back->rkey, region.rkey);
  expect_truncations_fail(encode_region(region), [](const Bytes& in) { return decode_region(in); });
  for (const std::size_t size : {std::size_t{0}, kMaxRkey, kMaxRkey + 1}) {
    EXPECT_EQ(decode_region(encode_region({1, Bytes(size)})).ok(), size <= kMaxRkey) << size;
  }
  Bytes bytes = encode_region(region);
  for (const std::uint32_t lie : {0x80000000u, 0xffffffffu}) {
    set_length(bytes, 8, lie);
    EXPECT_EQ(decode_region(bytes).status().code(), CARDEA_ERR_PROTOCOL) << lie;
  }
}

TEST(UcxWire, EveryHeaderComesBackAndNoTruncationOfItDecodes) {
  Pass pass;
  pass.fill(std::byte{0xab});
  for (const Header& header : sample_headers()) {
    const Bytes bytes = encode_header(9, pass, header);
    const auto envelope = decode_envelope(bytes);
    ASSERT_TRUE(envelope.ok());
    EXPECT_EQ(envelope->from, 9u);
    EXPECT_EQ(envelope->pass, pass);
    const auto back = decode_header(bytes);
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(encode_header(9, pass, *back), bytes);
    expect_truncations_fail(bytes, [](const Bytes& in) { return decode_header(in); });
  }
}

TEST(UcxWire, UnknownOpcodesAreRefused) {
  for (const unsigned opcode : {0u, 6u, 128u, 255u}) {
    Bytes bytes = encode_header(1, {}, ChunkData{1});
    bytes[0] = static_cast<std::byte>(opcode);
    EXPECT_EQ(decode_header(bytes).status().code(), CARDEA_ERR_PROTOCOL) << opcode;
  }
}

TEST(UcxWire, OffersOfAnotherFamilyWithoutAPortOrWithMoreThanAnAddressAreRefused) {
  const StreamOffer good{4, {std::byte{192}, std::byte{0}, std::byte{2}, std::byte{1}}, 4711};
  EXPECT_TRUE(decode_header(encode_header(1, {}, good)).ok());
  for (const unsigned family : {0u, 2u, 5u, 10u, 255u}) {
    StreamOffer offer = good;
    offer.family = static_cast<std::uint8_t>(family);
    EXPECT_EQ(decode_header(encode_header(1, {}, offer)).status().code(), CARDEA_ERR_PROTOCOL) << family;
  }
  StreamOffer portless = good;
  portless.port = 0;
  EXPECT_EQ(decode_header(encode_header(1, {}, portless)).status().code(), CARDEA_ERR_PROTOCOL);
  StreamOffer longer = good;
  longer.address[4] = std::byte{1};
  EXPECT_EQ(decode_header(encode_header(1, {}, longer)).status().code(), CARDEA_ERR_PROTOCOL);
}

TEST(UcxWire, CallerIdsDifferByAllThatMakesAMemberAndByNothingElse) {
  const Bytes secret(32, std::byte{1}), other(32, std::byte{2});
  const Member member{3, {std::byte{7}}};
  const std::uint64_t id = caller_id(secret, "job", member);
  EXPECT_EQ(caller_id(secret, "job", member), id);
  EXPECT_NE(caller_id(other, "job", member), id);
  EXPECT_NE(caller_id(secret, "another", member), id);
  EXPECT_NE(caller_id(secret, "job", {4, member.nonce}), id);
  EXPECT_NE(caller_id(secret, "job", {3, {std::byte{8}}}), id);
}

TEST(UcxWire, RangesBeyondTheLargestChunkAndPayloadsBeyondTheRangeAreRefused) {
  for (const std::uint64_t lie : {kMaxChunk + 1, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    EXPECT_FALSE(decode_header(encode_header(1, {}, ChunkRequest{1, {}, lie, 1, 1})).ok()) << lie;
    EXPECT_FALSE(decode_header(encode_header(1, {}, ChunkRequest{1, {}, 0, lie, 1})).ok()) << lie;
    EXPECT_FALSE(decode_header(encode_header(1, {}, ChunkRequest{1, {}, 0, kMaxChunk, lie})).ok()) << lie;
  }
  EXPECT_TRUE(decode_header(encode_header(1, {}, ChunkRequest{1, {}, kMaxChunk, kMaxChunk, kMaxChunk})).ok());
  EXPECT_TRUE(decode_header(encode_header(1, {}, ChunkRequest{1, {}, 0, 2, 2})).ok());
  EXPECT_FALSE(decode_header(encode_header(1, {}, ChunkRequest{1, {}, 0, 2, 3})).ok());
}

TEST(UcxWire, ErrorsCarryKnownStatusesAndShortPrintableText) {
  const auto with_code = [](std::uint32_t code) {
    Bytes bytes = encode_header(1, {}, ChunkError{1, CARDEA_ERR_STALE, "x"});
    set_length(bytes, kEnvelopeBytes + 8, code);
    return decode_header(bytes);
  };
  EXPECT_TRUE(with_code(1).ok());
  EXPECT_TRUE(with_code(21).ok());
  for (const std::uint32_t bad : {0u, 22u, 0x80000000u, 0xffffffffu}) EXPECT_FALSE(with_code(bad).ok()) << bad;

  const auto longest = decode_header(encode_header(1, {}, ChunkError{1, CARDEA_ERR_STALE, std::string(5000, 'a')}));
  ASSERT_TRUE(longest.ok());
  EXPECT_EQ(std::get<ChunkError>(*longest).text, std::string(kMaxErrorText, 'a'));
  Bytes too_long = encode_header(1, {}, ChunkError{1, CARDEA_ERR_STALE, std::string(kMaxErrorText, 'a')});
  too_long.push_back(std::byte{'a'});
  set_length(too_long, kEnvelopeBytes + 12, kMaxErrorText + 1);
  EXPECT_FALSE(decode_header(too_long).ok());
  const auto odd = decode_header(encode_header(1, {}, ChunkError{1, CARDEA_ERR_STALE, "a\n\x1b[1m\xff"}));
  ASSERT_TRUE(odd.ok());
  EXPECT_EQ(std::get<ChunkError>(*odd).text, "a??[1m?");
}

TEST(UcxWire, PassDependsOnSecretJobRanksNoncesAndDirection) {
  const Bytes secret(32, std::byte{1});
  const Bytes other_secret(32, std::byte{2});
  const Member a{1, {std::byte{1}}};
  const Member b{2, {std::byte{2}}};
  const Member b_restarted{2, {std::byte{3}}};
  const Pass pass = make_pass(secret, "job", a, b);
  EXPECT_EQ(pass, make_pass(secret, "job", a, b));
  EXPECT_NE(pass, make_pass(other_secret, "job", a, b));
  EXPECT_NE(pass, make_pass(secret, "job2", a, b));
  EXPECT_NE(pass, make_pass(secret, "job", b, a));
  EXPECT_NE(pass, make_pass(secret, "job", a, b_restarted));
  EXPECT_NE(pass, make_pass(secret, "job", {3, a.nonce}, b));
}

TEST(UcxInOrder, OvertakenMessagesAreDeliveredInTheirOrder) {
  InOrder order;
  std::vector<std::size_t> seen;
  const auto deliver = [&](Bytes message) { seen.push_back(message.size()); };
  for (const std::uint64_t sequence : {2u, 1u, 3u, 0u, 5u, 4u}) {
    ASSERT_TRUE(order.add(sequence, Bytes(sequence), deliver).ok());
  }
  EXPECT_THAT(seen, ::testing::ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(UcxInOrder, RepeatedNumbersAndTooMuchHeldAreRefused) {
  InOrder order;
  const auto deliver = [](Bytes) {};
  ASSERT_TRUE(order.add(0, {}, deliver).ok());
  EXPECT_EQ(order.add(0, {}, deliver).code(), CARDEA_ERR_PROTOCOL);
  ASSERT_TRUE(order.add(2, {}, deliver).ok());
  EXPECT_EQ(order.add(2, {}, deliver).code(), CARDEA_ERR_PROTOCOL);
  ASSERT_TRUE(order.add(1 + InOrder::kMaxHeld, {}, deliver).ok());
  EXPECT_EQ(order.add(2 + InOrder::kMaxHeld, {}, deliver).code(), CARDEA_ERR_PROTOCOL);
  EXPECT_EQ(order.add(~std::uint64_t{0}, {}, deliver).code(), CARDEA_ERR_PROTOCOL);
  ASSERT_TRUE(order.add(3, Bytes(InOrder::kMaxBytes), deliver).ok());
  EXPECT_EQ(order.add(4, Bytes(1), deliver).code(), CARDEA_ERR_PROTOCOL);
}

TEST(UcxLanes, TcpAndSharedMemoryAreNotTakenForHardware) {
  EXPECT_FALSE(
      describes_hardware_get("#                 lane[0]:  1:tcp/lo.0 md[1]   -> md[1]/tcp/sysdev[255] am am_bw#0\n"
                             "#                 am_send: 0..<egr/short>..8185..<egr/zcopy>..20553..<rndv>..(inf)\n"));
  EXPECT_FALSE(
      describes_hardware_get("#                 lane[0]:  0:sysv/memory.0 md[0]  -> md[0]/sysv/sysdev[255] am\n"
                             "#                 lane[1]:  1:posix/memory.0 md[1] -> md[1]/posix/sysdev[255]\n"
                             "#                  get[0]: 0..<bcopy>..(inf)\n"
                             "#                  get[1]: 0..<bcopy>..(inf)\n"));
  EXPECT_FALSE(describes_hardware_get(""));
  EXPECT_FALSE(describes_hardware_get("lane[ get[ ]: rc_\nlane[0]\n get[0"));
}

TEST(UcxLanes, RdmaLaneWithZeroCopyGetIsHardware) {
  const std::string lane =
      "#                 lane[0]:  3:rc_mlx5/mlx5_0:1.0 md[4]  -> md[4]/ib/sysdev[0] am am_bw#0 rma_bw#0\n";
  EXPECT_TRUE(describes_hardware_get(lane + "#                  get[0]: 0..<bcopy>..4096..<zcopy>..(inf)\n"));
  EXPECT_FALSE(describes_hardware_get(lane + "#                  get[1]: 0..<bcopy>..4096..<zcopy>..(inf)\n"));
  EXPECT_FALSE(describes_hardware_get(lane + "#                  get[0]: 0..<bcopy>..(inf)\n"));
  EXPECT_FALSE(describes_hardware_get(lane));
}

TEST(UcxLanes, TcpDeviceIsToldOnlyOfEndpointsThatAreAllTcp) {
  const std::string head = "#\n# UCP endpoint \n#\n#               peer: <no debug data>\n";
  const std::string tcp =
      "#                 lane[0]:  1:tcp/eth0.100.0 md[1]   -> md[1]/tcp/sysdev[255] am am_bw#0 keepalive\n";
  const std::string more = "#                 lane[1]:  2:tcp/eth1.0 md[1]   -> md[1]/tcp/sysdev[255] am_bw#1\n";
  const std::string rdma = "#                 lane[1]:  3:rc_mlx5/mlx5_0:1.0 md[4]  -> md[4]/ib/sysdev[0] rma_bw#0\n";
  const std::string tail = "#\n#                 am_send: 0..<egr/short>..8185..(inf)\n";
  EXPECT_EQ(describes_tcp_device(head + tcp + tail), "eth0.100");
  EXPECT_EQ(describes_tcp_device(head + tcp + more + tail), "eth0.100");
  EXPECT_EQ(describes_tcp_device(head + tcp + rdma + tail), "");
  EXPECT_EQ(describes_tcp_device(head + "#                 lane[0]:  0:sysv/memory.0 md[0]  -> md[0]/sysv am\n" + tail), "");
  EXPECT_EQ(describes_tcp_device(head + tail), "");
  EXPECT_EQ(describes_tcp_device(""), "");
  EXPECT_EQ(describes_tcp_device(" lane[0]: \n lane[0]:tcp\n lane[0]:1:tcp"), "");
}

}  // namespace
}  // namespace cardea::transport::ucx
