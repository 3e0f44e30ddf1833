// SPDX-License-Identifier: Apache-2.0
#include "lib/base/crypto.h"

#include <gtest/gtest.h>

namespace cardea::crypto {
namespace {

ByteView bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(Crypto, HmacAgreesWithRfc4231TestCase2) {
  EXPECT_EQ(hex(hmac(bytes_of("Jefe"), bytes_of("what do ya want for nothing?"))),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(Crypto, EqualComparesLengthAndContent) {
  EXPECT_TRUE(equal(bytes_of("abc"), bytes_of("abc")));
  EXPECT_FALSE(equal(bytes_of("abc"), bytes_of("abd")));
  EXPECT_FALSE(equal(bytes_of("abc"), bytes_of("ab")));
}

TEST(Crypto, RandomDiffersFromCallToCall) {
  std::array<std::byte, 32> first{}, second{};
  random(first);
  random(second);
  EXPECT_NE(first, second);
}

}  // namespace
}  // namespace cardea::crypto
