// SPDX-License-Identifier: Apache-2.0
// Reading and writing the C API's structs, which tell their own size: callers may be older or newer than the library.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "lib/base/status.h"

namespace cardea::api {

/// More than this is not a size but a mistake.
inline constexpr std::size_t kMaxStruct = 65536;

/// Whether `size` may stand at the head of a T: not smaller than the first release's, and not absurd.
template <typename T>
Status check_size(std::size_t size, std::string_view name) {
  constexpr std::size_t kFirstRelease = sizeof(T);  // grows apart from sizeof(T) when a later release adds fields
  if (size < kFirstRelease || size > kMaxStruct) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{}: size is {}; it must be sizeof(the struct), {} here", name, size,
                         sizeof(T));
  }
  return {};
}

/// A copy of the caller's struct as this library knows it.
template <typename T>
Result<T> read_struct(const T* in, std::string_view name) {
  if (in == nullptr) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} is null", name);
  if (const Status status = check_size<T>(in->size, name); !status.ok()) return status;
  const auto* raw = reinterpret_cast<const unsigned char*>(in);
  if (std::any_of(raw + sizeof(T), raw + std::max(in->size, sizeof(T)), [](unsigned char byte) { return byte != 0; })) {
    return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} uses fields that this library ({}.{}) does not know", name,
                         CARDEA_VERSION_MAJOR, CARDEA_VERSION_MINOR);
  }
  T copy;
  std::memcpy(&copy, in, sizeof(T));
  copy.size = sizeof(T);
  return copy;
}

/// The i-th of an array of structs whose caller's size is that of the first.
template <typename T>
T* at(T* array, std::size_t i) {
  using Byte = std::conditional_t<std::is_const_v<T>, const unsigned char, unsigned char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(array) + i * array->size);
}

/// Whether an output struct can be written.
template <typename T>
Status check_output(const T* out, std::string_view name) {
  if (out == nullptr) return Status::error(CARDEA_ERR_INVALID_ARGUMENT, "{} is null", name);
  return check_size<T>(out->size, name);
}

/// Writes no further than the caller's size, and leaves it as it was.
template <typename T>
void write_struct(T* out, T value) {
  const std::size_t size = out->size;
  value.size = size;
  std::memcpy(static_cast<void*>(out), &value, std::min(size, sizeof(T)));
}

/// Copies text into a fixed field, cut and terminated.
template <std::size_t N>
void write_text(char (&field)[N], std::string_view text) {
  const std::size_t length = std::min(text.size(), N - 1);
  std::memcpy(field, text.data(), length);
  field[length] = '\0';
}

/// An enumeration's number. C lets it hold anything, and C++ must not look at anything but its enumerators.
template <typename Enumeration>
std::uint32_t number_of(const Enumeration& value) {
  static_assert(std::is_enum_v<Enumeration> && sizeof(Enumeration) == sizeof(std::uint32_t));
  std::uint32_t number = 0;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

}  // namespace cardea::api
