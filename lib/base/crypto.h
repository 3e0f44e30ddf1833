// SPDX-License-Identifier: Apache-2.0
// The little cryptography that authentication between ranks needs, by libcrypto. Thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "lib/base/types.h"

namespace cardea::crypto {

using Digest = std::array<std::byte, 32>;

/// HMAC-SHA256 of `message` under `key`.
Digest hmac(ByteView key, ByteView message);
/// Fills `out` from the system's generator; throws std::runtime_error if that fails.
void random(std::span<std::byte> out);
/// Compares in time that depends on the lengths only.
bool equal(ByteView a, ByteView b);
/// Lower-case hexadecimal.
std::string hex(ByteView bytes);

}  // namespace cardea::crypto
