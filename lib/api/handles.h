// SPDX-License-Identifier: Apache-2.0
// How the C API's handles are numbers that can be checked: context (20 bits), kind (4 bits), object (40 bits). Contexts are
// numbered through the process's life and objects through their context's; no number is ever used twice, so a handle that
// was destroyed is found out, whoever calls when. Pure functions.
#pragma once

#include <cstdint>

namespace cardea::api {

enum class Kind : std::uint8_t { kContext = 1, kGroup = 2, kMemory = 3, kLayer = 4, kSlab = 5, kFetch = 6, kView = 7 };

using ContextNumber = std::uint32_t;
using ObjectNumber = std::uint64_t;

inline constexpr ContextNumber kMaxContext = (1u << 20) - 1;
inline constexpr ObjectNumber kMaxObject = (std::uint64_t{1} << 40) - 1;

constexpr std::uint64_t make_handle(ContextNumber context, Kind kind, ObjectNumber object) {
  return std::uint64_t{context} << 44 | std::uint64_t{static_cast<std::uint8_t>(kind)} << 40 | object;
}
constexpr ContextNumber context_of(std::uint64_t handle) {
  return static_cast<ContextNumber>(handle >> 44);
}
constexpr Kind kind_of(std::uint64_t handle) {
  return static_cast<Kind>(handle >> 40 & 0xF);
}
constexpr ObjectNumber object_of(std::uint64_t handle) {
  return handle & kMaxObject;
}

}  // namespace cardea::api
