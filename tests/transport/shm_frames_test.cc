// SPDX-License-Identifier: Apache-2.0
// Frames and records of node links as bytes: truncated anywhere, with lengths and numbers at and beyond their caps.
#include "lib/transport/shm/frames.h"

#include <gtest/gtest.h>

#include <functional>

#include "lib/base/wire.h"
#include "lib/transport/shm/proposal.h"

namespace cardea::shm {
namespace {

struct Record {
  const char* name;
  Bytes bytes;
  std::function<cardea_status_t(ByteView)> read;
};

std::vector<Record> records() {
  const Proposal proposal{"node-1", "host", "8f1c", 4026531840, "cardea/job/0/ffff"};
  return {
      {"region", encode(RegionFrame{3, 4096}), [](ByteView in) { return decode_region(in).status().code(); }},
      {"withdrawal", encode_withdraw(3), [](ByteView in) { return decode_withdraw(in).status().code(); }},
      {"ask", encode(AskFrame{1, {{2, 3}, 4, 5}, 64, 128}), [](ByteView in) { return decode_ask(in).status().code(); }},
      {"end", encode(EndFrame{1, Status(CARDEA_ERR_STALE, "retired")}),
       [](ByteView in) { return decode_end(in).status().code(); }},
      {"descriptor", encode(RegionDescriptor{false, 7}), [](ByteView in) { return decode_descriptor(in).status().code(); }},
      {"proposal", encode(proposal), [](ByteView in) { return decode_proposal(in).status().code(); }},
  };
}

TEST(ShmFrames, TruncatedAnywhereOrLongerByAByteIsRefused) {
  for (const Record& record : records()) {
    EXPECT_EQ(record.read(record.bytes), CARDEA_OK) << record.name;
    for (std::size_t length = 0; length < record.bytes.size(); ++length)
      EXPECT_EQ(record.read(ByteView(record.bytes).first(length)), CARDEA_ERR_PROTOCOL)
          << record.name << " cut to " << length;
    Bytes longer = record.bytes;
    longer.push_back(std::byte{0});
    EXPECT_EQ(record.read(longer), CARDEA_ERR_PROTOCOL) << record.name;
  }
  const FrameHeader header = encode_header(FrameType::kMessage, 5);
  for (std::size_t length = 0; length < header.size(); ++length)
    EXPECT_EQ(decode_header(ByteView(header).first(length)).status().code(), CARDEA_ERR_PROTOCOL) << length;
}

TEST(ShmFrames, EveryTypeTakesItsLengthsAndNoOthers) {
  constexpr std::size_t kMessage = transport::Transport::kMaxMessage;
  const struct {
    FrameType type;
    std::size_t least, most;
  } types[] = {{FrameType::kMessage, 0, kMessage},  {FrameType::kRegion, 12, 12},
               {FrameType::kWithdraw, 4, 4},        {FrameType::kAsk, 48, 48},
               {FrameType::kData, 9, 8 + kMaxData}, {FrameType::kEnd, 16, 16 + kMaxEndText}};
  for (const auto& [type, least, most] : types) {
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{1}, least - 1, least, most, most + 1, std::size_t{1} << 31, std::size_t{UINT32_MAX}}) {
      const bool fits = length >= least && length <= most;
      EXPECT_EQ(decode_header(encode_header(type, length)).ok(), fits && length <= UINT32_MAX)
          << "type " << static_cast<unsigned>(type) << ", " << length << " bytes";
    }
  }
}

TEST(ShmFrames, UnknownTypesAndReservedBytesAreRefused) {
  for (const unsigned type : {0u, 7u, 128u, 255u}) {
    FrameHeader header = encode_header(FrameType::kMessage, 0);
    header[4] = static_cast<std::byte>(type);
    EXPECT_EQ(decode_header(header).status().code(), CARDEA_ERR_PROTOCOL) << type;
  }
  for (const std::size_t at : {5u, 6u, 7u}) {
    FrameHeader header = encode_header(FrameType::kMessage, 0);
    header[at] = std::byte{1};
    EXPECT_EQ(decode_header(header).status().code(), CARDEA_ERR_PROTOCOL) << at;
  }
}

TEST(ShmFrames, TextsAreCappedWhateverTheySayOfTheirLength) {
  const auto end = [](std::uint32_t length, std::size_t bytes) {
    WireWriter out;
    out.number(std::uint64_t{1}).number(static_cast<std::uint32_t>(CARDEA_ERR_STALE)).number(length);
    Bytes all = out.take();
    all.resize(all.size() + bytes, std::byte{'x'});
    return decode_end(all).status().code();
  };
  EXPECT_EQ(end(0, 0), CARDEA_OK);
  EXPECT_EQ(end(1, 1), CARDEA_OK);
  EXPECT_EQ(end(kMaxEndText, kMaxEndText), CARDEA_OK);
  EXPECT_EQ(end(kMaxEndText + 1, kMaxEndText + 1), CARDEA_ERR_PROTOCOL);
  for (const std::uint32_t lie : {2u, 1u << 31, UINT32_MAX}) EXPECT_EQ(end(lie, 1), CARDEA_ERR_PROTOCOL) << lie;
  // Names of a proposal: 255, 255, 64 and 107 bytes at most.
  const std::pair<std::string Proposal::*, std::size_t> caps[] = {
      {&Proposal::node_id, 255}, {&Proposal::host, 255}, {&Proposal::boot_id, 64}, {&Proposal::socket, 107}};
  for (const auto& [field, cap] : caps) {
    Proposal proposal;
    proposal.*field = std::string(cap, 'x');
    EXPECT_TRUE(decode_proposal(encode(proposal)).ok());
    proposal.*field += 'x';
    EXPECT_EQ(decode_proposal(encode(proposal)).status().code(), CARDEA_ERR_PROTOCOL);
  }
}

TEST(ShmFrames, AnEndHasACodeThatThereIs) {
  for (const std::int32_t code : {1, 2, static_cast<int>(CARDEA_ERR_INTERNAL) - 1, INT32_MIN, INT32_MAX}) {
    const Bytes bytes = WireWriter().number(std::uint64_t{1}).number(static_cast<std::uint32_t>(code)).text("").take();
    EXPECT_EQ(decode_end(bytes).status().code(), CARDEA_ERR_PROTOCOL) << code;
  }
  EXPECT_EQ(decode_region(encode(RegionFrame{1, 0})).status().code(), CARDEA_ERR_PROTOCOL) << "an empty region";
}

}  // namespace
}  // namespace cardea::shm
