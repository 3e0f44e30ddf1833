// SPDX-License-Identifier: Apache-2.0
#include "lib/base/wire.h"

#include <gtest/gtest.h>

namespace cardea {
namespace {

Bytes sample() {
  return WireWriter()
      .number<std::uint16_t>(0x1234)
      .number<std::uint64_t>(UINT64_MAX)
      .text("w13")
      .number<std::uint8_t>(7)
      .take();
}

Status read_sample(ByteView in) {
  WireReader reader(in);
  reader.number<std::uint16_t>();
  reader.number<std::uint64_t>();
  reader.text(31);
  reader.number<std::uint8_t>();
  return reader.finish("sample");
}

TEST(Wire, ReadsWhatWasWritten) {
  const Bytes bytes = sample();
  WireReader reader(bytes);
  EXPECT_EQ(reader.number<std::uint16_t>(), 0x1234);
  EXPECT_EQ(reader.number<std::uint64_t>(), UINT64_MAX);
  EXPECT_EQ(reader.text(31), "w13");
  EXPECT_EQ(reader.number<std::uint8_t>(), 7);
  EXPECT_TRUE(reader.finish("sample").ok());
}

TEST(Wire, IntegersAreLittleEndian) {
  const Bytes bytes = WireWriter().number<std::uint32_t>(0x01020304).take();
  ASSERT_EQ(bytes.size(), 4u);
  EXPECT_EQ(bytes[0], std::byte{4});
  EXPECT_EQ(bytes[3], std::byte{1});
}

TEST(Wire, TruncationAtEveryByteIsAnError) {
  const Bytes bytes = sample();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_EQ(read_sample(ByteView(bytes).first(length)).code(), CARDEA_ERR_PROTOCOL) << length;
  }
}

TEST(Wire, LeftOverBytesAreAnError) {
  Bytes bytes = sample();
  bytes.push_back(std::byte{0});
  EXPECT_EQ(read_sample(bytes).code(), CARDEA_ERR_PROTOCOL);
}

TEST(Wire, LengthsAboveTheCapOrTheInputAreErrors) {
  for (const std::uint32_t length : {4u, 1u << 31, UINT32_MAX}) {
    Bytes bytes = WireWriter().number(length).take();
    bytes.resize(bytes.size() + 3);
    WireReader beyond_input(bytes);
    EXPECT_TRUE(beyond_input.blob(UINT32_MAX).empty());
    EXPECT_TRUE(beyond_input.failed());
  }
  const Bytes four = WireWriter().text("four").take();
  WireReader beyond_cap(four);
  EXPECT_EQ(beyond_cap.text(3), "");
  EXPECT_TRUE(beyond_cap.failed());
  WireReader at_cap(four);
  EXPECT_EQ(at_cap.text(4), "four");
}

TEST(Wire, AFailedReaderStaysFailed) {
  const Bytes bytes = WireWriter().number<std::uint8_t>(9).number<std::uint8_t>(1).take();
  WireReader reader(bytes);
  EXPECT_EQ(reader.number_in<std::uint8_t>(0, 8), 0);
  EXPECT_EQ(reader.number<std::uint8_t>(), 0);
  EXPECT_EQ(reader.finish("message").code(), CARDEA_ERR_PROTOCOL);
}

}  // namespace
}  // namespace cardea
